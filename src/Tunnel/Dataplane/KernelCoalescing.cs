using System.Buffers.Binary;
using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>What a packet from a raw socket turned out to be.</summary>
public enum CoalescingVerdict
{
    /// <summary>An ordinary packet: its transport checksum is as its sender made it.</summary>
    Ordinary,

    /// <summary>TCP or UDP whose checksum the kernel left unfinished; the offload says how to finish it, and where to cut it.</summary>
    Partial,

    /// <summary>UDP datagrams that the kernel glued together: their boundaries are lost.</summary>
    CoalescedUdp,
}

/// <summary>
/// Recognises what the kernel's receive offload (GRO) made of GRE packets before a raw socket got them. The kernel coalesces the
/// inner TCP segments of plain and keyed GRE without any GRE module, and hands over one packet of up to 64 KiB whose TCP checksum
/// field holds the sum of the pseudo-header only; the segment size does not come with it. A virtual network device may also hand
/// over a single packet in that state: the sender's kernel left the checksum to a device that never needed it.
/// </summary>
public static class KernelCoalescing
{
    // The segment size is lost, and a guess that is too large makes a black hole behind the next smaller link: the kernel refuses to
    // forward segments that don't fit. What every IPv4 and IPv6 host must take always fits (RFC 9293 section 3.7.1, RFC 8200 section 5).
    private const int SafeSegmentSizeIpv4 = 536;
    private const int SafeSegmentSizeIpv6 = 1220;

    /// <summary>Judges an inner IPv4 packet.</summary>
    /// <param name="packet">The packet, lengths checked.</param>
    /// <param name="largest">The largest inner packet that one outer packet can have brought, in bytes: the GMTU.</param>
    /// <param name="dropsPartialUdp">Whether a receiving device is known to coalesce UDP, so that small datagrams may be glued too.</param>
    /// <param name="offload">How to hand it to the TUN device.</param>
    public static CoalescingVerdict Judge(in Ipv4View packet, int largest, bool dropsPartialUdp, out Offload offload)
    {
        offload = default;
        if (packet.IsFragment)
        {
            return CoalescingVerdict.Ordinary;
        }

        return Judge(
            packet.Protocol, packet.Addresses, packet.HeaderLength, packet.Payload, packet.TotalLength > largest, dropsPartialUdp, isIpv4: true, ref offload);
    }

    /// <summary>Judges an inner IPv6 packet. One with extension headers is never coalesced across them here and counts as ordinary.</summary>
    /// <param name="packet">The packet, lengths checked.</param>
    /// <param name="largest">The largest inner packet that one outer packet can have brought, in bytes: the GMTU.</param>
    /// <param name="dropsPartialUdp">Whether a receiving device is known to coalesce UDP, so that small datagrams may be glued too.</param>
    /// <param name="offload">How to hand it to the TUN device.</param>
    public static CoalescingVerdict Judge(in Ipv6View packet, int largest, bool dropsPartialUdp, out Offload offload)
    {
        offload = default;
        return Judge(
            packet.NextHeader, packet.Addresses, Ipv6Header.Length, packet.Payload, packet.TotalLength > largest, dropsPartialUdp, isIpv4: false, ref offload);
    }

    private static CoalescingVerdict Judge(
        byte protocol,
        ReadOnlySpan<byte> addresses,
        int headerLength,
        ReadOnlySpan<byte> transport,
        bool isTooLong,
        bool dropsPartialUdp,
        bool isIpv4,
        ref Offload offload)
    {
        int checksumOffset = protocol switch
        {
            IpProtocol.Tcp when transport.Length >= TcpView.MinHeaderLength => TcpView.ChecksumOffset,
            IpProtocol.Udp when transport.Length >= UdpView.HeaderLength => UdpView.ChecksumOffset,
            _ => -1,
        };
        if (checksumOffset < 0)
        {
            return CoalescingVerdict.Ordinary;
        }

        // The field alone tells, without reading the payload, but for one finished checksum in 65,536 that happens to be equal. Of TCP that
        // is too long to have come alone that can be left open: the kernel would finish it to what it is.
        ushort pseudoHeader = InternetChecksum.PseudoHeader(addresses, protocol, transport.Length);
        ushort field = BinaryPrimitives.ReadUInt16BigEndian(transport[checksumOffset..]);
        bool isGiven = isTooLong && protocol == IpProtocol.Tcp;
        if (field != pseudoHeader || (!isGiven && InternetChecksum.IsValid(transport, pseudoHeader)))
        {
            return CoalescingVerdict.Ordinary;
        }

        if (protocol == IpProtocol.Udp)
        {
            offload = Unfinished(headerLength, checksumOffset);
            return dropsPartialUdp || isTooLong ? CoalescingVerdict.CoalescedUdp : CoalescingVerdict.Partial;
        }

        if (!TcpView.TryParse(transport, out TcpView tcp))
        {
            return CoalescingVerdict.Ordinary;
        }

        int segmentSize = isIpv4 ? SafeSegmentSizeIpv4 : SafeSegmentSizeIpv6;
        offload = tcp.Payload.Length <= segmentSize
            ? Unfinished(headerLength, checksumOffset)
            : Unfinished(headerLength, checksumOffset) with
            {
                Gso = isIpv4 ? GsoType.TcpV4 : GsoType.TcpV6,
                SegmentSize = (ushort)segmentSize,
                HeaderLength = (ushort)(headerLength + tcp.HeaderLength),
            };
        return CoalescingVerdict.Partial;
    }

    private static Offload Unfinished(int headerLength, int checksumOffset) =>
        new(GsoType.None, 0, 0, NeedsChecksum: true, (ushort)headerLength, (ushort)checksumOffset);
}
