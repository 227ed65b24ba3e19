using System.Buffers.Binary;

namespace Tunnel.Wire;

/// <summary>What the first check of a GRE header found.</summary>
public enum GreParseResult
{
    /// <summary>A header that this implementation understands.</summary>
    Ok,

    /// <summary>Shorter than its flags say.</summary>
    Truncated,

    /// <summary>Version other than 0.</summary>
    VersionUnsupported,

    /// <summary>Bit 1, 4 or 5 is set: routing and recursion of RFC 1701, which a receiver must discard.</summary>
    ReservedBits,
}

/// <summary>
/// A GRE header and its payload as they lie in memory (RFC 2784 section 2, RFC 2890 section 2). Made by <see cref="TryParse"/>
/// only, which checks the length once; every accessor is safe after that. Valid as long as the bytes are.
/// </summary>
public readonly ref struct GreView
{
    private readonly ReadOnlySpan<byte> _packet;

    private GreView(ReadOnlySpan<byte> packet) => _packet = packet;

    /// <summary>Whether a checksum is present (C).</summary>
    public bool HasChecksum => (Flags & GreHeader.FlagChecksum) != 0;

    /// <summary>Whether a key is present (K).</summary>
    public bool HasKey => (Flags & GreHeader.FlagKey) != 0;

    /// <summary>Whether a sequence number is present (S).</summary>
    public bool HasSequence => (Flags & GreHeader.FlagSequence) != 0;

    /// <summary>The payload's protocol type, host order.</summary>
    public ushort ProtocolType => BinaryPrimitives.ReadUInt16BigEndian(_packet[2..]);

    /// <summary>The key, host order; 0 where <see cref="HasKey"/> is false.</summary>
    public uint Key => HasKey ? BinaryPrimitives.ReadUInt32BigEndian(_packet[(HasChecksum ? 8 : 4)..]) : 0;

    /// <summary>The sequence number, host order; 0 where <see cref="HasSequence"/> is false.</summary>
    public uint Sequence => HasSequence ? BinaryPrimitives.ReadUInt32BigEndian(_packet[(HeaderLength - 4)..]) : 0;

    /// <summary>4 to 16 bytes.</summary>
    public int HeaderLength => GreHeader.LengthOf(Flags);

    /// <summary>What follows the header.</summary>
    public ReadOnlySpan<byte> Payload => _packet[HeaderLength..];

    /// <summary>Whether the checksum over header and payload is right; true where there is none (RFC 2784 section 2.5).</summary>
    public bool IsChecksumValid => !HasChecksum || InternetChecksum.IsValid(_packet);

    private ushort Flags => BinaryPrimitives.ReadUInt16BigEndian(_packet);

    /// <summary>Checks a GRE packet's header.</summary>
    /// <param name="packet">From the first byte of the GRE header to the end of the outer packet.</param>
    /// <param name="view">The view; usable only where the result is <see cref="GreParseResult.Ok"/>.</param>
    public static GreParseResult TryParse(ReadOnlySpan<byte> packet, out GreView view)
    {
        view = default;
        if (packet.Length < GreHeader.MinLength)
        {
            return GreParseResult.Truncated;
        }

        ushort flags = BinaryPrimitives.ReadUInt16BigEndian(packet);
        if ((flags & GreHeader.VersionMask) != 0)
        {
            return GreParseResult.VersionUnsupported;
        }

        if ((flags & GreHeader.MustBeZero) != 0)
        {
            return GreParseResult.ReservedBits;
        }

        if (packet.Length < GreHeader.LengthOf(flags))
        {
            return GreParseResult.Truncated;
        }

        view = new GreView(packet);
        return GreParseResult.Ok;
    }
}

/// <summary>A GRE header to emit (RFC 2784 section 2, RFC 2890 section 2). Field order: checksum and Reserved1, key, sequence number.</summary>
/// <param name="ProtocolType">The payload's type, host order.</param>
/// <param name="HasChecksum">Whether to make room for a checksum; <see cref="WriteChecksum"/> fills it once the payload stands behind the header.</param>
/// <param name="Key">The key, or null for none.</param>
/// <param name="Sequence">The sequence number, or null for none.</param>
public readonly record struct GreHeader(ushort ProtocolType, bool HasChecksum = false, uint? Key = null, uint? Sequence = null)
{
    /// <summary>Shortest header in bytes: flags, version and protocol type.</summary>
    public const int MinLength = 4;

    /// <summary>Longest header in bytes.</summary>
    public const int MaxLength = 16;

    /// <summary>Where the protocol type lies, in bytes.</summary>
    public const int ProtocolTypeOffset = 2;

    /// <summary>Where the checksum lies where there is one, in bytes.</summary>
    public const int ChecksumOffset = 4;

    internal const ushort FlagChecksum = 0x8000;
    internal const ushort FlagKey = 0x2000;
    internal const ushort FlagSequence = 0x1000;
    internal const ushort MustBeZero = 0x4C00;
    internal const ushort VersionMask = 0x0007;

    /// <summary>4 to 16 bytes.</summary>
    public int Length => LengthOf(Flags);

    /// <summary>Where the sequence number lies where there is one, in bytes.</summary>
    public int SequenceOffset => Length - 4;

    private ushort Flags => (ushort)((HasChecksum ? FlagChecksum : 0) | (Key is null ? 0 : FlagKey) | (Sequence is null ? 0 : FlagSequence));

    /// <summary>Writes the header, with zero for the checksum.</summary>
    /// <param name="destination">At least <see cref="Length"/> bytes.</param>
    /// <returns>The bytes written.</returns>
    public int Write(Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt16BigEndian(destination, Flags);
        BinaryPrimitives.WriteUInt16BigEndian(destination[ProtocolTypeOffset..], ProtocolType);
        int offset = MinLength;
        if (HasChecksum)
        {
            BinaryPrimitives.WriteUInt32BigEndian(destination[offset..], 0);
            offset += 4;
        }

        if (Key is uint key)
        {
            BinaryPrimitives.WriteUInt32BigEndian(destination[offset..], key);
            offset += 4;
        }

        if (Sequence is uint sequence)
        {
            BinaryPrimitives.WriteUInt32BigEndian(destination[offset..], sequence);
            offset += 4;
        }

        return offset;
    }

    /// <summary>Computes and writes the checksum of a complete packet whose header has the C bit and a zero checksum (RFC 2784 section 2.5).</summary>
    /// <param name="packet">GRE header and payload.</param>
    public static void WriteChecksum(Span<byte> packet) =>
        BinaryPrimitives.WriteUInt16BigEndian(packet[ChecksumOffset..], InternetChecksum.Compute(packet));

    internal static int LengthOf(ushort flags) =>
        MinLength + ((flags & FlagChecksum) >> 13) + ((flags & FlagKey) >> 11) + ((flags & FlagSequence) >> 10);
}
