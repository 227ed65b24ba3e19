using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;

namespace Tunnel.TestSupport;

/// <summary>
/// Builds packets byte by byte, without the code under test. Addresses are text; the family follows from them. Checksums are right
/// unless said otherwise.
/// </summary>
public static class Packets
{
    public const byte Icmp = 1;
    public const byte Tcp = 6;
    public const byte Udp = 17;
    public const byte Gre = 47;
    public const byte Icmpv6 = 58;

    /// <summary>Bytes 0, 1, 2, ... as a payload.</summary>
    public static byte[] Payload(int length)
    {
        var bytes = new byte[length];
        for (int i = 0; i < length; i++)
        {
            bytes[i] = (byte)i;
        }

        return bytes;
    }

    /// <summary>An IPv4 packet (RFC 791 section 3.1).</summary>
    public static byte[] Ipv4(
        string source,
        string destination,
        byte protocol,
        byte[] payload,
        byte ttl = 63,
        byte tos = 0,
        ushort id = 0x1234,
        bool df = true,
        bool mf = false,
        int fragmentOffset = 0,
        byte[]? options = null)
    {
        options ??= [];
        int headerLength = 20 + options.Length;
        var packet = new byte[headerLength + payload.Length];
        packet[0] = (byte)(0x40 | (headerLength / 4));
        packet[1] = tos;
        Put16(packet, 2, packet.Length);
        Put16(packet, 4, id);
        Put16(packet, 6, (df ? 0x4000 : 0) | (mf ? 0x2000 : 0) | (fragmentOffset / 8));
        packet[8] = ttl;
        packet[9] = protocol;
        IPAddress.Parse(source).GetAddressBytes().CopyTo(packet, 12);
        IPAddress.Parse(destination).GetAddressBytes().CopyTo(packet, 16);
        options.CopyTo(packet, 20);
        payload.CopyTo(packet, headerLength);
        FixIpv4Checksum(packet);
        return packet;
    }

    /// <summary>An IPv6 packet (RFC 8200 section 3).</summary>
    public static byte[] Ipv6(
        string source,
        string destination,
        byte nextHeader,
        byte[] payload,
        byte hopLimit = 63,
        byte trafficClass = 0,
        uint flowLabel = 0)
    {
        var packet = new byte[40 + payload.Length];
        BinaryPrimitives.WriteUInt32BigEndian(packet, (6u << 28) | ((uint)trafficClass << 20) | flowLabel);
        Put16(packet, 4, payload.Length);
        packet[6] = nextHeader;
        packet[7] = hopLimit;
        IPAddress.Parse(source).GetAddressBytes().CopyTo(packet, 8);
        IPAddress.Parse(destination).GetAddressBytes().CopyTo(packet, 24);
        payload.CopyTo(packet, 40);
        return packet;
    }

    /// <summary>An IP packet of the addresses' family.</summary>
    public static byte[] Ip(string source, string destination, byte protocol, byte[] payload, byte ttl = 63, byte trafficClass = 0) =>
        IsIpv4(source)
            ? Ipv4(source, destination, protocol, payload, ttl, trafficClass)
            : Ipv6(source, destination, protocol, payload, ttl, trafficClass);

    /// <summary>An IP packet with a TCP segment (RFC 9293 section 3.1).</summary>
    /// <param name="source">Inner source.</param>
    /// <param name="destination">Inner destination.</param>
    /// <param name="payload">TCP payload.</param>
    /// <param name="isPartial">Whether the checksum field holds the sum of the pseudo-header only, as the kernel leaves it.</param>
    /// <param name="tcpOptions">TCP options, a multiple of 4 bytes.</param>
    /// <param name="trafficClass">TOS or traffic class.</param>
    /// <param name="sourcePort">The source port.</param>
    /// <param name="sequence">The sequence number.</param>
    /// <param name="flags">The flags, the lower 8.</param>
    public static byte[] TcpPacket(
        string source,
        string destination,
        byte[] payload,
        bool isPartial = false,
        byte[]? tcpOptions = null,
        byte trafficClass = 0,
        ushort sourcePort = 40000,
        uint sequence = 0x01020304,
        byte flags = 0x18)
    {
        tcpOptions ??= [];
        int headerLength = 20 + tcpOptions.Length;
        var segment = new byte[headerLength + payload.Length];
        Put16(segment, 0, sourcePort);
        Put16(segment, 2, 3333);
        BinaryPrimitives.WriteUInt32BigEndian(segment.AsSpan(4), sequence);
        BinaryPrimitives.WriteUInt32BigEndian(segment.AsSpan(8), 0x05060708);
        segment[12] = (byte)(headerLength / 4 << 4);
        segment[13] = flags;
        Put16(segment, 14, 501);
        tcpOptions.CopyTo(segment, 20);
        payload.CopyTo(segment, headerLength);
        FinishTransport(segment, 16, PseudoHeader(source, destination, Tcp, segment.Length), isPartial);
        return Ip(source, destination, Tcp, segment, trafficClass: trafficClass);
    }

