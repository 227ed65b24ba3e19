using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Dataplane;

/// <summary>What UDP sockets and packet sockets hand over, and what is known beside it.</summary>
public sealed class InboundReceptionTests
{
    private const string Vm2 = "192.168.40.12";
    private const string Vm1 = "192.168.40.11";
    private const string Elsewhere = "192.168.40.99";

    private static readonly FlowPacket Tcp4 = new() { Payload = Packets.Payload(1000) };
    private static readonly FlowPacket Tcp6 = Tcp4 with { Source = "fd00:52::2", Destination = "fd00:51::2" };
    private static readonly FlowPacket Udp4 = Tcp4 with { IsUdp = true };
    private static readonly FlowPacket Udp6 = Tcp6 with { IsUdp = true };

    private readonly MemoryHost _host = new(Offloads.TunTcp | Offloads.TunUdp);
    private readonly MemoryHost _plain = new();

    public static TheoryData<FlowPacket> Families => [Tcp4, Tcp6, Udp4, Udp6];

    [Theory]
    [MemberData(nameof(Families))]
    public void Datagrams_that_follow_one_another_are_taken_apart(FlowPacket first)
    {
        Peer peer = Serve(_plain);
        byte[][] inner = [.. Enumerable.Range(0, 5).Select(i => (first with { Sequence = (uint)i }).Build()), (first with { Payload = [1] }).Build()];
        byte[][] datagrams = [.. inner.Select(p => Packets.GrePacket(p))];
        _plain.Receive(Datagrams(datagrams));
        Assert.Equal(inner, _plain.Tun.Written.Select(w => w.Bytes));
        Assert.Equal((6, inner.Sum(p => p.Length), 0), (peer.Counters[0].ReceivedPackets, peer.Counters[0].ReceivedBytes, peer.Counters[0].TotalDrops));
        Assert.Empty(_plain.Drops());
    }

    [Theory]
    [InlineData(false, null, null)]
    [InlineData(true, null, null)]
    [InlineData(false, 7u, null)]
    [InlineData(true, 7u, 1u)]
    public void A_single_datagram_begins_with_its_GRE_header(bool checksum, uint? key, uint? sequence)
    {
        Serve(_host, keyIn: key);
        byte[] gre = Packets.GrePacket(Udp4.Build(), checksum, key, sequence);
        _host.Receive(new ReceivedPacket(gre) { Reception = Reception.UdpSocket, Source = Overlay.Address(Vm2) });
        Assert.Equal(Udp4.Build(), Assert.Single(_host.Tun.Written).Bytes);
        Assert.Equal(default, _host.Tun.Written[0].Offload);
    }

