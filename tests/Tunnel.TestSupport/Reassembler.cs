using System.Buffers.Binary;

namespace Tunnel.TestSupport;

/// <summary>
/// Puts fragments of IPv4 and IPv6 packets together, plainly and without the code under test, and stricter than any host: a fragment that
/// overlaps, leaves a gap, or is out of order is a fault.
/// </summary>
public static class Reassembler
{
    /// <summary>
    /// The packets that these are fragments of, in the order of their first ones; what is no fragment stays as it is. Where the original of
    /// IPv4 was a fragment itself, so is the result.
    /// </summary>
    public static IReadOnlyList<byte[]> Join(IEnumerable<byte[]> packets)
    {
        var joined = new List<byte[]>();
        var byIdentity = new Dictionary<string, int>(StringComparer.Ordinal);
        foreach (byte[] packet in packets)
        {
            string identity = IdentityOf(packet);
            if (identity.Length == 0)
            {
                joined.Add(packet);
            }
            else if (byIdentity.TryGetValue(identity, out int index))
            {
                joined[index] = Append(joined[index], packet);
            }
            else
            {
                byIdentity[identity] = joined.Count;
                joined.Add(packet);
            }
        }

        return [.. joined.Select(Finish)];
    }

    /// <summary>Whether a packet is a fragment.</summary>
    public static bool IsFragment(ReadOnlySpan<byte> packet) =>
        packet[0] >> 4 == 4 ? (BinaryPrimitives.ReadUInt16BigEndian(packet[6..]) & 0x3fff) != 0 : packet[6] == 44;

    // What fragments of one packet have in common (RFC 791 section 3.2, RFC 8200 section 4.5); empty for what is no fragment.
    private static string IdentityOf(byte[] packet) => !IsFragment(packet) ? ""
        : packet[0] >> 4 == 4 ? Convert.ToHexString([.. packet[4..6], packet[9], .. packet[12..20]])
        : Convert.ToHexString([.. packet[44..48], .. packet[8..40]]);

    private static byte[] Append(byte[] first, byte[] next)
    {
        bool isIpv4 = first[0] >> 4 == 4;
        int header = isIpv4 ? (first[0] & 0x0f) * 4 : 48;
        int nextHeader = isIpv4 ? (next[0] & 0x0f) * 4 : 48;
        int end = OffsetOf(first) + first.Length - header;
        if (!HasMore(first) || (first.Length - header) % 8 != 0 || OffsetOf(next) != end)
        {
            throw new InvalidOperationException($"a fragment at {OffsetOf(next)} can't follow one that ends at {end}");
        }

        if (isIpv4 && Rfc1071.Sum(next.AsSpan(0, nextHeader)) != 0xffff)
        {
            throw new InvalidOperationException("a fragment's header checksum is wrong");
        }

        byte[] packet = [.. first, .. next[nextHeader..]];
        SetMore(packet, HasMore(next));
        Packets.Put16(packet, isIpv4 ? 2 : 4, packet.Length - (isIpv4 ? 0 : 40));
        return packet;
    }

    // An IPv6 packet that is whole loses its Fragment header.
    private static byte[] Finish(byte[] packet)
    {
        if (packet[0] >> 4 == 4)
        {
            byte[] finished = [.. packet];
            Packets.FixIpv4Checksum(finished);
            return finished;
        }

        if (packet[6] != 44)
        {
            return packet;
        }

        if (HasMore(packet) || OffsetOf(packet) != 0)
        {
            throw new InvalidOperationException("a fragment is missing");
        }

        byte[] whole = [.. packet[..40], .. packet[48..]];
        whole[6] = packet[40];
        Packets.Put16(whole, 4, whole.Length - 40);
        return whole;
    }

    private static int OffsetOf(byte[] packet) => packet[0] >> 4 == 4
        ? (BinaryPrimitives.ReadUInt16BigEndian(packet.AsSpan(6)) & 0x1fff) * 8
        : BinaryPrimitives.ReadUInt16BigEndian(packet.AsSpan(42)) & 0xfff8;

    private static bool HasMore(byte[] packet) => packet[0] >> 4 == 4 ? (packet[6] & 0x20) != 0 : (packet[43] & 1) != 0;

    private static void SetMore(byte[] packet, bool more)
    {
        bool isIpv4 = packet[0] >> 4 == 4;
        int at = isIpv4 ? 6 : 43;
        int bit = isIpv4 ? 0x20 : 1;
        packet[at] = (byte)(more ? packet[at] | bit : packet[at] & ~bit);
    }
}
