using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

public sealed class Ipv4HeaderTests
{
    private const string Source = "172.17.52.2";
    private const string Destination = "172.17.51.254";

    [Fact]
    public void Reads_every_field()
    {
        byte[] payload = Packets.Payload(24);
        byte[] packet = Packets.Ipv4(
            Source, Destination, Packets.Udp, payload, ttl: 17, tos: 0xb9, id: 0xbeef, df: false, mf: true, fragmentOffset: 1480, options: [1, 1, 1, 0]);

        Assert.True(Ipv4View.TryParse(packet, out Ipv4View view));
        Assert.Equal(24, view.HeaderLength);
        Assert.Equal(0xb9, view.TrafficClass);
        Assert.Equal(48, view.TotalLength);
        Assert.Equal(0xbeef, view.Identification);
        Assert.False(view.DontFragment);
        Assert.True(view.IsFragment);
        Assert.Equal(1480, view.FragmentOffset);
        Assert.Equal(17, view.TimeToLive);
        Assert.Equal(Packets.Udp, view.Protocol);
        Assert.Equal(Overlay.Address(Source), view.Source);
        Assert.Equal(Overlay.Address(Destination), view.Destination);
        Assert.Equal([172, 17, 52, 2, 172, 17, 51, 254], view.Addresses.ToArray());
        Assert.True(view.IsChecksumValid);
        Assert.Equal(payload, view.Payload.ToArray());
        Assert.Equal(packet, view.Packet.ToArray());
    }

    [Theory]
    [InlineData(true, false, 0, false)]
    [InlineData(false, false, 0, false)]
    [InlineData(false, true, 0, true)]
    [InlineData(false, false, 8, true)]
    [InlineData(true, true, 65_528, true)]
    public void Knows_a_fragment(bool df, bool mf, int offset, bool isFragment)
    {
        byte[] packet = Packets.Ipv4(Source, Destination, Packets.Udp, [], df: df, mf: mf, fragmentOffset: offset);
        Assert.True(Ipv4View.TryParse(packet, out Ipv4View view));
        Assert.Equal(df, view.DontFragment);
        Assert.Equal(offset, view.FragmentOffset);
        Assert.Equal(isFragment, view.IsFragment);
    }

    [Fact]
    public void Is_refused_when_truncated_at_any_byte()
    {
        byte[] packet = Packets.Ipv4(Source, Destination, Packets.Udp, Packets.Payload(30), options: [1, 1, 1, 0]);
        for (int length = 0; length < packet.Length; length++)
        {
            Assert.False(Ipv4View.TryParse(packet.AsSpan(0, length), out _), $"{length} bytes");
        }
    }

    [Fact]
    public void Leaves_trailing_bytes_out()
    {
        byte[] packet = Packets.Ipv4(Source, Destination, Packets.Udp, Packets.Payload(5));
        byte[] padded = [.. packet, 0xa5, 0xa5, 0xa5];
        Assert.True(Ipv4View.TryParse(padded, out Ipv4View view));
        Assert.Equal(packet, view.Packet.ToArray());
        Assert.Equal(5, view.Payload.Length);
        Assert.Equal(25, view.TotalLength);
    }

    [Fact]
    public void Is_refused_when_its_lengths_contradict_each_other()
    {
        for (int headerWords = 0; headerWords < 16; headerWords++)
        {
            for (int totalLength = 0; totalLength < 70; totalLength++)
            {
                byte[] bytes = Packets.Ipv4(Source, Destination, Packets.Udp, Packets.Payload(44));
                bytes[0] = (byte)(0x40 | headerWords);
                Packets.Put16(bytes, 2, totalLength);
                bool isConsistent = headerWords >= 5 && totalLength >= headerWords * 4 && totalLength <= bytes.Length;
                Assert.Equal(isConsistent, Ipv4View.TryParse(bytes, out _));
            }
        }
    }

    [Fact]
    public void Is_refused_with_another_version()
    {
        byte[] packet = Packets.Ipv4(Source, Destination, Packets.Udp, Packets.Payload(44));
        for (int version = 0; version < 16; version++)
        {
            packet[0] = (byte)((version << 4) | 5);
            Assert.Equal(version == 4, Ipv4View.TryParse(packet, out _));
        }
    }

    [Fact]
    public void The_checksum_covers_the_options_and_nothing_behind_them()
    {
        byte[] packet = Packets.Ipv4(Source, Destination, Packets.Udp, Packets.Payload(4), options: [1, 1, 1, 0]);
        for (int i = 1; i < packet.Length; i++)
        {
            if (i is 2 or 3)
            {
                continue;
            }

            packet[i] ^= 1;
            Assert.True(Ipv4View.TryParse(packet, out Ipv4View view));
            Assert.Equal(i >= 24, view.IsChecksumValid);
            packet[i] ^= 1;
        }
    }

    [Fact]
    public void Writes_what_the_builder_writes()
    {
        byte[] expected = Packets.Ipv4(Source, Destination, Packets.Gre, Packets.Payload(9), ttl: 3, tos: 0xc0, id: 0xbeef, df: false);
        var header = new Ipv4Header(Overlay.Address(Source), Overlay.Address(Destination), Packets.Gre, 9, 3, 0xc0, DontFragment: false, 0xbeef);
        byte[] actual = Dirty(29);
        Assert.Equal(20, header.Write(actual));
        Assert.Equal(expected[..20], actual[..20]);
        Assert.All(actual[20..], b => Assert.Equal(0xa5, b));

        // The defaults: TTL 64, DF, identification 0, and the longest payload.
        byte[] longest = Packets.Ipv4(Source, Destination, Packets.Gre, new byte[65_515], ttl: 64, id: 0);
        new Ipv4Header(Overlay.Address(Source), Overlay.Address(Destination), Packets.Gre, 65_515).Write(actual);
        Assert.Equal(longest[..20], actual[..20]);
    }

    [Fact]
    public void Writes_an_address_that_is_not_known_yet_as_zero()
    {
        byte[] actual = Dirty(20);
        new Ipv4Header(InetAddress.None, Overlay.Address(Destination), Packets.Gre, 0).Write(actual);
        Assert.Equal(Packets.Ipv4("0.0.0.0", Destination, Packets.Gre, [], ttl: 64, id: 0), actual);
    }

    private static byte[] Dirty(int length)
    {
        var bytes = new byte[length];
        bytes.AsSpan().Fill(0xa5);
        return bytes;
    }
}
