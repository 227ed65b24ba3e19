using System.Buffers.Binary;

namespace Tunnel.Wire;

/// <summary>What a daemon hears of another.</summary>
/// <param name="Seconds">How long ago the last packet or message came that it took; <see cref="Never"/> for longer than can be said, and for never.</param>
/// <param name="HasWrongKey">Whether packets have come from there lately with a key that it does not expect.</param>
public readonly record struct Hearing(byte Seconds, bool HasWrongKey)
{
    /// <summary>The longest time.</summary>
    public const byte Never = byte.MaxValue;
}

/// <summary>
/// A message between daemons, inside GRE with protocol type <see cref="EtherType.Experimental"/>: a question whether the other end is there,
/// and whether a packet of this length passes; or the answer, which returns what the question said. docs/wire.md has the format.
/// </summary>
/// <param name="IsReply">Whether it is the answer.</param>
/// <param name="ReceivedLength">In an answer: the question's length in bytes, from its version to the end of its padding; 0 in a question.</param>
/// <param name="Token">Whatever the asker likes; returned as it was.</param>
/// <param name="Time">The asker's clock when the question left, in units of its own; returned as it was.</param>
public readonly record struct EchoMessage(bool IsReply, ushort ReceivedLength, ulong Token, long Time)
{
    /// <summary>Length in bytes, without padding. An answer is never longer than its question.</summary>
    public const int Length = 20;

    private const byte Version = 1;
    private const byte HearingSaid = 1;
    private const byte WrongKeySaid = 2;
    private const byte RequestType = 2;
    private const byte ReplyType = 3;

    /// <summary>In a question: what the asker hears of whom it asks; null where it does not say, and in an answer.</summary>
    public Hearing? Hearing { get; init; }

    /// <summary>Reads a message.</summary>
    /// <param name="bytes">What is behind the GRE header.</param>
    /// <param name="message">The message. Of a question the length is left out.</param>
    /// <returns>False where it is too short, of another version, or of another type.</returns>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out EchoMessage message)
    {
        message = default;
        if (bytes.Length < Length || bytes[0] != Version || bytes[1] is not (RequestType or ReplyType))
        {
            return false;
        }

        bool isReply = bytes[1] == ReplyType;
        message = new EchoMessage(
            isReply,
            isReply ? BinaryPrimitives.ReadUInt16BigEndian(bytes[2..]) : (ushort)0,
            BinaryPrimitives.ReadUInt64BigEndian(bytes[4..]),
            BinaryPrimitives.ReadInt64BigEndian(bytes[12..]))
        {
            Hearing = !isReply && (bytes[2] & HearingSaid) != 0 ? new Hearing(bytes[3], (bytes[2] & WrongKeySaid) != 0) : null,
        };
        return true;
    }

    /// <summary>Writes the message and fills the rest with zeros.</summary>
    /// <param name="destination">At least <see cref="Length"/> bytes; what is more is padding.</param>
    public void Write(Span<byte> destination)
    {
        destination[0] = Version;
        destination[1] = IsReply ? ReplyType : RequestType;
        BinaryPrimitives.WriteUInt16BigEndian(destination[2..], ReceivedLength);
        if (Hearing is Hearing hearing)
        {
            destination[2] = (byte)(HearingSaid | (hearing.HasWrongKey ? WrongKeySaid : 0));
            destination[3] = hearing.Seconds;
        }

        BinaryPrimitives.WriteUInt64BigEndian(destination[4..], Token);
        BinaryPrimitives.WriteInt64BigEndian(destination[12..], Time);
        destination[Length..].Clear();
    }
}
