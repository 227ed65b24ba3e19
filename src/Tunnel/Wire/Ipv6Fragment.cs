using System.Buffers.Binary;

namespace Tunnel.Wire;

/// <summary>Headers of the fragments of an IPv6 packet without extension headers (RFC 8200 section 4.5).</summary>
public static class Ipv6Fragment
{
    /// <summary>Bytes that a fragment begins with: IPv6 header and Fragment header.</summary>
    public const int HeaderLength = Ipv6Header.Length + 8;

    private const int NextHeader = 6;

    /// <summary>Writes both headers of one fragment.</summary>
    /// <param name="destination">At least <see cref="HeaderLength"/> bytes.</param>
    /// <param name="original">The original packet, or its header.</param>
    /// <param name="identification">The same for all fragments of the packet, and for no other packet of this source and destination lately.</param>
    /// <param name="offset">Where the fragment begins in the original's payload, in bytes: a multiple of 8.</param>
    /// <param name="length">Bytes of payload in the fragment.</param>
    /// <param name="isLast">Whether the original's payload ends here.</param>
    public static void WriteHeaders(
        Span<byte> destination, ReadOnlySpan<byte> original, uint identification, int offset, int length, bool isLast)
    {
        Span<byte> header = destination[..HeaderLength];
        original[..Ipv6Header.Length].CopyTo(header);
        BinaryPrimitives.WriteUInt16BigEndian(header[Ipv6Header.PayloadLengthOffset..], (ushort)(HeaderLength - Ipv6Header.Length + length));
        header[NextHeader] = IpProtocol.Ipv6Fragment;

        // Offsets count in units of 8 bytes, and stand three bits from the right: so they are bytes.
        Span<byte> fragment = header[Ipv6Header.Length..];
        fragment[0] = original[NextHeader];
        fragment[1] = 0;
        BinaryPrimitives.WriteUInt16BigEndian(fragment[2..], (ushort)(offset | (isLast ? 0 : 1)));
        BinaryPrimitives.WriteUInt32BigEndian(fragment[4..], identification);
    }
}
