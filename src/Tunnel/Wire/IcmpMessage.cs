using System.Buffers.Binary;

namespace Tunnel.Wire;

/// <summary>
/// An ICMP or ICMPv6 message as it lies in memory (RFC 792, RFC 4443 section 2.1): both have the same first four bytes.
/// Made by <see cref="TryParse"/> only; every accessor is safe after that. Valid as long as the bytes are.
/// </summary>
public readonly ref struct IcmpView
{
    private readonly ReadOnlySpan<byte> _message;

    private IcmpView(ReadOnlySpan<byte> message) => _message = message;

    /// <summary>Type.</summary>
    public byte Type => _message[0];

    /// <summary>Code.</summary>
    public byte Code => _message[1];

    /// <summary>The four bytes after the checksum, host order: MTU, pointer, or identifier and sequence number.</summary>
    public uint RestOfHeader => BinaryPrimitives.ReadUInt32BigEndian(_message[4..]);

    /// <summary>What follows the first eight bytes; for an error message the packet that caused it.</summary>
    public ReadOnlySpan<byte> Body => _message[IcmpMessage.HeaderLength..];

    /// <summary>Checks the length.</summary>
    public static bool TryParse(ReadOnlySpan<byte> message, out IcmpView view)
    {
        bool isLongEnough = message.Length >= IcmpMessage.HeaderLength;
        view = isLongEnough ? new IcmpView(message) : default;
        return isLongEnough;
    }
}

/// <summary>The types of ICMP messages, and ICMP errors as whole IP packets to emit.</summary>
public static class IcmpMessage
{
    /// <summary>Type, code, checksum and the four bytes after them.</summary>
    public const int HeaderLength = 8;

    /// <summary>ICMP Echo Reply (RFC 792).</summary>
    public const byte EchoReply = 0;

    /// <summary>ICMP Echo Request (RFC 792).</summary>
    public const byte EchoRequest = 8;

    /// <summary>ICMPv6 Echo Request (RFC 4443 section 4.1).</summary>
    public const byte EchoRequestIpv6 = 128;

    /// <summary>ICMPv6 Echo Reply (RFC 4443 section 4.2).</summary>
    public const byte EchoReplyIpv6 = 129;

    /// <summary>ICMP Destination Unreachable (RFC 792); its code 4 is Fragmentation Needed and DF Set.</summary>
    public const byte DestinationUnreachable = 3;

    /// <summary>Fragmentation Needed and DF Set (RFC 1191 section 4).</summary>
    public const byte FragmentationNeeded = 4;

    /// <summary>ICMP Time Exceeded (RFC 792).</summary>
    public const byte TimeExceeded = 11;

    /// <summary>ICMPv6 Destination Unreachable (RFC 4443 section 3.1).</summary>
    public const byte DestinationUnreachableIpv6 = 1;

    /// <summary>ICMPv6 Time Exceeded (RFC 4443 section 3.3).</summary>
    public const byte TimeExceededIpv6 = 3;

    /// <summary>ICMPv6 Parameter Problem (RFC 4443 section 3.4).</summary>
    public const byte ParameterProblemIpv6 = 4;

    /// <summary>ICMPv6 Packet Too Big (RFC 4443 section 3.2).</summary>
    public const byte PacketTooBig = 2;

    /// <summary>Longest packet that <see cref="WriteErrorIpv4"/> makes: 576 bytes (RFC 1812 section 4.3.2.3).</summary>
    public const int MaxErrorIpv4 = 576;

    /// <summary>Longest packet that <see cref="WriteErrorIpv6"/> makes: the minimum IPv6 MTU (RFC 4443 section 2.4 c).</summary>
    public const int MaxErrorIpv6 = 1280;

    /// <summary>Whether a message is an error about another packet: no error is ever answered with an error (RFC 1122 section 3.2.2).</summary>
    public static bool IsErrorIpv4(byte type) => type is 3 or 4 or 5 or 11 or 12;

    /// <summary>Whether an ICMPv6 message is an error or a redirect, which is never answered with an error (RFC 4443 section 2.4 e).</summary>
    public static bool IsErrorIpv6(byte type) => type is < 128 or 137;

