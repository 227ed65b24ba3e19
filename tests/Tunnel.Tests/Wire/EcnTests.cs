using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

public sealed class EcnTests
{
    private const int Drop = -1;

    // RFC 6040 section 4.2, figure 4. The inner field is Not-ECT 00, ECT(1) 01, ECT(0) 10, CE 11; so is the outer.
    [Theory]
    [InlineData(0b00, 0b00, 0b00)]
    [InlineData(0b00, 0b10, 0b00)]
    [InlineData(0b00, 0b01, 0b00)]
    [InlineData(0b00, 0b11, Drop)]
    [InlineData(0b10, 0b00, 0b10)]
    [InlineData(0b10, 0b10, 0b10)]
    [InlineData(0b10, 0b01, 0b01)]
    [InlineData(0b10, 0b11, 0b11)]
    [InlineData(0b01, 0b00, 0b01)]
    [InlineData(0b01, 0b10, 0b01)]
    [InlineData(0b01, 0b01, 0b01)]
    [InlineData(0b01, 0b11, 0b11)]
    [InlineData(0b11, 0b00, 0b11)]
    [InlineData(0b11, 0b10, 0b11)]
    [InlineData(0b11, 0b01, 0b11)]
    [InlineData(0b11, 0b11, 0b11)]
    public void Decapsulation_follows_the_table(int inner, int outer, int expected) =>
        Assert.Equal(expected, Ecn.Decapsulate(inner, outer));

    // The marked combinations of the same figure.
    [Theory]
    [InlineData(0b00, new[] { 0b10, 0b01, 0b11 })]
    [InlineData(0b10, new int[0])]
    [InlineData(0b01, new[] { 0b10 })]
    [InlineData(0b11, new[] { 0b01 })]
    public void What_should_not_meet_is_anomalous(int inner, int[] outer) =>
        Assert.Equal(outer.Order(), Enumerable.Range(0, 4).Where(other => Ecn.IsAnomalous(inner, other)));

    [Fact]
    public void SetIpv4_keeps_the_checksum_valid_for_every_TOS()
    {
        for (int tos = 0; tos < 256; tos++)
        {
            for (int ecn = 0; ecn < 4; ecn++)
            {
                // Over all identifications of a stride, the checksum before takes values near 0 and 0xffff too.
                for (int id = 0; id < 65_536; id += 251)
                {
                    byte[] packet = Packets.Ipv4("172.17.52.2", "172.17.51.2", Packets.Udp, [], tos: (byte)tos, id: (ushort)id);
                    byte[] expected = Packets.Ipv4(
                        "172.17.52.2", "172.17.51.2", Packets.Udp, [], tos: (byte)((tos & 0xfc) | ecn), id: (ushort)id);
                    Ecn.SetIpv4(packet, ecn);
                    if (!packet.AsSpan().SequenceEqual(expected))
                    {
                        Assert.Fail($"TOS {tos:x2}, ECN {ecn}, identification {id}: {Convert.ToHexString(packet)}");
                    }
                }
            }
        }
    }

    [Fact]
    public void SetIpv6_changes_the_ECN_bits_only()
    {
        for (int trafficClass = 0; trafficClass < 256; trafficClass++)
        {
            for (int ecn = 0; ecn < 4; ecn++)
            {
                byte[] packet = Packets.Ipv6("fd00::1", "fd00::2", Packets.Udp, [], trafficClass: (byte)trafficClass, flowLabel: 0xfffff);
                Ecn.SetIpv6(packet, ecn);
                var expected = (byte)((trafficClass & 0xfc) | ecn);
                Assert.Equal(Packets.Ipv6("fd00::1", "fd00::2", Packets.Udp, [], trafficClass: expected, flowLabel: 0xfffff), packet);
            }
        }
    }
}
