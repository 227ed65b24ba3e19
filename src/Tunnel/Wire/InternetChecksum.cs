using System.Buffers.Binary;
using System.Runtime.Intrinsics;

namespace Tunnel.Wire;

/// <summary>
/// The one's-complement checksum of RFC 1071 that IP, ICMP, TCP, UDP and GRE share. Sums are numbers in host order of words in
/// network order, folded to 16 bits, so that they can be added up in any order; only the last run summed may have an odd length.
/// </summary>
public static class InternetChecksum
{
    // Each 32-bit lane grows by at most 2 x 0xffff a round, so it can't overflow within this many rounds.
    private const int RoundsWithoutOverflow = 32_768;

    /// <summary>The folded sum of the bytes, not complemented.</summary>
    /// <param name="data">The bytes; an odd length is padded with one zero byte at the end.</param>
    /// <param name="initial">Sums to begin with: as many 16-bit sums as fit in 32 bits.</param>
    public static ushort Sum(ReadOnlySpan<byte> data, uint initial = 0)
    {
        ulong sum = 0;
        while (Vector512.IsHardwareAccelerated && data.Length >= Vector512<byte>.Count)
        {
            int rounds = Math.Min(data.Length / Vector512<byte>.Count, RoundsWithoutOverflow);
            sum += SumVectors512(data[..(rounds * Vector512<byte>.Count)]);
            data = data[(rounds * Vector512<byte>.Count)..];
        }

        while (data.Length >= Vector256<byte>.Count)
        {
            int rounds = Math.Min(data.Length / Vector256<byte>.Count, RoundsWithoutOverflow);
            sum += SumVectors256(data[..(rounds * Vector256<byte>.Count)]);
            data = data[(rounds * Vector256<byte>.Count)..];
        }

        while (data.Length >= sizeof(uint))
        {
            sum += BinaryPrimitives.ReadUInt32LittleEndian(data);
            data = data[sizeof(uint)..];
        }

        if (data.Length >= sizeof(ushort))
        {
            sum += BinaryPrimitives.ReadUInt16LittleEndian(data);
            data = data[sizeof(ushort)..];
        }

        if (data.Length > 0)
        {
            sum += data[0];
        }

        // Summed as little-endian words; swapping the folded result gives the sum of the big-endian ones (RFC 1071 section 2.B).
        return Fold((ulong)BinaryPrimitives.ReverseEndianness(Fold(sum)) + initial);
    }

    /// <summary>The checksum to put into a header: the complement of <see cref="Sum"/>.</summary>
    public static ushort Compute(ReadOnlySpan<byte> data, uint initial = 0) => (ushort)~Sum(data, initial);

    /// <summary>Whether data that contains its own checksum is intact.</summary>
    public static bool IsValid(ReadOnlySpan<byte> data, uint initial = 0) => Sum(data, initial) == 0xffff;

    /// <summary>The sum of a TCP or UDP pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1), not complemented.</summary>
    /// <param name="addresses">Source and destination as they stand next to each other in the IP header: 8 or 32 bytes.</param>
    /// <param name="protocol">IP protocol number.</param>
    /// <param name="length">Length of transport header and payload, in bytes.</param>
    public static ushort PseudoHeader(ReadOnlySpan<byte> addresses, byte protocol, int length) =>
        Sum(addresses, protocol + ((uint)length >> 16) + ((uint)length & 0xffff));

    /// <summary>Folds a sum to 16 bits by adding the carries back in.</summary>
    public static ushort Fold(ulong sum)
    {
        sum = (sum >> 32) + (uint)sum;
        sum = (sum >> 16) + (ushort)sum;
        sum = (sum >> 16) + (ushort)sum;
        sum = (sum >> 16) + (ushort)sum;
        return (ushort)sum;
    }

    private static ulong SumVectors512(ReadOnlySpan<byte> data)
    {
        Vector512<uint> lanes = Vector512<uint>.Zero;
        Vector512<uint> low = Vector512.Create(0xffffu);
        while (data.Length >= Vector512<byte>.Count)
        {
            Vector512<uint> words = Vector512.Create(data).AsUInt32();
            lanes += (words & low) + (words >>> 16);
            data = data[Vector512<byte>.Count..];
        }

        return Vector512.Sum(Vector512.WidenLower(lanes)) + Vector512.Sum(Vector512.WidenUpper(lanes));
    }

    private static ulong SumVectors256(ReadOnlySpan<byte> data)
    {
        Vector256<uint> lanes = Vector256<uint>.Zero;
        Vector256<uint> low = Vector256.Create(0xffffu);
        while (data.Length >= Vector256<byte>.Count)
        {
            Vector256<uint> words = Vector256.Create(data).AsUInt32();
            lanes += (words & low) + (words >>> 16);
            data = data[Vector256<byte>.Count..];
        }

        return Vector256.Sum(Vector256.WidenLower(lanes)) + Vector256.Sum(Vector256.WidenUpper(lanes));
    }
}
