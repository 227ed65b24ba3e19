using System.Text.Json;
using System.Text.RegularExpressions;

namespace Tunnel.TestSupport;

/// <summary>A packet that was on the wire between the GRE of the Linux kernel and tunneld; see tests/golden/README.md.</summary>
/// <param name="Name">The case, and what the packet is.</param>
/// <param name="IsFromKernel">Whether the kernel sent it, or tunneld.</param>
/// <param name="KeyIn">The key of the kernel's packets.</param>
/// <param name="KeyOut">The key of tunneld's packets.</param>
/// <param name="Checksum">Whether there is a checksum.</param>
/// <param name="Sequence">Whether there is a sequence number.</param>
/// <param name="IsUdp">Whether it is GRE-in-UDP.</param>
/// <param name="Bytes">The packet from its outer IP header on.</param>
public sealed record KernelCapture(
    string Name, bool IsFromKernel, uint? KeyIn, uint? KeyOut, bool Checksum, bool Sequence, bool IsUdp, byte[] Bytes)
{
    /// <inheritdoc/>
    public override string ToString() => Name;
}

/// <summary>The packets of tests/golden/kernel-gre.json.</summary>
public static partial class KernelCaptures
{
    /// <summary>All of them, in the order of the file.</summary>
    public static IReadOnlyList<KernelCapture> All { get; } = Load();

    private static List<KernelCapture> Load()
    {
        using Stream stream = typeof(KernelCaptures).Assembly.GetManifestResourceStream("kernel-gre.json")
            ?? throw new InvalidOperationException("kernel-gre.json is not a resource of this assembly");
        using JsonDocument file = JsonDocument.Parse(stream);
        var all = new List<KernelCapture>();
        foreach (JsonElement packet in file.RootElement.EnumerateArray())
        {
            string peer = string.Join('\n', packet.GetProperty("peer").EnumerateArray().Select(key => key.GetString()));
            string from = packet.GetProperty("from").GetString()!;
            all.Add(new KernelCapture(
                $"{packet.GetProperty("name").GetString()}, from {from}, {all.Count}",
                from == "kernel",
                KeyOf(peer, "in"),
                KeyOf(peer, "out"),
                peer.Contains("checksum: true", StringComparison.Ordinal),
                peer.Contains("sequence: true", StringComparison.Ordinal),
                peer.Contains("gre-udp", StringComparison.Ordinal),
                Convert.FromHexString(packet.GetProperty("hex").GetString()!)));
        }

        return all;
    }

    // As docs/configuration.md has it: one key, or one for each direction.
    private static uint? KeyOf(string peer, string direction)
    {
        Match match = Key().Match(peer);
        return !match.Success ? null : uint.Parse(match.Groups[match.Groups["both"].Success ? "both" : direction].Value);
    }

    [GeneratedRegex(@"key: ((?<both>\d+)|\{in: (?<in>\d+), out: (?<out>\d+)\})", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Key();
}
