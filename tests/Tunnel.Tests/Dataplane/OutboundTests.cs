using System.Buffers.Binary;
using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

/// <summary>The way from the TUN device to the wire; the ids before some names are those of docs/conformance.md.</summary>
public sealed class OutboundTests
{
    private const string Here4 = "172.17.51.2";
    private const string There4 = "172.17.52.2";
    private const string Here6 = "fd00:51::2";
    private const string There6 = "fd00:52::2";

    private static readonly byte[] Packet4 = Packets.UdpPacket(Here4, There4, Packets.Payload(100));
    private static readonly byte[] Packet6 = Packets.UdpPacket(Here6, There6, Packets.Payload(100));

    private readonly MemoryHost _host = new();

    [Theory]
    [MemberData(nameof(PeerTests.Emitted), MemberType = typeof(PeerTests))]
    public void Sends_the_golden_packets(string name)
    {
        GoldenPacket golden = GoldenPackets.Get(name);
        Peer peer = PeerTests.PeerOf(golden);
        _host.With([(peer, ["172.17.51.0/24", "fd00:51::/64"])]);
        byte[] inner = golden.Bytes[peer.Overhead..];
        _host.Send(inner);

        (byte[] sent, InetAddress destination) = Assert.Single(_host.Underlay.Sent);
        Assert.Equal(Convert.ToHexString(golden.Bytes), Convert.ToHexString(sent));
        Assert.Equal(peer.Settings.Endpoint, destination);
        Assert.Equal((1, inner.Length), (peer.Counters[0].SentPackets, peer.Counters[0].SentBytes));
        Assert.Empty(_host.Drops());
    }

    [Fact]
    public void An_idle_TUN_device_makes_no_work()
    {
        Assert.Equal(0, _host.RunOutbound());
        Assert.Empty(_host.Underlay.Sent);
    }

    [Fact]
    public void The_longest_prefix_wins()
    {
        Peer wide = Overlay.Peer("wide", endpoint: "192.168.40.12");
        Peer narrow = Overlay.Peer("narrow", endpoint: "192.168.40.13");
        _host.With([(wide, ["172.17.0.0/16"]), (narrow, ["172.17.52.2/32"])]);
        _host.Send(Packet4);
        _host.Send(Packets.UdpPacket(Here4, "172.17.52.3", []));
        Assert.Equal(["192.168.40.13", "192.168.40.12"], _host.Underlay.Sent.Select(s => s.Destination.ToString()));
    }

    [Fact]
    public void Bytes_behind_the_inner_packet_are_not_sent()
    {
        Peer peer = Serve();
        _host.Send([.. Packet4, 0xa5, 0xa5, 0xa5]);
        _host.Send([.. Packet6, 0xa5]);
        Assert.Equal(Encapsulated(Packet4), _host.Underlay.Sent[0].Bytes);
        Assert.Equal(Encapsulated(Packet6), _host.Underlay.Sent[1].Bytes);
        Assert.Equal(Packet4.Length + Packet6.Length, peer.Counters[0].SentBytes);
    }

    [Fact]
    public void More_packets_than_a_batch_holds_go_out_in_order()
    {
        Peer peer = Serve(sequence: true);
        for (int i = 0; i < 200; i++)
        {
            _host.Tun.Enqueue(Packets.UdpPacket(Here4, There4, Packets.Payload(i)));
        }

        Assert.Equal(200, _host.RunOutbound());
        Assert.Equal(200, _host.Underlay.Sent.Count);
        for (int i = 0; i < 200; i++)
        {
            byte[] inner = Packets.UdpPacket(Here4, There4, Packets.Payload(i));
            byte[] gre = Packets.GrePacket(inner, sequence: (uint)i);
            Assert.Equal(Packets.Outer("192.168.40.11", "192.168.40.12", gre), _host.Underlay.Sent[i].Bytes);
        }

        Assert.Equal(200, peer.Counters[0].SentPackets);
    }

