using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

/// <summary>Datagrams of a flow that lie together in a batch, where the kernel cuts plain GRE.</summary>
public sealed class DatagramRunTests
{
    private const int Together = 30;

    private static readonly FlowPacket Udp4 = new()
    {
        Source = "172.17.51.2",
        Destination = "172.17.52.2",
        IsUdp = true,
        Payload = Packets.Payload(64),
    };

    private static readonly FlowPacket Udp6 = Udp4 with { Source = "fd00:51::2", Destination = "fd00:52::2" };

    private readonly MemoryHost _host = new(Offloads.TunTcp | Offloads.TunUdp | Offloads.UdpSegment | Offloads.GreSegment);

    public DatagramRunTests() => _host.Underlay.CutsAll = true;

    /// <summary>What the datagram in the middle is like, and whether it begins another run or leaves by itself: the packets that leave, by segments.</summary>
    public static TheoryData<string, FlowPacket, int[]> Others => new()
    {
        { "the same", Udp4, [61] },
        { "another source port", Udp4 with { SourcePort = 1 }, [30, 1, 30] },
        { "another destination port", Udp4 with { DestinationPort = 1 }, [30, 1, 30] },
        { "another source", Udp4 with { Source = "172.17.51.3" }, [30, 1, 30] },
        { "another destination", Udp4 with { Destination = "172.17.52.3" }, [30, 1, 30] },
        { "another traffic class", Udp4 with { TrafficClass = 0x01 }, [30, 1, 30] },
        { "another TTL", Udp4 with { Ttl = 9 }, [30, 1, 30] },
        { "may be fragmented", Udp4 with { DontFragment = false }, [30, 1, 30] },
        { "a fragment", Udp4 with { MoreFragments = true }, [30, 1, 30] },
        { "IP options", Udp4 with { IpOptions = [1, 1, 1, 1] }, [30, 1, 30] },
        { "no checksum", Udp4 with { HasNoChecksum = true }, [30, 1, 30] },
        { "a damaged checksum", Udp4 with { Damage = 0x0100 }, [30, 1, 30] },
        { "no payload", Udp4 with { Payload = [] }, [30, 1, 30] },
        { "shorter, which ends a run", Udp4 with { Payload = [1, 2, 3] }, [31, 30] },
        { "longer, which begins one that a shorter ends", Udp4 with { Payload = Packets.Payload(70) }, [30, 1, 1, 29] },
        { "TCP", Udp4 with { IsUdp = false }, [30, 1, 30] },
        { "IPv6", Udp6, [30, 1, 30] },
    };

    [Theory]
    [InlineData(true, false)]
    [InlineData(true, true)]
    [InlineData(false, false)]
    [InlineData(false, true)]
    public void They_leave_as_one_and_come_out_the_same(bool isIpv4, bool isPartial)
    {
        Peer peer = Serve(Overlay.Peer(keyOut: 7));
        FlowPacket head = (isIpv4 ? Udp4 : Udp6) with { IsPartial = isPartial, Id = 0xfff0 };
        byte[][] sent = [.. Run(head, 63), (head with { Payload = [1, 2, 3], Id = 0x002f }).Build()];
        Send(sent, isPartial);

        SentPacket packet = Assert.Single(_host.Underlay.Packets);
        Assert.Equal((64, GsoType.UdpL4, (ushort)64), (packet.Segments, packet.Offload.Gso, packet.Offload.SegmentSize));
        AssertComesOut(sent, isPartial, peer.Overhead);
        Assert.Equal((64, sent.Sum(s => s.Length)), (peer.Counters[0].SentPackets, peer.Counters[0].SentBytes));
        Assert.Empty(_host.Drops());
    }

    [Theory]
    [MemberData(nameof(Others))]
    public void What_differs_keeps_its_place(string what, FlowPacket middle, int[] packets)
    {
        Assert.NotEmpty(what);
        Peer peer = Serve(Overlay.Peer());
        byte[][] sent = [.. Run(Udp4, Together), (middle with { Id = Id(Together) }).Build(), .. Run(Udp4 with { Id = Id(Together + 1) }, Together)];
        Send(sent, isPartial: false);
        AssertComesOut(sent, isPartial: false, peer.Overhead);

        // A datagram that begins a run of its own may leave with what follows it.
        int[] left = [.. _host.Underlay.Packets.Select(p => p.Segments)];
        Assert.Equal(packets, left);
    }

    [Fact]
    public void Identifications_must_count_up()
    {
        Peer peer = Serve(Overlay.Peer());
        byte[][] sent = [.. Enumerable.Range(0, 60).Select(_ => Udp4.Build())];
        Send(sent, isPartial: false);
        AssertComesOut(sent, isPartial: false, peer.Overhead);
        Assert.Equal(60, _host.Underlay.Packets.Count);
    }

