using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

/// <summary>F2, U4: IPv4 without DF is fragmented inside. V3: IPv6 that every link must carry is fragmented outside where the path is narrower.</summary>
public sealed class FragmentationTests
{
    private const string Here4 = "172.17.51.2";
    private const string There4 = "172.17.52.2";
    private const string Here6 = "fd00:51::2";
    private const string There6 = "fd00:52::2";

    private const int Rounds = 300;

    private readonly MemoryHost _vm1 = new(Offloads.UdpSegment);
    private readonly MemoryHost _vm2 = new();
    private Peer _to2 = Overlay.Peer();
    private Peer _to1 = Overlay.Peer();

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void F2_what_is_put_together_again_is_the_original(int way)
    {
        var random = new Random(way);
        for (int round = 0; round < Rounds; round++)
        {
            int gmtu = random.Next(68, 1500);
            Join(way, gmtu, withEverything: random.Next(2) == 0);
            List<byte[]> originals = [.. Enumerable.Range(0, random.Next(1, 4)).Select(i => RandomIpv4(random, (ushort)((round * 4) + i)))];
            originals.ForEach(packet => _vm1.Tun.Enqueue([.. packet]));
            _vm1.RunOutbound();

            byte[][] inner = CarryOver();
            Assert.Equal(originals.Select(Convert.ToHexString), Reassembler.Join(inner).Select(Convert.ToHexString));
            Assert.All(inner, packet => Assert.InRange(packet.Length, 20, gmtu));
            Assert.Empty(_vm1.Drops());
            Assert.Empty(_vm2.Drops());

            // There are no more fragments than must be, and each counts as a packet.
            Assert.Equal(originals.Sum(packet => FragmentsOf(packet, gmtu)), inner.Length);
            Assert.Equal((inner.Length, inner.Sum(packet => packet.Length)), (_to2.Counters[0].SentPackets, _to2.Counters[0].SentBytes));
        }
    }

    [Fact]
    public void F2_a_packet_with_options_is_cut_as_RFC_791_draws_it()
    {
        // Record Route, which is not copied; Stream ID, which is; a padding.
        byte[] options = [7, 7, 4, 0, 0, 0, 0, 0x88, 4, 0x12, 0x34, 0];
        Join(way: 0, gmtu: 72, withEverything: false);
        _vm1.Send(Packets.Ipv4(Here4, There4, 99, Packets.Payload(90), id: 0x4321, df: false, options: options));

        string[] expected =
        [
            "4800 0048 4321 2000 3f63 0000 ac113302 ac113402 07070400000000 88041234 00" + Hex(0, 40),
            "4800 0048 4321 2005 3f63 0000 ac113302 ac113402 01010101010101 88041234 00" + Hex(40, 40),
            "4800 002a 4321 000a 3f63 0000 ac113302 ac113402 01010101010101 88041234 00" + Hex(80, 10),
        ];
        Assert.Equal(expected.Select(WithChecksum), _vm1.Underlay.Sent.Select(sent => Convert.ToHexString(sent.Bytes.AsSpan(24))));
    }

    [Theory]
    [InlineData("07ff000000000000", "07ff000000000000")]
    [InlineData("0701000000000000", "0701000000000000")]
    [InlineData("0000000000000007", "0000000000000007")]
    [InlineData("0107030707030001", "0101010101010101")]
    [InlineData("0107030744830307", "0101010144830307")]
    [InlineData("8303ff4404000001", "8303ff0101010101")]
    public void F2_malformed_options_are_carried_as_they_are(string options, string later)
    {
        Join(way: 0, gmtu: 100, withEverything: false);
        _vm1.Send(Packets.Ipv4(Here4, There4, 99, new byte[100], df: false, options: Convert.FromHexString(options)));
        Assert.Equal(
            [options.ToUpperInvariant(), later.ToUpperInvariant()],
            _vm1.Underlay.Sent.Select(sent => Convert.ToHexString(sent.Bytes.AsSpan(24 + 20, 8))));
    }

