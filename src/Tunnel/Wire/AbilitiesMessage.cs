namespace Tunnel.Wire;

/// <summary>What a host can receive beside ordinary packets. The bits are those on the wire (docs/wire.md).</summary>
[Flags]
public enum Abilities : byte
{
    /// <summary>Nothing, or nothing known.</summary>
    None = 0,

    /// <summary>TCP super-packets that cross the underlay uncut.</summary>
    TcpSuperPackets = 1,

    /// <summary>The same with UDP datagrams.</summary>
    UdpSuperPackets = 2,
}

/// <summary>
/// A message between daemons, inside GRE with protocol type <see cref="EtherType.Experimental"/>: what its sender can receive. Four bytes:
/// version, type, flags, abilities; what follows is ignored, and so are bits that are not known. docs/wire.md has the format.
/// </summary>
/// <param name="Abilities">What the sender can receive.</param>
/// <param name="IsQuestion">Whether the sender wants to know the same of the receiver.</param>
public readonly record struct AbilitiesMessage(Abilities Abilities, bool IsQuestion)
{
    /// <summary>Length in bytes.</summary>
    public const int Length = 4;

    private const byte Version = 1;
    private const byte Type = 1;
    private const byte Question = 1;

    /// <summary>Reads a message.</summary>
    /// <param name="bytes">What is behind the GRE header.</param>
    /// <param name="message">The message.</param>
    /// <returns>False where it is too short, of another version, or of another type.</returns>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out AbilitiesMessage message)
    {
        message = default;
        if (bytes.Length < Length || bytes[0] != Version || bytes[1] != Type)
        {
            return false;
        }

        message = new AbilitiesMessage((Abilities)bytes[3], (bytes[2] & Question) != 0);
        return true;
    }

    /// <summary>Writes the message.</summary>
    /// <param name="destination">At least <see cref="Length"/> bytes.</param>
    public void Write(Span<byte> destination)
    {
        destination[0] = Version;
        destination[1] = Type;
        destination[2] = IsQuestion ? Question : (byte)0;
        destination[3] = (byte)Abilities;
    }
}