    // 22 of 64 bytes are no larger than the GMTU of 1476, and a receiver that can't tell them apart would take them for one.
    [Theory]
    [InlineData(22, 22)]
    [InlineData(23, 1)]
    public void What_would_fit_one_packet_leaves_singly(int count, int packets)
    {
        Peer peer = Serve(Overlay.Peer());
        byte[][] sent = Run(Udp4 with { IsPartial = true }, count);
        Send(sent, isPartial: true);
        AssertComesOut(sent, isPartial: true, peer.Overhead);
        Assert.Equal(packets, _host.Underlay.Packets.Count);
    }

    [Fact]
    public void Large_datagrams_leave_together_as_far_as_a_packet_may_be_long()
    {
        Peer peer = Serve(Overlay.Peer());
        byte[][] sent = Run(Udp4 with { Payload = Packets.Payload(1400) }, 60);
        Send(sent, isPartial: false);
        AssertComesOut(sent, isPartial: false, peer.Overhead);
        Assert.Equal([46, 14], _host.Underlay.Packets.Select(p => p.Segments));
        Assert.All(_host.Underlay.Packets, p => Assert.True(p.Bytes.Length <= ushort.MaxValue));
    }

    [Fact]
    public void Another_peer_begins_another_run()
    {
        Peer near = Overlay.Peer("vm2");
        Peer far = Overlay.Peer("vm3", endpoint: "192.168.40.13");
        _host.With([(near, ["172.17.52.0/25"]), (far, ["172.17.52.128/25"])]);
        TakeAll(near, far);
        Send([.. Run(Udp4, Together), .. Run(Udp4 with { Destination = "172.17.52.130" }, Together)], isPartial: false);
        Assert.Equal([near.Target, far.Target], _host.Underlay.Packets.Select(p => p.Target));
        Assert.Equal((Together, Together), (near.Counters[0].SentPackets, far.Counters[0].SentPackets));
    }

    [Theory]
    [InlineData(true, true, false, 0)]
    [InlineData(true, false, true, 0)]
    [InlineData(false, false, false, 0)]
    [InlineData(true, false, false, 4754)]
    public void Where_the_kernel_cannot_cut_each_is_a_packet(bool cuts, bool checksum, bool sequence, int udpPort)
    {
        Serve(Overlay.Peer(checksum: checksum, sequence: sequence, udpPort: (ushort)udpPort));
        _host.Underlay.CutsAll = cuts;
        Send(Run(Udp4 with { IsPartial = true }, Together), isPartial: true);
        Assert.All(_host.Underlay.Packets, p => Assert.Equal(GsoType.None, p.Offload.Gso));
        Assert.Equal(Together, _host.Underlay.Packets.Sum(p => p.Segments));
    }

    // The kernel cuts them before the device gets them. So the peer needn't say anything, and two are enough.
    [Theory]
    [InlineData(1, GsoType.None)]
    [InlineData(2, GsoType.UdpL4)]
    [InlineData(Together, GsoType.UdpL4)]
    public void Where_the_link_carries_none_any_peer_gets_them_cut(int count, GsoType gso)
    {
        Peer peer = ServeCut();
        byte[][] sent = Run(Udp4, count);
        Send(sent, isPartial: false);
        SentPacket packet = Assert.Single(_host.Underlay.Packets);
        Assert.Equal((count, gso), (packet.Segments, packet.Offload.Gso));
        AssertComesOut(sent, isPartial: false, peer.Overhead);
    }

    [Fact]
    public void Where_the_link_carries_none_all_of_a_flow_go_the_same_way()
    {
        ServeCut();
        byte[][] alone = [Udp4.Build(), (Udp4 with { Id = Id(9) }).Build(), (Udp4 with { SourcePort = 1, Id = Id(10) }).Build()];
        Send(alone, isPartial: false);
        Send([(Udp4 with { IsUdp = false }).Build()], isPartial: false);
        Assert.Equal([true, true, true, false], _host.Underlay.Packets.Select(p => p.FollowsUncut));
    }

    // As of sockets that are not connected: none of these can leave together, and singly they are cheaper as ever.
    [Fact]
    public void Where_the_link_carries_none_a_flow_without_runs_goes_singly()
    {
        ServeCut();
        byte[][] same = [.. Enumerable.Range(0, 64).Select(_ => (Udp4 with { Id = 0 }).Build())];
        for (int i = 0; i <= DatagramWays.Patience; i += same.Length)
        {
            Send(same, isPartial: false);
        }

        SentPacket[] all = [.. _host.Underlay.Packets];
        Assert.All(all[..DatagramWays.Patience], p => Assert.True(p.FollowsUncut));
        Assert.All(all[DatagramWays.Patience..], p => Assert.False(p.FollowsUncut));
        Assert.Equal(DatagramWays.Patience + same.Length, all.Length);
    }

