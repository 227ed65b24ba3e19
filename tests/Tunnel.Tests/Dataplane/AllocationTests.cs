using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Dataplane;

public sealed class AllocationTests
{
    [Theory]
    [InlineData(false, 100)]
    [InlineData(true, 1300)]
    public void Outbound_allocates_nothing(bool withEverything, int payload)
    {
        var outer = new OuterHeaderOptions { Dscp = null, Ecn = EcnMode.Normal, TimeToLive = null, DiscoversPathMtu = false };
        Peer peer = Overlay.Peer(
            keyOut: withEverything ? 1 : null, checksum: withEverything, sequence: withEverything, outer: withEverything ? outer : OuterHeaderOptions.Default);
        RoutingHolder routing = Routing(peer);
        var tun = new ReplayTun(Batch(
            i => i % 2 == 0
                ? Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(payload))
                : Packets.UdpPacket("fd00:51::2", "fd00:52::2", Packets.Payload(payload))));
        var underlay = new ReplayUnderlay();
        var outbound = new Outbound(tun, underlay, routing, new PeerCounters(), new OffloadState(Offloads.None), worker: 0);
        AssertAllocatesNothing(outbound.Run);
        Assert.Equal(underlay.Sent, peer.Counters[0].SentPackets);
    }

    [Fact]
    public void Answers_and_drops_allocate_nothing()
    {
        var counters = new PeerCounters();
        RoutingHolder routing = Routing(Overlay.Peer());
        byte[][] packets =
        [
            Packets.UdpPacket("172.17.51.2", "172.17.52.2", new byte[3000]),
            Packets.UdpPacket("fd00:51::2", "fd00:52::2", new byte[3000]),
            Packets.UdpPacket("172.17.51.2", "172.17.99.2", []),
            [0],
        ];
        var tun = new ReplayTun(Batch(i => packets[i % packets.Length]));
        AssertAllocatesNothing(new Outbound(tun, new ReplayUnderlay(), routing, counters, new OffloadState(Offloads.None), worker: 0).Run);
        Assert.NotEqual(0, tun.Written);
        Assert.NotEqual(0, counters.TotalDrops);
    }

    [Theory]
    [InlineData("192.168.40.12", 0)]
    [InlineData("192.168.40.12", 4754)]
    [InlineData("fd00:40::12", 0)]
    public void Fragmentation_allocates_nothing(string endpoint, ushort udpPort)
    {
        Peer peer = Overlay.Peer(endpoint: endpoint, local: endpoint.Replace("12", "11", StringComparison.Ordinal), checksum: true, gmtu: 1000, udpPort: udpPort);
        RoutingHolder routing = Routing(peer);
        var tun = new ReplayTun(Batch(
            i => i % 2 == 0
                ? Packets.Ipv4("172.17.51.2", "172.17.52.2", Packets.Udp, Packets.Payload(5000), df: false)
                : Packets.UdpPacket("fd00:51::2", "fd00:52::2", Packets.Payload(1232))));
        var underlay = new ReplayUnderlay();
        AssertAllocatesNothing(new Outbound(tun, underlay, routing, new PeerCounters(), new OffloadState(Offloads.UdpSegment), worker: 0).Run);
        Assert.Equal(0, peer.Counters[0].SentPackets % (32 * 7));
        Assert.Equal(0, peer.Counters[0].TotalDrops);
        Assert.NotEqual(0, underlay.Sent);
    }

    [Theory]
    [InlineData(100, false)]
    [InlineData(1300, false)]
    [InlineData(60_000, true)]
    public void Inbound_allocates_nothing(int payload, bool isCoalesced)
    {
        Peer peer = Overlay.Peer(keyIn: 1);
        RoutingHolder routing = Routing(peer);
        byte[] Inner(int i) => i % 2 == 0
            ? Packets.TcpPacket("172.17.52.2", "172.17.51.2", Packets.Payload(payload), isCoalesced)
            : Packets.TcpPacket("fd00:52::2", "fd00:51::2", Packets.Payload(payload), isCoalesced);
        var underlay = new ReplayUnderlay(Batch(
            i => Packets.Outer("192.168.40.12", "192.168.40.11", Packets.GrePacket(Inner(i), checksum: true, key: 1))));
        var tun = new ReplayTun([]);
        AssertAllocatesNothing(new Inbound(underlay, tun, routing, new PeerCounters(), new OffloadState(Offloads.None), worker: 0).Run);
        Assert.Equal(tun.Written, peer.Counters[0].ReceivedPackets);
        Assert.NotEqual(0, tun.Written);
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void Segmentation_allocates_nothing(bool isUdpPeer, bool withEverything)
    {
        Peer peer = Overlay.Peer(
            keyOut: withEverything ? 1 : null, checksum: withEverything, sequence: withEverything, udpPort: (ushort)(isUdpPeer ? 4754 : 0));
        RoutingHolder routing = Routing(peer);
        var head = new FlowPacket { Source = "172.17.51.2", Destination = "172.17.52.2", Payload = Packets.Payload(60_000), IsPartial = true };
        var tun = new ReplayTun(Batch(_ => head.Build()), SegmentationTests.OffloadOf(head, 1300));
        var underlay = new ReplayUnderlay();
        var outbound = new Outbound(tun, underlay, routing, new PeerCounters(), new OffloadState(Offloads.UdpSegment), worker: 0);
        AssertAllocatesNothing(outbound.Run);
        Assert.Equal(0, peer.Counters[0].SentPackets % (64 * 47));
        Assert.Equal(isUdpPeer, underlay.Sent < peer.Counters[0].SentPackets);
        Assert.Equal(0, peer.Counters[0].TotalDrops);
    }

    [Theory]
    [InlineData(Reception.RawSocket, false)]
    [InlineData(Reception.PacketSocket, true)]
    [InlineData(Reception.UdpSocket, false)]
    [InlineData(Reception.UdpSocket, true)]
    public void Coalescing_allocates_nothing(Reception reception, bool isUdp)
    {
        Peer peer = Overlay.Peer(keyIn: 1);
        RoutingHolder routing = Routing(peer);
        var first = new FlowPacket { Payload = Packets.Payload(1300), IsUdp = isUdp };
        byte[] Gre(int i) => Packets.GrePacket((first with { Sequence = (uint)(i * 1300) }).Build(), checksum: true, key: 1);
        ReceivedPacket[] packets = [.. Enumerable.Range(0, 64).Select(i => reception == Reception.UdpSocket
            ? new ReceivedPacket([.. Enumerable.Range(i * 40, 40).SelectMany(Gre)]) { SegmentSize = Gre(0).Length, Source = peer.Settings.Endpoint, Reception = reception }
            : new ReceivedPacket(Packets.Outer("192.168.40.12", "192.168.40.11", Gre(i))) { Reception = reception })];
        var underlay = new ReplayUnderlay(packets);
        var tun = new ReplayTun([]);
        var offloads = new OffloadState(Offloads.TunTcp | Offloads.TunUdp);
        AssertAllocatesNothing(new Inbound(underlay, tun, routing, new PeerCounters(), offloads, worker: 0).Run);
        Assert.Equal(0, peer.Counters[0].ReceivedPackets % 64);
        Assert.InRange(tun.Written, 1, peer.Counters[0].ReceivedPackets / 30);
        Assert.Equal(0, peer.Counters[0].TotalDrops);
    }

    private static RoutingHolder Routing(Peer peer) =>
        new() { Current = Overlay.Snapshot([(peer, ["172.17.52.0/24", "fd00:52::/64"])], ["10.0.201.1", "fd00:201::1"]) };

    private static byte[][] Batch(Func<int, byte[]> make) => [.. Enumerable.Range(0, 64).Select(make)];

    private static void AssertAllocatesNothing(Func<int> run)
    {
        long allocated = Allocations.InSteadyState(() =>
        {
            for (int i = 0; i < 100; i++)
            {
                run();
            }
        });
        Assert.Equal(0, allocated);
    }
}
