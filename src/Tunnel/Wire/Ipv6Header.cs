using System.Buffers.Binary;

namespace Tunnel.Wire;

/// <summary>
/// An IPv6 packet as it lies in memory (RFC 8200 section 3). Made by <see cref="TryParse"/> only, which checks lengths once;
/// every accessor is safe after that. Valid as long as the bytes are.
/// </summary>
public readonly ref struct Ipv6View
{
    private readonly ReadOnlySpan<byte> _packet;

    private Ipv6View(ReadOnlySpan<byte> packet) => _packet = packet;

    /// <summary>DSCP and ECN.</summary>
    public byte TrafficClass => (byte)(BinaryPrimitives.ReadUInt16BigEndian(_packet) >> 4);

    /// <summary>Flow label, 20 bits, host order.</summary>
    public uint FlowLabel => BinaryPrimitives.ReadUInt32BigEndian(_packet) & 0xfffff;

    /// <summary>Header and payload, in bytes.</summary>
    public int TotalLength => _packet.Length;

    /// <summary>The next header's IP protocol; extension headers are not walked.</summary>
    public byte NextHeader => _packet[6];

    /// <summary>Hop limit.</summary>
    public byte HopLimit => _packet[7];

    /// <summary>Source address.</summary>
    public InetAddress Source => InetAddress.Read(_packet.Slice(8, 16));

    /// <summary>Destination address.</summary>
    public InetAddress Destination => InetAddress.Read(_packet.Slice(24, 16));

    /// <summary>Source and destination in network order, as a pseudo-header has them: 32 bytes.</summary>
    public ReadOnlySpan<byte> Addresses => _packet.Slice(8, 32);

    /// <summary>What follows the header, without any bytes beyond the payload length.</summary>
    public ReadOnlySpan<byte> Payload => _packet[Ipv6Header.Length..];

    /// <summary>The packet without any bytes beyond the payload length.</summary>
    public ReadOnlySpan<byte> Packet => _packet;

    /// <summary>Checks version and payload length against the bytes at hand. Jumbograms (RFC 2675) are not taken.</summary>
    /// <param name="bytes">From the first byte of the header; more bytes than the payload length says are ignored.</param>
    /// <param name="view">The view; usable only where the result is true.</param>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out Ipv6View view)
    {
        view = default;
        if (bytes.Length < Ipv6Header.Length || bytes[0] >> 4 != 6)
        {
            return false;
        }

        int totalLength = Ipv6Header.Length + BinaryPrimitives.ReadUInt16BigEndian(bytes[Ipv6Header.PayloadLengthOffset..]);
        if (bytes.Length < totalLength)
        {
            return false;
        }

        view = new Ipv6View(bytes[..totalLength]);
        return true;
    }
}

/// <summary>An IPv6 header to emit (RFC 8200 section 3).</summary>
/// <param name="Source">Source address.</param>
/// <param name="Destination">Destination address.</param>
/// <param name="NextHeader">The payload's IP protocol.</param>
/// <param name="PayloadLength">Bytes that follow the header: 0 to 65,535.</param>
/// <param name="HopLimit">Hop limit.</param>
/// <param name="TrafficClass">DSCP and ECN.</param>
/// <param name="FlowLabel">Flow label, 20 bits, host order.</param>
public readonly record struct Ipv6Header(
    InetAddress Source,
    InetAddress Destination,
    byte NextHeader,
    int PayloadLength,
    byte HopLimit = 64,
    byte TrafficClass = 0,
    uint FlowLabel = 0)
{
    /// <summary>Length in bytes.</summary>
    public const int Length = 40;

    /// <summary>The smallest MTU of a link that carries IPv6, in bytes (RFC 8200 section 5).</summary>
    public const int MinMtu = 1280;

    /// <summary>Where the payload length lies, in bytes.</summary>
    public const int PayloadLengthOffset = 4;

    /// <summary>Writes the header.</summary>
    /// <param name="destination">At least <see cref="Length"/> bytes.</param>
    /// <returns>The bytes written.</returns>
    public int Write(Span<byte> destination)
    {
        Span<byte> header = destination[..Length];
        BinaryPrimitives.WriteUInt32BigEndian(header, (6u << 28) | ((uint)TrafficClass << 20) | (FlowLabel & 0xfffff));
        BinaryPrimitives.WriteUInt16BigEndian(header[PayloadLengthOffset..], (ushort)PayloadLength);
        header[6] = NextHeader;
        header[7] = HopLimit;
        BinaryPrimitives.WriteUInt128BigEndian(header[8..], Source.Bits);
        BinaryPrimitives.WriteUInt128BigEndian(header[24..], Destination.Bits);
        return Length;
    }
}
