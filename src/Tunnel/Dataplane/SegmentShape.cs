using System.Buffers.Binary;
using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// What the rules for putting segments together look at first. The default value, whose protocol is 0, is a packet that can never be put
/// together with another.
/// </summary>
/// <param name="Protocol">TCP or UDP; 0 where nothing can ever be put together.</param>
/// <param name="IsIpv4">Whether the IP header is an IPv4 header.</param>
/// <param name="MayJoin">Whether the packet by itself may be part of a super-packet.</param>
/// <param name="TransportStart">Where the transport header begins, in bytes.</param>
/// <param name="HeaderLength">Bytes of IP and transport header.</param>
/// <param name="Payload">Bytes of transport payload.</param>
/// <param name="SegmentSize">Bytes of payload of each segment, where the kernel has put some together already; else those of the packet.</param>
internal readonly record struct SegmentShape(
    byte Protocol, bool IsIpv4, bool MayJoin, int TransportStart, int HeaderLength, int Payload, int SegmentSize)
{
    /// <summary>Whether it is one segment, and not several that the kernel has coalesced.</summary>
    public bool IsSingle => Payload == SegmentSize;

    /// <summary>How many segments it will be cut into; only where there is payload.</summary>
    public int Segments => SegmentSize == 0 ? 1 : (Payload + SegmentSize - 1) / SegmentSize;

    /// <summary>How a super-packet of such segments is to be cut.</summary>
    public Offload SuperPacketOffload => new(
        Protocol == IpProtocol.Udp ? GsoType.UdpL4 : IsIpv4 ? GsoType.TcpV4 : GsoType.TcpV6,
        (ushort)SegmentSize,
        (ushort)HeaderLength,
        NeedsChecksum: true,
        (ushort)TransportStart,
        (ushort)(Protocol == IpProtocol.Udp ? UdpView.ChecksumOffset : TcpView.ChecksumOffset));

    /// <summary>The shape of a packet.</summary>
    /// <param name="bytes">The packet, its IP header checked, without bytes beyond its length.</param>
    /// <param name="offload">What is known to be unfinished or coalesced in it.</param>
    public static SegmentShape Of(ReadOnlySpan<byte> bytes, in Offload offload)
    {
        bool isIpv4 = bytes[0] >> 4 == 4;
        int start = isIpv4 ? (bytes[0] & 0x0f) * 4 : Ipv6Header.Length;
        byte protocol = isIpv4 ? bytes[9] : bytes[6];
        bool isFragment = isIpv4 && (BinaryPrimitives.ReadUInt16BigEndian(bytes[6..]) & 0x3fff) != 0;
        bool hasIpOptions = isIpv4 && start != Ipv4Header.Length;
        bool isTcp = protocol == IpProtocol.Tcp;
        int shortest = isTcp ? TcpView.MinHeaderLength : UdpView.HeaderLength;
        if (isFragment || (!isTcp && protocol != IpProtocol.Udp) || bytes.Length < start + shortest)
        {
            return default;
        }

        int headerLength = start + (isTcp ? (bytes[start + 12] >> 4) * 4 : UdpView.HeaderLength);
        int payload = bytes.Length - headerLength;
        if (headerLength < start + shortest || payload < 0)
        {
            return default;
        }

        int segmentSize = offload.Gso == GsoType.None ? payload : offload.SegmentSize;
        bool mayJoin = payload > 0 && segmentSize > 0 && !hasIpOptions && (isTcp
            ? (bytes[start + TcpView.FlagsOffset] & ~TcpView.Push) == TcpView.Ack
            : BinaryPrimitives.ReadUInt16BigEndian(bytes[(start + UdpView.LengthOffset)..]) == UdpView.HeaderLength + payload &&
              BinaryPrimitives.ReadUInt16BigEndian(bytes[(start + UdpView.ChecksumOffset)..]) != 0);
        return new SegmentShape(protocol, isIpv4, mayJoin, start, headerLength, payload, segmentSize);
    }

    /// <summary>Whether what must be equal in all packets of a super-packet is equal. Both have this shape, but for their payload.</summary>
    public bool IsSameFlow(ReadOnlySpan<byte> head, ReadOnlySpan<byte> next)
    {
        int start = TransportStart;
        bool sameIp = IsIpv4
            ? head[1] == next[1] && head.Slice(6, 4).SequenceEqual(next.Slice(6, 4)) && head.Slice(12, 8).SequenceEqual(next.Slice(12, 8))
            : head[..4].SequenceEqual(next[..4]) && head.Slice(6, 34).SequenceEqual(next.Slice(6, 34));
        if (!sameIp || !head.Slice(start, 4).SequenceEqual(next.Slice(start, 4)))
        {
            return false;
        }

        // Acknowledgement number and data offset; window, then urgent pointer and options behind the checksum.
        return Protocol == IpProtocol.Udp ||
            (head.Slice(start + 8, 5).SequenceEqual(next.Slice(start + 8, 5)) &&
             head.Slice(start + 14, 2).SequenceEqual(next.Slice(start + 14, 2)) &&
             head[(start + 18)..HeaderLength].SequenceEqual(next[(start + 18)..HeaderLength]));
    }

    /// <summary>Whether the transport checksum of a packet of this shape is as its sender made it. A super-packet's would look right in any case.</summary>
    public bool IsChecksumRight(ReadOnlySpan<byte> bytes, in Offload offload)
    {
        // The kernel has checked what it left unfinished, or it has never left this machine.
        if (offload.NeedsChecksum)
        {
            return true;
        }

        ReadOnlySpan<byte> transport = bytes[TransportStart..];
        ReadOnlySpan<byte> addresses = IsIpv4 ? bytes.Slice(12, 8) : bytes.Slice(8, 32);
        return InternetChecksum.IsValid(transport, InternetChecksum.PseudoHeader(addresses, Protocol, transport.Length));
    }

    /// <summary>Makes a copy of the first packet's headers those of the super-packet.</summary>
    /// <param name="header">The copy: <see cref="HeaderLength"/> bytes.</param>
    /// <param name="length">The super-packet's length in bytes.</param>
    /// <param name="last">The last packet.</param>
    public void WriteHeader(Span<byte> header, int length, ReadOnlySpan<byte> last)
    {
        if (IsIpv4)
        {
            BinaryPrimitives.WriteUInt16BigEndian(header[Ipv4Header.TotalLengthOffset..], (ushort)length);
            header.Slice(Ipv4Header.ChecksumOffset, 2).Clear();
            BinaryPrimitives.WriteUInt16BigEndian(header[Ipv4Header.ChecksumOffset..], InternetChecksum.Compute(header[..Ipv4Header.Length]));
        }
        else
        {
            BinaryPrimitives.WriteUInt16BigEndian(header[Ipv6Header.PayloadLengthOffset..], (ushort)(length - Ipv6Header.Length));
        }

        Span<byte> transport = header[TransportStart..];
        int transportLength = length - TransportStart;
        ReadOnlySpan<byte> addresses = IsIpv4 ? header.Slice(12, 8) : header.Slice(8, 32);
        ushort pseudoHeader = InternetChecksum.PseudoHeader(addresses, Protocol, transportLength);
        if (Protocol == IpProtocol.Udp)
        {
            BinaryPrimitives.WriteUInt16BigEndian(transport[UdpView.LengthOffset..], (ushort)transportLength);
            BinaryPrimitives.WriteUInt16BigEndian(transport[UdpView.ChecksumOffset..], pseudoHeader);
        }
        else
        {
            transport[TcpView.FlagsOffset] |= (byte)(last[TransportStart + TcpView.FlagsOffset] & TcpView.Push);
            BinaryPrimitives.WriteUInt16BigEndian(transport[TcpView.ChecksumOffset..], pseudoHeader);
        }
    }
}
