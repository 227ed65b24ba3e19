using System.Text.Json;
using System.Text.RegularExpressions;

namespace Tunnel.TestSupport;

/// <summary>A packet that was on the wire between tunneld and somebody else's GRE; see tests/golden/README.md.</summary>
/// <param name="Name">The case, and what the packet is.</param>
/// <param name="IsFromPartner">Whether the other end sent it, or tunneld.</param>
/// <param name="KeyIn">The key of the other end's packets.</param>
/// <param name="KeyOut">The key of tunneld's packets.</param>
/// <param name="Checksum">Whether there is a checksum.</param>
/// <param name="Sequence">Whether there is a sequence number.</param>
/// <param name="IsUdp">Whether it is GRE-in-UDP.</param>
/// <param name="Bytes">The packet from its outer IP header on.</param>
public sealed record InteropCapture(
    string Name, bool IsFromPartner, uint? KeyIn, uint? KeyOut, bool Checksum, bool Sequence, bool IsUdp, byte[] Bytes)
{
    /// <inheritdoc/>
    public override string ToString() => Name;
}

/// <summary>The packets of tests/golden/kernel-gre.json: the GRE of the Linux kernel.</summary>
public static class KernelCaptures
{
    /// <summary>All of them, in the order of the file.</summary>
    public static IReadOnlyList<InteropCapture> All { get; } = InteropCaptures.Load("kernel-gre.json");
}

/// <summary>The packets of tests/golden/ovs-gre.json: Open vSwitch's userspace datapath.</summary>
public static class OpenVSwitchCaptures
{
    /// <summary>All of them, in the order of the file.</summary>
    public static IReadOnlyList<InteropCapture> All { get; } = InteropCaptures.Load("ovs-gre.json");
}

internal static partial class InteropCaptures
{
    public static List<InteropCapture> Load(string name)
    {
        using Stream stream = typeof(InteropCaptures).Assembly.GetManifestResourceStream(name)
            ?? throw new InvalidOperationException($"{name} is not a resource of this assembly");
        using JsonDocument file = JsonDocument.Parse(stream);
        var all = new List<InteropCapture>();
        foreach (JsonElement packet in file.RootElement.EnumerateArray())
        {
            string peer = string.Join('\n', packet.GetProperty("peer").EnumerateArray().Select(key => key.GetString()));
            string from = packet.GetProperty("from").GetString()!;
            all.Add(new InteropCapture(
                $"{packet.GetProperty("name").GetString()}, from {from}, {all.Count}",
                from != "tunneld",
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