    [Fact]
    public void A_snapshot_takes_effect_with_the_next_batch()
    {
        Peer old = Serve();
        Peer next = Overlay.Peer("vm3", endpoint: "192.168.40.13", keyOut: 3);
        RoutingSnapshot after = Overlay.Snapshot([(next, ["172.17.52.0/24"])]);

        // The change comes while the first batch is under way.
        _host.Underlay.OnSend = _ =>
        {
            _host.Routing.Current = after;
            return TransmitResult.Sent;
        };
        for (int i = 0; i < 70; i++)
        {
            _host.Tun.Enqueue(Packet4);
        }

        _host.RunOutbound();
        Assert.Equal((64, 6), (old.Counters[0].SentPackets, next.Counters[0].SentPackets));
        Assert.All(_host.Underlay.Sent.Take(64), s => Assert.Equal("192.168.40.12", s.Destination.ToString()));
        Assert.All(_host.Underlay.Sent.Skip(64), s => Assert.Equal("192.168.40.13", s.Destination.ToString()));
    }

    [Theory]
    [Provokes(DropReason.InnerNotIp)]
    [InlineData("")]
    [InlineData("00")]
    [InlineData("50112233445566778899aabbccddeeff0011223344")]
    [InlineData("ffffffff")]
    public void What_is_not_IP_is_dropped(string hex)
    {
        Serve();
        _host.Send(Convert.FromHexString(hex));
        AssertDropped(DropReason.InnerNotIp, _host.Network);
    }

    [Theory]
    [Provokes(DropReason.InnerHeaderMalformed)]
    [InlineData(true)]
    [InlineData(false)]
    public void A_truncated_packet_is_dropped_at_every_length(bool isIpv4)
    {
        Serve();
        byte[] packet = isIpv4 ? Packet4 : Packet6;
        for (int length = 1; length < packet.Length; length++)
        {
            _host.Tun.Enqueue(packet[..length]);
        }

        _host.RunOutbound();
        AssertDropped(DropReason.InnerHeaderMalformed, _host.Network, packet.Length - 1);
    }

    [Theory]
    [Provokes(DropReason.InnerMulticast)]
    [InlineData(Here4, "224.0.0.1")]
    [InlineData(Here4, "239.255.255.255")]
    [InlineData(Here4, "255.255.255.255")]
    [InlineData(Here6, "ff02::1")]
    [InlineData(Here6, "ff0e::1")]
    public void Multicast_and_broadcast_are_dropped_even_with_a_default_route(string source, string destination)
    {
        _host.With([(Overlay.Peer(), ["0.0.0.0/0", "::/0"])]);
        _host.Send(Packets.UdpPacket(source, destination, []));
        AssertDropped(DropReason.InnerMulticast, _host.Network);
    }

    [Theory]
    [Provokes(DropReason.NoRoute)]
    [InlineData(Here4, "172.17.53.2")]
    [InlineData(Here4, "223.255.255.255")]
    [InlineData(Here6, "fd00:53::2")]
    [InlineData(Here6, "fe80::1")]
    public void A_destination_of_no_peer_is_dropped(string source, string destination)
    {
        Serve();
        _host.Send(Packets.UdpPacket(source, destination, []));
        AssertDropped(DropReason.NoRoute, _host.Network);
    }

    [Theory]
    [Provokes(DropReason.InnerTtlExpired)]
    [InlineData(Here4, There4)]
    [InlineData(Here6, There6)]
    public void I6_a_TTL_of_0_is_never_encapsulated(string source, string destination)
    {
        Peer peer = Serve();
        _host.Send(Packets.Ip(source, destination, Packets.Udp, [], ttl: 0));
        AssertDropped(DropReason.InnerTtlExpired, peer.Counters[0]);

        // The kernel has taken the last hop off already: 1 still goes.
        _host.Send(Packets.Ip(source, destination, Packets.Udp, [], ttl: 1));
        Assert.Single(_host.Underlay.Sent);
    }

    [Theory]
    [Provokes(DropReason.InnerSourceIsEndpoint)]
    [InlineData("192.168.40.12", "192.168.40.11", "172.17.52.2")]
    [InlineData("fd00:40::12", "fd00:40::11", "fd00:52::2")]
    public void I6_a_source_that_is_an_end_of_the_tunnel_is_never_encapsulated(string endpoint, string local, string destination)
    {
        Peer peer = Overlay.Peer(endpoint: endpoint, local: local);
        _host.With([(peer, ["172.17.52.0/24", "fd00:52::/64"])]);
        _host.Send(Packets.UdpPacket(local, destination, []));
        AssertDropped(DropReason.InnerSourceIsEndpoint, peer.Counters[0]);
        _host.Send(Packets.UdpPacket(endpoint, destination, []));
        AssertDropped(DropReason.InnerSourceIsEndpoint, peer.Counters[0], 2);

        // Neighbours of theirs may well be behind this host.
        _host.Send(Packets.UdpPacket(local.Replace("11", "13", StringComparison.Ordinal), destination, []));
        Assert.Single(_host.Underlay.Sent);
    }

