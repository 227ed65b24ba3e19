using System.Buffers.Binary;
using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

/// <summary>What leaves for super-packets, unfinished packets, and peers of GRE-in-UDP.</summary>
public sealed class SendQueueTests
{
    private const int MaxDatagramBytes = 65_487;

    private static readonly FlowPacket Tcp4 = new() { Source = "172.17.51.2", Destination = "172.17.52.2", Flags = 0x18 };
    private static readonly FlowPacket Tcp6 = Tcp4 with { Source = "fd00:51::2", Destination = "fd00:52::2" };
    private static readonly FlowPacket Udp4 = Tcp4 with { IsUdp = true };
    private static readonly FlowPacket Udp6 = Tcp6 with { IsUdp = true };

    private readonly MemoryHost _host = new(Offloads.TunTcp | Offloads.TunUdp | Offloads.UdpSegment);

    public static TheoryData<FlowPacket, bool, bool, bool> SuperPackets
    {
        get
        {
            var data = new TheoryData<FlowPacket, bool, bool, bool>();
            foreach (FlowPacket head in (FlowPacket[])[Tcp4, Tcp6, Udp4, Udp6])
            {
                for (int i = 0; i < 8; i++)
                {
                    data.Add(head, (i & 4) != 0, (i & 2) != 0, (i & 1) != 0);
                }
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(SuperPackets))]
    public void Each_segment_of_a_super_packet_is_a_whole_GRE_packet(FlowPacket head, bool checksum, bool key, bool sequence)
    {
        uint? number = key ? 0xfedc_ba98 : null;
        Peer peer = Serve(Overlay.Peer(keyOut: number, checksum: checksum, sequence: sequence));
        byte[] super = (head with { Payload = Random(30_001), IsPartial = true }).Build();
        Offload offload = SegmentationTests.OffloadOf(head, 1300);
        _host.Send(super, offload);
        _host.Send(super, offload);

        byte[][] segments = [.. ReferenceSegmenter.Cut(super, offload), .. ReferenceSegmenter.Cut(super, offload)];
        byte[][] expected = [.. segments.Select((s, i) => Packets.Outer(
            "192.168.40.11", "192.168.40.12", Packets.GrePacket(s, checksum, number, sequence ? (uint)i : null)))];
        Assert.Equal(expected.Select(Convert.ToHexString), _host.Underlay.Sent.Select(s => Convert.ToHexString(s.Bytes)));
        Assert.All(segments, s => Assert.Null(ReferenceSegmenter.Fault(s)));
        Assert.All(_host.Underlay.Packets, p => Assert.Equal((0, 1), (p.SegmentSize, p.Segments)));
        Assert.Equal((segments.Length, segments.Sum(s => s.Length)), (peer.Counters[0].SentPackets, peer.Counters[0].SentBytes));
        Assert.Empty(_host.Drops());
    }

    [Fact]
    public void The_outer_header_may_be_IPv6()
    {
        Serve(Overlay.Peer(endpoint: "fd00:40::12", local: "fd00:40::11", checksum: true));
        byte[] super = (Tcp4 with { Payload = Random(5000), IsPartial = true }).Build();
        Offload offload = SegmentationTests.OffloadOf(Tcp4, 1300);
        _host.Send(super, offload);
        Assert.Equal(
            ReferenceSegmenter.Cut(super, offload).Select(s => Packets.Outer("fd00:40::11", "fd00:40::12", Packets.GrePacket(s, checksum: true))),
            _host.Underlay.Sent.Select(s => s.Bytes));
    }

    // 64 super-packets of 300 segments are many times what the queue holds.
    [Fact]
    public void More_segments_than_the_queue_holds_leave_in_order()
    {
        Peer peer = Serve(Overlay.Peer());
        var expected = new List<byte[]>();
        for (int i = 0; i < 64; i++)
        {
            FlowPacket head = i % 3 == 0 ? Udp4 : Tcp4;
            byte[] packet = (head with { Payload = Random(3000 + i), IsPartial = i % 4 != 1, Sequence = (uint)i }).Build();
            Offload offload = i % 4 == 1 ? default : SegmentationTests.OffloadOf(head, 10);
            if (i % 4 == 1)
            {
                packet = (head with { Payload = Random(100 + i) }).Build();
            }

            expected.AddRange(ReferenceSegmenter.Cut(packet, offload));
            _host.Tun.Enqueue(packet, offload);
        }

        Assert.Equal(64, _host.RunOutbound());
        Assert.Equal(expected.Select(e => Packets.Outer("192.168.40.11", "192.168.40.12", Packets.GrePacket(e))), _host.Underlay.Sent.Select(s => s.Bytes));
        Assert.Equal(expected.Count, peer.Counters[0].SentPackets);
    }

    [Fact]
    public void What_is_refused_is_counted_by_segment()
    {
        Peer peer = Serve(Overlay.Peer());
        int calls = 0;
        _host.Underlay.OnSend = _ => ++calls % 2 == 0 ? TransmitResult.QueueFull : TransmitResult.Sent;
        _host.Send((Tcp4 with { Payload = Random(5000), IsPartial = true }).Build(), SegmentationTests.OffloadOf(Tcp4, 1000));
        Assert.Equal((3, 2), (peer.Counters[0].SentPackets, peer.Counters[0].Drops(DropReason.UnderlayQueueFull)));
        Assert.Equal(3 * 1040, peer.Counters[0].SentBytes);
    }

    [Theory]
    [Provokes(DropReason.ExceedsGmtu)]
    [InlineData(false)]
    [InlineData(true)]
    public void A_super_packet_whose_segments_exceed_the_GMTU_is_answered_once_and_dropped_by_segment(bool isIpv6)
    {
        Peer peer = Serve(Overlay.Peer(gmtu: 1400));
        FlowPacket head = isIpv6 ? Tcp6 : Tcp4;
        byte[] super = (head with { Payload = Random(10_000), IsPartial = true }).Build();
        int fits = 1400 - head.HeaderLength;
        _host.Send(super, SegmentationTests.OffloadOf(head, fits));
        Assert.Equal((10_000 + fits - 1) / fits, _host.Underlay.Sent.Count);
        Assert.Empty(_host.Tun.Written);
        long sent = peer.Counters[0].SentPackets;

        _host.Send(super, SegmentationTests.OffloadOf(head, fits + 1));
        Assert.Equal((10_000 + fits) / (fits + 1), peer.Counters[0].Drops(DropReason.ExceedsGmtu));
        Assert.Equal(sent, peer.Counters[0].SentPackets);
        byte[] answer = Assert.Single(_host.Tun.Written).Bytes;
        Assert.Equal(isIpv6 ? 2 : 3, answer[isIpv6 ? 40 : 20]);
        Assert.Equal(1400, isIpv6 ? BinaryPrimitives.ReadInt32BigEndian(answer.AsSpan(44)) : BinaryPrimitives.ReadUInt16BigEndian(answer.AsSpan(26)));

        // The answer quotes what the sender will know again: its headers.
        int quoted = isIpv6 ? 48 : 28;
        Assert.Equal(super[..head.TransportStart], answer[quoted..(quoted + head.TransportStart)]);
    }

    [Fact]
    public void A_short_super_packet_is_judged_by_what_it_has()
    {
        Serve(Overlay.Peer(gmtu: 1400));
        byte[] small = (Tcp4 with { Payload = Random(1360), IsPartial = true }).Build();
        _host.Send(small, SegmentationTests.OffloadOf(Tcp4, 9000));
        Assert.Single(_host.Underlay.Sent);
    }

    [Theory]
    [MemberData(nameof(SuperPackets))]
    public void An_unfinished_checksum_is_finished(FlowPacket head, bool checksum, bool key, bool sequence)
    {
        Peer peer = Serve(Overlay.Peer(keyOut: key ? 7 : null, checksum: checksum, sequence: sequence));
        foreach (int length in (int[])[0, 1, 2, 77, 1300])
        {
            FlowPacket packet = head with { Payload = Random(length) };
            Offload offload = SegmentationTests.OffloadOf(head, 0) with { Gso = GsoType.None, HeaderLength = 0 };
            _host.Send((packet with { IsPartial = true }).Build(), offload);
            Assert.Equal(Convert.ToHexString(packet.Build()), Convert.ToHexString(_host.Underlay.Sent[^1].Bytes[peer.Overhead..]));
            Assert.True(GreView.TryParse(_host.Underlay.Sent[^1].Bytes.AsSpan(20), out GreView gre) == GreParseResult.Ok && gre.IsChecksumValid);
        }
    }

    [Fact]
    public void A_finished_UDP_checksum_is_never_0()
    {
        Serve(Overlay.Peer());
        ushort checksum = BinaryPrimitives.ReadUInt16BigEndian((Udp4 with { Payload = [0, 0] }).Build().AsSpan(26));
        byte[] packet = (Udp4 with { Payload = [(byte)(checksum >> 8), (byte)checksum], IsPartial = true }).Build();
        _host.Send(packet, new Offload(GsoType.None, 0, 0, NeedsChecksum: true, 20, 6));
        Assert.Equal(0xffff, BinaryPrimitives.ReadUInt16BigEndian(_host.Underlay.Sent[0].Bytes.AsSpan(24 + 26)));
    }

    [Theory]
    [Provokes(DropReason.InnerHeaderMalformed)]
    [InlineData(GsoType.None, 0, 55, 16, false)]
    [InlineData(GsoType.None, 0, 54, 16, true)]
    [InlineData(GsoType.None, 0, 65_535, 65_535, false)]
    [InlineData(GsoType.None, 0, 20, 51, false)]
    [InlineData(GsoType.TcpV4, 10, 24, 16, false)]
    [InlineData(GsoType.TcpV6, 10, 20, 16, false)]
    [InlineData(GsoType.TcpV4, 0, 20, 16, false)]
    [InlineData(GsoType.UdpL4, 10, 60, 6, false)]
    [InlineData(GsoType.TcpV4, 10, 20, 16, true)]
    public void An_offload_that_points_outside_the_packet_is_a_drop(GsoType gso, ushort segmentSize, ushort start, ushort offset, bool isSent)
    {
        Peer peer = Serve(Overlay.Peer());
        byte[] packet = (Tcp4 with { Payload = Random(32), IsPartial = true }).Build();
        Assert.Equal(72, packet.Length);
        _host.Send(packet, new Offload(gso, segmentSize, 0, NeedsChecksum: true, start, offset));
        Assert.Equal(isSent ? 0 : 1, peer.Counters[0].Drops(DropReason.InnerHeaderMalformed));
        Assert.Equal(isSent, _host.Underlay.Sent.Count > 0);
        Assert.Empty(_host.Tun.Written);
    }

    [Fact]
    public void Datagrams_of_a_flow_go_to_a_UDP_peer_in_one_call()
    {
        Peer peer = ServeUdp();
        byte[] super = (Tcp4 with { Payload = Random(30_001), IsPartial = true }).Build();
        Offload offload = SegmentationTests.OffloadOf(Tcp4, 1300);
        _host.Send(super, offload);

        SentPacket sent = Assert.Single(_host.Underlay.Packets);
        IReadOnlyList<byte[]> segments = ReferenceSegmenter.Cut(super, offload);
        Assert.Equal((1344, segments.Count), (sent.SegmentSize, sent.Segments));
        Assert.Equal((ushort)4754, sent.Target.UdpPort);
        Assert.NotEqual(0u, sent.FlowHash);
        Assert.Equal(segments.Select(s => Packets.GrePacket(s)), sent.Datagrams);
        Assert.Equal((segments.Count, segments.Sum(s => s.Length)), (peer.Counters[0].SentPackets, peer.Counters[0].SentBytes));
    }

    [Fact]
    public void A_single_datagram_is_not_to_be_cut()
    {
        ServeUdp(checksum: true, key: 5);
        byte[] packet = (Udp4 with { Payload = Random(100) }).Build();
        _host.Send(packet);
        SentPacket sent = Assert.Single(_host.Underlay.Packets);
        Assert.Equal((0, 1), (sent.SegmentSize, sent.Segments));
        Assert.Equal(Packets.GrePacket(packet, checksum: true, key: 5), sent.Bytes);
    }

    [Fact]
    public void Single_packets_of_a_flow_go_together_until_one_is_shorter_or_longer()
    {
        ServeUdp();
        int[] lengths = [500, 500, 500, 100, 500, 500, 501, 501, 100, 100, 100];
        foreach (int length in lengths)
        {
            _host.Tun.Enqueue((Udp4 with { Payload = Random(length) }).Build());
        }

        _host.RunOutbound();
        Assert.Equal([4, 2, 3, 2], _host.Underlay.Packets.Select(p => p.Segments));
        Assert.Equal([532, 532, 533, 132], _host.Underlay.Packets.Select(p => p.SegmentSize));
        Assert.Equal(
            lengths.Select(l => Packets.GrePacket((Udp4 with { Payload = Random(l) }).Build())),
            _host.Underlay.Packets.SelectMany(p => p.Datagrams));
    }

    [Fact]
    public void Other_flows_and_other_peers_begin_anew()
    {
        Peer first = Overlay.Peer("vm2", udpPort: 4754);
        Peer second = Overlay.Peer("vm3", endpoint: "192.168.40.13", udpPort: 4754);
        Peer plain = Overlay.Peer("vm4", endpoint: "192.168.40.14");
        _host.With([(first, ["172.17.52.0/24"]), (second, ["172.17.53.0/24"]), (plain, ["172.17.54.0/24"])]);
        FlowPacket other = Udp4 with { SourcePort = 9 };
        FlowPacket toSecond = Udp4 with { Destination = "172.17.53.2" };
        FlowPacket toPlain = Udp4 with { Destination = "172.17.54.2" };
        foreach (FlowPacket packet in (FlowPacket[])[Udp4, Udp4, other, other, Udp4, toSecond, toSecond, toPlain, toPlain, Udp4, Udp4])
        {
            _host.Tun.Enqueue((packet with { Payload = Random(200) }).Build());
        }

        _host.RunOutbound();
        Assert.Equal([2, 2, 1, 2, 1, 1, 2], _host.Underlay.Packets.Select(p => p.Segments));
        Assert.Equal(["12", "12", "12", "13", "14", "14", "12"], _host.Underlay.Packets.Select(p => p.Target.Endpoint.ToString()[^2..]));
        Assert.Equal((7, 2, 2), (first.Counters[0].SentPackets, second.Counters[0].SentPackets, plain.Counters[0].SentPackets));
        Assert.Equal([0u, 0u], _host.Underlay.Packets.Where(p => p.Target.UdpPort == 0).Select(p => p.FlowHash));
    }

    [Fact]
    public void At_most_64_datagrams_go_together()
    {
        Peer peer = ServeUdp();
        _host.Send((Tcp4 with { Payload = Random(13_000), IsPartial = true }).Build(), SegmentationTests.OffloadOf(Tcp4, 100));
        Assert.Equal([64, 64, 2], _host.Underlay.Packets.Select(p => p.Segments));
        Assert.Equal(130, peer.Counters[0].SentPackets);
        Assert.Equal(13_000 + (130 * 40), peer.Counters[0].SentBytes);
    }

    // The GRE header counts: 4 bytes a datagram, and 40 of IP and TCP.
    [Theory]
    [InlineData(1300)]
    [InlineData(1416)]
    [InlineData(5000)]
    public void At_most_65487_bytes_go_together(int segmentSize)
    {
        ServeUdp(gmtu: 9100);
        byte[] super = (Tcp4 with { Payload = Random(65_000), IsPartial = true }).Build();
        _host.Send(super, SegmentationTests.OffloadOf(Tcp4, segmentSize));
        _host.Send(super, SegmentationTests.OffloadOf(Tcp4, segmentSize));
        int most = MaxDatagramBytes / (segmentSize + 44);
        Assert.All(_host.Underlay.Packets, p => Assert.InRange(p.Bytes.Length, 1, MaxDatagramBytes));
        Assert.Equal(most, _host.Underlay.Packets[0].Segments);
    }

    [Fact]
    public void The_limit_of_bytes_is_reached_exactly()
    {
        // 21,829 x 3 = 65,487.
        ServeUdp(gmtu: 30_000);
        int payload = (MaxDatagramBytes / 3) - 4 - 28;
        for (int i = 0; i < 3; i++)
        {
            _host.Tun.Enqueue((Udp4 with { Payload = Random(payload) }).Build());
        }

        _host.RunOutbound();
        Assert.Equal(MaxDatagramBytes, Assert.Single(_host.Underlay.Packets).Bytes.Length);

        _host.Underlay.Packets.Clear();
        for (int i = 0; i < 3; i++)
        {
            _host.Tun.Enqueue((Udp4 with { Payload = Random(payload + 1) }).Build());
        }

        _host.RunOutbound();
        Assert.Equal([2, 1], _host.Underlay.Packets.Select(p => p.Segments));
    }

    [Fact]
    public void Without_UDP_SEGMENT_each_datagram_goes_by_itself()
    {
        var host = new MemoryHost(Offloads.TunTcp | Offloads.TunUdp);
        host.With([(Overlay.Peer(udpPort: 4754), ["172.17.52.0/24"])]);
        byte[] super = (Tcp4 with { Payload = Random(3001), IsPartial = true }).Build();
        Offload offload = SegmentationTests.OffloadOf(Tcp4, 1000);
        host.Send(super, offload);
        Assert.Equal(ReferenceSegmenter.Cut(super, offload).Select(s => Packets.GrePacket(s)), host.Underlay.Sent.Select(s => s.Bytes));
        Assert.All(host.Underlay.Packets, p => Assert.Equal((0, 1), (p.SegmentSize, p.Segments)));
    }

    [Fact]
    public void A_refused_call_counts_all_its_datagrams()
    {
        Peer peer = ServeUdp();
        int calls = 0;
        _host.Underlay.OnSend = _ => ++calls == 1 ? TransmitResult.Unreachable : TransmitResult.Sent;
        _host.Send((Tcp4 with { Payload = Random(7000), IsPartial = true }).Build(), SegmentationTests.OffloadOf(Tcp4, 100));
        Assert.Equal(64, peer.Counters[0].Drops(DropReason.UnderlayUnreachable));
        Assert.Equal(6, peer.Counters[0].SentPackets);
        Assert.Equal(6 * 140, peer.Counters[0].SentBytes);
    }

    [Fact]
    public void A_batch_does_not_continue_the_one_before()
    {
        ServeUdp();
        byte[] packet = (Udp4 with { Payload = Random(10) }).Build();
        _host.Send(packet);
        _host.Send(packet);
        Assert.Equal([1, 1], _host.Underlay.Packets.Select(p => p.Segments));
    }

    public static TheoryData<FlowPacket, bool, ushort> LeftToTheKernel
    {
        get
        {
            var data = new TheoryData<FlowPacket, bool, ushort>();
            foreach (FlowPacket head in (FlowPacket[])[Tcp4, Tcp6])
            {
                data.Add(head, false, 0);
                data.Add(head, true, 0);
                data.Add(head, false, 4754);
                data.Add(head, true, 4754);
            }

            data.Add(Udp4, false, 0);
            data.Add(Udp6, true, 0);
            return data;
        }
    }

    [Theory]
    [MemberData(nameof(LeftToTheKernel))]
    public void What_the_kernel_cuts_leaves_whole(FlowPacket head, bool key, ushort udpPort)
    {
        uint? number = key ? 0xfedc_ba98 : null;
        Peer peer = ServeTaker(Overlay.Peer(keyOut: number, gmtu: 1400, udpPort: udpPort));
        byte[] super = (head with { Payload = Random(30_001), IsPartial = true }).Build();
        Offload offload = SegmentationTests.OffloadOf(head, 1300);
        _host.Send(super, offload with { HeaderLength = 7 });

        SentPacket sent = Assert.Single(_host.Underlay.Packets);
        byte[] gre = Packets.GrePacket(super, key: number);
        Assert.Equal(
            Convert.ToHexString(udpPort == 0 ? Packets.Outer("192.168.40.11", "192.168.40.12", gre) : InUdp(gre, udpPort)),
            Convert.ToHexString(sent.Bytes));
        byte[][] segments = [.. ReferenceSegmenter.Cut(super, offload)];
        int headers = segments[0].Length - 1300;
        Assert.Equal((offload with { HeaderLength = (ushort)headers }, segments.Length), (sent.Offload, sent.Segments));
        Assert.Equal(udpPort != 0, sent.FlowHash != 0);
        Assert.Equal((segments.Length, segments.Sum(s => s.Length)), (peer.Counters[0].SentPackets, peer.Counters[0].SentBytes));
        Assert.Empty(_host.Drops());
    }

    // GRE checksums and sequence numbers differ in each segment; a UDP socket that receives inner datagrams whole can't part them; and the
    // outer length has 16 bits.
    [Theory]
    [InlineData(false, true, false, (ushort)0, 3001)]
    [InlineData(false, false, true, (ushort)0, 3001)]
    [InlineData(false, true, false, (ushort)4754, 3001)]
    [InlineData(false, false, true, (ushort)4754, 3001)]
    [InlineData(true, false, false, (ushort)4754, 3001)]
    [InlineData(false, false, false, (ushort)4754, 65_535 - 40 - 31)]
    [InlineData(false, false, false, (ushort)0, 65_535 - 40 - 23)]
    public void What_the_kernel_cannot_cut_is_cut_here(bool isUdp, bool checksum, bool sequence, ushort udpPort, int payload)
    {
        ServeTaker(Overlay.Peer(checksum: checksum, sequence: sequence, gmtu: 1400, udpPort: udpPort));
        FlowPacket head = isUdp ? Udp4 : Tcp4;
        byte[] super = (head with { Payload = Random(payload), IsPartial = true }).Build();
        Offload offload = SegmentationTests.OffloadOf(head, 1300);
        _host.Send(super, offload);
        Assert.Equal(ReferenceSegmenter.Cut(super, offload).Count, _host.Underlay.Packets.Sum(p => p.Segments));
        Assert.All(_host.Underlay.Packets, p => Assert.Equal(default, p.Offload));
    }

    [Theory]
    [InlineData(0, 23)]
    [InlineData(4754, 31)]
    public void The_longest_outer_packet_is_left_to_the_kernel(ushort udpPort, int oneTooMany)
    {
        ServeTaker(Overlay.Peer(gmtu: 1400, udpPort: udpPort));
        byte[] super = (Tcp4 with { Payload = Random(65_535 - 40 - oneTooMany - 1), IsPartial = true }).Build();
        _host.Send(super, SegmentationTests.OffloadOf(Tcp4, 1300));
        Assert.Equal(65_535, Assert.Single(_host.Underlay.Packets).Bytes.Length);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_peer_is_asked_once_and_gets_segments_until_it_says_that_it_takes_more(bool isUdp)
    {
        _host.Underlay.CutsAll = true;
        Peer peer = Serve(Overlay.Peer(keyOut: 7, gmtu: 1400));
        FlowPacket head = isUdp ? Udp4 : Tcp4;
        byte[] super = (head with { Payload = Random(3001), IsPartial = true }).Build();
        Offload offload = SegmentationTests.OffloadOf(head, 1300);
        _host.Send(super, offload);
        byte[][] segments = [.. ReferenceSegmenter.Cut(super, offload)];
        byte[] question = Packets.GrePacket([1, 1, 1, 0], key: 7, protocolType: 0x88B5);
        Assert.Equal(
            ((byte[][])[question, .. segments.Select(s => Packets.GrePacket(s, key: 7))]).Select(gre => Packets.Outer("192.168.40.11", "192.168.40.12", gre)),
            _host.Underlay.Sent.Select(s => s.Bytes));
        Assert.Equal((segments.Length, segments.Sum(s => s.Length)), (peer.Counters[0].SentPackets, peer.Counters[0].SentBytes));

        _host.Underlay.Packets.Clear();
        peer.Target.Abilities.Hear(isUdp ? Abilities.TcpSuperPackets : Abilities.UdpSuperPackets, Environment.TickCount64);
        _host.Send(super, offload);
        Assert.Equal(segments.Length, _host.Underlay.Packets.Count);
        _host.Underlay.Packets.Clear();
        peer.Target.Abilities.Hear(isUdp ? Abilities.UdpSuperPackets : Abilities.TcpSuperPackets, Environment.TickCount64);
        _host.Send(super, offload);
        Assert.Equal(segments.Length, Assert.Single(_host.Underlay.Packets).Segments);
        Assert.Empty(_host.Drops());
    }

    // What a raw socket receives has lost the boundaries of datagrams; what a packet socket receives has them beside it.
    [Theory]
    [InlineData(Reception.RawSocket, (ushort)0, 1)]
    [InlineData(Reception.PacketSocket, (ushort)0, 3)]
    [InlineData(Reception.UdpSocket, (ushort)4754, 1)]
    public void A_question_is_answered_with_what_this_host_takes(Reception reception, ushort udpPort, byte abilities)
    {
        Peer peer = Serve(Overlay.Peer(keyIn: 5, keyOut: 7, udpPort: udpPort));
        byte[] gre = Packets.GrePacket([1, 1, 1, 0], key: 5, protocolType: 0x88B5);
        byte[] received = udpPort == 0 ? Packets.Outer("192.168.40.12", "192.168.40.11", gre) : gre;
        for (int i = 0; i < 3; i++)
        {
            _host.Underlay.Enqueue(new ReceivedPacket(received) { Reception = reception, Source = Overlay.Address("192.168.40.12") });
        }

        _host.RunInbound();
        byte[] answer = Packets.GrePacket([1, 1, 0, abilities], key: 7, protocolType: 0x88B5);
        Assert.Equal(udpPort == 0 ? Packets.Outer("192.168.40.11", "192.168.40.12", answer) : answer, Assert.Single(_host.Underlay.Sent).Bytes);
        Assert.Equal((0, 0), (peer.Counters[0].ReceivedPackets, peer.Counters[0].SentPackets));
        Assert.False(peer.Target.Abilities.Has(Abilities.TcpSuperPackets, Environment.TickCount64));

        _host.Underlay.Enqueue(new ReceivedPacket(udpPort == 0 ? Packets.Outer("192.168.40.12", "192.168.40.11", Said(3)) : Said(3)) { Reception = reception, Source = Overlay.Address("192.168.40.12") });
        _host.RunInbound();
        Assert.True(peer.Target.Abilities.Has(Abilities.TcpSuperPackets, Environment.TickCount64));
        Assert.Empty(_host.Drops());

        static byte[] Said(byte abilities) => Packets.GrePacket([1, 1, 0, abilities], key: 5, protocolType: 0x88B5);
    }

    [Fact]
    public void Who_drops_datagrams_that_were_put_together_says_so_at_once()
    {
        Serve(Overlay.Peer());
        byte[] inner = (Udp4 with { Source = Udp4.Destination, Destination = Udp4.Source, Payload = Random(5000), IsPartial = true }).Build();
        _host.Underlay.Enqueue(new ReceivedPacket(Packets.Outer("192.168.40.12", "192.168.40.11", Packets.GrePacket(inner))));
        _host.RunInbound();
        Assert.Equal(1, _host.Drops()[DropReason.CoalescedUdp]);
        Assert.Equal(
            Packets.Outer("192.168.40.11", "192.168.40.12", Packets.GrePacket([1, 1, 0, 1], protocolType: 0x88B5)),
            Assert.Single(_host.Underlay.Sent).Bytes);
    }

    // Which peers take what, the peer has said.
    private Peer ServeTaker(Peer peer)
    {
        _host.Underlay.CutsAll = true;
        peer.Target.Abilities.Hear(Abilities.TcpSuperPackets | Abilities.UdpSuperPackets, Environment.TickCount64);
        return Serve(peer);
    }

    private static byte[] InUdp(byte[] gre, ushort port)
    {
        int length = 8 + gre.Length;
        byte[] datagram = [0, 0, (byte)(port >> 8), (byte)port, (byte)(length >> 8), (byte)length, 0, 0, .. gre];
        BinaryPrimitives.WriteUInt16BigEndian(datagram.AsSpan(6), Packets.PseudoHeader("192.168.40.11", "192.168.40.12", IpProtocol.Udp, length));
        return Packets.Ipv4("192.168.40.11", "192.168.40.12", IpProtocol.Udp, datagram, ttl: 64, tos: 0, id: 0);
    }

    private Peer ServeUdp(int gmtu = 1468, bool checksum = false, uint? key = null) =>
        Serve(Overlay.Peer(gmtu: gmtu, checksum: checksum, keyOut: key, udpPort: 4754));

    private Peer Serve(Peer peer)
    {
        _host.With([(peer, ["172.17.52.0/24", "fd00:52::/64"])], ["10.0.201.1", "fd00:201::1"]);
        return peer;
    }

    private static byte[] Random(int length)
    {
        var bytes = new byte[length];
        new Random(length).NextBytes(bytes);
        return bytes;
    }
}
