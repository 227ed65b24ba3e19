using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

public sealed class TcpHeaderTests
{
    [Fact]
    public void Reads_every_field()
    {
        byte[] packet = Packets.TcpPacket("172.17.52.2", "172.17.51.2", Packets.Payload(11), tcpOptions: [1, 1, 1, 0]);
        byte[] segment = packet[20..];
        Assert.True(TcpView.TryParse(segment, out TcpView tcp));
        Assert.Equal(40000, tcp.SourcePort);
        Assert.Equal(3333, tcp.DestinationPort);
        Assert.Equal(0x01020304u, tcp.Sequence);
        Assert.Equal(24, tcp.HeaderLength);
        Assert.Equal(0x18, tcp.Flags);
        Assert.Equal((segment[16] << 8) | segment[17], tcp.Checksum);
        Assert.Equal(Packets.Payload(11), tcp.Payload.ToArray());
        ushort pseudoHeader = Packets.PseudoHeader("172.17.52.2", "172.17.51.2", Packets.Tcp, segment.Length);
        Assert.True(InternetChecksum.IsValid(segment, pseudoHeader));
    }

    [Fact]
    public void Is_refused_when_its_header_does_not_fit()
    {
        for (int words = 0; words < 16; words++)
        {
            for (int length = 0; length <= 70; length++)
            {
                var segment = new byte[length];
                if (length > 12)
                {
                    segment[12] = (byte)(words << 4);
                }

                bool fits = words >= 5 && length >= words * 4;
                Assert.Equal(fits, TcpView.TryParse(segment, out TcpView tcp));
                if (fits)
                {
                    Assert.Equal(length - (words * 4), tcp.Payload.Length);
                }
            }
        }
    }
}