    [Fact]
    public void A_super_packet_counts_as_its_segments_whatever_becomes_of_it()
    {
        Peer unready = Overlay.Peer(endpoint: "::");
        _host.With([(unready, ["172.17.52.0/24"])]);
        foreach (string destination in new[] { "172.17.53.2", "172.17.52.2" })
        {
            FlowPacket packet = new() { Source = Here4, Destination = destination, IsPartial = true, Payload = Packets.Payload(2500) };
            _host.Send(packet.Build(), SegmentationTests.OffloadOf(packet, 1000));
        }

        Assert.Equal(new Dictionary<DropReason, long> { [DropReason.NoRoute] = 3, [DropReason.PeerNotReady] = 3 }, _host.Drops());
    }

    [Theory]
    [Provokes(DropReason.PeerNotReady)]
    [InlineData("::", "192.168.40.11")]
    [InlineData("192.168.40.12", "::")]
    [InlineData("fd00:40::12", "::")]
    [InlineData("::", "::")]
    public void A_peer_without_addresses_gets_nothing(string endpoint, string local)
    {
        Peer peer = Overlay.Peer(endpoint: endpoint, local: local);
        _host.With([(peer, ["172.17.52.0/24"])]);
        _host.Send(Packet4);
        AssertDropped(DropReason.PeerNotReady, peer.Counters[0]);
    }

    [Theory]
    [Provokes(DropReason.UnderlayQueueFull)]
    [Provokes(DropReason.UnderlayTooLong)]
    [Provokes(DropReason.UnderlayUnreachable)]
    [Provokes(DropReason.UnderlayDenied)]
    [Provokes(DropReason.UnderlaySendFailed)]
    [InlineData(TransmitResult.QueueFull, DropReason.UnderlayQueueFull)]
    [InlineData(TransmitResult.TooLong, DropReason.UnderlayTooLong)]
    [InlineData(TransmitResult.Unreachable, DropReason.UnderlayUnreachable)]
    [InlineData(TransmitResult.Denied, DropReason.UnderlayDenied)]
    [InlineData(TransmitResult.Failed, DropReason.UnderlaySendFailed)]
    public void What_the_underlay_refuses_is_counted_by_its_cause(TransmitResult result, DropReason reason)
    {
        Peer refused = Overlay.Peer("vm2", endpoint: "192.168.40.12");
        Peer taken = Overlay.Peer("vm3", endpoint: "192.168.40.13");
        _host.With([(refused, ["172.17.52.0/24"]), (taken, ["172.17.53.0/24"])]);
        _host.Underlay.OnSend = packet => packet[19] == 12 ? result : TransmitResult.Sent;
        byte[] other = Packets.UdpPacket(Here4, "172.17.53.2", []);
        foreach (byte[] packet in (byte[][])[other, Packet4, other, Packet4, Packet4])
        {
            _host.Tun.Enqueue(packet);
        }

        _host.RunOutbound();
        Assert.Equal(3, refused.Counters[0].Drops(reason));
        Assert.Equal((3, 0), (refused.Counters[0].TotalDrops, refused.Counters[0].SentPackets));
        Assert.Equal((0, 2), (taken.Counters[0].TotalDrops, taken.Counters[0].SentPackets));
        Assert.Equal(0, _host.Network.TotalDrops);
    }

    [Theory]
    [Provokes(DropReason.ExceedsGmtu)]
    [InlineData(true)]
    [InlineData(false)]
    public void What_exceeds_the_GMTU_is_answered_and_what_just_fits_is_sent(bool isIpv4)
    {
        Peer peer = Serve(gmtu: 1400);
        int headers = isIpv4 ? 28 : 48;
        _host.Send(Packets.UdpPacket(isIpv4 ? Here4 : Here6, isIpv4 ? There4 : There6, new byte[1400 - headers]));
        Assert.Equal(1400, peer.Counters[0].SentBytes);
        Assert.Empty(_host.Tun.Written);

        byte[] offending = Packets.UdpPacket(isIpv4 ? Here4 : Here6, isIpv4 ? There4 : There6, new byte[1401 - headers]);
        _host.Send(offending);
        Assert.Equal(1, peer.Counters[0].Drops(DropReason.ExceedsGmtu));
        Assert.Equal(1, peer.Counters[0].TotalDrops);
        Assert.Single(_host.Underlay.Sent);

        (byte[] answer, Offload offload) = Assert.Single(_host.Tun.Written);
        Assert.Equal(default, offload);
        AssertAnswer(answer, from: isIpv4 ? There4 : "fd00:201::1", to: isIpv4 ? Here4 : Here6, mtu: 1400, offending);
    }

