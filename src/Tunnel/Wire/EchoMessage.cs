using System.Buffers.Binary;

namespace Tunnel.Wire;

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
    private const byte RequestType = 2;
    private const byte ReplyType = 3;

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
            BinaryPrimitives.ReadInt64BigEndian(bytes[12..]));
        return true;
    }

    /// <summary>Writes the message and fills the rest with zeros.</summary>
    /// <param name="destination">At least <see cref="Length"/> bytes; what is more is padding.</param>
    public void Write(Span<byte> destination)
    {
        destination[0] = Version;
        destination[1] = IsReply ? ReplyType : RequestType;
        BinaryPrimitives.WriteUInt16BigEndian(destination[2..], ReceivedLength);
        BinaryPrimitives.WriteUInt64BigEndian(destination[4..], Token);
        BinaryPrimitives.WriteInt64BigEndian(destination[12..], Time);
        destination[Length..].Clear();
    }
}
