using System.Buffers.Binary;
using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Dataplane;

/// <summary>Each rule of coalescing by itself, the super-packet that comes out, and what happens where the device refuses one.</summary>
public sealed class DeliveryQueueTests : IDisposable
{
    private const int Size = 1000;

    private static readonly FlowPacket Tcp4 = new() { Payload = Payload(0, Size) };
    private static readonly FlowPacket Tcp6 = Tcp4 with { Source = "fd00:52::2", Destination = "fd00:51::2" };
    private static readonly FlowPacket Udp4 = Tcp4 with { IsUdp = true };
    private static readonly FlowPacket Udp6 = Tcp6 with { IsUdp = true };

    private readonly MemoryTun _tun = new();
    private readonly OffloadState _offloads = new(Offloads.TunTcp | Offloads.TunUdp);
    private readonly Peer _peer = Overlay.Peer();
    private readonly DeliveryQueue _queue;

    public DeliveryQueueTests() => _queue = new DeliveryQueue(_tun, _offloads, worker: 0);

    public void Dispose() => _tun.Dispose();

    public static TheoryData<FlowPacket> Families => [Tcp4, Tcp6, Udp4, Udp6];

    [Theory]
    [MemberData(nameof(Families))]
    public void Consecutive_packets_of_a_flow_become_one(FlowPacket first)
    {
        byte[][] packets = [.. Enumerable.Range(0, 5).Select(i => Next(first, i).Build())];
        Deliver(packets);

        (byte[] super, Offload offload) = Assert.Single(_tun.Written);
        Assert.Equal(SegmentationTests.OffloadOf(first, Size), offload);
        Assert.Equal(WithoutIds(packets), WithoutIds(ReferenceSegmenter.Cut(super, offload)));
        AssertHeader(super, offload);
        AssertReceived(packets);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void A_single_packet_stays_as_it_is(FlowPacket first)
    {
        Deliver(first.Build());
        Assert.Equal(first.Build(), Assert.Single(_tun.Written).Bytes);
        Assert.Equal(default, _tun.Written[0].Offload);
    }

    public static TheoryData<string, FlowPacket, FlowPacket> Joining
    {
        get
        {
            var data = new TheoryData<string, FlowPacket, FlowPacket>();
            foreach (FlowPacket first in (FlowPacket[])[Tcp4, Tcp6, Udp4, Udp6])
            {
                string family = $"{(first.IsIpv4 ? "IPv4" : "IPv6")} {(first.IsUdp ? "UDP" : "TCP")}: ";
                FlowPacket second = Next(first, 1);
                data.Add(family + "shorter last", first, second with { Payload = Payload(Size, 1) });
                data.Add(family + "other IPv4 identification", first, second with { Id = 7 });
                data.Add(family + "the same traffic class", first with { TrafficClass = 0xb9 }, second with { TrafficClass = 0xb9 });
                data.Add(family + "the same TTL", first with { Ttl = 1 }, second with { Ttl = 1 });
                data.Add(family + "left unfinished by the kernel", first with { IsPartial = true }, second with { IsPartial = true });
                data.Add(family + "one of them unfinished", first, second with { IsPartial = true });
            }

            byte[] options = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
            data.Add("no DF", Tcp4 with { DontFragment = false }, Next(Tcp4, 1) with { DontFragment = false });
            data.Add("the same options", Tcp4 with { Options = options }, Next(Tcp4, 1) with { Options = options });
            data.Add("PSH on the last", Tcp4, Next(Tcp4, 1) with { Flags = 0x18 });
            data.Add("sequence over the top", Tcp4 with { Sequence = uint.MaxValue - 99 }, Next(Tcp4, 1) with { Sequence = Size - 100 });
            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Joining))]
    public void Joins(string what, FlowPacket first, FlowPacket second)
    {
        Add(first);
        Add(second);
        _queue.Flush();
        Assert.True(_tun.Written.Count == 1, what);
        (byte[] super, Offload offload) = _tun.Written[0];
        Assert.Equal(
            WithoutIds([(first with { IsPartial = false }).Build(), (second with { IsPartial = false }).Build()]),
            WithoutIds(ReferenceSegmenter.Cut(super, offload)));
        AssertHeader(super, offload);
    }

