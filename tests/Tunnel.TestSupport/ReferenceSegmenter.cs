using System.Buffers.Binary;
using Tunnel.Dataplane;

namespace Tunnel.TestSupport;

/// <summary>
/// What a kernel makes of a packet and the offload beside it, written plainly and without the code under test: the segments that TCP or
/// UDP see in the end, checksums finished.
/// </summary>
public static class ReferenceSegmenter
{
    /// <summary>Cuts a super-packet, finishes an unfinished checksum, or gives the packet back as it is.</summary>
    public static IReadOnlyList<byte[]> Cut(byte[] packet, in Offload offload)
    {
        if (offload.Gso == GsoType.None)
        {
            byte[] copy = [.. packet];
            if (offload.NeedsChecksum)
            {
                Finish(copy);
            }

            return [copy];
        }

        bool isTcp = offload.Gso != GsoType.UdpL4;
        int start = TransportStart(packet);
        int headers = start + (isTcp ? (packet[start + 12] >> 4) * 4 : 8);
        var segments = new List<byte[]>();
        for (int first = headers; first < packet.Length; first += offload.SegmentSize)
        {
            int end = Math.Min(first + offload.SegmentSize, packet.Length);
            byte[] segment = [.. packet[..headers], .. packet[first..end]];
            if (isTcp)
            {
                uint sequence = BinaryPrimitives.ReadUInt32BigEndian(packet.AsSpan(start + 4));
                BinaryPrimitives.WriteUInt32BigEndian(segment.AsSpan(start + 4), sequence + (uint)(first - headers));
                if (end != packet.Length)
                {
                    segment[start + 13] &= 0xf6;
                }

                if (first != headers)
                {
                    segment[start + 13] &= 0x7f;
                }
            }
            else
            {
                Packets.Put16(segment, start + 4, segment.Length - start);
            }

            if (segment[0] >> 4 == 4)
            {
                Packets.Put16(segment, 2, segment.Length);
                Packets.Put16(segment, 4, BinaryPrimitives.ReadUInt16BigEndian(packet.AsSpan(4)) + segments.Count);
                Packets.FixIpv4Checksum(segment);
            }
            else
            {
                Packets.Put16(segment, 4, segment.Length - 40);
            }

            int field = start + (isTcp ? 16 : 6);
            Packets.Put16(segment, field, PseudoHeader(segment, start));
            Finish(segment);
            segments.Add(segment);
        }

        return segments;
    }

    /// <summary>What is wrong with a TCP or UDP packet's lengths and checksums; null where nothing is. A UDP checksum of 0 is wrong here.</summary>
    public static string? Fault(ReadOnlySpan<byte> packet)
    {
        bool isIpv4 = packet[0] >> 4 == 4;
        int length = BinaryPrimitives.ReadUInt16BigEndian(packet[(isIpv4 ? 2 : 4)..]) + (isIpv4 ? 0 : 40);
        int start = TransportStart(packet);
        ReadOnlySpan<byte> transport = packet[start..];
        bool isUdp = Protocol(packet) == Packets.Udp;
        return length != packet.Length ? $"IP length {length} of {packet.Length}"
            : isIpv4 && Rfc1071.Sum(packet[..start]) != 0xffff ? "IPv4 checksum"
            : Rfc1071.Sum(transport, PseudoHeader(packet, start)) != 0xffff ? "transport checksum"
            : isUdp && BinaryPrimitives.ReadUInt16BigEndian(transport[6..]) == 0 ? "UDP without checksum"
            : isUdp && BinaryPrimitives.ReadUInt16BigEndian(transport[4..]) != transport.Length ? "UDP length"
            : null;
    }

    /// <summary>The sum of a packet's pseudo-header, not complemented.</summary>
    public static ushort PseudoHeader(ReadOnlySpan<byte> packet, int transportStart)
    {
        ReadOnlySpan<byte> addresses = packet[0] >> 4 == 4 ? packet.Slice(12, 8) : packet.Slice(8, 32);
        return Rfc1071.Sum(addresses, (ulong)(packet.Length - transportStart + Protocol(packet)));
    }

    private static int TransportStart(ReadOnlySpan<byte> packet) => packet[0] >> 4 == 4 ? (packet[0] & 0x0f) * 4 : 40;

    private static byte Protocol(ReadOnlySpan<byte> packet) => packet[0] >> 4 == 4 ? packet[9] : packet[6];

    private static void Finish(byte[] packet)
    {
        int start = TransportStart(packet);
        bool isUdp = Protocol(packet) == Packets.Udp;
        ushort checksum = Rfc1071.Checksum(packet.AsSpan(start));
        Packets.Put16(packet, start + (isUdp ? 6 : 16), isUdp && checksum == 0 ? 0xffff : checksum);
    }
}
