using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

public sealed class QuotedPacketTests
{
    [Theory]
    [InlineData("172.17.51.2", "172.17.52.2", 20)]
    [InlineData("fd00:51::2", "fd00:52::2", 40)]
    public void Reads_a_packet_that_is_cut_off_anywhere_behind_its_header(string source, string destination, int header)
    {
        byte[] packet = Packets.UdpPacket(source, destination, Packets.Payload(100));
        for (int length = 0; length <= packet.Length; length++)
        {
            bool isWhole = QuotedPacket.TryParse(packet.AsSpan(0, length), out QuotedPacket quoted);
            Assert.Equal(length >= header, isWhole);
            if (isWhole)
            {
                Assert.Equal(source, quoted.Source.ToString());
                Assert.Equal(destination, quoted.Destination.ToString());
                Assert.Equal(IpProtocol.Udp, quoted.Protocol);
                Assert.Equal(packet.Length, quoted.TotalLength);
                Assert.Equal(length - header, quoted.Payload.Length);
                Assert.False(quoted.IsLaterFragment);
            }
        }
    }

    [Theory]
    [InlineData(0x00)]
    [InlineData(0x44)] // a header of 16 bytes
    [InlineData(0x55)] // version 5
    public void Refuses_what_is_no_header(byte first)
    {
        byte[] packet = Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(100));
        packet[0] = first;
        Assert.False(QuotedPacket.TryParse(packet, out _));
    }

    [Fact]
    public void Options_belong_to_the_header()
    {
        byte[] packet = new byte[24];
        packet[0] = 0x46;
        Assert.True(QuotedPacket.TryParse(packet, out QuotedPacket quoted));
        Assert.Equal(24, quoted.HeaderLength);
        Assert.False(QuotedPacket.TryParse(packet.AsSpan(0, 23), out _));
    }
}
