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
