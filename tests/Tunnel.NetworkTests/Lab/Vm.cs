namespace Tunnel.NetworkTests;

/// <summary>
/// A container host of a lab. Its number n is in all of its addresses; see <see cref="Lab"/> for the picture.
/// </summary>
internal sealed class Vm(Lab lab, int number, string netns, Node container) : Node($"vm{number}", netns)
{
    /// <summary>Its container.</summary>
    public Node Container { get; } = container;

    /// <summary>Where its files are: configuration, run directory.</summary>
    public string Directory { get; } = Path.Combine(lab.Directory, $"vm{number}");

    /// <summary>Its underlay address.</summary>
    /// <param name="version">4 or 6, here and below.</param>
    public string Underlay(int version) => version == 4 ? $"192.168.40.1{number}" : $"fd40::1{number}";

    /// <summary>Its own overlay address, that of its TUN device.</summary>
    public string Overlay(int version) => version == 4 ? $"10.0.201.{number}" : $"fd10:201::{number}";

    /// <summary>The overlay subnet of its containers.</summary>
    public string Subnet(int version) => version == 4 ? $"172.17.5{number}.0/24" : $"fd17:5{number}::/64";

    /// <summary>The address of its container.</summary>
    public string ContainerAddress(int version) => version == 4 ? $"172.17.5{number}.2" : $"fd17:5{number}::2";

    /// <summary>A configuration of this host for a network with the given peers.</summary>
    /// <param name="peers">The peers' part, as <see cref="PeerEntry"/> makes it; empty for none.</param>
    /// <param name="outer">The IP version of the underlay addresses in use.</param>
    /// <param name="interfaceExtra">More lines under `interface:`, each with its newline.</param>
    /// <param name="underlayExtra">More lines under `underlay:`, each with its newline.</param>
    public string Configuration(string peers = "", int outer = 4, string interfaceExtra = "", string underlayExtra = "") =>
        $"""
        interface:
          addresses: [{Overlay(4)}/24, {Overlay(6)}/64]
        {interfaceExtra}underlay:
          local: {Underlay(outer)}
        {underlayExtra}{(peers.Length == 0 ? "" : "peers:\n" + peers)}
        """;

    /// <summary>This host as a peer in another's configuration.</summary>
    /// <param name="outer">The IP version of its endpoint.</param>
    /// <param name="options">More of the peer's keys, `key: value`.</param>
    public string PeerEntry(int outer = 4, params string[] options) =>
        $"""
          {Name}:
            endpoint: "{Underlay(outer)}"
            subnets: [{Subnet(4)}, "{Subnet(6)}", {Overlay(4)}/32, "{Overlay(6)}/128"]
        {string.Concat(options.Select(option => $"    {option}\n"))}
        """;

    /// <summary>Starts a daemon and waits until it is ready.</summary>
    /// <param name="configuration">The configuration file's text.</param>
    /// <param name="network">The network's name.</param>
    /// <param name="wrapper">Words before the daemon's own: what restricts it.</param>
    public Task<Daemon> StartDaemonAsync(string configuration, string network = "tun0", IReadOnlyList<string>? wrapper = null) =>
        lab.Own(new Daemon(this, network, configuration, wrapper)).StartAsync();

    /// <summary>Runs a daemon that is expected not to come up, to its end.</summary>
    /// <param name="configuration">The configuration file's text.</param>
    /// <param name="network">The network's name.</param>
    /// <param name="wrapper">Words before the daemon's own: what restricts it.</param>
    public Task<CommandResult> RunDaemonAsync(string configuration, string network = "tun0", IReadOnlyList<string>? wrapper = null) =>
        lab.Own(new Daemon(this, network, configuration, wrapper)).RunAsync();
}
