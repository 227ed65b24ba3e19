using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

/// <summary>The way from the wire to the TUN device; the ids before some names are those of docs/conformance.md.</summary>
public sealed class InboundTests
{
    private const string Vm2 = "192.168.40.12";
    private const string Vm1 = "192.168.40.11";
    private const string There4 = "172.17.52.2";
    private const string Here4 = "172.17.51.2";
    private const string There6 = "fd00:52::2";
    private const string Here6 = "fd00:51::2";

    private static readonly byte[] Packet4 = Packets.UdpPacket(There4, Here4, Packets.Payload(100));
    private static readonly byte[] Packet6 = Packets.UdpPacket(There6, Here6, Packets.Payload(100));

    private readonly MemoryHost _host = new();

    [Theory]
    [MemberData(nameof(PeerTests.Emitted), MemberType = typeof(PeerTests))]
    public void Delivers_what_is_inside_the_golden_packets(string name)
    {
        GoldenPacket golden = GoldenPackets.Get(name);
        bool isIpv4 = golden.Bytes[0] >> 4 == 4;
        uint? key = golden.Has("gre.key") ? (uint)golden.Number("gre.key") : null;
        Peer peer = Overlay.Peer(endpoint: golden.Text(isIpv4 ? "ip.src" : "ipv6.src"), local: isIpv4 ? Vm1 : "fd00:40::11", keyIn: key);
        _host.With([(peer, ["172.17.52.0/24", "fd00:52::/64"])]);
        _host.Receive(golden.Bytes);

        Assert.Empty(_host.Drops());
        (byte[] delivered, Offload offload) = Assert.Single(_host.Tun.Written);
        int overhead = PeerSettings.OverheadOf(isIpv4, key is not null, golden.Name.Contains("checksum", StringComparison.Ordinal) ||
            golden.Name.Contains("all", StringComparison.Ordinal), golden.Has("gre.sequence_number"));
        Assert.Equal(golden.Bytes[overhead..], delivered);
        Assert.Equal(default, offload);
        Assert.Equal((1, delivered.Length), (peer.Counters[0].ReceivedPackets, peer.Counters[0].ReceivedBytes));
    }

    [Theory]
    [InlineData("outer-ce-inner-ect0", null)]
    [InlineData("outer-ce-inner-not-ect", DropReason.EcnCongestionLost)]
    [InlineData("outer6-ect1-inner6-ect0", null)]
    [InlineData("outer-options", null)]
    [InlineData("gre-bits-6-to-12-set", null)]
    [InlineData("gre-recursion-1", null)]
    [InlineData("gre-reserved1-set", null)]
    [InlineData("gre-checksum-wrong", DropReason.ChecksumMismatch)]
    [InlineData("gre-pptp", DropReason.GreVersionUnsupported)]
    [InlineData("gre-routing", DropReason.GreReservedBits)]
    [InlineData("gre-strict-source-route", DropReason.GreReservedBits)]
    [InlineData("gre-recursion-4", DropReason.GreReservedBits)]
    [InlineData("gre-ethernet", DropReason.GreProtocolUnknown)]
    [InlineData("gre-experimental", DropReason.ControlMessageUnknown)]
    [InlineData("gre-truncated-flags", DropReason.GreTruncated)]
    [InlineData("gre-truncated-checksum", DropReason.GreTruncated)]
    [InlineData("gre-truncated-key", DropReason.GreTruncated)]
    [InlineData("gre-truncated-sequence", DropReason.GreTruncated)]
    [InlineData("gre-empty", DropReason.InnerHeaderMalformed)]
    [InlineData("inner-truncated", DropReason.InnerHeaderMalformed)]
    public void Judges_the_golden_packets_that_others_send(string name, DropReason? reason)
    {
        GoldenPacket golden = GoldenPackets.Get(name);
        Peer ipv4 = Overlay.Peer("a", keyIn: name == "outer-options" ? 42 : null);
        Peer ipv6 = Overlay.Peer("b", endpoint: "fd00:40::12", local: "fd00:40::11");
        _host.With([(ipv4, ["172.17.52.0/24"]), (ipv6, ["fd00:52::/64"])]);
        _host.Receive(golden.Bytes);
        Assert.Equal(reason is null ? [] : new Dictionary<DropReason, long> { [reason.Value] = 1 }, _host.Drops());
        Assert.Equal(reason is null ? 1 : 0, _host.Tun.Written.Count);
    }

