using System.Buffers.Binary;
using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// Cuts a super-packet into the packets that would have been sent without segmentation offload: TCP as RFC 9293 segments, UDP as
/// datagrams of equal size. It writes headers only; the payload of each segment is a run of the super-packet's own bytes.
/// </summary>
internal ref struct Segmentation
{
    /// <summary>The longest headers it writes, in bytes: IPv4 with options, or IPv6 with a few extension headers, and TCP with options.</summary>
    public const int MaxHeader = 160;

    private const byte Fin = 0x01;
    private const byte CongestionWindowReduced = 0x80;
    private const int TcpSequence = 4;

    private readonly ReadOnlySpan<byte> _packet;
    private readonly int _transportStart;
    private readonly bool _isIpv4;
    private readonly bool _isTcp;
    private readonly ushort _ipSum;
    private readonly ushort _transportSum;

    private Segmentation(ReadOnlySpan<byte> packet, int transportStart, int headerLength, bool isIpv4, bool isTcp, int segmentSize)
    {
        _packet = packet;
        _transportStart = transportStart;
        _isIpv4 = isIpv4;
        _isTcp = isTcp;
        HeaderLength = headerLength;
        SegmentSize = segmentSize;
        PayloadLength = packet.Length - headerLength;
        Count = (PayloadLength + segmentSize - 1) / segmentSize;

        // What is the same in all segments is summed once. The fields that differ are zero in it.
        Span<byte> constant = stackalloc byte[MaxHeader];
        packet[..headerLength].CopyTo(constant);
        if (isIpv4)
        {
            constant.Slice(Ipv4Header.TotalLengthOffset, 2).Clear();
            constant.Slice(Ipv4Header.IdentificationOffset, 2).Clear();
            constant.Slice(Ipv4Header.ChecksumOffset, 2).Clear();
            _ipSum = InternetChecksum.Sum(constant[..transportStart]);
        }

        Span<byte> transport = constant[transportStart..headerLength];
        ReadOnlySpan<byte> addresses = isIpv4 ? packet.Slice(12, 8) : packet.Slice(8, 32);
        if (isTcp)
        {
            transport.Slice(TcpSequence, 4).Clear();
            transport[TcpView.FlagsOffset] = 0;
            transport.Slice(TcpView.ChecksumOffset, 2).Clear();
        }
        else
        {
            transport.Slice(UdpView.LengthOffset, 2).Clear();
            transport.Slice(UdpView.ChecksumOffset, 2).Clear();
        }

        uint pseudoHeader = InternetChecksum.PseudoHeader(addresses, isTcp ? IpProtocol.Tcp : IpProtocol.Udp, 0);
        _transportSum = InternetChecksum.Sum(transport, pseudoHeader);
    }

    /// <summary>Bytes of IP and transport header that each segment begins with.</summary>
    public int HeaderLength { get; }

    /// <summary>Payload bytes of each segment but the last.</summary>
    public int SegmentSize { get; }

    /// <summary>Payload bytes of all segments.</summary>
    public int PayloadLength { get; }

    /// <summary>How many segments there are; at least 1.</summary>
    public int Count { get; }

    /// <summary>Length of the longest segment, headers included, in bytes.</summary>
    public readonly int LongestSegment => HeaderLength + Math.Min(SegmentSize, PayloadLength);

    /// <summary>Checks that a packet can be cut as its offload says.</summary>
    /// <param name="packet">The packet, its IP header checked, without bytes beyond its length.</param>
    /// <param name="offload">How to cut it. Its header length is not used: it is a hint only.</param>
    /// <param name="segmentation">The segmentation; usable only where the result is true.</param>
    public static bool TryBegin(ReadOnlySpan<byte> packet, in Offload offload, out Segmentation segmentation)
    {
        segmentation = default;
        bool isIpv4 = packet[0] >> 4 == 4;
        bool isTcp = offload.Gso is GsoType.TcpV4 or GsoType.TcpV6;
        bool fitsVersion = offload.Gso == GsoType.UdpL4 || (offload.Gso == GsoType.TcpV4) == isIpv4;
        int start = offload.ChecksumStart;

        // Extension headers are multiples of 8 bytes (RFC 8200 section 4); sums of parts need even ones.
        bool fitsHeader = isIpv4 ? start == (packet[0] & 0x0f) * 4 : start >= Ipv6Header.Length && start % 8 == 0;
        int shortest = isTcp ? TcpView.MinHeaderLength : UdpView.HeaderLength;
        if (!fitsVersion || !fitsHeader || offload.SegmentSize == 0 || packet.Length <= start + shortest)
        {
            return false;
        }

        int headerLength = start + (isTcp ? (packet[start + 12] >> 4) * 4 : UdpView.HeaderLength);
        if (headerLength < start + shortest || headerLength >= packet.Length || headerLength > MaxHeader)
        {
            return false;
        }

        segmentation = new Segmentation(packet, start, headerLength, isIpv4, isTcp, offload.SegmentSize);
        return true;
    }

    /// <summary>Writes the headers of one segment, checksums included.</summary>
    /// <param name="index">Which: 0 to <see cref="Count"/> - 1.</param>
    /// <param name="headers">At least <see cref="HeaderLength"/> bytes.</param>
    /// <param name="payloadSum">The folded sum of the segment's payload.</param>
    /// <returns>Where the segment's payload lies in the super-packet: offset and length in bytes.</returns>
    public readonly (int Offset, int Length) WriteHeaders(int index, Span<byte> headers, out ushort payloadSum)
    {
        int first = index * SegmentSize;
        int length = Math.Min(SegmentSize, PayloadLength - first);
        payloadSum = InternetChecksum.Sum(_packet.Slice(HeaderLength + first, length));
        _packet[..HeaderLength].CopyTo(headers);
        if (_isIpv4)
        {
            WriteIpv4(headers, index, (ushort)(HeaderLength + length));
        }
        else
        {
            BinaryPrimitives.WriteUInt16BigEndian(headers[Ipv6Header.PayloadLengthOffset..], (ushort)(HeaderLength - Ipv6Header.Length + length));
        }

        ushort transportLength = (ushort)(HeaderLength - _transportStart + length);
        Span<byte> transport = headers[_transportStart..];
        if (_isTcp)
        {
            WriteTcp(transport, index, first, transportLength, payloadSum);
        }
        else
        {
            WriteUdp(transport, transportLength, payloadSum);
        }

        return (HeaderLength + first, length);
    }

    private readonly void WriteIpv4(Span<byte> header, int index, ushort totalLength)
    {
        ushort identification = (ushort)(BinaryPrimitives.ReadUInt16BigEndian(_packet[Ipv4Header.IdentificationOffset..]) + index);
        BinaryPrimitives.WriteUInt16BigEndian(header[Ipv4Header.TotalLengthOffset..], totalLength);
        BinaryPrimitives.WriteUInt16BigEndian(header[Ipv4Header.IdentificationOffset..], identification);
        ushort checksum = (ushort)~InternetChecksum.Fold((ulong)_ipSum + totalLength + identification);
        BinaryPrimitives.WriteUInt16BigEndian(header[Ipv4Header.ChecksumOffset..], checksum);
    }

    // FIN and PSH belong to the end of the data, CWR to its beginning.
    private readonly void WriteTcp(Span<byte> transport, int index, int first, ushort transportLength, ushort payloadSum)
    {
        uint sequence = BinaryPrimitives.ReadUInt32BigEndian(transport[TcpSequence..]) + (uint)first;
        int flags = transport[TcpView.FlagsOffset];
        flags &= index == Count - 1 ? 0xff : ~(Fin | TcpView.Push);
        flags &= index == 0 ? 0xff : ~CongestionWindowReduced;
        BinaryPrimitives.WriteUInt32BigEndian(transport[TcpSequence..], sequence);
        transport[TcpView.FlagsOffset] = (byte)flags;
        ulong sum = (ulong)_transportSum + transportLength + (sequence >> 16) + (ushort)sequence + (uint)flags + payloadSum;
        BinaryPrimitives.WriteUInt16BigEndian(transport[TcpView.ChecksumOffset..], (ushort)~InternetChecksum.Fold(sum));
    }

    private readonly void WriteUdp(Span<byte> transport, ushort transportLength, ushort payloadSum)
    {
        BinaryPrimitives.WriteUInt16BigEndian(transport[UdpView.LengthOffset..], transportLength);

        // The length counts twice: in the header and in the pseudo-header.
        ushort checksum = (ushort)~InternetChecksum.Fold((ulong)_transportSum + transportLength + transportLength + payloadSum);

        // 0 would mean that there is none (RFC 768).
        BinaryPrimitives.WriteUInt16BigEndian(transport[UdpView.ChecksumOffset..], checksum == 0 ? (ushort)0xffff : checksum);
    }
}