    public static TheoryData<string, FlowPacket, FlowPacket> NotJoining
    {
        get
        {
            var data = new TheoryData<string, FlowPacket, FlowPacket>();
            byte[] options = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
            byte[] otherOptions = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 9];
            foreach (FlowPacket first in (FlowPacket[])[Tcp4, Tcp6, Udp4, Udp6])
            {
                string family = $"{(first.IsIpv4 ? "IPv4" : "IPv6")} {(first.IsUdp ? "UDP" : "TCP")}: ";
                FlowPacket second = Next(first, 1);
                bool is4 = first.IsIpv4;
                data.Add(family + "source", first, second with { Source = is4 ? "172.17.52.3" : "fd00:52::3" });
                data.Add(family + "destination", first, second with { Destination = is4 ? "172.17.51.3" : "fd00:51::3" });
                data.Add(family + "source port", first, second with { SourcePort = 40_001 });
                data.Add(family + "destination port", first, second with { DestinationPort = 3334 });
                data.Add(family + "traffic class", first, second with { TrafficClass = 0x04 });
                data.Add(family + "ECN", first, second with { TrafficClass = 0x03 });
                data.Add(family + "TTL", first, second with { Ttl = 62 });
                data.Add(family + "longer", first, second with { Payload = Payload(Size, Size + 1) });
                data.Add(family + "bad checksum of the first", first with { Damage = 0x0100 }, second);
                data.Add(family + "bad checksum of the second", first, second with { Damage = 1 });
                data.Add(family + "no payload in the second", first, second with { Payload = [] });
                data.Add(family + "no payload in the first", first with { Payload = [] }, first);
                data.Add(family + "the other protocol", first, second with { IsUdp = !first.IsUdp });
            }

            foreach (FlowPacket first in (FlowPacket[])[Tcp4, Udp4])
            {
                FlowPacket second = Next(first, 1);
                data.Add("DF of the first", first, second with { DontFragment = false });
                data.Add("DF of the second", first with { DontFragment = false }, second);
                data.Add("fragments", first with { DontFragment = false, MoreFragments = true }, second with { DontFragment = false, MoreFragments = true });
                data.Add("later fragments", first with { FragmentOffset = 8 }, second with { FragmentOffset = 8 });
                data.Add("IP options", first with { IpOptions = [1, 1, 1, 0] }, second with { IpOptions = [1, 1, 1, 0] });
                data.Add("IP options of the second", first, second with { IpOptions = [1, 1, 1, 0] });
            }

            foreach (FlowPacket first in (FlowPacket[])[Tcp4, Tcp6])
            {
                FlowPacket second = Next(first, 1);
                data.Add("acknowledgement", first, second with { Acknowledgement = 0x0506_0709 });
                data.Add("window", first, second with { Window = 502 });
                data.Add("options", first with { Options = options }, second with { Options = otherOptions });
                data.Add("options of the second", first, second with { Options = options });
                data.Add("urgent pointer", first, second with { Urgent = 1 });
                data.Add("gap", first, second with { Sequence = second.Sequence + 1 });
                data.Add("overlap", first, second with { Sequence = second.Sequence - 1 });
                data.Add("duplicate", first, first);
                data.Add("before", second, first);
                data.Add("after PSH", first with { Flags = 0x18 }, second);
                foreach (byte flag in (byte[])[FlowPacket.Syn, FlowPacket.Fin, FlowPacket.Rst, FlowPacket.Urg, FlowPacket.Ece, FlowPacket.Cwr])
                {
                    data.Add($"flag {flag:x} on the first", first with { Flags = (byte)(0x10 | flag) }, second);
                    data.Add($"flag {flag:x} on the second", first, second with { Flags = (byte)(0x10 | flag) });
                    data.Add($"flag {flag:x} on both", first with { Flags = (byte)(0x10 | flag) }, second with { Flags = (byte)(0x10 | flag) });
                }

                data.Add("no ACK", first with { Flags = 0 }, second with { Flags = 0 });
            }

            data.Add("flow label", Tcp6, Next(Tcp6, 1) with { FlowLabel = 1 });
            data.Add("no UDP checksum", Udp4 with { HasNoChecksum = true }, Udp4 with { HasNoChecksum = true });
            data.Add("no UDP checksum in the second", Udp4, Udp4 with { HasNoChecksum = true });
            data.Add("no UDP checksum over IPv6", Udp6 with { HasNoChecksum = true }, Udp6 with { HasNoChecksum = true });
            return data;
        }
    }

    [Theory]
    [MemberData(nameof(NotJoining))]
    public void Does_not_join(string what, FlowPacket first, FlowPacket second)
    {
        Deliver(first.Build(), second.Build());
        Assert.True(_tun.Written.Count == 2, what);
        Assert.Equal([first.Build(), second.Build()], _tun.Written.Select(w => w.Bytes));
        Assert.All(_tun.Written, w => Assert.Equal(default, w.Offload));
        AssertReceived(first.Build(), second.Build());
    }

    [Fact]
    public void A_UDP_length_that_is_not_the_packets_keeps_it_apart()
    {
        byte[] first = Udp4.Build();
        byte[] second = Udp4.Build();
        second[25]--;
        second[27]++;
        Deliver(first, second, first);
        Assert.Equal([first, second, first], _tun.Written.Select(w => w.Bytes));
    }

    [Fact]
    public void Other_protocols_and_stumps_pass()
    {
        byte[][] packets =
        [
            Packets.IcmpPacket("172.17.52.2", "172.17.51.2", 8, 0, Packets.Payload(40)),
            Packets.IcmpPacket("172.17.52.2", "172.17.51.2", 8, 0, Packets.Payload(40)),
            Packets.Ip("172.17.52.2", "172.17.51.2", Packets.Tcp, Packets.Payload(19)),
            Packets.Ip("172.17.52.2", "172.17.51.2", Packets.Udp, Packets.Payload(7)),
            Packets.Ip("fd00:52::2", "fd00:51::2", Packets.Tcp, []),
            Packets.Ip("fd00:52::2", "fd00:51::2", 44, Packets.Payload(8)),
            Packets.Ip("172.17.52.2", "172.17.51.2", Packets.Tcp, new byte[40]),
        ];
        packets[^1][32] = 0xf0;
        Deliver(packets);
        Assert.Equal(packets, _tun.Written.Select(w => w.Bytes));
        AssertReceived(packets);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void What_comes_after_a_fragment_is_not_delivered_before_it(bool isIpv6)
    {
        FlowPacket datagram = isIpv6 ? Udp6 : Udp4;
        byte[] fragment = isIpv6
            ? Packets.Ip(Udp6.Source, Udp6.Destination, 44, [17, 0, 0, 1, 0, 0, 0, 9, .. Packets.Payload(100)])
            : (Udp4 with { MoreFragments = true, DontFragment = false }).Build();
        byte[][] packets = [datagram.Build(), fragment, datagram.Build(), datagram.Build()];
        Deliver(packets);
        Assert.Equal([packets[0], fragment], _tun.Written.Take(2).Select(written => written.Bytes));
        Assert.Equal(3, _tun.Written.Count);
    }

    [Fact]
    public void PSH_or_a_shorter_one_ends_a_super_packet_and_the_next_begins_anew()
    {
        Add(Tcp4);
        Add(Next(Tcp4, 1) with { Flags = 0x18 });
        Add(Next(Tcp4, 2));
        Add(Next(Tcp4, 3) with { Payload = Payload(3 * Size, 999) });
        Add(Next(Tcp4, 4) with { Sequence = 1000 + (4 * Size) - 1 });
        _queue.Flush();
        Assert.Equal([2040, 2039, 1040], _tun.Written.Select(w => w.Bytes.Length));
        Assert.Equal([0x18, 0x10, 0x10], _tun.Written.Select(w => (int)w.Bytes[33]));
    }

    [Fact]
    public void At_most_64_segments_are_joined()
    {
        FlowPacket small = Tcp4 with { Payload = Payload(0, 10) };
        Deliver([.. Enumerable.Range(0, 130).Select(i => Next(small, i, 10).Build())]);
        Assert.Equal([680, 680, 60], _tun.Written.Select(w => w.Bytes.Length));
        Assert.Equal(130, _peer.Counters[0].ReceivedPackets);
        Assert.Equal(130 * 50, _peer.Counters[0].ReceivedBytes);
    }

    [Theory]
    [InlineData(false, 1599, 40)]
    [InlineData(true, 1637, 40)]
    public void A_super_packet_has_at_most_65535_bytes(bool isIpv6, int size, int most)
    {
        FlowPacket first = (isIpv6 ? Tcp6 : Tcp4) with { Payload = Payload(0, size) };
        int headers = first.HeaderLength;
        most = Math.Min(most, (65_535 - headers) / size);
        Deliver([.. Enumerable.Range(0, most + 1).Select(i => Next(first, i, size).Build())]);
        Assert.Equal([headers + (most * size), headers + size], _tun.Written.Select(w => w.Bytes.Length));
        AssertHeader(_tun.Written[0].Bytes, _tun.Written[0].Offload);

        // The largest that there can be is made: one byte is missing, or none.
        int rest = 65_535 - headers - (most * size);
        _tun.Written.Clear();
        FlowPacket[] exact = [.. Enumerable.Range(0, most).Select(i => Next(first, i, size)), Next(first, most, size) with { Payload = Payload(0, rest) }];
        Deliver([.. exact.Select(p => p.Build())]);
        Assert.Equal(65_535, Assert.Single(_tun.Written).Bytes.Length);
        AssertHeader(_tun.Written[0].Bytes, _tun.Written[0].Offload);

        _tun.Written.Clear();
        exact[^1] = exact[^1] with { Payload = Payload(0, rest + 1) };
        Deliver([.. exact.Select(p => p.Build())]);
        Assert.Equal(2, _tun.Written.Count);
    }

    [Fact]
    public void Interleaved_flows_are_joined_each_by_itself_and_keep_their_order()
    {
        FlowPacket[] flows = [Tcp4, Tcp6, Udp4 with { SourcePort = 1 }, Udp6 with { SourcePort = 2 }, Tcp4 with { SourcePort = 5 }];
        byte[][] packets = [.. from i in Enumerable.Range(0, 8) from flow in flows select Next(flow, i).Build()];
        Deliver(packets);
        Assert.Equal(flows.Length, _tun.Written.Count);
        AssertOrder(packets);
        AssertReceived(packets);
    }

    // An item that is passed over must not be added to later: UDP has no numbers that would tell.
    [Theory]
    [MemberData(nameof(Families))]
    public void What_does_not_join_is_not_overtaken(FlowPacket first)
    {
        FlowPacket[] between =
        [
            first with { Payload = [], Sequence = first.Sequence + Size },
            first with { Ttl = 9 },
            first with { Damage = 1 },
            first with { Flags = 0x11 },
            first with { IpOptions = first.IsIpv4 ? [1, 1, 1, 0] : [], TrafficClass = 4 },
        ];
        foreach (FlowPacket odd in between)
        {
            _tun.Written.Clear();
            byte[][] packets = [first.Build(), Next(first, 1).Build(), odd.Build(), Next(first, 2).Build(), Next(first, 3).Build()];
            Deliver(packets);
            AssertOrder(packets);
        }
    }

    [Fact]
    public void A_batch_of_more_than_all_room_is_delivered_in_parts()
    {
        byte[][] packets = [.. Enumerable.Range(0, 1500).Select(i => (Udp4 with { SourcePort = (ushort)(i % 7), Payload = Payload(i, 200) }).Build())];
        Deliver(packets);
        AssertOrder(packets);
        AssertReceived(packets);
    }

    [Theory]
    [InlineData(Offloads.None, 4)]
    [InlineData(Offloads.TunTcp, 3)]
    [InlineData(Offloads.TunUdp, 3)]
    [InlineData(Offloads.TunTcp | Offloads.TunUdp, 2)]
    public void Without_the_offload_nothing_is_joined(Offloads offloads, int writes)
    {
        var queue = new DeliveryQueue(_tun, new OffloadState(offloads), worker: 0);
        byte[][] packets = [Tcp4.Build(), Next(Tcp4, 1).Build(), Udp4.Build(), Udp4.Build()];
        foreach (byte[] packet in packets)
        {
            queue.Add(PieceOf(packet), default, isSegmentSizeKnown: true, _peer);
        }

        queue.Flush();
        Assert.Equal(writes, _tun.Written.Count);
        AssertOrder(packets);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void What_the_kernel_has_joined_is_joined_further(FlowPacket first)
    {
        FlowPacket super = first with { Payload = Payload(0, 10 * Size), IsPartial = true };
        FlowPacket second = Next(first, 10) with { Payload = Payload(10 * Size, 10 * Size), IsPartial = true };
        FlowPacket third = Next(first, 20);
        FlowPacket last = Next(first, 21) with { Payload = Payload(21 * Size, 5) };
        Offload offload = SegmentationTests.OffloadOf(first, Size) with { HeaderLength = 0 };
        Add(super.Build(), offload);
        Add(second.Build(), offload);
        Add(third.Build());
        Add(last.Build());
        _queue.Flush();

        (byte[] written, Offload beside) = Assert.Single(_tun.Written);
        Assert.Equal(SegmentationTests.OffloadOf(first, Size), beside);
        AssertHeader(written, beside);
        byte[][] expected = [.. Enumerable.Range(0, 21).Select(i => Next(first, i).Build()), last.Build()];
        Assert.Equal(WithoutIds(expected), WithoutIds(ReferenceSegmenter.Cut(written, beside)));

        Assert.Equal(expected.Length, _peer.Counters[0].ReceivedPackets);
        Assert.Equal(expected.Sum(packet => packet.Length), _peer.Counters[0].ReceivedBytes);
    }

    public static TheoryData<string, int, int, bool, int, int> SuperPacketsApart => new()
    {
        { "a guess before", 4 * Size, Size, false, Size, 0 },
        { "another segment size", 4 * Size, Size, true, 4 * 999, 999 },
        { "behind a shorter end", (4 * Size) - 1, Size, true, 4 * Size, Size },
    };

    [Theory]
    [MemberData(nameof(SuperPacketsApart))]
    public void Super_packets_that_stay_apart(string what, int firstLength, int firstSegment, bool isKnown, int secondLength, int secondSegment)
    {
        FlowPacket first = Tcp4 with { Payload = Payload(0, firstLength), IsPartial = true };
        FlowPacket second = Next(Tcp4, 1, firstLength) with { Payload = Payload(firstLength, secondLength), IsPartial = secondSegment != 0 };
        Add(first.Build(), SegmentationTests.OffloadOf(Tcp4, firstSegment), isKnown);
        Add(second.Build(), secondSegment == 0 ? default : SegmentationTests.OffloadOf(Tcp4, secondSegment));
        _queue.Flush();
        Assert.True(_tun.Written.Count == 2, what);
        Assert.Equal([first.Build(), second.Build()], _tun.Written.Select(w => w.Bytes));
    }

    [Fact]
    public void A_guess_is_not_joined_to_what_is_known()
    {
        FlowPacket second = Next(Tcp4, 1) with { Payload = Payload(Size, 3 * Size), IsPartial = true };
        Offload guess = SegmentationTests.OffloadOf(Tcp4, Size);
        Add(Tcp4);
        Add(second.Build(), guess, isSegmentSizeKnown: false);
        _queue.Flush();
        Assert.Equal([Tcp4.Build(), second.Build()], _tun.Written.Select(w => w.Bytes));
        Assert.Equal(guess, _tun.Written[1].Offload);
    }

    // Kernels before 6.9 refuse UDP super-packets of more than 64 datagrams (UDP_MAX_SEGMENTS).
    [Fact]
    public void Segments_of_the_kernels_super_packets_count_towards_the_64()
    {
        FlowPacket half = Udp4 with { Payload = Payload(0, 40 * 100), IsPartial = true };
        Offload offload = SegmentationTests.OffloadOf(Udp4, 100);
        Add(half.Build(), offload);
        Add((half with { Payload = Payload(0, 24 * 100) }).Build(), offload);
        Add((Udp4 with { Payload = Payload(0, 100) }).Build());
        Add(half.Build(), offload);
        _queue.Flush();
        Assert.Equal([28 + (64 * 100), 28 + 4100], _tun.Written.Select(w => w.Bytes.Length));
    }

    [Fact]
    public void A_super_packet_without_segment_size_passes_as_it_is()
    {
        FlowPacket odd = Tcp4 with { IsPartial = true };
        Offload offload = SegmentationTests.OffloadOf(Tcp4, 0);
        Add(odd.Build(), offload);
        Add((Next(odd, 1)).Build(), offload);
        _queue.Flush();
        Assert.Equal([offload, offload], _tun.Written.Select(w => w.Offload));
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void What_a_device_refuses_goes_singly_and_the_offload_is_off(FlowPacket first)
    {
        _tun.OnWrite = (_, offload) => offload.Gso == GsoType.None ? TransmitResult.Sent : TransmitResult.Failed;
        byte[][] packets = [.. Enumerable.Range(0, 5).Select(i => Next(first, i).Build())];
        Deliver(packets);
        Assert.Equal(packets, _tun.Written.Select(w => w.Bytes));
        Assert.All(_tun.Written, w => Assert.Equal(default, w.Offload));
        AssertReceived(packets);
        AssertOnlyOff(first.IsUdp ? Offloads.TunUdp : Offloads.TunTcp);

        // From now on nobody tries.
        int tries = 0;
        _tun.OnWrite = (_, offload) =>
        {
            tries += offload.Gso == GsoType.None ? 0 : 1;
            return TransmitResult.Sent;
        };
        Deliver(packets);
        Assert.Equal(0, tries);
        Assert.Equal([.. packets, .. packets], _tun.Written.Select(w => w.Bytes));
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void What_the_kernel_has_joined_is_cut_where_a_device_refuses_it(FlowPacket first)
    {
        _tun.OnWrite = (_, offload) => offload.Gso == GsoType.None ? TransmitResult.Sent : TransmitResult.Failed;
        byte[] super = (first with { Payload = Payload(0, (3 * Size) + 7), IsPartial = true }).Build();
        byte[] next = (Next(first, 3) with { Sequence = first.Sequence + (3 * Size) + 7 }).Build();
        Offload offload = SegmentationTests.OffloadOf(first, Size);
        Add(super, offload);
        _queue.Flush();
        Assert.Equal(ReferenceSegmenter.Cut(super, offload), _tun.Written.Select(w => w.Bytes));
        Assert.All(_tun.Written, w => Assert.Equal(default, w.Offload));
        AssertReceived([.. ReferenceSegmenter.Cut(super, offload)]);
        AssertOnlyOff(first.IsUdp ? Offloads.TunUdp : Offloads.TunTcp);

        // From now on it is cut at once, so that what is behind it does not overtake it.
        _tun.Written.Clear();
        Add(first with { Sequence = first.Sequence - Size });
        Add(super, offload);
        Add(next);
        _queue.Flush();
        byte[] before = (first with { Sequence = first.Sequence - Size }).Build();
        Assert.Equal([before, .. ReferenceSegmenter.Cut(super, offload), next], _tun.Written.Select(w => w.Bytes).ToArray());
        AssertReceived([.. ReferenceSegmenter.Cut(super, offload), before, .. ReferenceSegmenter.Cut(super, offload), next]);
    }

    [Fact]
    public void A_device_that_takes_nothing_keeps_its_offloads()
    {
        _tun.OnWrite = (_, _) => TransmitResult.Failed;
        Deliver(Tcp4.Build(), Next(Tcp4, 1).Build(), Udp4.Build());
        Add((Udp6 with { Payload = Payload(0, 3 * Size), IsPartial = true }).Build(), SegmentationTests.OffloadOf(Udp6, Size));
        _queue.Flush();
        Assert.Equal(6, _peer.Counters[0].Drops(DropReason.TunWriteFailed));
        Assert.Equal((6, 0), (_peer.Counters[0].TotalDrops, _peer.Counters[0].ReceivedPackets));
        Assert.Empty(_offloads.Refused);
    }

    [Theory]
    [InlineData(TransmitResult.QueueFull)]
    [InlineData(TransmitResult.Unreachable)]
    public void A_full_queue_is_no_refusal(TransmitResult result)
    {
        _tun.OnWrite = (_, offload) => offload.Gso == GsoType.None ? TransmitResult.Sent : result;
        Deliver(Tcp4.Build(), Next(Tcp4, 1).Build(), Next(Tcp4, 2).Build());
        Assert.Equal((3, 0), (_peer.Counters[0].Drops(DropReason.TunWriteFailed), _peer.Counters[0].ReceivedPackets));
        Assert.Empty(_offloads.Refused);
    }

    private static FlowPacket Next(FlowPacket first, int index, int size = Size) => first with
    {
        Sequence = first.Sequence + (uint)(index * size),
        Payload = Payload(index * size, size),
        Id = (ushort)(first.Id + index),
    };

    private static byte[] Payload(int first, int length) => [.. Enumerable.Range(first, length).Select(i => (byte)(i * 7 >> 3))];

    private static Piece PieceOf(byte[] packet)
    {
        var memory = new PinnedPacketMemory(packet.Length + 3);
        packet.CopyTo(memory.Slice(3, packet.Length));
        return new Piece(memory, 3, packet.Length);
    }

    private static byte[][] WithoutIds(IEnumerable<byte[]> packets) => [.. packets.Select(FlowTrace.WithoutId)];

    // Length, IPv4 checksum, UDP length, and the sum of the pseudo-header where the checksum goes.
    private static void AssertHeader(byte[] super, Offload offload)
    {
        bool isIpv4 = super[0] >> 4 == 4;
        Assert.Equal(isIpv4 ? super.Length : super.Length - 40, BinaryPrimitives.ReadUInt16BigEndian(super.AsSpan(isIpv4 ? 2 : 4)));
        Assert.True(!isIpv4 || Rfc1071.Sum(super.AsSpan(0, 20)) == 0xffff);
        int start = offload.ChecksumStart;
        Assert.Equal(isIpv4 ? 20 : 40, start);
        Assert.True(offload.NeedsChecksum);
        Assert.Equal(offload.Gso == GsoType.UdpL4 ? 6 : 16, offload.ChecksumOffset);
        Assert.Equal(ReferenceSegmenter.PseudoHeader(super, start), BinaryPrimitives.ReadUInt16BigEndian(super.AsSpan(start + offload.ChecksumOffset)));
        if (offload.Gso == GsoType.UdpL4)
        {
            Assert.Equal(super.Length - start, BinaryPrimitives.ReadUInt16BigEndian(super.AsSpan(start + 4)));
        }
    }

    private void Add(FlowPacket packet) => Add(
        packet.Build(),
        packet.IsPartial ? SegmentationTests.OffloadOf(packet, 0) with { Gso = GsoType.None, HeaderLength = 0 } : default);

    private void Add(byte[] packet, Offload offload = default, bool isSegmentSizeKnown = true) =>
        _queue.Add(PieceOf(packet), offload, isSegmentSizeKnown, _peer);

    private void Deliver(params byte[][] packets)
    {
        foreach (byte[] packet in packets)
        {
            Add(packet);
        }

        _queue.Flush();
    }

    private void AssertReceived(params byte[][] packets)
    {
        PeerCounters counters = _peer.Counters[0];
        Assert.Equal((packets.Length, packets.Sum(p => p.Length), 0), (counters.ReceivedPackets, counters.ReceivedBytes, counters.TotalDrops));
    }

    private void AssertOnlyOff(Offloads offload)
    {
        Assert.Equal([offload], _offloads.Refused.Select(r => r.Offload));
        Assert.Equal((Offloads.TunTcp | Offloads.TunUdp) & ~offload, _offloads.Active);
    }

    // Cut again, every flow has the packets that were added, in their order.
    private void AssertOrder(byte[][] packets)
    {
        byte[][] delivered = [.. _tun.Written.SelectMany(w => ReferenceSegmenter.Cut(w.Bytes, w.Offload))];
        Assert.Equal(FlowTrace.ByFlow(packets), FlowTrace.ByFlow(delivered));
    }
}