    [Theory]
    [InlineData(true, null)]
    [InlineData(false, DropReason.ChecksumMismatch)]
    public void A_GRE_checksum_that_the_senders_kernel_left_to_a_device_is_not_verified(bool isUnfinished, DropReason? reason)
    {
        Serve();
        byte[] gre = Packets.GrePacket(Packet4, checksum: true);
        Packets.Put16(gre, 4, 0);
        _host.Receive(new ReceivedPacket(Packets.Outer(Vm2, Vm1, gre))
        {
            Reception = Reception.PacketSocket,
            Offload = new Offload(GsoType.None, 0, 0, NeedsChecksum: isUnfinished, ChecksumStart: (ushort)(isUnfinished ? 20 : 0), ChecksumOffset: (ushort)(isUnfinished ? 4 : 0)),
        });
        Assert.Equal(reason is null ? [] : new Dictionary<DropReason, long> { [reason.Value] = 1 }, _host.Drops());
        if (reason is null)
        {
            (byte[] delivered, Offload offload) = Assert.Single(_host.Tun.Written);
            Assert.Equal(Packet4, delivered);
            Assert.Equal(default, offload);
        }
    }

    [Fact]
    public void An_idle_underlay_makes_no_work() => Assert.Equal(0, _host.RunInbound());

    [Theory]
    [Provokes(DropReason.OuterMalformed)]
    [InlineData(Vm2, Vm1)]
    [InlineData("fd00:40::12", "fd00:40::11")]
    public void A_truncated_outer_packet_is_dropped_at_every_length(string source, string destination)
    {
        Serve(endpoint: source);
        byte[] packet = Packets.Outer(source, destination, Packets.GrePacket(Packet4, checksum: true));
        for (int length = 0; length < packet.Length; length++)
        {
            _host.Underlay.Enqueue(packet[..length]);
        }

        _host.RunInbound();
        AssertDropped(DropReason.OuterMalformed, _host.Network, packet.Length);
    }