    [Fact]
    public void F2_an_unfinished_checksum_is_finished_before()
    {
        Join(way: 0, gmtu: 500, withEverything: true);
        FlowPacket datagram = new FlowPacket { Source = Here4, Destination = There4, IsUdp = true, DontFragment = false, Payload = Packets.Payload(1400) };
        _vm1.Send((datagram with { IsPartial = true }).Build(), new Offload(GsoType.None, 0, 0, NeedsChecksum: true, 20, 6));
        Assert.Equal(datagram.Build(), Assert.Single(Reassembler.Join(CarryOver())));
    }

    [Theory]
    [InlineData(0, false)]
    [InlineData(0, true)]
    [InlineData(1, true)]
    [InlineData(2, false)]
    [InlineData(2, true)]
    public void F2_the_segments_of_a_super_packet_are_fragmented(int way, bool isUdp)
    {
        foreach (int payload in (int[])[3000, 4200, 60_000])
        {
            Join(way, gmtu: 600, withEverything: isUdp);
            FlowPacket packet = new FlowPacket
            {
                Source = Here4,
                Destination = There4,
                IsUdp = isUdp,
                DontFragment = false,
                IsPartial = true,
                Payload = Packets.Payload(payload),
            };
            Offload offload = SegmentationTests.OffloadOf(packet, 1400);
            byte[] bytes = packet.Build();
            _vm1.Send([.. bytes], offload);

            byte[][] inner = CarryOver();
            Assert.Equal(ReferenceSegmenter.Cut(bytes, offload).Select(Convert.ToHexString), Reassembler.Join(inner).Select(Convert.ToHexString));
            Assert.All(inner, fragment => Assert.InRange(fragment.Length, 20, 600));
            Assert.Equal(inner.Length, _to2.Counters[0].SentPackets);
            Assert.Empty(_vm1.Drops());
        }
    }

    [Fact]
    public void F2_fragments_of_one_packet_leave_together_in_UDP()
    {
        Join(way: 2, gmtu: 1468, withEverything: false);
        _vm1.Send(Packets.Ipv4(Here4, There4, Packets.Udp, Packets.Payload(20_000), df: false));
        SentPacket sent = Assert.Single(_vm1.Underlay.Packets);
        Assert.Equal((14, 1468 + 4, false), (sent.Segments, sent.SegmentSize, !sent.Outer.DontFragment));
    }

    [Fact]
    public void F2_DF_forbids_it_and_a_GMTU_may_be_too_small()
    {
        Join(way: 0, gmtu: 600, withEverything: false);
        _vm1.Send(Packets.Ipv4(Here4, There4, Packets.Udp, new byte[1000]));
        Assert.Single(_vm1.Tun.Written);
        Assert.Equal(1, _to2.Counters[0].Drops(DropReason.ExceedsGmtu));

        Join(way: 0, gmtu: 27, withEverything: false);
        _vm1.Tun.Written.Clear();
        _vm1.Send(Packets.Ipv4(Here4, There4, Packets.Udp, new byte[1000], df: false));
        Assert.Equal(1, _to2.Counters[0].Drops(DropReason.ExceedsGmtu));
        Assert.Empty(_vm1.Tun.Written);
        Assert.Empty(_vm1.Underlay.Sent);
    }