    [Fact]
    public void The_source_of_datagrams_may_be_IPv6()
    {
        Serve(_host, endpoint: "fd00:40::12", local: "fd00:40::11");
        _host.Receive(Datagrams([Packets.GrePacket(Tcp4.Build())]) with { Source = Overlay.Address("fd00:40::12") });
        Assert.Single(_host.Tun.Written);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Segments_that_come_as_datagrams_are_joined(FlowPacket first)
    {
        Peer peer = Serve(_host);
        byte[][] inner = [.. Enumerable.Range(0, 10).Select(i => (first with { Sequence = first.Sequence + (uint)(i * 1000) }).Build())];
        _host.Receive(Datagrams([.. inner.Select(p => Packets.GrePacket(p, checksum: true))]));
        (byte[] super, Offload offload) = Assert.Single(_host.Tun.Written);
        Assert.Equal(FlowTrace.ByFlow(inner), FlowTrace.ByFlow(ReferenceSegmenter.Cut(super, offload)));
        Assert.Equal((10, inner.Sum(p => p.Length)), (peer.Counters[0].ReceivedPackets, peer.Counters[0].ReceivedBytes));
    }

    // 64 receptions of 64 datagrams are many times what the delivery queue holds.
    [Fact]
    public void A_batch_full_of_datagrams_is_delivered_in_order()
    {
        Peer peer = Serve(_host);
        var inner = new List<byte[]>();
        for (int i = 0; i < 64; i++)
        {
            byte[][] packets = [.. Enumerable.Range(0, 64).Select(j => (Udp4 with { Payload = [(byte)i, (byte)j], SourcePort = (ushort)(j % 3) }).Build())];
            inner.AddRange(packets);
            _host.Underlay.Enqueue(Datagrams([.. packets.Select(p => Packets.GrePacket(p))]));
        }

        _host.RunInbound();
        Assert.Equal(4096, peer.Counters[0].ReceivedPackets);
        Assert.Equal(
            FlowTrace.ByFlow(inner), FlowTrace.ByFlow(_host.Tun.Written.SelectMany(w => ReferenceSegmenter.Cut(w.Bytes, w.Offload))));
    }

    [Theory]
    [InlineData(2, 3, 3)]
    [InlineData(1, 3, 3)]
    [InlineData(2, 1, 1)]
    [InlineData(2, 0, 2)]
    [InlineData(0, 2, 0)]
    [InlineData(0, 3, -1)]
    public void The_outer_ECN_field_of_datagrams_goes_on_inside(int innerEcn, int outerEcn, int merged)
    {
        foreach (FlowPacket family in (FlowPacket[])[Tcp4, Tcp6])
        {
            var host = new MemoryHost();
            Peer peer = Serve(host);
            byte[] inner = (family with { TrafficClass = (byte)(0xb8 | innerEcn) }).Build();
            host.Receive(Datagrams([Packets.GrePacket(inner), Packets.GrePacket(inner)]) with { OuterEcn = outerEcn });
            if (merged < 0)
            {
                Assert.Equal(2, peer.Counters[0].Drops(DropReason.EcnCongestionLost));
                Assert.Empty(host.Tun.Written);
            }
            else
            {
                byte[] expected = (family with { TrafficClass = (byte)(0xb8 | merged) }).Build();
                Assert.Equal([expected, expected], host.Tun.Written.Select(w => w.Bytes));
            }
        }
    }

    [Fact]
    [Provokes(DropReason.GreTruncated)]
    public void Each_datagram_is_judged_by_itself()
    {
        Peer peer = Serve(_host, keyIn: 42);
        byte[] good = Packets.GrePacket(Udp4.Build(), checksum: true, key: 42);
        byte[] damaged = [.. good[..^1], (byte)(good[^1] ^ 1)];
        byte[] wrongKey = Packets.GrePacket(Udp4.Build(), checksum: true, key: 43);
        byte[] noKey = [.. Packets.GrePacket(Udp4.Build(), checksum: true), 0, 0, 0, 0];
        byte[] routed = [0x40, .. good[1..]];
        byte[] shortLast = good[..11];
        _host.Receive(Datagrams([good, damaged, wrongKey, noKey, routed, good, shortLast]));
        Assert.Equal(2, peer.Counters[0].ReceivedPackets);
        Assert.Equal(
            new Dictionary<DropReason, long>
            {
                [DropReason.ChecksumMismatch] = 1,
                [DropReason.KeyMismatch] = 2,
                [DropReason.GreReservedBits] = 1,
                [DropReason.GreTruncated] = 1,
            },
            _host.Drops());
    }

    [Theory]
    [Provokes(DropReason.UnknownPeer)]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(3)]
    public void Datagrams_too_short_for_GRE_are_dropped(int length)
    {
        Peer peer = Serve(_host);
        _host.Receive(new ReceivedPacket(new byte[length]) { Reception = Reception.UdpSocket, Source = Overlay.Address(Vm2) });
        Assert.Equal(1, peer.Counters[0].Drops(DropReason.GreTruncated));
        _host.Receive(new ReceivedPacket(new byte[length]) { Reception = Reception.UdpSocket, Source = Overlay.Address(Elsewhere) });
        Assert.Equal(1, _host.Network.Drops(DropReason.GreTruncated));
        _host.Receive(Datagrams([Packets.GrePacket(Udp4.Build()), Packets.GrePacket(Udp4.Build())]) with { Source = Overlay.Address(Elsewhere) });
        Assert.Equal(2, _host.Network.Drops(DropReason.UnknownPeer));
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void What_a_packet_socket_says_of_a_coalesced_packet_is_exact(FlowPacket first)
    {
        foreach ((bool checksum, uint? key, uint? sequence) in ((bool, uint?, uint?)[])[
            (false, null, null), (false, 42, null), (true, null, null), (true, 42, 9)])
        {
            var host = new MemoryHost();
            Peer peer = Serve(host, keyIn: key);
            byte[] inner = (first with { Payload = Packets.Payload(30_000), IsPartial = true }).Build();
            byte[] gre = Packets.GrePacket(inner, checksum, key, sequence);
            if (checksum)
            {
                // It is the first segment's.
                gre[4] ^= 0x55;
            }

            Offload inside = SegmentationTests.OffloadOf(first, 1234);
            int before = 20 + gre.Length - inner.Length;
            Offload said = inside with { ChecksumStart = (ushort)(inside.ChecksumStart + before), HeaderLength = (ushort)(inside.HeaderLength + before) };
            host.Receive(Sniffed(gre) with { Offload = said });

            Assert.Equal(inner, Assert.Single(host.Tun.Written).Bytes);
            Assert.Equal(inside with { HeaderLength = 0 }, host.Tun.Written[0].Offload);
            Assert.Equal((25, inner.Length + (24 * first.HeaderLength)), (peer.Counters[0].ReceivedPackets, peer.Counters[0].ReceivedBytes));
        }
    }

    [Fact]
    public void Outer_options_shift_the_checksum_start_too()
    {
        Serve(_host);
        byte[] inner = (Tcp4 with { IsPartial = true }).Build();
        byte[] outer = Packets.Ipv4(Vm2, Vm1, Packets.Gre, Packets.GrePacket(inner), options: [1, 1, 1, 0]);
        _host.Receive(new ReceivedPacket(outer) { Reception = Reception.PacketSocket, Offload = new Offload(GsoType.None, 0, 0, NeedsChecksum: true, 48, 16) });
        Assert.Equal(new Offload(GsoType.None, 0, 0, NeedsChecksum: true, 20, 16), Assert.Single(_host.Tun.Written).Offload);
    }

    [Fact]
    public void A_segment_size_that_is_known_may_be_joined_and_a_guess_may_not()
    {
        Serve(_host);
        FlowPacket super = Tcp4 with { Payload = Packets.Payload(10_000), IsPartial = true };
        byte[] gre = Packets.GrePacket(super.Build());
        byte[] next = Packets.GrePacket((Tcp4 with { Sequence = Tcp4.Sequence + 10_000 }).Build());
        Offload said = SegmentationTests.OffloadOf(Tcp4, 1000) with { ChecksumStart = 44 };
        _host.Underlay.Enqueue(Sniffed(gre) with { Offload = said });
        _host.Underlay.Enqueue(Sniffed(next));
        _host.RunInbound();
        Assert.Equal(11_040, Assert.Single(_host.Tun.Written).Bytes.Length);
        Assert.Equal(1000, _host.Tun.Written[0].Offload.SegmentSize);

        _host.Tun.Written.Clear();
        _host.Underlay.Enqueue(Packets.Outer(Vm2, Vm1, gre));
        _host.Underlay.Enqueue(Packets.Outer(Vm2, Vm1, next));
        _host.RunInbound();
        Assert.Equal([10_040, 1040], _host.Tun.Written.Select(w => w.Bytes.Length));
        Assert.Equal(536, _host.Tun.Written[0].Offload.SegmentSize);
    }

    // What a packet socket calls finished is finished, even where it looks as if it were not.
    [Fact]
    public void Beside_a_packet_socket_nothing_is_guessed()
    {
        Serve(_host);
        _host.Receive(Sniffed(Packets.GrePacket((Udp4 with { Payload = new byte[9000], IsPartial = true }).Build())));
        Assert.Equal(default, Assert.Single(_host.Tun.Written).Offload);
        Assert.Empty(_host.Drops());
    }

    [Fact]
    public void An_ordinary_packet_must_have_a_right_GRE_checksum()
    {
        Peer peer = Serve(_host);
        byte[] gre = Packets.GrePacket(Udp4.Build(), checksum: true);
        gre[^1] ^= 1;
        _host.Receive(Sniffed(gre));
        Assert.Equal(1, peer.Counters[0].Drops(DropReason.ChecksumMismatch));
    }

    [Fact]
    [Provokes(DropReason.OuterMalformed)]
    public void A_bad_outer_checksum_is_seen_where_the_kernel_has_not_looked()
    {
        Serve(_host);
        byte[] outer = Packets.Outer(Vm2, Vm1, Packets.GrePacket(Udp4.Build()));
        outer[10] ^= 1;
        _host.Receive(new ReceivedPacket(outer) { Reception = Reception.PacketSocket });
        Assert.Equal(new Dictionary<DropReason, long> { [DropReason.OuterMalformed] = 1 }, _host.Drops());
        Assert.Empty(_host.Tun.Written);
    }

    [Fact]
    public void Ethernet_padding_is_cut_off()
    {
        Peer peer = Serve(_host);
        byte[] inner = (Udp4 with { Payload = [] }).Build();
        byte[] gre = Packets.GrePacket(inner, checksum: true);
        ReceivedPacket packet = Sniffed(gre);
        _host.Receive(packet with { Bytes = [.. packet.Bytes, 0xa5, 0xa5, 0xa5] });
        Assert.Equal(inner, Assert.Single(_host.Tun.Written).Bytes);
        Assert.Equal(inner.Length, peer.Counters[0].ReceivedBytes);
    }

    public static TheoryData<string, byte[]> GrePackets => new()
    {
        { "good", Packets.GrePacket(Udp4.Build()) },
        { "wrong key", Packets.GrePacket(Udp4.Build(), key: 5) },
        { "PPTP", [0x30, 0x01, 0x88, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0] },
        { "routing", [0x40, 0, 8, 0, 0, 0, 0, 0] },
        { "truncated", [0x20, 0, 8, 0] },
        { "another protocol", Packets.GrePacket(Udp4.Build(), protocolType: 0x6558) },
    };

    // A packet socket also gets what this host forwards: it is somebody else's, whatever is in it.
    [Theory]
    [MemberData(nameof(GrePackets))]
    public void What_is_not_for_this_host_is_not_even_counted(string what, byte[] gre)
    {
        Serve(_host);
        foreach (string source in (string[])[Vm2, Elsewhere])
        {
            _host.Receive(new ReceivedPacket(Packets.Outer(source, Elsewhere, gre)) { Reception = Reception.PacketSocket });
        }

        Assert.True(_host.Drops().Count == 0 && _host.Tun.Written.Count == 0, what);
    }

    [Theory]
    [MemberData(nameof(GrePackets))]
    public void What_is_for_this_host_is_counted(string what, byte[] gre)
    {
        Peer peer = Serve(_host);

        // To the address that packets to the peer are sent from, and to any other that is listed.
        _host.Receive(Sniffed(gre));
        _host.Receive(new ReceivedPacket(Packets.Outer(Vm2, "192.168.40.77", gre)) { Reception = Reception.PacketSocket });
        Assert.Equal(2, peer.Counters[0].ReceivedPackets + peer.Counters[0].TotalDrops);
        Assert.Equal(what == "good" ? 2 : 0, _host.Tun.Written.Count);

        _host.Receive(new ReceivedPacket(Packets.Outer(Elsewhere, "192.168.40.77", gre)) { Reception = Reception.PacketSocket });
        Assert.Equal(1, _host.Network.TotalDrops);
    }

    [Fact]
    public void A_raw_socket_gets_only_what_is_for_this_host()
    {
        Peer peer = Serve(_host);
        _host.Receive(Packets.Outer(Vm2, Elsewhere, Packets.GrePacket(Udp4.Build())));
        Assert.Equal(1, peer.Counters[0].ReceivedPackets);
    }

    [Fact]
    public void The_ways_of_receiving_mix_in_one_batch()
    {
        Peer peer = Serve(_plain);
        byte[][] inner = [.. Enumerable.Range(0, 6).Select(i => (Udp4 with { Payload = [(byte)i] }).Build())];
        _plain.Underlay.Enqueue(Packets.Outer(Vm2, Vm1, Packets.GrePacket(inner[0])));
        _plain.Underlay.Enqueue(Datagrams([.. inner[1..4].Select(p => Packets.GrePacket(p))]));
        _plain.Underlay.Enqueue(Sniffed(Packets.GrePacket(inner[4])));
        _plain.Underlay.Enqueue(Packets.Outer(Vm2, Vm1, Packets.GrePacket(inner[5])));
        _plain.RunInbound();
        Assert.Equal(inner, _plain.Tun.Written.Select(w => w.Bytes));
        Assert.Equal(6, peer.Counters[0].ReceivedPackets);
    }

    private static ReceivedPacket Sniffed(byte[] gre) => new(Packets.Outer(Vm2, Vm1, gre)) { Reception = Reception.PacketSocket };

    private static ReceivedPacket Datagrams(byte[][] datagrams) => new([.. datagrams.SelectMany(d => d)])
    {
        Reception = Reception.UdpSocket,
        Source = Overlay.Address(Vm2),
        SegmentSize = datagrams[0].Length,
    };

    private static Peer Serve(MemoryHost host, uint? keyIn = null, string endpoint = Vm2, string local = Vm1)
    {
        Peer peer = Overlay.Peer(endpoint: endpoint, local: local, keyIn: keyIn);
        host.With([(peer, ["172.17.52.0/24", "fd00:52::/64"])], ownAddresses: ["192.168.40.77"]);
        return peer;
    }
}