    [Fact]
    public void Where_the_link_carries_none_super_packets_keep_to_their_flows_way()
    {
        ServeCut();
        byte[] super = (Udp4 with { Payload = Packets.Payload(3001), IsPartial = true }).Build();
        Offload offload = SegmentationTests.OffloadOf(Udp4, 1300);
        _host.Send(super, offload);
        Assert.Equal(3, Assert.Single(_host.Underlay.Packets).Segments);

        for (int i = 0; i < DatagramWays.Patience; i++)
        {
            Send([(Udp4 with { Id = 0 }).Build()], isPartial: false);
        }

        _host.Underlay.Packets.Clear();
        _host.Send(super, offload);
        Assert.Equal([1, 1, 1], _host.Underlay.Packets.Select(p => p.Segments));
    }

    [Fact]
    public void Where_the_link_carries_them_none_must_follow()
    {
        Serve(Overlay.Peer());
        Send(Run(Udp4, 2), isPartial: false);
        Assert.Equal([false, false], _host.Underlay.Packets.Select(p => p.FollowsUncut));
    }

    [Fact]
    public void Once_refused_they_leave_singly()
    {
        Peer peer = Serve(Overlay.Peer());
        _host.Underlay.OnSend = _ => TransmitResult.Failed;
        Send(Run(Udp4, Together), isPartial: false);
        Assert.Equal(Together, peer.Counters[0].Drops(DropReason.UnderlaySendFailed));
        _host.Underlay.OnSend = _ => TransmitResult.Sent;
        _host.OffloadState.Refuse(Offloads.GreSegment, "test");
        Send(Run(Udp4, Together), isPartial: false);
        Assert.Equal(Together, _host.Underlay.Packets.Count);
    }

    [Theory]
    [InlineData(15, 0)]
    [InlineData(16, 1)]
    [InlineData(40, 1)]
    public void A_peer_is_asked_once_there_are_enough_in_a_batch(int count, int questions)
    {
        Peer peer = Overlay.Peer();
        peer.Target.Neighbor = new LinkNeighbor(2, 1, CarriesGre: true);
        _host.With([(peer, ["172.17.52.0/24"])]);
        Send(Run(Udp4, count), isPartial: false);
        Assert.Equal(questions, _host.Underlay.Packets.Count(p => p.Segments == 0));
        Assert.Equal(count, _host.Underlay.Packets.Count(p => p.Segments == 1));
    }

    private static ushort Id(int index) => (ushort)(Udp4.Id + index);

    private static byte[][] Run(FlowPacket head, int count) =>
        [.. Enumerable.Range(0, count).Select(i => (head with { Id = (ushort)(head.Id + i), Payload = [(byte)i, .. head.Payload[1..]] }).Build())];

    private Peer Serve(Peer peer)
    {
        _host.With([(peer, ["172.17.52.0/24", "fd00:52::/64"])]);
        TakeAll(peer);
        return peer;
    }

    private Peer ServeCut()
    {
        Peer peer = Overlay.Peer();
        _host.With([(peer, ["172.17.52.0/24"])]);
        peer.Target.Neighbor = new LinkNeighbor(2, 1);
        return peer;
    }

    private static void TakeAll(params Peer[] peers) =>
        Array.ForEach(peers, peer =>
        {
            peer.Target.Neighbor = new LinkNeighbor(2, 1, CarriesGre: true);
            peer.Target.Abilities.Hear(Abilities.TcpSuperPackets | Abilities.UdpSuperPackets, Environment.TickCount64);
        });

    private void Send(byte[][] packets, bool isPartial)
    {
        foreach (byte[] packet in packets)
        {
            _host.Tun.Enqueue(packet, OffloadOf(packet, isPartial));
        }

        _host.RunOutbound();
    }

    private static Offload OffloadOf(byte[] packet, bool isPartial) =>
        isPartial ? new Offload(GsoType.None, 0, 0, true, (ushort)(packet[0] >> 4 == 4 ? 20 : 40), UdpView.ChecksumOffset) : default;

    private void AssertComesOut(byte[][] sent, bool isPartial, int overhead) => Assert.Equal(
        sent.SelectMany(s => ReferenceSegmenter.Cut(s, OffloadOf(s, isPartial))).Select(Convert.ToHexString),
        _host.Underlay.Packets.SelectMany(p => ReferenceSegmenter.Cut(p.Bytes[overhead..], p.Offload)).Select(Convert.ToHexString));
}