    // "Ping of death": no fragment may end beyond what a packet can have.
    [Fact]
    public void F2_a_fragment_that_ends_nowhere_is_malformed()
    {
        Join(way: 0, gmtu: 600, withEverything: false);
        _vm1.Send(Packets.Ipv4(Here4, There4, Packets.Udp, new byte[1000], df: false, fragmentOffset: 65_528));
        Assert.Equal(1, _to2.Counters[0].Drops(DropReason.InnerHeaderMalformed));
        _vm1.Send(Packets.Ipv4(Here4, There4, Packets.Udp, new byte[999], df: false, fragmentOffset: 64_536));
        Assert.Equal(2, _vm1.Underlay.Sent.Count);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public void V3_IPv6_of_1280_bytes_passes_in_outer_fragments(int way)
    {
        var random = new Random(way);
        var identities = new HashSet<string>();
        for (int round = 0; round < Rounds; round++)
        {
            int gmtu = way == 0 ? random.Next(100, 1300) : random.Next(1216, 1300);
            Join(way, gmtu, withEverything: random.Next(2) == 0);
            int most = Math.Max(gmtu, 1280);
            List<byte[]> originals =
            [
                .. Enumerable.Range(0, random.Next(1, 5)).Select(_ => Packets.UdpPacket(Here6, There6, Packets.Payload(random.Next(most - 47)))),
                Packets.UdpPacket(Here6, There6, Packets.Payload(most - 48)),
            ];
            originals.ForEach(packet => _vm1.Tun.Enqueue([.. packet]));
            _vm1.RunOutbound();

            byte[][] sent = [.. _vm1.Underlay.Sent.Select(packet => packet.Bytes)];
            Assert.All(sent, packet => Assert.InRange(packet.Length, 20, gmtu + _to2.Overhead));
            foreach (IGrouping<string, byte[]> fragments in sent.Where(packet => Reassembler.IsFragment(packet)).GroupBy(IdentificationOf))
            {
                // The kernel would put in its own for 0. DF is not set.
                Assert.True(identities.Add(fragments.Key));
                Assert.NotEqual("0000", fragments.Key);
                Assert.All(fragments, fragment => Assert.True(way == 1 || (fragment[6] & 0x40) == 0));
            }

            Assert.Equal(originals.Select(Convert.ToHexString), CarryOver(isJoinedOutside: true).Select(Convert.ToHexString));
            Assert.Equal((originals.Count, originals.Sum(packet => packet.Length)), (_to2.Counters[0].SentPackets, _to2.Counters[0].SentBytes));
            Assert.Empty(_vm1.Drops());
            Assert.Empty(_vm2.Drops());

            _vm1.Send(Packets.UdpPacket(Here6, There6, Packets.Payload(most - 47)));
            Assert.Equal(1, _to2.Counters[0].Drops(DropReason.ExceedsGmtu));
        }
    }

    [Theory]
    [InlineData(0, 500, 1280)]
    [InlineData(1, 1236, 1280)]
    [InlineData(2, 1279, 1280)]
    [InlineData(3, 1281, 1281)]
    public void V3_Packet_Too_Big_never_says_less_than_1280(int way, int gmtu, int expected)
    {
        Join(way, gmtu, withEverything: false);
        _vm1.Send(Packets.UdpPacket(Here6, There6, Packets.Payload(expected - 47)));
        Assert.Empty(_vm1.Underlay.Sent);
        Assert.Equal(1, _to2.Counters[0].Drops(DropReason.ExceedsGmtu));
        Assert.True(Ipv6View.TryParse(Assert.Single(_vm1.Tun.Written).Bytes, out Ipv6View answer));
        Assert.True(IcmpView.TryParse(answer.Payload, out IcmpView message));
        Assert.Equal((2, (uint)expected), (message.Type, message.RestOfHeader));
    }

    [Fact]
    public void V3_golden_outer_fragments_of_IPv6()
    {
        Join(way: 1, gmtu: 1236, withEverything: false);
        byte[] inner = Packets.UdpPacket(Here6, There6, Packets.Payload(1232));
        _vm1.Send(inner);
        (byte[] first, byte[] second) = (_vm1.Underlay.Sent[0].Bytes, _vm1.Underlay.Sent[1].Bytes);
        string addresses = "FD000040000000000000000000000011" + "FD000040000000000000000000000012";
        string identification = Convert.ToHexString(first.AsSpan(44, 4));
        string gre = "000086DD" + Convert.ToHexString(inner);
        Assert.Equal("6000000004D82C40" + addresses + "2F000001" + identification + gre[..(1232 * 2)], Convert.ToHexString(first));
        Assert.Equal("60000000003C2C40" + addresses + "2F0004D0" + identification + gre[(1232 * 2)..], Convert.ToHexString(second));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public void V3_segments_of_a_super_packet_pass_in_outer_fragments(int way)
    {
        Join(way, gmtu: 1230, withEverything: true);
        FlowPacket packet = new FlowPacket { Source = Here6, Destination = There6, IsPartial = true, Payload = Packets.Payload(30_000) };
        Offload offload = SegmentationTests.OffloadOf(packet, 1220);
        byte[] bytes = packet.Build();
        _vm1.Send([.. bytes], offload);
        Assert.All(_vm1.Underlay.Sent, sent => Assert.InRange(sent.Bytes.Length, 20, 1230 + _to2.Overhead));
        Assert.Equal(ReferenceSegmenter.Cut(bytes, offload).Select(Convert.ToHexString), CarryOver(isJoinedOutside: true).Select(Convert.ToHexString));
        Assert.Equal(25, _to2.Counters[0].SentPackets);

        _vm1.Send([.. bytes], SegmentationTests.OffloadOf(packet, 1221));
        Assert.Equal(25, _to2.Counters[0].Drops(DropReason.ExceedsGmtu));
        Assert.Single(_vm1.Tun.Written);
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void V3_in_UDP_the_kernel_fragments_what_goes_by_itself(int way)
    {
        Join(way, gmtu: 1000, withEverything: false);
        byte[] small = Packets.UdpPacket(Here6, There6, Packets.Payload(500));
        byte[] large = Packets.UdpPacket(Here6, There6, Packets.Payload(1232));
        foreach (byte[] packet in (byte[][])[small, small, large, large, small, small])
        {
            _vm1.Tun.Enqueue(packet);
        }

        _vm1.RunOutbound();
        Assert.Equal(
            [(2, false), (1, true), (1, true), (2, false)], _vm1.Underlay.Packets.Select(sent => (sent.Segments, !sent.Outer.DontFragment)));
        Assert.Equal([small, small, large, large, small, small], CarryOver());
        Assert.Equal((6, (4 * small.Length) + (2 * large.Length)), (_to2.Counters[0].SentPackets, _to2.Counters[0].SentBytes));

        FlowPacket packets = new FlowPacket { Source = Here6, Destination = There6, IsPartial = true, Payload = Packets.Payload(3000) };
        byte[] bytes = packets.Build();
        Offload offload = SegmentationTests.OffloadOf(packets, 1200);
        _vm1.Underlay.Packets.Clear();
        _vm1.Send([.. bytes], offload);
        Assert.Equal([(1, true), (1, true), (1, false)], _vm1.Underlay.Packets.Select(sent => (sent.Segments, !sent.Outer.DontFragment)));
        Assert.Equal(ReferenceSegmenter.Cut(bytes, offload), CarryOver());
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void V3_in_UDP_a_raw_socket_sends_fragments_that_fit(int way)
    {
        bool isIpv4 = way == 2;
        int ip = isIpv4 ? 20 : 40;
        var random = new Random(way);
        for (int round = 0; round < Rounds; round++)
        {
            int gmtu = random.Next(100, 1300);
            Join(way, gmtu, withEverything: random.Next(2) == 0);
            _to2.Target.TakesRawFragments = true;
            int most = Math.Max(gmtu, 1280);
            FlowPacket flow = new FlowPacket { Source = Here6, Destination = There6, IsPartial = true, Payload = Packets.Payload(3000) };
            Offload offload = SegmentationTests.OffloadOf(flow, 1200);
            byte[] super = flow.Build();
            List<byte[]> originals =
            [
                .. Enumerable.Range(0, random.Next(1, 5)).Select(_ => Packets.UdpPacket(Here6, There6, Packets.Payload(random.Next(most - 47)))),
                Packets.UdpPacket(Here6, There6, Packets.Payload(most - 48)),
            ];
            originals.ForEach(packet => _vm1.Tun.Enqueue([.. packet]));
            _vm1.Tun.Enqueue([.. super], offload);
            originals.AddRange(ReferenceSegmenter.Cut(super, offload));
            _vm1.RunOutbound();

            int largest = gmtu + _to2.UncutOverhead;
            Assert.All(_vm1.Underlay.Packets, sent => Assert.InRange(sent.IsFragment ? sent.Bytes.Length : 0, 0, largest));
            Assert.Equal(originals.Count, _vm1.Underlay.Packets.Sum(sent => sent.Segments));
            ushort port = (ushort)random.Next(49_152, 65_536);
            byte[][] fragments = [.. _vm1.Underlay.Packets.Where(sent => sent.IsFragment).Select(sent => WithPort(sent, port))];
            Assert.All(fragments, fragment => Assert.True(!isIpv4 || ((fragment[6] & 0x40) == 0 && fragment[9] == 17 && IdentificationOf(fragment) != "0000")));
            var whole = new Queue<byte[]>(Reassembler.Join(fragments));
            foreach (SentPacket sent in _vm1.Underlay.Packets.Where(sent => sent.Segments != 0))
            {
                _vm2.Underlay.Enqueue(new ReceivedPacket(sent.IsFragment ? Datagram(whole.Dequeue(), port) : sent.Bytes)
                {
                    Reception = Reception.UdpSocket,
                    SegmentSize = sent.SegmentSize,
                    Source = _to1.Settings.Endpoint,
                });
            }

            _vm2.Tun.Written.Clear();
            _vm2.RunInbound();
            Assert.Equal(originals.Select(Convert.ToHexString), _vm2.Tun.Written.Select(written => Convert.ToHexString(written.Bytes)));
            Assert.Equal((originals.Count, originals.Sum(packet => packet.Length)), (_to2.Counters[0].SentPackets, _to2.Counters[0].SentBytes));
            Assert.Empty(_vm1.Drops());
            Assert.Empty(_vm2.Drops());
        }

        byte[] WithPort(SentPacket sent, ushort port)
        {
            if (sent.Segments != 0)
            {
                UdpView.AddSourcePort(sent.Bytes.AsSpan(isIpv4 ? 20 : 48), port);
            }

            return sent.Bytes;
        }

        // What a UDP socket hands over, if the checksum is right.
        byte[] Datagram(byte[] packet, ushort port)
        {
            byte[] pseudoHeader = [.. packet[(isIpv4 ? 12 : 8)..ip], 0, 17, .. packet[(ip + 4)..(ip + 6)]];
            Assert.Equal(0xffff, Rfc1071.Sum([.. pseudoHeader, .. packet[ip..]]));
            Assert.True(UdpView.TryParse(packet.AsSpan(ip), out UdpView udp));
            Assert.Equal((port, 4754, packet.Length - ip), (udp.SourcePort, udp.DestinationPort, udp.Length));
            return packet[(ip + 8)..];
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public void V3_a_packet_counts_as_sent_only_with_all_its_fragments(int refused)
    {
        Join(way: 0, gmtu: 500, withEverything: false);
        int number = 0;
        _vm1.Underlay.OnSend = _ => number++ == refused ? TransmitResult.QueueFull : TransmitResult.Sent;
        _vm1.Tun.Enqueue(Packets.UdpPacket(Here6, There6, Packets.Payload(1200)));
        _vm1.Tun.Enqueue(Packets.UdpPacket(Here6, There6, Packets.Payload(1200)));
        _vm1.RunOutbound();
        Assert.Equal(6, number);
        Assert.Equal((1, 1), (_to2.Counters[0].SentPackets, _to2.Counters[0].Drops(DropReason.UnderlayQueueFull)));
        Assert.Equal((1248, 1), (_to2.Counters[0].SentBytes, _to2.Counters[0].TotalDrops));
    }

    // Batches, header slots and pieces run full on the way.
    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    public void Many_large_packets_among_small_ones_keep_their_order(int way)
    {
        Join(way, gmtu: 300, withEverything: true);
        List<byte[]> originals = [.. Enumerable.Range(0, 192).Select(i => (i % 4) switch
        {
            0 => Packets.Ipv4(Here4, There4, Packets.Udp, Packets.Payload(20_000 + i), id: (ushort)i, df: false),
            1 => Packets.UdpPacket(Here4, There4, Packets.Payload(i)),
            2 => Packets.UdpPacket(Here6, There6, Packets.Payload(1232)),
            _ => Packets.Ipv4(Here4, There4, Packets.Udp, Packets.Payload(301 + i), id: (ushort)i, df: false),
        })];
        originals.ForEach(packet => _vm1.Tun.Enqueue([.. packet]));
        _vm1.RunOutbound();
        IReadOnlyList<byte[]> arrived = Reassembler.Join(CarryOver(isJoinedOutside: way == 0));
        Assert.Equal(originals.Select(Convert.ToHexString), arrived.Select(Convert.ToHexString));
        Assert.Empty(_vm1.Drops());
        Assert.Empty(_vm2.Drops());
    }

    // Whole, or a fragment; with options, and any length.
    private static byte[] RandomIpv4(Random random, ushort id)
    {
        var options = new byte[4 * random.Next(11)];
        for (int at = 0; at < options.Length;)
        {
            int length = Math.Min(random.Next(2, 8), options.Length - at);
            byte kind = random.Next(3) == 0 || length < 2 ? (byte)1 : (byte)(random.Next(2, 128) | 0x80);
            options[at] = kind;
            if (kind != 1)
            {
                options[at + 1] = (byte)length;
            }

            at += kind == 1 ? 1 : length;
        }

        // RFC 791's own example: a host must take 68 bytes, 60 of header and 8 of payload.
        int offset = random.Next(3) == 0 ? 8 * random.Next(1, 4000) : 0;
        bool more = random.Next(3) == 0;
        int room = 65_535 - Math.Max(offset, 20 + options.Length);
        int payload = random.Next(4) == 0 ? random.Next(room + 1) : random.Next(Math.Min(room, 3000));
        payload = more ? payload & ~7 : payload;
        var bytes = new byte[payload];
        random.NextBytes(bytes);
        return Packets.Ipv4(Here4, There4, 99, bytes, id: id, df: false, mf: more, fragmentOffset: offset, options: options);
    }

    private static int FragmentsOf(byte[] packet, int gmtu)
    {
        int header = (packet[0] & 0x0f) * 4;
        int step = (gmtu - header) / 8 * 8;
        return packet.Length <= gmtu ? 1 : (packet.Length - header + step - 1) / step;
    }

    private static string IdentificationOf(byte[] packet) =>
        Convert.ToHexString(packet[0] >> 4 == 4 ? packet.AsSpan(4, 2) : packet.AsSpan(44, 4));

    private static string Hex(int first, int count) => Convert.ToHexString(Packets.Payload(first + count).AsSpan(first));

    private static string WithChecksum(string hex)
    {
        byte[] packet = Convert.FromHexString(hex.Replace(" ", "", StringComparison.Ordinal));
        Packets.FixIpv4Checksum(packet);
        return Convert.ToHexString(packet);
    }

    // Ways: GRE over IPv4 and IPv6, GRE-in-UDP over IPv4 and IPv6.
    private void Join(int way, int gmtu, bool withEverything)
    {
        (string one, string two) = way % 2 == 0 ? ("192.168.40.11", "192.168.40.12") : ("fd00:40::11", "fd00:40::12");
        ushort udpPort = (ushort)(way < 2 ? 0 : 4754);
        uint? key = withEverything ? 7 : null;
        _to2 = Overlay.Peer("vm2", two, one, key, key, withEverything, withEverything, gmtu, udpPort);
        _to1 = Overlay.Peer("vm1", one, two, key, key, withEverything, withEverything, gmtu, udpPort);
        _vm1.With([(_to2, ["172.17.52.0/24", "fd00:52::/64"])], ["172.17.51.1", "fd00:51::1"]);
        _vm2.With([(_to1, ["172.17.51.0/24", "fd00:51::/64"])], ["172.17.52.1", "fd00:52::1"]);
        _vm1.Underlay.Sent.Clear();
        _vm1.Underlay.Packets.Clear();
    }

    // What vm2's TUN device gets of what was sent.
    private byte[][] CarryOver(bool isJoinedOutside = false)
    {
        if (isJoinedOutside)
        {
            foreach (byte[] packet in Reassembler.Join(_vm1.Underlay.Sent.Select(sent => sent.Bytes)))
            {
                _vm2.Underlay.Enqueue(packet);
            }
        }
        else
        {
            foreach (SentPacket sent in _vm1.Underlay.Packets)
            {
                _vm2.Underlay.Enqueue(sent.Target.UdpPort == 0
                    ? new ReceivedPacket(sent.Bytes)
                    : new ReceivedPacket(sent.Bytes) { Reception = Reception.UdpSocket, SegmentSize = sent.SegmentSize, Source = _to1.Settings.Endpoint });
            }
        }

        _vm1.Underlay.Sent.Clear();
        _vm1.Underlay.Packets.Clear();
        _vm2.Tun.Written.Clear();
        _vm2.RunInbound();
        return [.. _vm2.Tun.Written.Select(written => written.Bytes)];
    }
}
