using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

public sealed class IcmpMessageTests
{
    [Fact]
    public void Reads_every_field()
    {
        byte[] message = [3, 4, 0x12, 0x34, 0, 0, 0x05, 0xc4, 9, 8];
        Assert.True(IcmpView.TryParse(message, out IcmpView icmp));
        Assert.Equal(3, icmp.Type);
        Assert.Equal(4, icmp.Code);
        Assert.Equal(1476u, icmp.RestOfHeader);
        Assert.Equal([9, 8], icmp.Body.ToArray());
    }

    [Fact]
    public void Is_refused_below_eight_bytes()
    {
        for (int length = 0; length <= 8; length++)
        {
            Assert.Equal(length == 8, IcmpView.TryParse(new byte[length], out _));
        }
    }

    [Fact]
    public void Knows_errors_of_IPv4()
    {
        byte[] errors = [3, 4, 5, 11, 12];
        for (int type = 0; type < 256; type++)
        {
            Assert.Equal(errors.Contains((byte)type), IcmpMessage.IsErrorIpv4((byte)type));
        }
    }

    // RFC 4443 section 2.1: the high bit is 0 in errors; section 2.4 e.2 adds the redirect, 137.
    [Fact]
    public void Knows_errors_of_IPv6()
    {
        for (int type = 0; type < 256; type++)
        {
            Assert.Equal(type < 128 || type == 137, IcmpMessage.IsErrorIpv6((byte)type));
        }
    }

    [Fact]
    public void Fragmentation_needed_is_the_golden_one()
    {
        Assert.True(QuotedPacket.TryParse(GoldenPackets.Get("icmp-offending-4").Bytes, out QuotedPacket offending));
        byte[] buffer = Dirty();
        int length = IcmpMessage.WriteTooBig(buffer, Overlay.Address("10.0.201.1"), offending, 1476);
        Assert.Equal(GoldenPackets.Get("icmp-fragmentation-needed").Bytes, buffer[..length]);
        Assert.All(buffer[length..], b => Assert.Equal(0xa5, b));
    }

    [Fact]
    public void Packet_too_big_is_the_golden_one()
    {
        Assert.True(QuotedPacket.TryParse(GoldenPackets.Get("icmp-offending-6").Bytes, out QuotedPacket offending));
        byte[] buffer = Dirty();
        int length = IcmpMessage.WriteTooBig(buffer, Overlay.Address("fd00:201::1"), offending, 1456);
        Assert.Equal(GoldenPackets.Get("icmp-packet-too-big").Bytes, buffer[..length]);
        Assert.All(buffer[length..], b => Assert.Equal(0xa5, b));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(527)]
    [InlineData(528)]
    [InlineData(529)]
    [InlineData(1231)]
    [InlineData(1232)]
    [InlineData(9000)]
    public void Quotes_as_much_as_the_RFCs_allow(int payloadLength)
    {
        byte[] buffer = Dirty();
        byte[] packet = Packets.UdpPacket("172.17.52.2", "172.17.51.2", Packets.Payload(payloadLength));
        Assert.True(QuotedPacket.TryParse(packet, out QuotedPacket offending4));
        int length = IcmpMessage.WriteTooBig(buffer, Overlay.Address("10.0.201.1"), offending4, 576);
        Assert.Equal(Math.Min(packet.Length + 28, 576), length);
        AssertError(buffer, length, isIpv4: true, packet, "172.17.52.2", type: 3, code: 4, mtu: 576);

        packet = Packets.UdpPacket("fd00:52::2", "fd00:51::2", Packets.Payload(payloadLength));
        Assert.True(QuotedPacket.TryParse(packet, out QuotedPacket offending6));
        length = IcmpMessage.WriteTooBig(buffer, Overlay.Address("fd00:201::1"), offending6, 1280);
        Assert.Equal(Math.Min(packet.Length + 48, 1280), length);
        AssertError(buffer, length, isIpv4: false, packet, "fd00:52::2", type: 2, code: 0, mtu: 1280);
    }

    // ICMP has 16 bits for the MTU (RFC 1191 section 4), ICMPv6 has 32.
    [Fact]
    public void An_MTU_beyond_16_bits_is_capped_for_IPv4_only()
    {
        byte[] buffer = Dirty();
        byte[] packet = Packets.UdpPacket("172.17.52.2", "172.17.51.2", []);
        Assert.True(QuotedPacket.TryParse(packet, out QuotedPacket offending4));
        int length = IcmpMessage.WriteTooBig(buffer, Overlay.Address("10.0.201.1"), offending4, 70_000);
        AssertError(buffer, length, isIpv4: true, packet, "172.17.52.2", type: 3, code: 4, mtu: 65_535);

        packet = Packets.UdpPacket("fd00:52::2", "fd00:51::2", []);
        Assert.True(QuotedPacket.TryParse(packet, out QuotedPacket offending6));
        length = IcmpMessage.WriteTooBig(buffer, Overlay.Address("fd00:201::1"), offending6, 70_000);
        AssertError(buffer, length, isIpv4: false, packet, "fd00:52::2", type: 2, code: 0, mtu: 70_000);
    }

    private static void AssertError(byte[] buffer, int length, bool isIpv4, byte[] offending, string to, byte type, byte code, uint mtu)
    {
        ReadOnlySpan<byte> message;
        ushort pseudoHeader = 0;
        if (isIpv4)
        {
            Assert.True(Ipv4View.TryParse(buffer.AsSpan(0, length), out Ipv4View outer));
            Assert.Equal(length, outer.TotalLength);
            Assert.True(outer.IsChecksumValid);
            Assert.Equal(Packets.Icmp, outer.Protocol);
            Assert.Equal(Overlay.Address(to), outer.Destination);
            message = outer.Payload;
        }
        else
        {
            Assert.True(Ipv6View.TryParse(buffer.AsSpan(0, length), out Ipv6View outer));
            Assert.Equal(length, outer.TotalLength);
            Assert.Equal(Packets.Icmpv6, outer.NextHeader);
            Assert.Equal(Overlay.Address(to), outer.Destination);
            message = outer.Payload;
            pseudoHeader = Packets.PseudoHeader(outer.Source.ToString(), to, Packets.Icmpv6, message.Length);
        }

        Assert.Equal(0xffff, Rfc1071.Sum(message, pseudoHeader));
        Assert.True(IcmpView.TryParse(message, out IcmpView icmp));
        Assert.Equal(type, icmp.Type);
        Assert.Equal(code, icmp.Code);
        Assert.Equal(mtu, icmp.RestOfHeader);
        Assert.Equal(offending[..icmp.Body.Length], icmp.Body.ToArray());
    }

    private static byte[] Dirty()
    {
        var bytes = new byte[1400];
        bytes.AsSpan().Fill(0xa5);
        return bytes;
    }
}
