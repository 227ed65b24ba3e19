using System.Text.RegularExpressions;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>
/// Hosts with a container each, as network namespaces of this machine, for one test. Needs root; without it the test is skipped.
/// <code>
///                     192.168.40.0/24, fd40::/64: a switch in a namespace of its own
///        eth1 │ .11                                   eth1 │ .12                        ... vm3 .13
///   ┌─────────┴──────────────────────────┐      ┌─────────┴──────────────────────────┐
///   │ vm1   tun0  10.0.201.1 fd10:201::1 │      │ vm2   tun0  10.0.201.2 fd10:201::2 │
///   │       br0   172.17.51.1 fd17:51::1 │      │       br0   172.17.52.1 fd17:52::1 │
///   └─────────┬──────────────────────────┘      └─────────┬──────────────────────────┘
///        eth0 │                                       eth0 │
///   ┌─────────┴──────────────────────────┐      ┌─────────┴──────────────────────────┐
///   │ cont1       172.17.51.2 fd17:51::2 │      │ cont2       172.17.52.2 fd17:52::2 │
///   └────────────────────────────────────┘      └────────────────────────────────────┘
/// </code>
/// Everything of a lab, namespaces and directory, has its name, which holds this process's id and start time: two test runs can't
/// collide, and what a killed run left behind is found by the next one and removed.
/// </summary>
internal sealed partial class Lab : IAsyncDisposable
{
    private const string Prefix = "tunnellab";
    private static readonly TimeSpan NamespaceDeadline = TimeSpan.FromMinutes(3);

    private static readonly Lazy<Task> LeftoversRemoved = new(RemoveLeftoversAsync);
    private static int _count;

    private readonly ITestOutputHelper _output;
    private readonly string _name;
    private readonly List<Node> _nodes = [];
    private readonly List<Daemon> _daemons = [];

    private Lab(ITestOutputHelper output, int hosts)
    {
        _output = output;
        _name = $"{Prefix}-{Environment.ProcessId}-{StartTime(Environment.ProcessId)}-{Interlocked.Increment(ref _count)}";
        Directory = Path.Combine(Path.GetTempPath(), _name);
        Hosts = [.. Enumerable.Range(1, hosts).Select(n => new Vm(this, n, Netns($"vm{n}"), new Node($"cont{n}", Netns($"cont{n}"))))];
        Switch = new Node("switch", Netns("switch"));
        _nodes = [Switch, .. Hosts, .. Hosts.Select(host => host.Container)];
    }

    /// <summary>The hosts, vm1 first.</summary>
    public IReadOnlyList<Vm> Hosts { get; }

    /// <summary>The underlay between them; host n is on its port n.</summary>
    public Node Switch { get; }

    /// <summary>Where the lab's files are.</summary>
    public string Directory { get; }

