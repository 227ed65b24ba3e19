using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

public sealed class Ipv6HeaderTests
{
    private const string Source = "fd00:52::2";
    private const string Destination = "2001:db8:1:2:3:4:5:6";

    [Fact]
    public void Reads_every_field()
    {
        byte[] payload = Packets.Payload(24);
        byte[] packet = Packets.Ipv6(Source, Destination, Packets.Udp, payload, hopLimit: 17, trafficClass: 0xb9, flowLabel: 0xabcde);

        Assert.True(Ipv6View.TryParse(packet, out Ipv6View view));
        Assert.Equal(0xb9, view.TrafficClass);
        Assert.Equal(0xabcdeu, view.FlowLabel);
        Assert.Equal(64, view.TotalLength);
        Assert.Equal(Packets.Udp, view.NextHeader);
        Assert.Equal(17, view.HopLimit);
        Assert.Equal(Overlay.Address(Source), view.Source);
        Assert.Equal(Overlay.Address(Destination), view.Destination);
        Assert.Equal(packet[8..40], view.Addresses.ToArray());
        Assert.Equal(payload, view.Payload.ToArray());
        Assert.Equal(packet, view.Packet.ToArray());
    }

    [Fact]
    public void Is_refused_when_truncated_at_any_byte()
    {
        byte[] packet = Packets.Ipv6(Source, Destination, Packets.Udp, Packets.Payload(30));
        for (int length = 0; length < packet.Length; length++)
        {
            Assert.False(Ipv6View.TryParse(packet.AsSpan(0, length), out _), $"{length} bytes");
        }
    }

    [Fact]
    public void Leaves_trailing_bytes_out()
    {
        byte[] packet = Packets.Ipv6(Source, Destination, Packets.Udp, Packets.Payload(5));
        Assert.True(Ipv6View.TryParse([.. packet, 0xa5, 0xa5, 0xa5], out Ipv6View view));
        Assert.Equal(packet, view.Packet.ToArray());
        Assert.Equal(45, view.TotalLength);
    }

    [Fact]
    public void Is_refused_when_the_payload_length_is_more_than_there_is()
    {
        byte[] packet = Packets.Ipv6(Source, Destination, Packets.Udp, Packets.Payload(30));
        foreach (int length in (int[])[0, 1, 29, 30, 31, 40, 65_535])
        {
            Packets.Put16(packet, 4, length);
            Assert.Equal(length <= 30, Ipv6View.TryParse(packet, out Ipv6View view));
            Assert.Equal(length <= 30 ? length + 40 : 0, view.TotalLength);
        }
    }

    [Fact]
    public void Takes_the_longest_payload()
    {
        byte[] packet = Packets.Ipv6(Source, Destination, Packets.Udp, new byte[65_535]);
        Assert.True(Ipv6View.TryParse(packet, out Ipv6View view));
        Assert.Equal(65_575, view.TotalLength);
    }

    [Fact]
    public void Is_refused_with_another_version()
    {
        byte[] packet = Packets.Ipv6(Source, Destination, Packets.Udp, Packets.Payload(30));
        for (int version = 0; version < 16; version++)
        {
            packet[0] = (byte)(version << 4);
            Assert.Equal(version == 6, Ipv6View.TryParse(packet, out _));
        }
    }

    [Fact]
    public void Writes_what_the_builder_writes()
    {
        byte[] expected = Packets.Ipv6(Source, Destination, Packets.Gre, Packets.Payload(9), hopLimit: 3, trafficClass: 0xb9, flowLabel: 0xabcde);
        var actual = new byte[49];
        actual.AsSpan().Fill(0xa5);
        Assert.Equal(40, new Ipv6Header(Overlay.Address(Source), Overlay.Address(Destination), Packets.Gre, 9, 3, 0xb9, 0xabcde).Write(actual));
        Assert.Equal(expected[..40], actual[..40]);
        Assert.All(actual[40..], b => Assert.Equal(0xa5, b));

        // A flow label has 20 bits; the defaults are hop limit 64 and nothing else.
        new Ipv6Header(Overlay.Address(Source), Overlay.Address(Destination), Packets.Gre, 65_535, FlowLabel: 0xfff00000).Write(actual);
        Assert.Equal(Packets.Ipv6(Source, Destination, Packets.Gre, new byte[65_535], hopLimit: 64)[..40], actual[..40]);
    }
}
