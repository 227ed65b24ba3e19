using System.Buffers.Binary;

namespace Tunnel.Wire;

/// <summary>
/// The beginning of an IP packet as an ICMP error quotes it: its header is whole, what follows may be cut anywhere (RFC 792: 8 bytes; RFC 1812
/// section 4.3.2.3: up to 576 bytes in all). IPv6 extension headers are not walked. Valid as long as the bytes are.
/// </summary>
public readonly ref struct QuotedPacket
{
    private QuotedPacket(ReadOnlySpan<byte> packet, int headerLength)
    {
        Packet = packet;
        HeaderLength = headerLength;
    }

    /// <summary>What was quoted, from the IP header.</summary>
    public ReadOnlySpan<byte> Packet { get; }

    /// <summary>The IP header's length in bytes.</summary>
    public int HeaderLength { get; }

    /// <summary>Whether it is IPv4.</summary>
    public bool IsIpv4 => Packet[0] >> 4 == 4;

    /// <summary>The length that the header says, in bytes.</summary>
    public int TotalLength => IsIpv4
        ? BinaryPrimitives.ReadUInt16BigEndian(Packet[Ipv4Header.TotalLengthOffset..])
        : Ipv6Header.Length + BinaryPrimitives.ReadUInt16BigEndian(Packet[Ipv6Header.PayloadLengthOffset..]);

    /// <summary>The payload's IP protocol.</summary>
    public byte Protocol => IsIpv4 ? Packet[9] : Packet[6];

    /// <summary>Whether it is an IPv4 fragment other than the first, so that no transport header follows.</summary>
    public bool IsLaterFragment => IsIpv4 && (BinaryPrimitives.ReadUInt16BigEndian(Packet[6..]) & 0x1fff) != 0;

    /// <summary>
    /// Whether an ICMP error may be sent because of it: not of an error, nor of a later fragment, nor to what is no single host (RFC 1122
    /// section 3.2.2, RFC 4443 section 2.4 e).
    /// </summary>
    public bool MayCauseError => !IsLaterFragment && !IsError && IsFromSingleHost;

    /// <summary>Source address.</summary>
    public InetAddress Source => IsIpv4 ? InetAddress.FromIpv4(BinaryPrimitives.ReadUInt32BigEndian(Packet[12..])) : InetAddress.Read(Packet.Slice(8, 16));

    /// <summary>Destination address.</summary>
    public InetAddress Destination => IsIpv4 ? InetAddress.FromIpv4(BinaryPrimitives.ReadUInt32BigEndian(Packet[16..])) : InetAddress.Read(Packet.Slice(24, 16));

    /// <summary>What was quoted beyond the header.</summary>
    public ReadOnlySpan<byte> Payload => Packet[HeaderLength..];

    private bool IsError => Payload.Length > 0 &&
        (IsIpv4 ? Protocol == IpProtocol.Icmp && IcmpMessage.IsErrorIpv4(Payload[0]) : Protocol == IpProtocol.Icmpv6 && IcmpMessage.IsErrorIpv6(Payload[0]));

    // Not this network, loopback, multicast, reserved or broadcast; not the unspecified address, loopback or multicast.
    private bool IsFromSingleHost => IsIpv4
        ? Packet[12] is > 0 and < 224 and not 127
        : Source.Bits > UInt128.One && Packet[8] != 0xff;

    /// <summary>Checks that there is a whole header.</summary>
    /// <param name="bytes">From the first byte of the header.</param>
    /// <param name="packet">The packet; usable only where the result is true.</param>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out QuotedPacket packet)
    {
        packet = default;
        int version = bytes.Length == 0 ? 0 : bytes[0] >> 4;
        int headerLength = version == 4 ? (bytes[0] & 0xf) * 4 : version == 6 ? Ipv6Header.Length : 0;
        if (headerLength < Ipv4Header.Length || bytes.Length < headerLength)
        {
            return false;
        }

        packet = new QuotedPacket(bytes, headerLength);
        return true;
    }
}