    public static TheoryData<string, byte[]> NoOuterPackets => new()
    {
        { "another protocol", Packets.Ipv4(Vm2, Vm1, 4, Packet4) },
        { "another next header", Packets.Ipv6("fd00:40::12", "fd00:40::11", 41, Packet6) },
        { "a first fragment", Packets.Ipv4(Vm2, Vm1, Packets.Gre, Packets.GrePacket(Packet4), df: false, mf: true) },
        { "a last fragment", Packets.Ipv4(Vm2, Vm1, Packets.Gre, Packets.GrePacket(Packet4), df: false, fragmentOffset: 8) },
        { "another version", [0x50, .. Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packet4))[1..]] },
        { "an IPv4-mapped source", Packets.Outer("::ffff:192.168.40.12", "::ffff:192.168.40.11", Packets.GrePacket(Packet4)) },
    };

    [Theory]
    [Provokes(DropReason.OuterMalformed)]
    [MemberData(nameof(NoOuterPackets))]
    public void What_is_no_GRE_packet_of_the_underlay_is_dropped(string what, byte[] packet)
    {
        Assert.NotEmpty(what);
        Serve();
        _host.Receive(packet);
        AssertDropped(DropReason.OuterMalformed, _host.Network);
    }

    [Theory]
    [Provokes(DropReason.GreTruncated)]
    [Provokes(DropReason.GreVersionUnsupported)]
    [Provokes(DropReason.GreReservedBits)]
    [InlineData("2000080000", DropReason.GreTruncated)]
    [InlineData("", DropReason.GreTruncated)]
    [InlineData("0001080000000000", DropReason.GreVersionUnsupported)]
    [InlineData("0800080000000000", DropReason.GreReservedBits)]
    public void A_bad_GRE_header_is_counted_for_the_peer_of_the_endpoint(string hex, DropReason reason)
    {
        Peer peer = Serve(keyIn: 42);
        _host.Receive(Packets.Outer(Vm2, Vm1, Convert.FromHexString(hex)));
        AssertDropped(reason, peer.Counters[0]);

        // From elsewhere it is counted for the network.
        _host.Receive(Packets.Outer("192.168.40.99", Vm1, Convert.FromHexString(hex)));
        Assert.Equal(1, _host.Network.Drops(reason));
    }

    [Fact]
    [Provokes(DropReason.UnknownPeer)]
    public void A_source_that_is_no_peers_endpoint_is_dropped()
    {
        Serve();
        _host.Receive(Packets.Outer("192.168.40.99", Vm1, Packets.GrePacket(Packet4)));
        AssertDropped(DropReason.UnknownPeer, _host.Network);
    }

    [Theory]
    [Provokes(DropReason.KeyMismatch)]
    [InlineData(null, 42u)]
    [InlineData(null, 0u)]
    [InlineData(42u, null)]
    [InlineData(0u, null)]
    [InlineData(42u, 43u)]
    public void H8_a_packet_with_another_key_is_dropped(uint? expected, uint? arriving)
    {
        Peer peer = Serve(keyIn: expected);
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packet4, key: arriving)));
        AssertDropped(DropReason.KeyMismatch, peer.Counters[0]);
    }

    [Fact]
    public void A_wrong_key_of_a_shared_endpoint_is_counted_for_the_network()
    {
        Peer a = Overlay.Peer("a", keyIn: 1);
        Peer b = Overlay.Peer("b", keyIn: 2);
        _host.With([(a, ["172.17.52.0/24"]), (b, ["172.17.53.0/24"])]);
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packet4, key: 3)));
        AssertDropped(DropReason.KeyMismatch, _host.Network);
    }

    [Fact]
    public void Peers_of_a_shared_endpoint_are_told_apart_by_key()
    {
        Peer a = Overlay.Peer("a", keyIn: 1);
        Peer b = Overlay.Peer("b", keyIn: 2);
        _host.With([(a, ["172.17.52.0/24"]), (b, ["172.17.53.0/24"])]);
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packet4, key: 1)));
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packets.UdpPacket("172.17.53.2", Here4, []), key: 2)));
        Assert.Equal((1, 1), (a.Counters[0].ReceivedPackets, b.Counters[0].ReceivedPackets));
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packet4, key: 2)));
        Assert.Equal(1, b.Counters[0].Drops(DropReason.SourceNotInPeerSubnets));
    }

    [Theory]
    [Provokes(DropReason.ChecksumMismatch)]
    [InlineData(100)]
    [InlineData(101)]
    public void H1_a_wrong_checksum_is_dropped_whether_or_not_the_peer_is_said_to_use_one(int payload)
    {
        Peer peer = Serve();
        byte[] gre = Packets.GrePacket(Packets.UdpPacket(There4, Here4, Packets.Payload(payload)), checksum: true);
        _host.Receive(Packets.Outer(Vm2, Vm1, gre));
        Assert.Single(_host.Tun.Written);
        _host.Tun.Written.Clear();

        gre[^1] ^= 0x10;
        _host.Receive(Packets.Outer(Vm2, Vm1, gre));
        AssertDropped(DropReason.ChecksumMismatch, peer.Counters[0]);
    }

    // The damage may be in the inner header: it is still the checksum that was wrong.
    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(10)]
    [InlineData(30)]
    public void The_checksum_is_checked_before_the_inner_header(int damagedByte)
    {
        Peer peer = Serve();
        foreach (byte[] inner in (byte[][])[Packet4, Packet6])
        {
            byte[] gre = Packets.GrePacket(inner, checksum: true);
            gre[8 + damagedByte] ^= 0x40;
            _host.Receive(Packets.Outer(Vm2, Vm1, gre));
        }

        AssertDropped(DropReason.ChecksumMismatch, peer.Counters[0], 2);
    }

    [Fact]
    [Provokes(DropReason.SequenceOld)]
    public void S2_duplicates_and_old_packets_of_a_batch_are_dropped()
    {
        Peer peer = Serve();
        foreach (uint sequence in (uint[])[5, 5, 6, 4, 9, 7, 9, 10])
        {
            byte[] inner = Packets.UdpPacket(There4, Here4, [(byte)sequence]);
            _host.Underlay.Enqueue(Packets.Outer(Vm2, Vm1, Packets.GrePacket(inner, sequence: sequence)));
        }

        _host.RunInbound();
        Assert.Equal([5, 6, 9, 10], _host.Tun.Written.Select(w => (int)w.Bytes[28]));
        Assert.Equal(4, peer.Counters[0].Drops(DropReason.SequenceOld));
        Assert.Equal(4, peer.Counters[0].TotalDrops);
    }

    [Fact]
    public void S3_packets_without_a_sequence_number_are_always_in_sequence()
    {
        Serve();
        foreach (uint? sequence in (uint?[])[5, null, 6, null, 7])
        {
            _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packet4, sequence: sequence)));
        }

        Assert.Equal(5, _host.Tun.Written.Count);
    }

    [Fact]
    public void A_damaged_packet_does_not_move_the_sequence_window()
    {
        Serve();
        byte[] damaged = Packets.GrePacket(Packet4, checksum: true, sequence: 1_000_000);
        damaged[^1] ^= 1;
        foreach (byte[] gre in (byte[][])[Packets.GrePacket(Packet4, sequence: 1), damaged, Packets.GrePacket(Packet4, sequence: 2)])
        {
            _host.Receive(Packets.Outer(Vm2, Vm1, gre));
        }

        Assert.Equal(new Dictionary<DropReason, long> { [DropReason.ChecksumMismatch] = 1 }, _host.Drops());
    }

    [Fact]
    public void S1_peers_have_sequence_numbers_of_their_own()
    {
        Peer a = Overlay.Peer("a", keyIn: 1);
        Peer b = Overlay.Peer("b", keyIn: 2);
        _host.With([(a, ["172.17.52.0/24"]), (b, ["172.17.53.0/24"])]);
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packet4, key: 1, sequence: 500)));
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packets.UdpPacket("172.17.53.2", Here4, []), key: 2, sequence: 0)));
        Assert.Equal((1, 1), (a.Counters[0].ReceivedPackets, b.Counters[0].ReceivedPackets));
    }

    [Theory]
    [Provokes(DropReason.GreProtocolUnknown)]
    [Provokes(DropReason.ControlMessageUnknown)]
    [InlineData(0x6558, DropReason.GreProtocolUnknown)]
    [InlineData(0x0000, DropReason.GreProtocolUnknown)]
    [InlineData(0x0806, DropReason.GreProtocolUnknown)]
    [InlineData(0xffff, DropReason.GreProtocolUnknown)]
    [InlineData(0x88B5, DropReason.ControlMessageUnknown)]
    public void H4_other_protocol_types_are_dropped(int protocolType, DropReason reason)
    {
        Peer peer = Serve();
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packet4, protocolType: (ushort)protocolType)));
        AssertDropped(reason, peer.Counters[0]);
    }

    public static TheoryData<string, byte[]> MalformedInnerPackets
    {
        get
        {
            var wrongChecksum = (byte[])Packet4.Clone();
            wrongChecksum[10] ^= 1;
            byte[] shortHeader = [0x44, .. Packet4[1..]];
            return new()
            {
                { "nothing", Packets.GrePacket([], protocolType: 0x0800) },
                { "IPv4 truncated", Packets.GrePacket(Packet4[..^1]) },
                { "IPv6 truncated", Packets.GrePacket(Packet6[..^1]) },
                { "IPv4 header checksum wrong", Packets.GrePacket(wrongChecksum) },
                { "IPv4 header too short", Packets.GrePacket(shortHeader) },
                { "IPv6 said to be IPv4", Packets.GrePacket(Packet6, protocolType: 0x0800) },
                { "IPv4 said to be IPv6", Packets.GrePacket(Packet4, protocolType: 0x86DD) },
                { "truncated under a right GRE checksum", Packets.GrePacket(Packet4[..^1], checksum: true) },
            };
        }
    }

    [Theory]
    [Provokes(DropReason.InnerHeaderMalformed)]
    [MemberData(nameof(MalformedInnerPackets))]
    public void A_malformed_inner_packet_is_dropped(string what, byte[] gre)
    {
        Assert.NotEmpty(what);
        Peer peer = Serve();
        _host.Receive(Packets.Outer(Vm2, Vm1, gre));
        AssertDropped(DropReason.InnerHeaderMalformed, peer.Counters[0]);
    }

    [Theory]
    [Provokes(DropReason.CoalescedUdp)]
    [InlineData(100, true, false)]
    [InlineData(100, false, true)]
    [InlineData(5000, false, false)]
    [InlineData(5000, true, false)]
    public void Coalesced_UDP_is_dropped_and_a_partial_datagram_is_not(int payload, bool dropsPartialUdp, bool isDelivered)
    {
        Peer peer = Overlay.Peer();
        _host.With([(peer, ["172.17.52.0/24"])], dropsPartialUdp: dropsPartialUdp);
        byte[] inner = Packets.UdpPacket(There4, Here4, Packets.Payload(payload), isPartial: true);
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(inner)));
        if (isDelivered)
        {
            Assert.Equal(inner, Assert.Single(_host.Tun.Written).Bytes);
            Assert.Equal(new Offload(GsoType.None, 0, 0, NeedsChecksum: true, 20, 6), _host.Tun.Written[0].Offload);
        }
        else
        {
            AssertDropped(DropReason.CoalescedUdp, peer.Counters[0]);
        }
    }

    [Theory]
    [InlineData(There4, Here4, GsoType.TcpV4, 536, 40, 20)]
    [InlineData(There6, Here6, GsoType.TcpV6, 1220, 60, 40)]
    public void A_coalesced_packet_with_a_stale_GRE_checksum_is_delivered_with_its_offload(
        string source, string destination, GsoType gso, ushort segmentSize, ushort headerLength, ushort checksumStart)
    {
        Peer peer = Serve();
        byte[] inner = Packets.TcpPacket(source, destination, Packets.Payload(60_000), isPartial: true);
        byte[] gre = Packets.GrePacket(inner, checksum: true);
        gre[4] ^= 0x55;
        _host.Receive(Packets.Outer(Vm2, Vm1, gre));

        Assert.Empty(_host.Drops());
        (byte[] delivered, Offload offload) = Assert.Single(_host.Tun.Written);
        Assert.Equal(inner, delivered);
        Assert.Equal(new Offload(gso, segmentSize, headerLength, NeedsChecksum: true, checksumStart, 16), offload);
        Assert.Equal((1, inner.Length), (peer.Counters[0].ReceivedPackets, peer.Counters[0].ReceivedBytes));
    }

    [Theory]
    [Provokes(DropReason.SourceNotInPeerSubnets)]
    [InlineData("172.17.53.2", Here4)]
    [InlineData("0.0.0.0", Here4)]
    [InlineData("172.17.51.9", Here4)]
    [InlineData("fd00:53::2", Here6)]
    [InlineData("::", Here6)]
    public void A_source_outside_the_peers_subnets_is_dropped(string source, string destination)
    {
        Peer peer = Serve();
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packets.UdpPacket(source, destination, []))));
        AssertDropped(DropReason.SourceNotInPeerSubnets, peer.Counters[0]);
    }

    [Fact]
    public void The_longest_prefix_decides_whose_a_source_is()
    {
        Peer wide = Overlay.Peer("wide", endpoint: "192.168.40.12");
        Peer narrow = Overlay.Peer("narrow", endpoint: "192.168.40.13");
        _host.With([(wide, ["172.17.0.0/16", "fd00::/16"]), (narrow, ["172.17.52.0/24", "fd00:52::/64"])]);
        foreach ((string from, string source, string destination, bool isAllowed) in ((string, string, string, bool)[])[
            ("192.168.40.12", "172.17.53.1", Here4, true),
            ("192.168.40.12", "172.17.51.255", Here4, true),
            ("192.168.40.12", "172.17.52.0", Here4, false),
            ("192.168.40.12", "172.17.52.255", Here4, false),
            ("192.168.40.13", "172.17.52.0", Here4, true),
            ("192.168.40.13", "172.17.53.1", Here4, false),
            ("192.168.40.12", "fd00:53::1", Here6, true),
            ("192.168.40.12", "fd00:52::1", Here6, false),
            ("192.168.40.13", "fd00:52::1", Here6, true),
            ("192.168.40.13", "fd00:52:0:1::1", Here6, false)])
        {
            int before = _host.Tun.Written.Count;
            _host.Receive(Packets.Outer(from, Vm1, Packets.GrePacket(Packets.UdpPacket(source, destination, []))));
            Assert.True((_host.Tun.Written.Count > before) == isAllowed, $"{source} from {from}");
        }

        Assert.Equal(3, wide.Counters[0].Drops(DropReason.SourceNotInPeerSubnets));
        Assert.Equal(2, narrow.Counters[0].Drops(DropReason.SourceNotInPeerSubnets));
    }

    [Theory]
    [Provokes(DropReason.InnerDestinationIsEndpoint)]
    [InlineData(Vm2, Vm1, There4, Vm2)]
    [InlineData("fd00:40::12", "fd00:40::11", There6, "fd00:40::12")]
    public void H7_a_packet_for_the_endpoint_that_sent_it_is_dropped(string endpoint, string local, string source, string destination)
    {
        Peer peer = Serve(endpoint: endpoint);
        _host.Receive(Packets.Outer(endpoint, local, Packets.GrePacket(Packets.UdpPacket(source, destination, []))));
        AssertDropped(DropReason.InnerDestinationIsEndpoint, peer.Counters[0]);
    }

    [Theory]
    [Provokes(DropReason.ChecksumAbsent)]
    [Provokes(DropReason.ChecksumUnexpected)]
    [Provokes(DropReason.SequenceAbsent)]
    [Provokes(DropReason.SequenceUnexpected)]
    [InlineData(true, false, false, DropReason.ChecksumAbsent)]
    [InlineData(true, true, false, DropReason.ChecksumUnexpected)]
    [InlineData(true, false, true, DropReason.SequenceAbsent)]
    [InlineData(true, false, false, DropReason.SequenceUnexpected)]
    [InlineData(false, false, false, DropReason.ChecksumAbsent)]
    [InlineData(false, true, false, DropReason.ChecksumUnexpected)]
    [InlineData(false, false, true, DropReason.SequenceAbsent)]
    [InlineData(false, false, false, DropReason.SequenceUnexpected)]
    public void H1_from_a_strict_peer_comes_what_is_configured_and_nothing_else(bool isPacket, bool checksum, bool sequence, DropReason reason)
    {
        // What is wrong is the one field that the reason is about.
        bool usesChecksum = reason == DropReason.ChecksumAbsent || (reason != DropReason.ChecksumUnexpected && checksum);
        bool usesSequence = reason == DropReason.SequenceAbsent || (reason != DropReason.SequenceUnexpected && sequence);
        uint? wrongSequence = reason == DropReason.SequenceAbsent ? null : usesSequence || reason == DropReason.SequenceUnexpected ? 7 : null;
        byte[] payload = isPacket ? Packet4 : [1, 1, 0, 1];
        ushort protocolType = isPacket ? EtherType.Ipv4 : EtherType.Experimental;
        byte[] wrong = Packets.GrePacket(payload, checksum, null, wrongSequence, protocolType);
        byte[] right = Packets.GrePacket(payload, usesChecksum, null, usesSequence ? 7 : null, protocolType);
        Peer strict = Overlay.Peer(checksum: usesChecksum, sequence: usesSequence, strict: true);
        _host.With([(strict, ["172.17.52.0/24"])]);
        _host.Receive(Packets.Outer(Vm2, Vm1, wrong));
        AssertDropped(reason, strict.Counters[0]);
        Assert.False(strict.Target.Abilities.IsHeard);

        _host.Receive(Packets.Outer(Vm2, Vm1, right));
        Assert.Equal(1, strict.Counters[0].ReceivedPackets + strict.Counters[0].ReceivedMessages);

        // Who is not strict takes both.
        Peer lax = Overlay.Peer(checksum: usesChecksum, sequence: usesSequence);
        _host.With([(lax, ["172.17.52.0/24"])]);
        _host.Receive(Packets.Outer(Vm2, Vm1, wrong));
        Assert.Equal(1, lax.Counters[0].ReceivedPackets + lax.Counters[0].ReceivedMessages);
    }

    [Fact]
    public void H1_what_comes_back_from_a_strict_peer_is_as_this_host_has_made_it()
    {
        Peer strict = Overlay.Peer(checksum: true, sequence: true, strict: true);
        _host.With([(strict, ["172.17.52.0/24"])]);
        byte[] echo = new byte[EchoMessage.Length];
        new EchoMessage(IsReply: false, 0, Token: 7, Time: 1).Write(echo);
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(echo, protocolType: EtherType.Keepalive)));
        Assert.Equal((1, 0), (strict.Counters[0].ReceivedMessages, strict.Counters[0].TotalDrops));
    }

    [Fact]
    public void H1_a_strict_peers_wrong_checksum_is_what_it_is()
    {
        Peer strict = Overlay.Peer(checksum: true, strict: true);
        _host.With([(strict, ["172.17.52.0/24"])]);
        byte[] gre = Packets.GrePacket(Packet4, checksum: true);
        gre[^1] ^= 1;
        _host.Receive(Packets.Outer(Vm2, Vm1, gre));
        AssertDropped(DropReason.ChecksumMismatch, strict.Counters[0]);
    }

    public static TheoryData<bool, bool, int, int> EcnFields
    {
        get
        {
            var data = new TheoryData<bool, bool, int, int>();
            for (int i = 0; i < 64; i++)
            {
                data.Add((i & 32) != 0, (i & 16) != 0, i >> 2 & 3, i & 3);
            }

            return data;
        }
    }

    [Theory]
    [Provokes(DropReason.EcnCongestionLost)]
    [MemberData(nameof(EcnFields))]
    public void ECN_is_merged_as_RFC_6040_says(bool outerIsIpv4, bool innerIsIpv4, int innerEcn, int outerEcn)
    {
        string endpoint = outerIsIpv4 ? Vm2 : "fd00:40::12";
        Peer peer = Serve(endpoint: endpoint);
        byte[] Inner(int ecn) => Packets.UdpPacket(
            innerIsIpv4 ? There4 : There6, innerIsIpv4 ? Here4 : Here6, Packets.Payload(9), trafficClass: (byte)(0xb8 | ecn));
        byte[] gre = Packets.GrePacket(Inner(innerEcn), checksum: true);
        _host.Receive(Packets.Outer(endpoint, outerIsIpv4 ? Vm1 : "fd00:40::11", gre, trafficClass: (byte)(0x28 | outerEcn)));

        int merged = Ecn.Decapsulate(innerEcn, outerEcn);
        Assert.Equal(Ecn.IsAnomalous(innerEcn, outerEcn) ? 1 : 0, peer.Counters[0].EcnAnomalies);
        if (merged < 0)
        {
            AssertDropped(DropReason.EcnCongestionLost, peer.Counters[0]);
        }
        else
        {
            Assert.Equal(Inner(merged), Assert.Single(_host.Tun.Written).Bytes);
        }
    }

    [Theory]
    [Provokes(DropReason.TunWriteFailed)]
    [InlineData(TransmitResult.QueueFull)]
    [InlineData(TransmitResult.TooLong)]
    [InlineData(TransmitResult.Unreachable)]
    [InlineData(TransmitResult.Denied)]
    [InlineData(TransmitResult.Failed)]
    public void What_the_TUN_device_refuses_is_counted_for_its_peer(TransmitResult result)
    {
        Peer refused = Overlay.Peer("vm2", endpoint: "192.168.40.12");
        Peer taken = Overlay.Peer("vm3", endpoint: "192.168.40.13");
        _host.With([(refused, ["172.17.52.0/24"]), (taken, ["172.17.53.0/24"])]);
        _host.Tun.OnWrite = (packet, _) => packet[14] == 52 ? result : TransmitResult.Sent;
        byte[] other = Packets.UdpPacket("172.17.53.2", Here4, []);
        for (int i = 0; i < 3; i++)
        {
            _host.Underlay.Enqueue(Packets.Outer("192.168.40.13", Vm1, Packets.GrePacket(other)));
            _host.Underlay.Enqueue(Packets.Outer("192.168.40.12", Vm1, Packets.GrePacket(Packet4)));
        }

        _host.RunInbound();
        Assert.Equal(3, refused.Counters[0].Drops(DropReason.TunWriteFailed));
        Assert.Equal((3, 0, 0), (refused.Counters[0].TotalDrops, refused.Counters[0].ReceivedPackets, refused.Counters[0].LastReceived));
        Assert.Equal((0, 3), (taken.Counters[0].TotalDrops, taken.Counters[0].ReceivedPackets));
    }

    [Fact]
    public void Each_check_comes_before_the_next()
    {
        // Each packet has every fault from one on; the first is what it is counted under.
        byte[] stray = Packets.UdpPacket("172.17.99.2", Vm2, [], trafficClass: 0);
        byte[] straySent = Packets.UdpPacket(There4, Vm2, [], trafficClass: 0);
        byte[] coalesced = Packets.UdpPacket("172.17.99.2", Vm2, new byte[5000], isPartial: true);
        byte[] Damaged(byte[] gre)
        {
            gre[^1] ^= 1;
            return gre;
        }

        byte[] WithFlags(byte[] gre, byte first, byte second)
        {
            gre[0] |= first;
            gre[1] |= second;
            return gre;
        }

        Peer peer = Serve(keyIn: 42);
        peer.Sequences.Accept(100);
        byte[] reserved = WithFlags(Damaged(Packets.GrePacket(stray, checksum: true, key: 1, sequence: 99)), 0x08, 0);
        byte[] version = WithFlags([.. reserved], 0, 1);
        (byte[] Outer, DropReason Reason)[] ordered =
        [
            (Packets.Outer("192.168.40.99", Vm1, version, 3)[..^1], DropReason.OuterMalformed),
            (Packets.Outer("192.168.40.99", Vm1, version, 3), DropReason.GreVersionUnsupported),
            (Packets.Outer("192.168.40.99", Vm1, reserved, 3), DropReason.GreReservedBits),
            (Packets.Outer("192.168.40.99", Vm1, Damaged(Packets.GrePacket(stray, true, 1, 99)), 3), DropReason.UnknownPeer),
            (Packets.Outer(Vm2, Vm1, Damaged(Packets.GrePacket(stray, true, 1, 99)), 3), DropReason.KeyMismatch),
            (Packets.Outer(Vm2, Vm1, Damaged(Packets.GrePacket(stray, true, 42, 99, 0x6558)), 3), DropReason.GreProtocolUnknown),
            (Packets.Outer(Vm2, Vm1, Damaged(Packets.GrePacket(stray, true, 42, 99)), 3), DropReason.ChecksumMismatch),
            (Packets.Outer(Vm2, Vm1, Packets.GrePacket(stray[..^1], true, 42, 99), 3), DropReason.InnerHeaderMalformed),
            (Packets.Outer(Vm2, Vm1, Packets.GrePacket(stray, true, 42, 99), 3), DropReason.SequenceOld),
            (Packets.Outer(Vm2, Vm1, Packets.GrePacket(coalesced, false, 42, 101), 3), DropReason.CoalescedUdp),
            (Packets.Outer(Vm2, Vm1, Packets.GrePacket(stray, true, 42, 102), 3), DropReason.SourceNotInPeerSubnets),
            (Packets.Outer(Vm2, Vm1, Packets.GrePacket(straySent, true, 42, 103), 3), DropReason.InnerDestinationIsEndpoint),
            (Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packet4, true, 42, 104), 3), DropReason.EcnCongestionLost),
        ];
        var expected = new Dictionary<DropReason, long>();
        foreach ((byte[] outer, DropReason reason) in ordered)
        {
            _host.Receive(outer);
            expected[reason] = 1;
            Assert.Equal(expected, _host.Drops());
        }

        Assert.Empty(_host.Tun.Written);
    }

    [Fact]
    public void Bytes_behind_the_packets_are_not_delivered()
    {
        Peer peer = Serve();
        _host.Receive([.. Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packet4)), 0xa5, 0xa5]);
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket([.. Packet4, 0xa5, 0xa5])));
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket([.. Packet6, 0xa5], checksum: true)));
        Assert.Equal([Packet4, Packet4, Packet6], _host.Tun.Written.Select(w => w.Bytes));
        Assert.Equal((2 * Packet4.Length) + Packet6.Length, peer.Counters[0].ReceivedBytes);
    }

    [Fact]
    public void The_counters_add_up_over_batches_of_everything()
    {
        Peer a = Overlay.Peer("a", keyIn: 42);
        Peer b = Overlay.Peer("b", endpoint: "192.168.40.13");
        _host.With([(a, ["172.17.52.0/24"]), (b, ["172.17.53.0/24"])]);
        int calls = 0;
        _host.Tun.OnWrite = (_, _) => ++calls % 3 == 0 ? TransmitResult.Failed : TransmitResult.Sent;
        var random = new Random(5);
        const int Total = 500;
        for (int i = 0; i < Total; i++)
        {
            string from = $"192.168.40.{random.Next(11, 15)}";
            byte[] inner = Packets.UdpPacket($"172.17.{random.Next(52, 55)}.2", Here4, Packets.Payload(i));
            byte[] gre = Packets.GrePacket(inner, checksum: random.Next(2) == 0, key: random.Next(2) == 0 ? 42 : null);
            if (random.Next(4) == 0)
            {
                gre[random.Next(gre.Length)] ^= 0x10;
            }

            _host.Underlay.Enqueue(Packets.Outer(from, Vm1, gre));
        }

        Assert.Equal(Total, _host.RunInbound());
        Assert.Equal(Total, _host.Drops().Values.Sum() + a.Counters[0].ReceivedPackets + b.Counters[0].ReceivedPackets);
        Assert.Equal(_host.Tun.Written.Count, a.Counters[0].ReceivedPackets + b.Counters[0].ReceivedPackets);
        Assert.True(_host.Drops().Count >= 6);
    }

    [Fact]
    public void Says_when_a_peer_was_last_heard()
    {
        Peer peer = Serve();
        Assert.Equal(0, peer.Counters[0].LastReceived);
        long before = Environment.TickCount64;
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packet4)));
        Assert.InRange(peer.Counters[0].LastReceived, before, Environment.TickCount64);
    }

    [Fact]
    public void A_snapshot_takes_effect_with_the_next_batch()
    {
        Peer old = Serve();
        Peer next = Overlay.Peer();
        RoutingSnapshot after = Overlay.Snapshot([(next, ["172.17.52.0/24"])]);
        _host.Tun.OnWrite = (_, _) =>
        {
            _host.Routing.Current = after;
            return TransmitResult.Sent;
        };
        for (int i = 0; i < 70; i++)
        {
            _host.Underlay.Enqueue(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packet4)));
        }

        Assert.Equal(70, _host.RunInbound());
        Assert.Equal((64, 6), (old.Counters[0].ReceivedPackets, next.Counters[0].ReceivedPackets));
    }

    [Fact]
    public void A_peer_keeps_its_sequence_state_over_a_change()
    {
        Peer old = Serve();
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packet4, sequence: 10)));
        var changed = new Peer(old.Settings with { Gmtu = 1400 }, old.Counters, old.Sequences);
        _host.With([(changed, ["172.17.52.0/24"])]);
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packet4, sequence: 10)));
        Assert.Equal((1, 1), (changed.Counters[0].ReceivedPackets, changed.Counters[0].Drops(DropReason.SequenceOld)));
    }

    private Peer Serve(string endpoint = Vm2, uint? keyIn = null)
    {
        string local = endpoint.Contains('.', StringComparison.Ordinal) ? Vm1 : "fd00:40::11";
        Peer peer = Overlay.Peer(endpoint: endpoint, local: local, keyIn: keyIn);
        _host.With([(peer, ["172.17.52.0/24", "fd00:52::/64"])], ["10.0.201.1", "fd00:201::1"]);
        return peer;
    }

    private void AssertDropped(DropReason reason, PeerCounters where, int count = 1)
    {
        Assert.Equal(new Dictionary<DropReason, long> { [reason] = count }, _host.Drops());
        Assert.Equal(count, where.Drops(reason));
        Assert.Empty(_host.Tun.Written);
    }

    [Fact]
    public void A_source_of_all_zeros_is_nobodys_even_behind_a_default_route()
    {
        Peer peer = Overlay.Peer();
        _host.With([(peer, ["0.0.0.0/0"])]);
        _host.Receive(Packets.Outer(Vm2, Vm1, Packets.GrePacket(Packets.UdpPacket("0.0.0.0", Here4, Packets.Payload(100)))));
        Assert.Empty(_host.Tun.Written);
        Assert.Equal(1, peer.Counters[0].Drops(DropReason.SourceNotInPeerSubnets));
    }

    // Whose packets the device encapsulates for would be up to the peer.
    [Fact]
    public void A_source_of_all_zeros_is_nobodys_even_where_peers_share_a_subnet()
    {
        Peer first = Overlay.Peer("first", endpoint: Vm2);
        Peer second = Overlay.Peer("second", endpoint: "192.168.40.13");
        var senders = new RouteTable<Peer[]>([KeyValuePair.Create(Overlay.Prefix("0.0.0.0/0"), new[] { first, second })]);
        _host.Routing.Current = new RoutingSnapshot(
            new RouteTable<Peer>([KeyValuePair.Create(Overlay.Prefix("0.0.0.0/0"), first)]), [first, second], [], senders: senders);
        foreach ((Peer peer, string endpoint) in new[] { (first, Vm2), (second, "192.168.40.13") })
        {
            byte[] marked = [.. Packets.Ip("0.0.0.0", "0.0.0.1", IpProtocol.Gre, Packets.UdpPacket("172.17.52.2", Here4, Packets.Payload(100)))];
            _host.Receive(Packets.Outer(endpoint, Vm1, Packets.GrePacket(marked)));
            Assert.Empty(_host.Tun.Written);
            Assert.Equal(1, peer.Counters[0].Drops(DropReason.SourceNotInPeerSubnets));
        }
    }
}
