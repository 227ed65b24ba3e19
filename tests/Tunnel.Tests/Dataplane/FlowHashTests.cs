using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

public sealed class FlowHashTests
{
    private static readonly FlowPacket Tcp4 = new() { Payload = [1, 2, 3] };
    private static readonly FlowPacket Tcp6 = Tcp4 with { Source = "fd00:52::2", Destination = "fd00:51::2" };

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Packets_of_a_flow_share_a_hash_and_those_of_others_do_not(bool isIpv6)
    {
        FlowPacket flow = isIpv6 ? Tcp6 : Tcp4;
        uint hash = Of(flow);
        Assert.Equal(hash, Of(flow with { Payload = new byte[999], Sequence = 7, Flags = 0x11, TrafficClass = 3, Ttl = 5, Id = 9, FlowLabel = 8 }));
        FlowPacket[] others =
        [
            flow with { SourcePort = 1 },
            flow with { DestinationPort = 1 },
            flow with { SourcePort = flow.DestinationPort, DestinationPort = flow.SourcePort },
            flow with { Source = isIpv6 ? "fd00:52::3" : "172.17.52.3" },
            flow with { Destination = isIpv6 ? "fd00:51::3" : "172.17.51.3" },
            flow with { Source = isIpv6 ? "fd00:53::2" : "172.18.52.2" },
            flow with { IsUdp = true },
        ];
        Assert.Equal(others.Length + 1, others.Select(Of).Append(hash).Distinct().Count());
    }

    [Fact]
    public void Fragments_of_a_packet_share_a_hash_whatever_they_begin_with()
    {
        FlowPacket first = Tcp4 with { IsUdp = true, DontFragment = false, MoreFragments = true };
        FlowPacket later = first with { FragmentOffset = 1480, SourcePort = 5, MoreFragments = false };
        Assert.Equal(Of(first), Of(later));
    }

    [Fact]
    public void A_stump_has_a_hash()
    {
        byte[] stump = Packets.Ip("172.17.52.2", "172.17.51.2", Packets.Tcp, [1, 2, 3]);
        Assert.True(Ipv4View.TryParse(stump, out Ipv4View view));
        Assert.Equal(FlowHash.Of(view), FlowHash.Of(view));
    }

    // 4,096 flows over 16 ports: 256 each; chi-square with 15 degrees of freedom is above 37.7 once in a thousand.
    [Theory]
    [InlineData(false, 0)]
    [InlineData(false, 1)]
    [InlineData(false, 2)]
    [InlineData(true, 0)]
    [InlineData(true, 1)]
    [InlineData(true, 2)]
    public void Flows_spread_evenly_over_16_ports(bool isIpv6, int what)
    {
        var counts = new int[16];
        var highCounts = new int[16];
        for (int i = 0; i < 4096; i++)
        {
            FlowPacket flow = isIpv6 ? Tcp6 : Tcp4;
            flow = what switch
            {
                0 => flow with { SourcePort = (ushort)(32_768 + i) },
                1 => flow with { Source = isIpv6 ? $"fd00:52::{i:x}" : $"172.17.{i >> 8}.{i & 255}" },
                _ => flow with { SourcePort = (ushort)(40_000 + (i & 63)), Source = isIpv6 ? $"fd00:{i >> 6:x}::2" : $"172.17.{i >> 6}.2" },
            };
            uint hash = Of(flow);
            counts[hash & 15]++;
            highCounts[hash >> 28]++;
        }

        Assert.InRange(counts.Sum(c => (c - 256.0) * (c - 256.0) / 256.0), 0, 37.7);
        Assert.InRange(highCounts.Sum(c => (c - 256.0) * (c - 256.0) / 256.0), 0, 37.7);
    }

    private static uint Of(FlowPacket packet)
    {
        byte[] bytes = packet.Build();
        return Ipv4View.TryParse(bytes, out Ipv4View ipv4) ? FlowHash.Of(ipv4)
            : Ipv6View.TryParse(bytes, out Ipv6View ipv6) ? FlowHash.Of(ipv6)
            : throw new ArgumentException("no IP packet", nameof(packet));
    }
}