    [Theory]
    [InlineData(null, "192.168.40.11", Here4, There4, There4)]
    [InlineData("10.0.201.1", "fd00:40::11", Here4, There4, There4)]
    [InlineData(null, "fd00:40::11", Here6, There6, "fd00:40::11")]
    [InlineData("fd00:201::1", "fd00:40::11", Here6, There6, "fd00:201::1")]
    [InlineData("10.0.201.1", "192.168.40.11", Here6, There6, There6)]
    public void The_answer_comes_from_an_IPv6_address_of_this_hosts_or_else_from_the_destination(
        string? overlay, string local, string source, string destination, string from)
    {
        string endpoint = local.Contains('.', StringComparison.Ordinal) ? "192.168.40.12" : "fd00:40::12";
        Peer peer = Overlay.Peer(endpoint: endpoint, local: local);
        _host.With([(peer, ["172.17.52.0/24", "fd00:52::/64"])], overlay is null ? [] : [overlay]);
        byte[] offending = Packets.UdpPacket(source, destination, new byte[2000]);
        _host.Send(offending);

        AssertDropped(DropReason.ExceedsGmtu, peer.Counters[0]);
        AssertAnswer(Assert.Single(_host.Tun.Written).Bytes, from, source, mtu: 1476, offending);
    }

    public static TheoryData<string, byte[]> Unanswered
    {
        get
        {
            var data = new TheoryData<string, byte[]>();
            byte[] large = Packets.Payload(2000);
            foreach (byte type in (byte[])[3, 4, 5, 11, 12])
            {
                data.Add($"ICMP error {type}", Packets.IcmpPacket(Here4, There4, type, 0, large));
            }

            foreach (byte type in (byte[])[1, 2, 3, 4, 127, 137])
            {
                data.Add($"ICMPv6 error {type}", Packets.IcmpPacket(Here6, There6, type, 0, large));
            }

            data.Add("a later fragment", Packets.Ipv4(Here4, There4, Packets.Udp, large, fragmentOffset: 8));
            foreach (string source in (string[])["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"])
            {
                data.Add($"from {source}", Packets.UdpPacket(source, There4, large));
            }

            foreach (string source in (string[])["::", "::1", "ff02::1"])
            {
                data.Add($"from {source}", Packets.UdpPacket(source, There6, large));
            }

            return data;
        }
    }

    // RFC 1122 section 3.2.2, RFC 4443 section 2.4 e: no error about an error, a later fragment, or to no single host.
    [Theory]
    [MemberData(nameof(Unanswered))]
    public void Some_packets_are_never_answered(string what, byte[] packet)
    {
        Peer peer = Serve();
        _host.Send(packet);
        Assert.True(_host.Tun.Written.Count == 0, what);
        AssertDropped(DropReason.ExceedsGmtu, peer.Counters[0]);
    }

    [Fact]
    public void Echo_requests_and_first_fragments_are_answered()
    {
        Serve();
        _host.Send(Packets.IcmpPacket(Here4, There4, 8, 0, new byte[2000]));
        _host.Send(Packets.IcmpPacket(Here6, There6, 128, 0, new byte[2000]));
        _host.Send(Packets.Ipv4(Here4, There4, Packets.Udp, new byte[2000], mf: true));
        Assert.Equal(3, _host.Tun.Written.Count);
    }

    [Fact]
    public void Answers_are_limited_to_eight_a_batch_and_200_a_second()
    {
        Peer peer = Serve();
        byte[] large = Packets.UdpPacket(Here4, There4, new byte[2000]);
        for (int i = 0; i < 64; i++)
        {
            _host.Tun.Enqueue(large);
        }

        _host.RunOutbound();
        Assert.Equal(8, _host.Tun.Written.Count);

        long begin = Environment.TickCount64 / 1000;
        for (int i = 0; i < 1000; i++)
        {
            _host.Send(large);
        }

        // Every second of the clock that was seen allows 200.
        long seconds = (Environment.TickCount64 / 1000) - begin + 1;
        Assert.InRange(_host.Tun.Written.Count, 200, 8 + (200 * seconds));
        Assert.Equal(1064, peer.Counters[0].Drops(DropReason.ExceedsGmtu));
    }

