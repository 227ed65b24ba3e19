using System.Net;
using Tunnel.Ctl;

namespace Tunnel.Tests.Ctl;

/// <summary>
/// A host with Docker, whose bridge docker0 has 172.17.51.1, and a container web that has eth0 only, or eth1 as well once it is attached. Answers what attach and
/// detach ask, and keeps what they did.
/// </summary>
internal sealed class FakeHost : IHost
{
    private const string Enter = "nsenter --net=/proc/4711/ns/net ";

    private bool _attached;

    public bool IsRoot { get; set; } = true;

    /// <summary>The files that are there.</summary>
    public HashSet<string> Files { get; } = new(StringComparer.Ordinal);

    /// <summary>What to answer otherwise, by command line; null: the program fails.</summary>
    public Dictionary<string, string?> Answers { get; } = new(StringComparer.Ordinal);

    /// <summary>The command lines that changed something, batches line by line.</summary>
    public List<string> Done { get; } = [];

    public bool Exists(string path) => Files.Contains(path);

    public void AskFor(IPAddress address)
    {
    }

    public ProgramEnd Run(string[] words, string input = "")
    {
        string line = string.Join(' ', words);
        string? answer = Answers.TryGetValue(line, out string? other) ? other : Answer(line, input);
        return answer is null ? new ProgramEnd(null, $"{words[0]} fails") : new ProgramEnd(answer, "");
    }

    private string? Answer(string line, string input)
    {
        switch (line)
        {
            case "docker inspect --type container --format {{.State.Pid}} web":
                return "4711\n";
            case "readlink /proc/self/ns/net":
                return "net:[1]\n";
            case Enter + "readlink /proc/self/ns/net":
                return "net:[2]\n";
            case "ip -j link show type bridge":
                return """[{},{"ifname":"docker0"}]""";
            case "ip -j -d addr show":
                return """[{"ifname":"lo","addr_info":[]},{"ifname":"docker0","mtu":1476,"flags":["UP"],"addr_info":[{"family":"inet","local":"172.17.51.1","prefixlen":24}]}]""";
            case Enter + "ip -j -d addr show":
                return """[{"ifname":"lo"},{"ifname":"eth0","addr_info":[{"local":"172.18.0.2","prefixlen":24}]}"""
                    + (_attached ? """,{"ifname":"eth1","ifalias":"tunnelctl attach","addr_info":[{"local":"172.17.51.100","prefixlen":24},{"local":"fe80::1","prefixlen":64}]}""" : "") + "]";
        }

        if (line.StartsWith("docker inspect", StringComparison.Ordinal) || line.StartsWith("podman", StringComparison.Ordinal))
            return null;

        if (!line.StartsWith("ip neigh flush", StringComparison.Ordinal) && !line.StartsWith("ip -j neigh", StringComparison.Ordinal))
            Done.AddRange(input.Length == 0 ? [line] : input.TrimEnd('\n').Split('\n').Select(one => line.Replace("-batch -", one, StringComparison.Ordinal)));

        if (line.StartsWith("ip link add", StringComparison.Ordinal))
            _attached = true;
        else if (line.StartsWith(Enter + "ip link del", StringComparison.Ordinal))
            _attached = false;

        return "";
    }
}
