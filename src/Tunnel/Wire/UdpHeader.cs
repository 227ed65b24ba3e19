using System.Buffers.Binary;

namespace Tunnel.Wire;

/// <summary>
/// A UDP datagram as it lies in memory (RFC 768). Made by <see cref="TryParse"/> only, which checks lengths once; every accessor
/// is safe after that. Valid as long as the bytes are.
/// </summary>
public readonly ref struct UdpView
{
    /// <summary>Length of the header in bytes.</summary>
    public const int HeaderLength = 8;

    /// <summary>Where the destination port lies, in bytes.</summary>
    public const int DestinationPortOffset = 2;

    /// <summary>Where the length lies, in bytes.</summary>
    public const int LengthOffset = 4;

    /// <summary>Where the checksum lies, in bytes.</summary>
    public const int ChecksumOffset = 6;

    private readonly ReadOnlySpan<byte> _datagram;

    private UdpView(ReadOnlySpan<byte> datagram) => _datagram = datagram;

    /// <summary>Source port, host order.</summary>
    public ushort SourcePort => BinaryPrimitives.ReadUInt16BigEndian(_datagram);

    /// <summary>Destination port, host order.</summary>
    public ushort DestinationPort => BinaryPrimitives.ReadUInt16BigEndian(_datagram[2..]);

    /// <summary>Header and payload as the header says, in bytes.</summary>
    public int Length => _datagram.Length;

    /// <summary>The checksum field, host order; 0 means none (IPv4 only).</summary>
    public ushort Checksum => BinaryPrimitives.ReadUInt16BigEndian(_datagram[ChecksumOffset..]);

    /// <summary>What follows the header.</summary>
    public ReadOnlySpan<byte> Payload => _datagram[HeaderLength..];

    /// <summary>Writes the source port of a header that has 0 there, and adds it to the checksum, which covers everything else (RFC 1624).</summary>
    /// <param name="header">At least <see cref="HeaderLength"/> bytes.</param>
    /// <param name="port">The port, host order.</param>
    public static void AddSourcePort(Span<byte> header, ushort port)
    {
        BinaryPrimitives.WriteUInt16BigEndian(header, port);
        ushort sum = (ushort)~BinaryPrimitives.ReadUInt16BigEndian(header[ChecksumOffset..]);
        ushort checksum = (ushort)~InternetChecksum.Fold((ulong)sum + port);

        // 0 would say that there is none (RFC 768).
        BinaryPrimitives.WriteUInt16BigEndian(header[ChecksumOffset..], checksum == 0 ? (ushort)0xffff : checksum);
    }

    /// <summary>Checks the length field against the bytes at hand.</summary>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out UdpView view)
    {
        view = default;
        if (bytes.Length < HeaderLength)
        {
            return false;
        }

        int length = BinaryPrimitives.ReadUInt16BigEndian(bytes[4..]);
        if (length < HeaderLength || bytes.Length < length)
        {
            return false;
        }

        view = new UdpView(bytes[..length]);
        return true;
    }
}