    [Fact]
    public void An_answer_that_the_TUN_device_refuses_is_lost_quietly()
    {
        Peer peer = Serve();
        _host.Tun.OnWrite = (_, _) => TransmitResult.Failed;
        _host.Send(Packets.UdpPacket(Here4, There4, new byte[2000]));
        AssertDropped(DropReason.ExceedsGmtu, peer.Counters[0]);
    }

    [Fact]
    public void Answers_do_not_disturb_the_packets_of_their_batch()
    {
        Peer peer = Serve();
        byte[] large = Packets.UdpPacket(Here4, There4, new byte[2000]);
        foreach (byte[] packet in (byte[][])[Packet4, large, Packet6, large, Packet4])
        {
            _host.Tun.Enqueue(packet);
        }

        _host.RunOutbound();
        Assert.Equal([Encapsulated(Packet4), Encapsulated(Packet6), Encapsulated(Packet4)], _host.Underlay.Sent.Select(s => s.Bytes));
        Assert.Equal(2, _host.Tun.Written.Count);
        Assert.Equal((3, 2), (peer.Counters[0].SentPackets, peer.Counters[0].TotalDrops));
    }

    // A length field of 16 bits must not wrap around, whatever the path's MTU is said to be.
    [Fact]
    public void A_packet_that_no_outer_header_can_describe_exceeds_the_GMTU()
    {
        Peer peer = Serve(gmtu: 70_000);
        _host.Send(Packets.UdpPacket(Here4, There4, new byte[65_511 - 28]));
        Assert.Equal(65_535, Assert.Single(_host.Underlay.Sent).Bytes.Length);
        Assert.Equal(65_535, BinaryPrimitives.ReadUInt16BigEndian(_host.Underlay.Sent[0].Bytes.AsSpan(2)));

        byte[] larger = Packets.UdpPacket(Here4, There4, new byte[65_512 - 28]);
        _host.Send(larger);
        Assert.Equal(1, peer.Counters[0].Drops(DropReason.ExceedsGmtu));
        AssertAnswer(Assert.Single(_host.Tun.Written).Bytes, There4, Here4, mtu: 65_511, larger);
    }

    [Fact]
    public void A_worker_counts_in_its_own_counters()
    {
        var settings = new PeerSettings(
            "vm2", Overlay.Address("192.168.40.12"), Overlay.Address("192.168.40.11"), null, null, UsesChecksum: false, UsesSequence: false, 1476);
        var peer = new Peer(settings, [new PeerCounters(), new PeerCounters()], new SequenceState());
        _host.With([(peer, ["172.17.52.0/24"])]);
        var outbound = new Outbound(_host.Tun, _host.Underlay, _host.Routing, _host.Network, new OffloadState(Offloads.None), worker: 1);
        _host.Tun.Enqueue(Packet4);
        outbound.Run();
        Assert.Equal((0, 1), (peer.Counters[0].SentPackets, peer.Counters[1].SentPackets));
    }

    private static byte[] Encapsulated(byte[] inner) => Packets.Outer("192.168.40.11", "192.168.40.12", Packets.GrePacket(inner));

    private static void AssertAnswer(byte[] answer, string from, string to, int mtu, byte[] offending)
    {
        var expected = new byte[IcmpMessage.MaxErrorIpv6];
        Assert.True(QuotedPacket.TryParse(offending, out QuotedPacket packet));
        Assert.Equal(to, packet.Source.ToString());
        int length = IcmpMessage.WriteTooBig(expected, Overlay.Address(from), packet, mtu);
        Assert.Equal(expected[..length], answer);
    }

    private Peer Serve(int gmtu = 1476, bool sequence = false)
    {
        Peer peer = Overlay.Peer(gmtu: gmtu, sequence: sequence);
        _host.With([(peer, ["172.17.52.0/24", "fd00:52::/64"])], ["10.0.201.1", "fd00:201::1"]);
        return peer;
    }

    private void AssertDropped(DropReason reason, PeerCounters where, int count = 1)
    {
        Assert.Equal(new Dictionary<DropReason, long> { [reason] = count }, _host.Drops());
        Assert.Equal(count, where.Drops(reason));
        Assert.Empty(_host.Underlay.Sent);
    }
}
