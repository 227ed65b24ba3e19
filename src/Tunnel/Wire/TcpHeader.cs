using System.Buffers.Binary;

namespace Tunnel.Wire;

/// <summary>
/// A TCP segment as it lies in memory (RFC 9293 section 3.1). Made by <see cref="TryParse"/> only, which checks lengths once;
/// every accessor is safe after that. Valid as long as the bytes are.
/// </summary>
public readonly ref struct TcpView
{
    /// <summary>Shortest header in bytes.</summary>
    public const int MinHeaderLength = 20;

    /// <summary>Where the flags lie, in bytes.</summary>
    public const int FlagsOffset = 13;

    /// <summary>The flag SYN.</summary>
    public const byte Syn = 0x02;

    /// <summary>The flag PSH.</summary>
    public const byte Push = 0x08;

    /// <summary>The flag ACK.</summary>
    public const byte Ack = 0x10;

    /// <summary>Where the checksum lies, in bytes.</summary>
    public const int ChecksumOffset = 16;

    private readonly ReadOnlySpan<byte> _segment;

    private TcpView(ReadOnlySpan<byte> segment) => _segment = segment;

    /// <summary>Source port, host order.</summary>
    public ushort SourcePort => BinaryPrimitives.ReadUInt16BigEndian(_segment);

    /// <summary>Destination port, host order.</summary>
    public ushort DestinationPort => BinaryPrimitives.ReadUInt16BigEndian(_segment[2..]);

    /// <summary>Sequence number, host order.</summary>
    public uint Sequence => BinaryPrimitives.ReadUInt32BigEndian(_segment[4..]);

    /// <summary>20 to 60 bytes.</summary>
    public int HeaderLength => (_segment[12] >> 4) * 4;

    /// <summary>CWR, ECE, URG, ACK, PSH, RST, SYN, FIN from the highest bit down.</summary>
    public byte Flags => _segment[FlagsOffset];

    /// <summary>The checksum field, host order.</summary>
    public ushort Checksum => BinaryPrimitives.ReadUInt16BigEndian(_segment[ChecksumOffset..]);

    /// <summary>What follows the header.</summary>
    public ReadOnlySpan<byte> Payload => _segment[HeaderLength..];

    /// <summary>Checks the header length against the bytes at hand.</summary>
    public static bool TryParse(ReadOnlySpan<byte> segment, out TcpView view)
    {
        view = default;
        if (segment.Length < MinHeaderLength)
        {
            return false;
        }

        int headerLength = (segment[12] >> 4) * 4;
        if (headerLength < MinHeaderLength || segment.Length < headerLength)
        {
            return false;
        }

        view = new TcpView(segment);
        return true;
    }
}
