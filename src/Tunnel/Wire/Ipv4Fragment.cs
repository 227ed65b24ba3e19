using System.Buffers.Binary;

namespace Tunnel.Wire;

/// <summary>
/// Headers of the fragments of an IPv4 packet (RFC 791 section 3.2), which may be a fragment itself. All have the original's header length: where an
/// option is not to be copied, later fragments have No Operation.
/// </summary>
public static class Ipv4Fragment
{
    /// <summary>Fragments begin at multiples of so many bytes of the original's payload.</summary>
    public const int Unit = 8;

    private const int Flags = 6;
    private const byte DontFragment = 0x40;
    private const int MoreFragments = 0x2000;
    private const int OffsetMask = 0x1fff;
    private const byte EndOfList = 0;
    private const byte NoOperation = 1;
    private const byte Copied = 0x80;

    /// <summary>Whether a packet may be fragmented: DF is not set.</summary>
    /// <param name="packet">The packet, its header checked.</param>
    public static bool IsAllowed(ReadOnlySpan<byte> packet) => (packet[Flags] & DontFragment) == 0;

    /// <summary>Where a packet's payload ends in the packet that it is a fragment of, in bytes; beyond 65,535 nobody can put it together.</summary>
    /// <param name="packet">The packet, its header checked, without bytes beyond its length.</param>
    public static int EndOf(ReadOnlySpan<byte> packet) => OffsetOf(packet) + packet.Length - HeaderLength(packet);

    /// <summary>Writes the header of one fragment.</summary>
    /// <param name="destination">At least the original's header length.</param>
    /// <param name="original">The original packet, or its header.</param>
    /// <param name="offset">Where the fragment begins in the original's payload, in bytes: a multiple of <see cref="Unit"/>.</param>
    /// <param name="length">Bytes of payload in the fragment.</param>
    /// <param name="isLast">Whether the original's payload ends here.</param>
    public static void WriteHeader(Span<byte> destination, ReadOnlySpan<byte> original, int offset, int length, bool isLast)
    {
        int headerLength = HeaderLength(original);
        Span<byte> header = destination[..headerLength];
        original[..headerLength].CopyTo(header);
        if (offset != 0)
        {
            KeepCopiedOptions(header[Ipv4Header.Length..]);
        }

        int field = BinaryPrimitives.ReadUInt16BigEndian(original[Flags..]);
        int flags = (field & ~OffsetMask) | (isLast ? 0 : MoreFragments);
        BinaryPrimitives.WriteUInt16BigEndian(header[Flags..], (ushort)(flags | ((OffsetOf(original) + offset) / Unit)));
        BinaryPrimitives.WriteUInt16BigEndian(header[Ipv4Header.TotalLengthOffset..], (ushort)(headerLength + length));
        header.Slice(Ipv4Header.ChecksumOffset, 2).Clear();
        BinaryPrimitives.WriteUInt16BigEndian(header[Ipv4Header.ChecksumOffset..], InternetChecksum.Compute(header));
    }

    // What is malformed stays as it is, with everything behind it.
    private static void KeepCopiedOptions(Span<byte> options)
    {
        while (options.Length > 0 && options[0] != EndOfList)
        {
            int length = 1;
            if (options[0] != NoOperation)
            {
                length = options.Length > 1 ? options[1] : 0;
                if (length < 2 || length > options.Length)
                {
                    return;
                }

                if ((options[0] & Copied) == 0)
                {
                    options[..length].Fill(NoOperation);
                }
            }

            options = options[length..];
        }
    }

    private static int HeaderLength(ReadOnlySpan<byte> packet) => (packet[0] & 0x0f) * 4;

    private static int OffsetOf(ReadOnlySpan<byte> packet) => (BinaryPrimitives.ReadUInt16BigEndian(packet[Flags..]) & OffsetMask) * Unit;
}