    /// <summary>
    /// Writes a packet of the offending one's family with Fragmentation Needed (RFC 1191 section 4) or Packet Too Big (RFC 4443 section 3.2).
    /// </summary>
    /// <param name="destination">At least <see cref="MaxErrorIpv6"/> bytes.</param>
    /// <param name="source">The address that the error comes from, of the same family.</param>
    /// <param name="offending">The packet that is too large.</param>
    /// <param name="mtu">The largest packet that would fit, in bytes; no less is told than the family's least MTU.</param>
    /// <returns>The bytes written.</returns>
    public static int WriteTooBig(Span<byte> destination, InetAddress source, in QuotedPacket offending, int mtu)
    {
        if (offending.IsIpv4)
        {
            uint told = (uint)Math.Clamp(mtu, Ipv4Header.MinMtu, ushort.MaxValue);
            return WriteErrorIpv4(destination, source, offending.Source, DestinationUnreachable, FragmentationNeeded, told, offending.Packet);
        }

        return WriteErrorIpv6(
            destination, source, offending.Source, PacketTooBig, code: 0, (uint)Math.Max(mtu, Ipv6Header.MinMtu), offending.Packet);
    }

    /// <summary>Writes an IPv4 packet with an ICMP error (RFC 792).</summary>
    /// <param name="destination">At least <see cref="MaxErrorIpv4"/> bytes.</param>
    /// <param name="source">The address that the error comes from.</param>
    /// <param name="receiver">Who gets it: the source of the packet that caused it.</param>
    /// <param name="type">Type.</param>
    /// <param name="code">Code.</param>
    /// <param name="parameter">The four bytes after the checksum, host order.</param>
    /// <param name="offending">The packet that caused it, or its beginning; as much as fits is quoted.</param>
    /// <returns>The bytes written.</returns>
    public static int WriteErrorIpv4(
        Span<byte> destination, InetAddress source, InetAddress receiver, byte type, byte code, uint parameter, ReadOnlySpan<byte> offending)
    {
        ReadOnlySpan<byte> quoted = Quote(offending, MaxErrorIpv4 - Ipv4Header.Length - HeaderLength);
        int length = HeaderLength + quoted.Length;
        var header = new Ipv4Header(source, receiver, IpProtocol.Icmp, length, TrafficClass: 0xc0, DontFragment: false);
        header.Write(destination);
        WriteMessage(destination.Slice(Ipv4Header.Length, length), type, code, parameter, quoted, pseudoHeader: 0);
        return Ipv4Header.Length + length;
    }

    /// <summary>Writes an IPv6 packet with an ICMPv6 error (RFC 4443 section 2.1).</summary>
    /// <param name="destination">At least <see cref="MaxErrorIpv6"/> bytes.</param>
    /// <param name="source">The address that the error comes from.</param>
    /// <param name="receiver">Who gets it: the source of the packet that caused it.</param>
    /// <param name="type">Type.</param>
    /// <param name="code">Code.</param>
    /// <param name="parameter">The four bytes after the checksum, host order.</param>
    /// <param name="offending">The packet that caused it, or its beginning; as much as fits is quoted.</param>
    /// <returns>The bytes written.</returns>
    public static int WriteErrorIpv6(
        Span<byte> destination, InetAddress source, InetAddress receiver, byte type, byte code, uint parameter, ReadOnlySpan<byte> offending)
    {
        ReadOnlySpan<byte> quoted = Quote(offending, MaxErrorIpv6 - Ipv6Header.Length - HeaderLength);
        int length = HeaderLength + quoted.Length;
        new Ipv6Header(source, receiver, IpProtocol.Icmpv6, length).Write(destination);
        ushort pseudoHeader = InternetChecksum.PseudoHeader(destination.Slice(8, 32), IpProtocol.Icmpv6, length);
        WriteMessage(destination.Slice(Ipv6Header.Length, length), type, code, parameter, quoted, pseudoHeader);
        return Ipv6Header.Length + length;
    }

    private static ReadOnlySpan<byte> Quote(ReadOnlySpan<byte> packet, int most) => packet[..Math.Min(packet.Length, most)];

    private static void WriteMessage(Span<byte> message, byte type, byte code, uint rest, ReadOnlySpan<byte> quoted, ushort pseudoHeader)
    {
        message[0] = type;
        message[1] = code;
        BinaryPrimitives.WriteUInt16BigEndian(message[2..], 0);
        BinaryPrimitives.WriteUInt32BigEndian(message[4..], rest);
        quoted.CopyTo(message[HeaderLength..]);
        BinaryPrimitives.WriteUInt16BigEndian(message[2..], InternetChecksum.Compute(message, pseudoHeader));
    }
}
