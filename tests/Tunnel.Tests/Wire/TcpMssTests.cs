using System.Buffers.Binary;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

public sealed class TcpMssTests
{
    private const int Header = 20;

    [Theory]
    [InlineData("020405b4", "02040510")]
    [InlineData("020405b4010303070402080a0102030400000000", "02040510010303070402080a0102030400000000")]
    [InlineData("01020405b4010101", "0102040510010101")]
    [InlineData("0402080a000000010000000001030307020405b4", "0402080a0000000100000000010303070204 0510")]
    [InlineData("0204ffff", "02040510")]
    [InlineData("02040511", "02040510")]

    // Twice: a receiver may take either.
    [InlineData("020405b4020405b4", "0204051002040510")]

    // Behind it the list breaks off: what stands before counts for a receiver.
    [InlineData("020405b403000000", "0204051003000000")]
    public void A_larger_value_is_lowered(string before, string after)
    {
        byte[] segment = Segment(before);
        Assert.True(TcpMss.Lower(segment, 0x510, isChecksumUnfinished: false));
        Assert.Equal(Segment(after), segment);
    }

    [Theory]
    [InlineData("")]
    [InlineData("02040510")]
    [InlineData("02040200")]
    [InlineData("02040000")]
    [InlineData("01010101")]
    [InlineData("0402080a")]

    // Behind the end of the list, in another option, or where a length makes no sense.
    [InlineData("00000000020405b4")]
    [InlineData("fe08020405b40000")]
    [InlineData("0300020405b40000")]
    [InlineData("0301020405b40000")]
    [InlineData("030a020405b40000")]
    [InlineData("0203ffff")]
    [InlineData("0205ffffff000000")]
    [InlineData("010101020405b401", 7)]
    [InlineData("01010102")]
    [InlineData("010102ff")]
    public void Everything_else_is_left_alone(string options, int cut = 0)
    {
        byte[] segment = Segment(options);
        if (cut != 0)
        {
            // The header ends within the option.
            segment[12] = 0x60;
        }

        byte[] before = [.. segment];
        Assert.False(TcpMss.Lower(segment, 0x510, isChecksumUnfinished: false));
        Assert.Equal(before, segment);
    }

    [Fact]
    public void A_truncated_header_is_left_alone()
    {
        byte[] whole = Segment("020405b4");
        for (int length = 0; length < Header + 4; length++)
        {
            byte[] segment = whole[..length];
            Assert.False(TcpMss.Lower(segment, 0x510, isChecksumUnfinished: false));
            Assert.Equal(whole[..length], segment);
        }

        whole[12] = 0x40;
        Assert.False(TcpMss.Lower(whole, 0x510, isChecksumUnfinished: false));
    }

    [Fact]
    public void An_unfinished_checksum_is_not_touched()
    {
        byte[] segment = Segment("020405b4");
        byte[] before = [.. segment];
        Assert.True(TcpMss.Lower(segment, 0x510, isChecksumUnfinished: true));
        Assert.Equal(before[..22], segment[..22]);
        Assert.Equal(0x510, BinaryPrimitives.ReadUInt16BigEndian(segment.AsSpan(22)));
    }

    // The adjusted checksum is the computed one, at even and odd places; options are random, damaged ones too.
    [Fact]
    public void The_checksum_stays_right_whatever_the_options_are()
    {
        var random = new Random(20);
        int lowered = 0;
        for (int i = 0; i < 100_000; i++)
        {
            var options = new byte[4 * random.Next(11)];
            random.NextBytes(options);
            for (int at = random.Next(4); at + 4 <= options.Length && random.Next(8) != 0; at += 4 + random.Next(3))
            {
                options.AsSpan(0, at).Fill(1);
                options[at] = 2;
                options[at + 1] = 4;
            }

            byte[] segment = Segment(Convert.ToHexString(options));
            byte[] before = [.. segment];
            ushort largest = (ushort)random.Next(28, 1500);
            if (!TcpMss.Lower(segment, largest, isChecksumUnfinished: false))
            {
                Assert.Equal(before, segment);
                continue;
            }

            lowered++;
            Assert.Equal(0xffff, Rfc1071.Sum(segment));
            Assert.Equal(before[..16], segment[..16]);
            Assert.Equal(before[18..20], segment[18..20]);
            Assert.Equal(before[(Header + options.Length)..], segment[(Header + options.Length)..]);
        }

        Assert.InRange(lowered, 10_000, 90_000);
    }

    // A SYN with some bytes of payload, its checksum right but for the pseudo-header, which doesn't change.
    private static byte[] Segment(string options)
    {
        byte[] bytes = Convert.FromHexString(options.Replace(" ", "", StringComparison.Ordinal));
        byte[] segment = [.. new byte[Header], .. bytes, 1, 2, 3, 4, 5];
        segment[0] = 0x9c;
        segment[12] = (byte)((Header + bytes.Length) / 4 << 4);
        segment[13] = 2;
        Packets.Put16(segment, 16, Rfc1071.Checksum(segment));
        return segment;
    }
}