    /// <summary>An IP packet with a UDP datagram (RFC 768).</summary>
    /// <param name="source">Inner source.</param>
    /// <param name="destination">Inner destination.</param>
    /// <param name="payload">UDP payload.</param>
    /// <param name="isPartial">Whether the checksum field holds the sum of the pseudo-header only, as the kernel leaves it.</param>
    /// <param name="trafficClass">TOS or traffic class.</param>
    /// <param name="sourcePort">The source port.</param>
    /// <param name="destinationPort">The destination port.</param>
    public static byte[] UdpPacket(
        string source,
        string destination,
        byte[] payload,
        bool isPartial = false,
        byte trafficClass = 0,
        ushort sourcePort = 40001,
        ushort destinationPort = 40002)
    {
        var datagram = new byte[8 + payload.Length];
        Put16(datagram, 0, sourcePort);
        Put16(datagram, 2, destinationPort);
        Put16(datagram, 4, datagram.Length);
        payload.CopyTo(datagram, 8);
        FinishTransport(datagram, 6, PseudoHeader(source, destination, Udp, datagram.Length), isPartial);
        return Ip(source, destination, Udp, datagram, trafficClass: trafficClass);
    }

    /// <summary>An IP packet with an ICMP or ICMPv6 message; the last two of the four bytes after its checksum may be an MTU (RFC 1191).</summary>
    public static byte[] IcmpPacket(string source, string destination, byte type, byte code, byte[] body, ushort mtu = 0)
    {
        var message = new byte[8 + body.Length];
        message[0] = type;
        message[1] = code;
        Put16(message, 6, mtu);
        body.CopyTo(message, 8);
        bool isIpv4 = IsIpv4(source);
        Put16(message, 2, Rfc1071.Checksum(message, isIpv4 ? 0UL : PseudoHeader(source, destination, Icmpv6, message.Length)));
        return Ip(source, destination, isIpv4 ? Icmp : Icmpv6, message);
    }

    /// <summary>A GRE packet (RFC 2784 section 2, RFC 2890 section 2) with the fields that the arguments name.</summary>
    public static byte[] GrePacket(byte[] payload, bool checksum = false, uint? key = null, uint? sequence = null, ushort? protocolType = null)
    {
        protocolType ??= payload.Length > 0 && payload[0] >> 4 == 6 ? (ushort)0x86DD : (ushort)0x0800;
        var header = new List<byte>
        {
            (byte)((checksum ? 0x80 : 0) | (key is null ? 0 : 0x20) | (sequence is null ? 0 : 0x10)),
            0,
            (byte)(protocolType >> 8),
            (byte)protocolType,
        };
        if (checksum)
        {
            header.AddRange([0, 0, 0, 0]);
        }

        foreach (uint? field in (uint?[])[key, sequence])
        {
            if (field is uint value)
            {
                header.AddRange([(byte)(value >> 24), (byte)(value >> 16), (byte)(value >> 8), (byte)value]);
            }
        }

        byte[] packet = [.. header, .. payload];
        if (checksum)
        {
            Put16(packet, 4, Rfc1071.Checksum(packet));
        }

        return packet;
    }

    /// <summary>The outer packet around a GRE packet, as tunneld sends it.</summary>
    public static byte[] Outer(string source, string destination, byte[] gre, byte trafficClass = 0) =>
        IsIpv4(source)
            ? Ipv4(source, destination, Gre, gre, ttl: 64, tos: trafficClass, id: 0)
            : Ipv6(source, destination, Gre, gre, hopLimit: 64, trafficClass: trafficClass);

    /// <summary>The sum of a pseudo-header over bytes laid out as the RFCs draw it.</summary>
    public static ushort PseudoHeader(string source, string destination, byte protocol, int length)
    {
        var bytes = new List<byte>();
        bytes.AddRange(IPAddress.Parse(source).GetAddressBytes());
        bytes.AddRange(IPAddress.Parse(destination).GetAddressBytes());
        bytes.AddRange([(byte)(length >> 24), (byte)(length >> 16), (byte)(length >> 8), (byte)length, 0, 0, 0, protocol]);
        return Rfc1071.Sum(bytes.ToArray());
    }

    /// <summary>Makes an IPv4 header's checksum right again after a change.</summary>
    public static byte[] FixIpv4Checksum(byte[] packet)
    {
        Put16(packet, 10, 0);
        Put16(packet, 10, Rfc1071.Checksum(packet.AsSpan(0, Math.Min((packet[0] & 0x0f) * 4, packet.Length))));
        return packet;
    }

    /// <summary>Writes 16 bits in network order.</summary>
    public static void Put16(byte[] bytes, int offset, int value) =>
        BinaryPrimitives.WriteUInt16BigEndian(bytes.AsSpan(offset), (ushort)value);

    private static bool IsIpv4(string address) => IPAddress.Parse(address).AddressFamily == AddressFamily.InterNetwork;

    private static void FinishTransport(byte[] transport, int checksumOffset, ushort pseudoHeader, bool isPartial) =>
        Put16(transport, checksumOffset, isPartial ? pseudoHeader : Rfc1071.Checksum(transport, pseudoHeader));
}