    /// <summary>Makes a lab.</summary>
    /// <param name="output">Takes the daemons' logs, which are shown where the test fails.</param>
    /// <param name="hosts">How many hosts, 1 to 9.</param>
    /// <param name="wire">Whether the underlay behaves like real NICs: packets cross it at MTU size, and the receiver coalesces them (GRO).</param>
    public static async Task<Lab> CreateAsync(ITestOutputHelper output, int hosts = 2, bool wire = false)
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "needs root");
        await LeftoversRemoved.Value;
        var lab = new Lab(output, hosts);
        try
        {
            await lab.BuildAsync();
            if (wire)
            {
                await lab.MakeWireLikeAsync();
            }

            return lab;
        }
        catch
        {
            await lab.DisposeAsync();
            throw;
        }
    }

    /// <summary>Takes a daemon into the lab's care: it ends with it at the latest, and its log is shown where the test fails.</summary>
    public Daemon Own(Daemon daemon)
    {
        lock (_daemons)
        {
            _daemons.Add(daemon);
        }

        return daemon;
    }

    /// <summary>Starts one daemon on each host, all at the same time, each with all the others as peers.</summary>
    /// <param name="outer">The IP version of the underlay addresses in use.</param>
    /// <param name="options">More of each peer's keys: (host whose configuration it is, the peer) to `key: value`.</param>
    /// <param name="underlayExtra">More lines under `underlay:`, each with its newline.</param>
    public Task<Daemon[]> StartMeshAsync(int outer = 4, Func<Vm, Vm, string[]>? options = null, string underlayExtra = "") =>
        Task.WhenAll(Hosts.Select(host =>
            host.StartDaemonAsync(host.Configuration(
                string.Concat(Hosts.Where(peer => peer != host).Select(peer => peer.PeerEntry(outer, options?.Invoke(host, peer) ?? []))),
                outer,
                underlayExtra: underlayExtra))));

    /// <summary>Ends all daemons, removes the namespaces and the files.</summary>
    public async ValueTask DisposeAsync()
    {
        foreach (Daemon daemon in _daemons)
        {
            await daemon.DisposeAsync();
            _output.WriteLine(daemon.Report());
        }

        await RemoveAsync(_nodes.Select(node => node.Netns).Where(netns => File.Exists($"/run/netns/{netns}")), [Directory]);
    }

    private static async Task RemoveAsync(IEnumerable<string> namespaces, IEnumerable<string> directories)
    {
        await Command.RunAsync(["ip", "-batch", "-"], string.Concat(namespaces.Select(netns => $"netns del {netns}\n")));
        foreach (string directory in directories.Where(System.IO.Directory.Exists))
        {
            System.IO.Directory.Delete(directory, recursive: true);
        }
    }

    // Only what bears the name of a process that is no more, or of another process with the same id.
    private static async Task RemoveLeftoversAsync()
    {
        bool IsLeftover(string path) =>
            NamePattern().Match(Path.GetFileName(path)) is { Success: true } match
            && StartTime(int.Parse(match.Groups["pid"].Value)) != match.Groups["start"].Value;

        string[] namespaces = System.IO.Directory.Exists("/run/netns")
            ? [.. System.IO.Directory.GetFiles("/run/netns", Prefix + "-*").Where(IsLeftover).Select(path => Path.GetFileName(path))]
            : [];
        foreach (string netns in namespaces)
        {
            string pids = (await Command.RunAsync(["ip", "netns", "pids", netns])).Out.ReplaceLineEndings(" ").Trim();
            if (pids.Length > 0)
            {
                await Command.RunAsync(["sh", "-c", $"kill -KILL {pids}"]);
            }
        }

        await RemoveAsync(namespaces, System.IO.Directory.GetDirectories(Path.GetTempPath(), Prefix + "-*").Where(IsLeftover));
    }

    // Field 22 of proc_pid_stat(5), in clock ticks since boot; null where there is no such process.
    private static string? StartTime(int pid)
    {
        try
        {
            string stat = File.ReadAllText($"/proc/{pid}/stat");
            return stat[(stat.LastIndexOf(')') + 2)..].Split(' ')[19];
        }
        catch (IOException)
        {
            return null;
        }
    }

    private string Netns(string node) => $"{_name}-{node}";

    private async Task BuildAsync()
    {
        System.IO.Directory.CreateDirectory(Directory);
        // The kernel makes no namespace while it takes down those of another test, should a module want to be loaded meanwhile (pernet_ops_rwsem).
        (await Command.RunAsync(["ip", "-batch", "-"], string.Concat(_nodes.Select(node => $"netns add {node.Netns}\n")), NamespaceDeadline)).Succeeded();

        // Addresses are there at once: without it the kernel would look for others with the same for a second or two.
        foreach (Node node in _nodes)
        {
            (await node.ShellAsync("for file in all default; do echo 0 >/proc/sys/net/ipv6/conf/$file/accept_dad; done")).Succeeded();
        }

        await Switch.IpAsync(
            $"""
            link add br0 type bridge mcast_snooping 0
            link set br0 up
            {string.Join('\n', Hosts.Select((host, i) => $"link add port{i + 1} type veth peer name eth1 netns {host.Netns}\nlink set port{i + 1} master br0 up"))}
            """);
        await Task.WhenAll(Hosts.Select((host, i) => ConnectAsync(host, i + 1)));
    }

    private static async Task ConnectAsync(Vm host, int n)
    {
        // The container's way out is the host's bridge, as with Docker; the host forwards.
        await host.IpAsync(
            $"""
            link set lo up
            addr add {host.Underlay(4)}/24 dev eth1
            addr add {host.Underlay(6)}/64 dev eth1
            link set eth1 up
            link add br0 type bridge mcast_snooping 0
            addr add 172.17.5{n}.1/24 dev br0
            addr add fd17:5{n}::1/64 dev br0
            link add cont{n} type veth peer name eth0 netns {host.Container.Netns}
            link set cont{n} master br0 up
            link set br0 up
            """);
        await host.Container.IpAsync(
            $"""
            link set lo up
            addr add {host.ContainerAddress(4)}/24 dev eth0
            addr add {host.ContainerAddress(6)}/64 dev eth0
            link set eth0 up
            route add default via 172.17.5{n}.1
            route add default via fd17:5{n}::1
            """);

        // A new namespace may inherit a reverse path filter, which would hide what the daemons themselves do about false sources.
        (await host.ShellAsync(
            """
            cd /proc/sys/net
            echo 1 >ipv4/ip_forward; echo 1 >ipv6/conf/all/forwarding
            for filter in ipv4/conf/*/rp_filter; do echo 0 >$filter; done
            """)).Succeeded();
    }

    // The sending device segments nothing in "hardware"; a switch forwards frame by frame, so only the hosts coalesce.
    private async Task MakeWireLikeAsync()
    {
        const string Profile = """
            ethtool -K $1 tso off gso on tx-gre-segmentation off tx-gre-csum-segmentation off tx-udp-segmentation off \
                tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off gro $2 rx-udp-gro-forwarding $2 &&
            echo 20000 >/sys/class/net/$1/gro_flush_timeout && echo 2 >/sys/class/net/$1/napi_defer_hard_irqs
            """;
        IEnumerable<Task<CommandResult>> changes =
        [
            .. Hosts.Select(host => host.ShellAsync(Profile, "eth1", "on")),
            .. Hosts.Select((_, i) => Switch.ShellAsync(Profile, $"port{i + 1}", "off")),
        ];
        foreach (CommandResult result in await Task.WhenAll(changes))
        {
            result.Succeeded();
        }
    }

    [GeneratedRegex($@"^{Prefix}-(?<pid>\d+)-(?<start>\d+)-", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex NamePattern();
}

/// <summary>
/// The tests that need the machine for themselves, one at a time, after all others: because they fill its processors, or say how fast something must be,
/// or what this process lets go must be free at once (a program that another test starts has all that is open until its execve(2)). Labs don't see each
/// other, so that other tests with one may run at the same time.
/// </summary>
[CollectionDefinition(nameof(LabCollection), DisableParallelization = true)]
public sealed class LabCollection;
