using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

public sealed class UdpHeaderTests
{
    [Fact]
    public void Reads_every_field()
    {
        byte[] datagram = Packets.UdpPacket("172.17.52.2", "172.17.51.2", Packets.Payload(11))[20..];
        Assert.True(UdpView.TryParse(datagram, out UdpView udp));
        Assert.Equal(40001, udp.SourcePort);
        Assert.Equal(40002, udp.DestinationPort);
        Assert.Equal(19, udp.Length);
        Assert.Equal((datagram[6] << 8) | datagram[7], udp.Checksum);
        Assert.Equal(Packets.Payload(11), udp.Payload.ToArray());
    }

    [Fact]
    public void Is_refused_when_its_length_does_not_fit()
    {
        for (int bytes = 0; bytes <= 24; bytes++)
        {
            for (int length = 0; length <= 32; length++)
            {
                var datagram = new byte[bytes];
                if (bytes > 5)
                {
                    Packets.Put16(datagram, 4, length);
                }

                bool fits = bytes >= 8 && length >= 8 && length <= bytes;
                Assert.Equal(fits, UdpView.TryParse(datagram, out UdpView udp));
                if (fits)
                {
                    Assert.Equal(length, udp.Length);
                    Assert.Equal(length - 8, udp.Payload.Length);
                }
            }
        }
    }
}
