using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

namespace Tunnel.NetworkTests;

/// <summary>A network namespace: a host, a container, or the switch between the hosts.</summary>
internal partial class Node(string name, string netns)
{
    /// <summary>What it is called in the lab: vm1, cont1.</summary>
    public string Name { get; } = name;

    /// <summary>The network namespace's name, as `ip netns` lists it.</summary>
    public string Netns { get; } = netns;

    /// <summary>Runs a program here to its end.</summary>
    public Task<CommandResult> RunAsync(params string[] words) => Command.RunAsync(Inside(words));

    /// <summary>Runs a line of shell here to its end; `$1`... are the arguments.</summary>
    public Task<CommandResult> ShellAsync(string line, params string[] arguments) => RunAsync(["sh", "-c", line, "sh", .. arguments]);

    /// <summary>Runs lines of ip(8) commands here.</summary>
    public async Task IpAsync(string lines) => (await Command.RunAsync(["ip", "-n", Netns, "-batch", "-"], lines)).Succeeded();

    /// <summary>What `ip -j` answers here.</summary>
    public async Task<JsonArray> IpJsonAsync(params string[] words)
    {
        string json = (await Command.RunAsync(["ip", "-n", Netns, "-j", .. words])).Succeeded().Out;
        return json.Trim().Length == 0 ? [] : JsonNode.Parse(json)!.AsArray();
    }

    /// <summary>Starts a program here that runs on while the test does.</summary>
    public Background Start(IReadOnlyDictionary<string, string>? environment, params string[] words) => new(Inside(words), environment);

    /// <summary>Starts a Python program here, given as its text.</summary>
    public Background StartPython(string program, params string[] arguments) => Start(null, ["/usr/bin/python3", "-c", program, .. arguments]);

    /// <summary>Runs a Python program here, given as its text, to its end.</summary>
    public Task<CommandResult> PythonAsync(string program, params string[] arguments) =>
        RunAsync(["/usr/bin/python3", "-c", program, .. arguments]);

    /// <summary>Sends pings and counts the answers.</summary>
    /// <param name="address">Where to.</param>
    /// <param name="count">How many, all at once. Where none is answered it waits for a second; where some are, for the rest for three seconds, because they may only be late on a busy machine.</param>
    /// <param name="options">More of ping(8)'s options.</param>
    public async Task<PingResult> PingAsync(string address, int count = 3, params string[] options)
    {
        CommandResult result = await RunAsync(["ping", "-n", "-l", $"{count}", "-i", "3", "-W", "1", "-c", $"{count}", .. options, address]);
        Match counts = PingCounts().Match(result.Out);
        return counts.Success
            ? new PingResult(int.Parse(counts.Groups["sent"].Value), int.Parse(counts.Groups["received"].Value), result)
            : throw new LabException($"ping did not run: {result}");
    }

    /// <summary>Everything that a daemon could leave behind here: devices, addresses, routes, rules, sockets, firewall rules.</summary>
    public async Task<string> SnapshotAsync()
    {
        const string Look = """
            for object in link address 'route show table all' '-6 route show table all' rule '-6 rule'; do
                echo "== $object"; ip -o $object | sort
            done
            for file in unix raw6; do
                echo "== $file"; tail -n +2 /proc/net/$file | wc -l
            done
            # A running daemon changes between raw and packet sockets as it sees fit.
            echo "== raw and packet sockets"
            [ "$(tail -n +2 /proc/net/raw | wc -l)" = 0 ] && tail -n +2 /proc/net/packet | wc -l || echo "in use"
            echo "== nftables"; if command -v nft >/dev/null; then nft list ruleset; fi
            """;
        return (await ShellAsync(Look)).Succeeded().Out;
    }

    /// <inheritdoc/>
    public override string ToString() => Name;

    private string[] Inside(string[] words) => ["ip", "netns", "exec", Netns, .. words];

    [GeneratedRegex(@"(?<sent>\d+) packets transmitted, (?<received>\d+) received", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex PingCounts();
}

/// <summary>How many pings were sent and answered.</summary>
internal sealed record PingResult(int Sent, int Received, CommandResult Result);
