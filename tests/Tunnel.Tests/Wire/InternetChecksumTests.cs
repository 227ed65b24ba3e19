using System.Buffers.Binary;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

public sealed class InternetChecksumTests
{
    public enum Fill
    {
        Random,
        AllOnes,
        AllZero,
    }

    [Theory]
    [InlineData(Fill.Random)]
    [InlineData(Fill.AllOnes)]
    [InlineData(Fill.AllZero)]
    public void Sum_equals_the_plain_loop_at_every_length_and_alignment(Fill fill)
    {
        byte[] buffer = Buffer(64 + 2100, fill, seed: 1071);
        for (int alignment = 0; alignment < 64; alignment++)
        {
            for (int length = 0; length <= 2100; length++)
            {
                ReadOnlySpan<byte> data = buffer.AsSpan(alignment, length);
                if (InternetChecksum.Sum(data) != Rfc1071.Sum(data))
                {
                    Assert.Fail($"length {length}, alignment {alignment}");
                }
            }
        }
    }

    // 1 MiB is where a 32-bit lane would overflow if it were not emptied in time.
    [Theory]
    [InlineData(65_535)]
    [InlineData(1 << 20)]
    [InlineData((1 << 20) + 31)]
    [InlineData((1 << 20) + 32)]
    [InlineData((3 << 20) + 17)]
    public void Sum_does_not_overflow(int length)
    {
        byte[] ones = Buffer(length, Fill.AllOnes, seed: 0);
        Assert.Equal(Rfc1071.Sum(ones), InternetChecksum.Sum(ones));
        byte[] random = Buffer(length, Fill.Random, seed: length);
        Assert.Equal(Rfc1071.Sum(random), InternetChecksum.Sum(random));
    }

    [Theory]
    [InlineData(0u)]
    [InlineData(1u)]
    [InlineData(0xffffu)]
    [InlineData(0x10000u)]
    [InlineData(0xfffeffffu)]
    [InlineData(uint.MaxValue)]
    public void Sum_begins_with_the_initial_sum(uint initial)
    {
        byte[] data = Buffer(100, Fill.Random, seed: 3);
        for (int length = 0; length <= data.Length; length++)
        {
            Assert.Equal(Rfc1071.Sum(data.AsSpan(0, length), initial), InternetChecksum.Sum(data.AsSpan(0, length), initial));
        }
    }

    [Fact]
    public void Sums_of_parts_add_up_to_the_sum_of_the_whole()
    {
        byte[] data = Buffer(1501, Fill.Random, seed: 4);
        ushort whole = Rfc1071.Sum(data);
        for (int cut = 0; cut <= data.Length; cut += 2)
        {
            ushort head = InternetChecksum.Sum(data.AsSpan(0, cut));
            Assert.Equal(whole, InternetChecksum.Sum(data.AsSpan(cut), head));
        }
    }

    [Fact]
    public void A_packet_with_its_own_checksum_is_valid_until_a_bit_flips()
    {
        for (int length = 2; length <= 130; length++)
        {
            byte[] data = Buffer(length, Fill.Random, seed: length);
            BinaryPrimitives.WriteUInt16BigEndian(data, 0);
            BinaryPrimitives.WriteUInt16BigEndian(data, InternetChecksum.Compute(data));
            Assert.True(InternetChecksum.IsValid(data));
            for (int bit = 0; bit < length * 8; bit++)
            {
                data[bit / 8] ^= (byte)(1 << (bit % 8));
                Assert.False(InternetChecksum.IsValid(data), $"length {length}, bit {bit}");
                data[bit / 8] ^= (byte)(1 << (bit % 8));
            }
        }
    }

    [Fact]
    public void Compute_is_the_complement_with_the_initial_sum()
    {
        byte[] data = Buffer(41, Fill.Random, seed: 6);
        Assert.Equal(Rfc1071.Checksum(data, 0x1234), InternetChecksum.Compute(data, 0x1234));
        Assert.False(InternetChecksum.IsValid(data, 0x1234));
    }

    [Theory]
    [InlineData("172.17.52.2", "172.17.51.2", 6, 20)]
    [InlineData("255.255.255.255", "255.255.255.255", 17, 65_515)]
    [InlineData("fd00:52::2", "fd00:51::2", 58, 65_535)]
    [InlineData("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::", 6, 0x1234_5678)]
    public void Pseudo_header_is_that_of_the_RFCs(string source, string destination, byte protocol, int length)
    {
        byte[] addresses =
            [.. System.Net.IPAddress.Parse(source).GetAddressBytes(), .. System.Net.IPAddress.Parse(destination).GetAddressBytes()];
        Assert.Equal(
            Packets.PseudoHeader(source, destination, protocol, length),
            InternetChecksum.PseudoHeader(addresses, protocol, length));
    }

    [Theory]
    [InlineData(0UL, 0)]
    [InlineData(0xffffUL, 0xffff)]
    [InlineData(0x1_0000UL, 1)]
    [InlineData(0x1_ffffUL, 1)]
    [InlineData(0xffff_ffffUL, 0xffff)]
    [InlineData(0xffff_ffff_ffffUL, 0xffff)]
    [InlineData(0xffff_0001_ffff_0001UL, 2)]
    [InlineData(0xffff_ffff_0001_0000UL, 1)]
    [InlineData(ulong.MaxValue, 0xffff)]
    public void Fold_adds_every_carry_back(ulong sum, ushort expected) => Assert.Equal(expected, InternetChecksum.Fold(sum));

    private static byte[] Buffer(int length, Fill fill, int seed)
    {
        var bytes = new byte[length];
        if (fill == Fill.Random)
        {
            new Random(seed).NextBytes(bytes);
        }
        else if (fill == Fill.AllOnes)
        {
            bytes.AsSpan().Fill(0xff);
        }

        return bytes;
    }
}
