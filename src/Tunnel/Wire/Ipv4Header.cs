using System.Buffers.Binary;

namespace Tunnel.Wire;

/// <summary>
/// An IPv4 packet as it lies in memory (RFC 791 section 3.1). Made by <see cref="TryParse"/> only, which checks lengths once;
/// every accessor is safe after that. Valid as long as the bytes are.
/// </summary>
public readonly ref struct Ipv4View
{
    private readonly ReadOnlySpan<byte> _packet;

    private Ipv4View(ReadOnlySpan<byte> packet) => _packet = packet;

    /// <summary>20 to 60 bytes.</summary>
    public int HeaderLength => (_packet[0] & 0x0f) * 4;

    /// <summary>DSCP and ECN, as on the wire.</summary>
    public byte TrafficClass => _packet[1];

    /// <summary>Header and payload, in bytes.</summary>
    public int TotalLength => _packet.Length;

    /// <summary>Identification, host order.</summary>
    public ushort Identification => BinaryPrimitives.ReadUInt16BigEndian(_packet[4..]);

    /// <summary>Whether fragmentation is forbidden (DF).</summary>
    public bool DontFragment => (_packet[6] & 0x40) != 0;

    /// <summary>Whether this is part of a fragmented packet: MF set, or an offset other than 0.</summary>
    public bool IsFragment => (BinaryPrimitives.ReadUInt16BigEndian(_packet[6..]) & 0x3fff) != 0;

    /// <summary>Fragment offset in bytes.</summary>
    public int FragmentOffset => (BinaryPrimitives.ReadUInt16BigEndian(_packet[6..]) & 0x1fff) * 8;

    /// <summary>Time to live.</summary>
    public byte TimeToLive => _packet[8];

    /// <summary>The payload's IP protocol.</summary>
    public byte Protocol => _packet[9];

    /// <summary>Source address.</summary>
    public InetAddress Source => InetAddress.FromIpv4(BinaryPrimitives.ReadUInt32BigEndian(_packet[12..]));

    /// <summary>Destination address.</summary>
    public InetAddress Destination => InetAddress.FromIpv4(BinaryPrimitives.ReadUInt32BigEndian(_packet[16..]));

    /// <summary>Source and destination in network order, as a pseudo-header has them: 8 bytes.</summary>
    public ReadOnlySpan<byte> Addresses => _packet.Slice(12, 8);

    /// <summary>Whether the header checksum is right.</summary>
    public bool IsChecksumValid => InternetChecksum.IsValid(_packet[..HeaderLength]);

    /// <summary>What follows the header, without any bytes beyond the total length.</summary>
    public ReadOnlySpan<byte> Payload => _packet[HeaderLength..];

    /// <summary>The packet without any bytes beyond the total length.</summary>
    public ReadOnlySpan<byte> Packet => _packet;

    /// <summary>Checks version, header length and total length against the bytes at hand.</summary>
    /// <param name="bytes">From the first byte of the header; more bytes than the total length are ignored.</param>
    /// <param name="view">The view; usable only where the result is true.</param>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out Ipv4View view)
    {
        view = default;
        if (bytes.Length < Ipv4Header.Length || bytes[0] >> 4 != 4)
        {
            return false;
        }

        int headerLength = (bytes[0] & 0x0f) * 4;
        int totalLength = BinaryPrimitives.ReadUInt16BigEndian(bytes[2..]);
        if (headerLength < Ipv4Header.Length || totalLength < headerLength || bytes.Length < totalLength)
        {
            return false;
        }

        view = new Ipv4View(bytes[..totalLength]);
        return true;
    }
}

/// <summary>An IPv4 header without options to emit (RFC 791 section 3.1).</summary>
/// <param name="Source">Source address; <see cref="InetAddress.None"/> is written as 0.0.0.0.</param>
/// <param name="Destination">Destination address; <see cref="InetAddress.None"/> is written as 0.0.0.0.</param>
/// <param name="Protocol">The payload's IP protocol.</param>
/// <param name="PayloadLength">Bytes that follow the header: 0 to 65,515.</param>
/// <param name="TimeToLive">Time to live.</param>
/// <param name="TrafficClass">DSCP and ECN.</param>
/// <param name="DontFragment">Whether to set DF.</param>
/// <param name="Identification">Identification, host order.</param>
public readonly record struct Ipv4Header(
    InetAddress Source,
    InetAddress Destination,
    byte Protocol,
    int PayloadLength,
    byte TimeToLive = 64,
    byte TrafficClass = 0,
    bool DontFragment = true,
    ushort Identification = 0)
{
    /// <summary>Length without options, in bytes.</summary>
    public const int Length = 20;

    /// <summary>The smallest MTU: a fragment of the longest header and eight bytes (RFC 791 section 3.2).</summary>
    public const int MinMtu = 68;

    /// <summary>Where the total length lies, in bytes.</summary>
    public const int TotalLengthOffset = 2;

    /// <summary>Where the identification lies, in bytes.</summary>
    public const int IdentificationOffset = 4;

    /// <summary>Where the flags lie, and behind them the fragment offset, in bytes.</summary>
    public const int FlagsOffset = 6;

    /// <summary>Where the header checksum lies, in bytes.</summary>
    public const int ChecksumOffset = 10;

    /// <summary>Writes the header with its checksum.</summary>
    /// <param name="destination">At least <see cref="Length"/> bytes.</param>
    /// <returns>The bytes written.</returns>
    public int Write(Span<byte> destination)
    {
        Span<byte> header = destination[..Length];
        header[0] = 0x45;
        header[1] = TrafficClass;
        BinaryPrimitives.WriteUInt16BigEndian(header[TotalLengthOffset..], (ushort)(Length + PayloadLength));
        BinaryPrimitives.WriteUInt16BigEndian(header[IdentificationOffset..], Identification);
        BinaryPrimitives.WriteUInt16BigEndian(header[FlagsOffset..], (ushort)(DontFragment ? 0x4000 : 0));
        header[8] = TimeToLive;
        header[9] = Protocol;
        BinaryPrimitives.WriteUInt16BigEndian(header[ChecksumOffset..], 0);
        BinaryPrimitives.WriteUInt32BigEndian(header[12..], Source.Ipv4);
        BinaryPrimitives.WriteUInt32BigEndian(header[16..], Destination.Ipv4);
        BinaryPrimitives.WriteUInt16BigEndian(header[ChecksumOffset..], InternetChecksum.Compute(header));
        return Length;
    }
}
