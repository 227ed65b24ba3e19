namespace Tunnel.TestSupport;

/// <summary>The Internet checksum word by word, as RFC 1071 section 4.1 describes it: the naive twin of the fast one.</summary>
public static class Rfc1071
{
    /// <summary>The folded sum, not complemented; an odd last byte is the high half of a word.</summary>
    public static ushort Sum(ReadOnlySpan<byte> data, ulong initial = 0)
    {
        ulong sum = initial;
        for (int i = 0; i + 1 < data.Length; i += 2)
        {
            sum += (uint)((data[i] << 8) | data[i + 1]);
        }

        if (data.Length % 2 != 0)
        {
            sum += (uint)(data[^1] << 8);
        }

        while (sum >> 16 != 0)
        {
            sum = (sum & 0xffff) + (sum >> 16);
        }

        return (ushort)sum;
    }

    /// <summary>The complement of <see cref="Sum"/>.</summary>
    public static ushort Checksum(ReadOnlySpan<byte> data, ulong initial = 0) => (ushort)~Sum(data, initial);
}
