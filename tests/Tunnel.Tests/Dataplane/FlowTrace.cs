using Tunnel.TestSupport;

namespace Tunnel.Tests.Dataplane;

/// <summary>What several tests compare of a trace of packets.</summary>
internal static class FlowTrace
{
    /// <summary>
    /// The packet with an IPv4 identification of 0 and a header checksum to match: coalescing forgets it, and a kernel that cuts a
    /// super-packet counts on from the first one's.
    /// </summary>
    public static byte[] WithoutId(byte[] packet)
    {
        byte[] copy = [.. packet];
        if (copy[0] >> 4 == 4)
        {
            Packets.Put16(copy, 4, 0);
            Packets.FixIpv4Checksum(copy);
        }

        return copy;
    }

    /// <summary>The packets of each flow in order, without identification; the flow is named by addresses, protocol and ports.</summary>
    public static Dictionary<string, string[]> ByFlow(IEnumerable<byte[]> packets) =>
        packets.GroupBy(Flow).ToDictionary(g => g.Key, g => g.Select(p => Convert.ToHexString(WithoutId(p))).ToArray());

    private static string Flow(byte[] packet)
    {
        bool isIpv4 = packet[0] >> 4 == 4;
        int start = isIpv4 ? (packet[0] & 0x0f) * 4 : 40;
        byte[] key = isIpv4 ? [packet[9], .. packet[12..20]] : [packet[6], .. packet[8..40]];
        return Convert.ToHexString([.. key, .. packet[start..(start + 4)]]);
    }
}
