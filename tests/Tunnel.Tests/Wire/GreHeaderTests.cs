using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

/// <summary>RFC 2784 and RFC 2890; the ids H2 to H6 are those of docs/conformance.md.</summary>
public sealed class GreHeaderTests
{
    public static TheoryData<bool, bool, bool> AllFlags
    {
        get
        {
            var data = new TheoryData<bool, bool, bool>();
            for (int bits = 0; bits < 8; bits++)
            {
                data.Add((bits & 4) != 0, (bits & 2) != 0, (bits & 1) != 0);
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(AllFlags))]
    public void H6_reads_every_field(bool hasChecksum, bool hasKey, bool hasSequence)
    {
        byte[] payload = Packets.Payload(33);
        byte[] packet = Packets.GrePacket(payload, hasChecksum, hasKey ? 0xfedcba98 : null, hasSequence ? 0x89abcdef : null, 0x88B5);

        Assert.Equal(GreParseResult.Ok, GreView.TryParse(packet, out GreView gre));
        Assert.Equal(hasChecksum, gre.HasChecksum);
        Assert.Equal(hasKey, gre.HasKey);
        Assert.Equal(hasSequence, gre.HasSequence);
        Assert.Equal(hasKey ? 0xfedcba98 : 0, gre.Key);
        Assert.Equal(hasSequence ? 0x89abcdef : 0, gre.Sequence);
        Assert.Equal(EtherType.Experimental, gre.ProtocolType);
        Assert.Equal(packet.Length - payload.Length, gre.HeaderLength);
        Assert.Equal(payload, gre.Payload.ToArray());
        Assert.True(gre.IsChecksumValid);
    }

    [Theory]
    [MemberData(nameof(AllFlags))]
    public void H6_writes_the_fields_in_order_as_the_builder_does(bool hasChecksum, bool hasKey, bool hasSequence)
    {
        foreach (int payloadLength in (int[])[0, 1, 2, 33, 1400])
        {
            byte[] payload = Packets.Payload(payloadLength);
            byte[] expected = Packets.GrePacket(payload, hasChecksum, hasKey ? 0xfedcba98 : null, hasSequence ? 7u : null, EtherType.Ipv6);
            var header = new GreHeader(EtherType.Ipv6, hasChecksum, hasKey ? 0xfedcba98 : null, hasSequence ? 7u : null);
            byte[] actual = Dirty(expected.Length);
            payload.CopyTo(actual, header.Length);

            Assert.Equal(header.Length, header.Write(actual));
            if (hasChecksum)
            {
                GreHeader.WriteChecksum(actual);
            }

            Assert.Equal(expected, actual);
            Assert.Equal(expected.Length - payloadLength, header.Length);
            if (hasSequence)
            {
                Assert.Equal([0, 0, 0, 7], actual[header.SequenceOffset..header.Length]);
            }
        }
    }

    [Theory]
    [MemberData(nameof(AllFlags))]
    public void H6_is_truncated_at_every_length_below_what_the_flags_say(bool hasChecksum, bool hasKey, bool hasSequence)
    {
        byte[] packet = Packets.GrePacket([], hasChecksum, hasKey ? 1u : null, hasSequence ? 2u : null);
        for (int length = 0; length < packet.Length; length++)
        {
            Assert.Equal(GreParseResult.Truncated, GreView.TryParse(packet.AsSpan(0, length), out _));
        }

        Assert.Equal(GreParseResult.Ok, GreView.TryParse(packet, out GreView gre));
        Assert.True(gre.Payload.IsEmpty);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    [InlineData(5)]
    public void H2_refuses_a_flag_that_must_be_zero(int bit)
    {
        byte[] packet = Packets.GrePacket(Packets.Payload(20), key: 1);
        SetBit(packet, bit);
        Assert.Equal(GreParseResult.ReservedBits, GreView.TryParse(packet, out _));
    }

    [Theory]
    [InlineData(6)]
    [InlineData(7)]
    [InlineData(8)]
    [InlineData(9)]
    [InlineData(10)]
    [InlineData(11)]
    [InlineData(12)]
    public void H2_ignores_the_other_reserved_bits(int bit)
    {
        byte[] packet = Packets.GrePacket(Packets.Payload(20), key: 1, sequence: 2);
        SetBit(packet, bit);
        Assert.Equal(GreParseResult.Ok, GreView.TryParse(packet, out GreView gre));
        Assert.Equal(1u, gre.Key);
        Assert.Equal(2u, gre.Sequence);
        Assert.Equal(12, gre.HeaderLength);
    }

    [Fact]
    public void H3_refuses_every_version_but_0_even_with_reserved_bits()
    {
        for (byte version = 1; version < 8; version++)
        {
            Assert.Equal(GreParseResult.VersionUnsupported, GreView.TryParse([0, version, 0x08, 0], out _));
            Assert.Equal(GreParseResult.VersionUnsupported, GreView.TryParse([0xff, (byte)(0xf8 | version), 0x08, 0], out _));
        }
    }

    [Fact]
    public void H5_Reserved1_is_covered_by_the_checksum_and_otherwise_ignored()
    {
        byte[] packet = Packets.GrePacket(Packets.Payload(21), checksum: true);
        Packets.Put16(packet, 6, 0x1234);
        GreView.TryParse(packet, out GreView stale);
        Assert.False(stale.IsChecksumValid);

        Packets.Put16(packet, 4, 0);
        Packets.Put16(packet, 4, Rfc1071.Checksum(packet));
        Assert.Equal(GreParseResult.Ok, GreView.TryParse(packet, out GreView mended));
        Assert.True(mended.IsChecksumValid);
    }

    [Fact]
    public void H5_a_flipped_bit_behind_the_flags_breaks_the_checksum()
    {
        byte[] packet = Packets.GrePacket(Packets.Payload(21), checksum: true, key: 9, sequence: 8);
        for (int bit = 16; bit < packet.Length * 8; bit++)
        {
            SetBit(packet, bit);
            Assert.Equal(GreParseResult.Ok, GreView.TryParse(packet, out GreView gre));
            Assert.False(gre.IsChecksumValid, $"bit {bit}");
            SetBit(packet, bit);
        }
    }

    private static void SetBit(byte[] packet, int bit) => packet[bit / 8] ^= (byte)(0x80 >> (bit % 8));

    private static byte[] Dirty(int length)
    {
        var bytes = new byte[length];
        bytes.AsSpan().Fill(0xa5);
        return bytes;
    }
}
