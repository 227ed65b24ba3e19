using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Dataplane;

/// <summary>
/// The same trace through two hosts with offloads and through two hosts without. The sending kernel of the first pair hands over
/// super-packets and unfinished checksums, that of the second what a plain twin makes of them; the network between loses, doubles and
/// moves the same packets for both.
/// <para>
/// Compared: on the underlay every byte of every GRE packet, in order (for GRE-in-UDP after the kernel has cut the calls into datagrams).
/// Towards the receiving kernel, after a plain twin has cut the super-packets and finished the checksums, every byte of every packet of
/// each flow, in the flow's order, but for the IPv4 identification and the header checksum that covers it: coalescing forgets it, and the
/// kernel that cuts again counts on from the first one's. The order of packets of different flows is not compared.
/// </para>
/// </summary>
public sealed class DifferentialTests
{
    private const Offloads All = Offloads.TunTcp | Offloads.TunUdp | Offloads.UdpSegment | Offloads.UdpGro;
    private const int Steps = 400;

    public static TheoryData<int, bool, bool, bool> Traces
    {
        get
        {
            var data = new TheoryData<int, bool, bool, bool>();
            for (int seed = 0; seed < 24; seed++)
            {
                data.Add(seed, (seed & 1) != 0, (seed & 2) != 0, (seed & 4) != 0);
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Traces))]
    public void Offloads_change_nothing_that_a_flow_sees(int seed, bool isUdpPeer, bool withFields, bool isHostile)
    {
        var offloaded = new Pair(All, isUdpPeer, withFields);
        var plain = new Pair(Offloads.None, isUdpPeer, withFields);
        var trace = new Trace(seed);
        var sent = new List<byte[]>();
        for (int i = 0; i < Steps; i++)
        {
            (byte[] packet, Offload offload) = trace.Next();
            offloaded.Sender.Tun.Enqueue(packet, offload);
            foreach (byte[] segment in ReferenceSegmenter.Cut(packet, offload))
            {
                Assert.Null(ReferenceSegmenter.Fault(segment));
                plain.Sender.Tun.Enqueue(segment);
                sent.Add(segment);
            }
        }

        offloaded.Sender.RunOutbound();
        plain.Sender.RunOutbound();
        Assert.Empty(offloaded.Sender.Drops());
        byte[][] wire = offloaded.Wire();
        Assert.Equal(plain.Wire().Select(Convert.ToHexString), wire.Select(Convert.ToHexString));
        Assert.Equal(sent.Count, wire.Length);
        Assert.Equal(
            (sent.Count, sent.Sum(s => s.Length)), (offloaded.ToReceiver.Counters[0].SentPackets, offloaded.ToReceiver.Counters[0].SentBytes));

        var network = new Random(seed);
        List<byte[]> arriving = isHostile ? Mistreat(wire, network) : [.. wire];
        offloaded.Arrive(arriving, isUdpPeer ? network : null);
        plain.Arrive(arriving, null);
        offloaded.Receiver.RunInbound();
        plain.Receiver.RunInbound();

        // Everything that arrived was delivered or dropped, and both pairs say the same of it.
        PeerCounters counters = offloaded.FromSender.Counters[0];
        Assert.Equal(plain.Receiver.Drops(), offloaded.Receiver.Drops());
        Assert.Equal(arriving.Count, counters.ReceivedPackets + counters.TotalDrops);
        Assert.Equal(
            (plain.FromSender.Counters[0].ReceivedPackets, plain.FromSender.Counters[0].ReceivedBytes),
            (counters.ReceivedPackets, counters.ReceivedBytes));

        byte[][] expected = [.. plain.Receiver.Tun.Written.Select(w => w.Bytes)];
        byte[][] delivered = [.. offloaded.Receiver.Tun.Written.SelectMany(w => ReferenceSegmenter.Cut(w.Bytes, w.Offload))];
        Assert.Equal(counters.ReceivedPackets, delivered.Length);
        Assert.All(delivered, d => Assert.Null(ReferenceSegmenter.Fault(d)));
        Assert.Equal(FlowTrace.ByFlow(expected), FlowTrace.ByFlow(delivered));

        // Without this the test would be about nothing.
        Assert.True(offloaded.Receiver.Tun.Written.Count(w => w.Offload.Gso != GsoType.None) > 50, "hardly anything was put together");
        Assert.Empty(offloaded.Receiver.OffloadState.Refused);
        if (!isHostile)
        {
            Assert.Equal(FlowTrace.ByFlow(sent), FlowTrace.ByFlow(delivered));
        }
    }

    // A super-packet that is cut and put together again is itself, identification included.
    [Theory]
    [InlineData(false, 0)]
    [InlineData(true, 0)]
    [InlineData(false, 1)]
    [InlineData(true, 1)]
    public void Segment_then_coalesce_is_identity(bool isUdp, int family)
    {
        var random = new Random(7);
        for (int i = 0; i < 200; i++)
        {
            var pair = new Pair(All, isUdpPeer: i % 2 == 0, withFields: i % 3 == 0);
            int segment = random.Next(20, 1380);
            int payload = random.Next(segment + 1, Math.Min(65_000, segment * 64));
            FlowPacket head = Trace.Flow(family == 1, isUdp, port: 5) with { Flags = (byte)(i % 5 == 0 ? 0x18 : 0x10), Payload = Trace.Bytes(random, payload), IsPartial = true };
            Offload offload = SegmentationTests.OffloadOf(head, segment);
            pair.Sender.Send(head.Build(), offload);
            pair.Arrive(pair.Wire(), pair.Sender.Underlay.Packets[0].Target.UdpPort == 0 ? null : random);
            Assert.True(pair.Receiver.Underlay.Waiting <= 64);
            pair.Receiver.RunInbound();
            Assert.Equal(Convert.ToHexString(head.Build()), Convert.ToHexString(Assert.Single(pair.Receiver.Tun.Written).Bytes));
            Assert.Equal(offload, pair.Receiver.Tun.Written[0].Offload);
        }
    }

    // Loses, doubles, damages and moves packets.
    private static List<byte[]> Mistreat(byte[][] wire, Random random)
    {
        var arriving = new List<byte[]>();
        foreach (byte[] packet in wire)
        {
            switch (random.Next(40))
            {
                case 0:
                    break;
                case 1:
                    arriving.AddRange([packet, packet]);
                    break;
                case 2 when arriving.Count > 3:
                    arriving.Insert(arriving.Count - random.Next(1, 4), packet);
                    break;
                default:
                    arriving.Add(packet);
                    break;
            }
        }

        return arriving;
    }

    private sealed class Pair
    {
        private readonly bool _isUdpPeer;

        public Pair(Offloads offloads, bool isUdpPeer, bool withFields)
        {
            _isUdpPeer = isUdpPeer;
            ushort port = (ushort)(isUdpPeer ? 4754 : 0);
            uint? key = withFields ? 99 : null;
            Sender = new MemoryHost(offloads);
            Receiver = new MemoryHost(offloads);
            ToReceiver = Overlay.Peer(keyIn: key, keyOut: key, checksum: withFields, udpPort: port);
            FromSender = Overlay.Peer("vm1", "192.168.40.11", "192.168.40.12", keyIn: key, keyOut: key, checksum: withFields, udpPort: port);
            Sender.With([(ToReceiver, ["172.17.52.0/24", "fd00:52::/64"])]);
            Receiver.With([(FromSender, ["172.17.51.0/24", "fd00:51::/64"])]);
        }

        public MemoryHost Sender { get; }

        public MemoryHost Receiver { get; }

        public Peer ToReceiver { get; }

        public Peer FromSender { get; }

        /// <summary>The packets on the underlay, as the kernel sends them.</summary>
        public byte[][] Wire() => [.. Sender.Underlay.Packets.SelectMany(p => p.Datagrams)];

        /// <summary>Lets packets arrive; with a generator, datagrams of equal size and a shorter last as UDP_GRO would put them together.</summary>
        public void Arrive(IReadOnlyList<byte[]> packets, Random? gro)
        {
            for (int i = 0; i < packets.Count;)
            {
                int first = i++;
                while (gro is not null && i < packets.Count && i - first < 64 && packets[i].Length <= packets[first].Length &&
                    packets[i - 1].Length == packets[first].Length && (i - first + 1) * packets[first].Length < 65_000)
                {
                    i++;
                }

                var packet = new ReceivedPacket([.. packets.Skip(first).Take(i - first).SelectMany(p => p)]);
                Receiver.Underlay.Enqueue(!_isUdpPeer ? packet : packet with
                {
                    Reception = Reception.UdpSocket,
                    Source = Overlay.Address("192.168.40.11"),
                    SegmentSize = i - first == 1 ? 0 : packets[first].Length,
                });
            }
        }
    }

    /// <summary>What a kernel sends on some flows: TCP with segment sizes, flags and options that change, and UDP.</summary>
    private sealed class Trace(int seed)
    {
        private readonly Random _random = new(seed);
        private readonly FlowPacket[] _flows =
        [
            Flow(false, false, 1),
            Flow(false, false, 2) with { Options = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], Sequence = 0xffff_f000, DontFragment = false },
            Flow(true, false, 1),
            Flow(true, false, 2) with { Options = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], FlowLabel = 0x12345 },
            Flow(false, true, 1),
            Flow(true, true, 1),
        ];

        private readonly int[] _sizes = [1380, 1380, 1000, 536, 100, 1380];

        public static FlowPacket Flow(bool isIpv6, bool isUdp, int port) => new()
        {
            Source = isIpv6 ? "fd00:51::2" : "172.17.51.2",
            Destination = isIpv6 ? "fd00:52::2" : "172.17.52.2",
            IsUdp = isUdp,
            SourcePort = (ushort)port,
        };

        public static byte[] Bytes(Random random, int length)
        {
            var bytes = new byte[length];
            random.NextBytes(bytes);
            return bytes;
        }

        public (byte[] Packet, Offload Offload) Next()
        {
            int index = _random.Next(_flows.Length);
            FlowPacket flow = _flows[index];
            if (_random.Next(20) == 0)
            {
                _sizes[index] = _random.Next(1, 1380);
            }

            // Mostly data; now and then something changes, or a flag that ends coalescing is there.
            flow = _random.Next(12) switch
            {
                0 => flow with { Acknowledgement = flow.Acknowledgement + 1000 },
                1 => flow with { Window = (ushort)_random.Next(65_536) },
                2 => flow with { TrafficClass = (byte)_random.Next(3) },
                _ => flow,
            };
            if (flow.Options.Length > 0 && _random.Next(10) == 0)
            {
                flow = flow with { Options = [.. flow.Options[..11], (byte)_random.Next(256)] };
            }

            byte flags = _random.Next(16) switch
            {
                0 => 0x11,
                1 => 0x90,
                2 => 0x50,
                3 => 0x19,
                < 7 => 0x18,
                _ => 0x10,
            };
            int segment = _sizes[index];
            int payload = _random.Next(8) switch
            {
                0 => flow.IsUdp ? 1 : 0,
                1 => _random.Next(1, segment + 1),
                2 => segment,
                _ => _random.Next(1, Math.Min(65_000, segment * 60)),
            };
            FlowPacket packet = flow with { Flags = flags, Payload = Bytes(_random, payload), Id = (ushort)_random.Next(65_536) };
            _flows[index] = flow with { Sequence = flow.Sequence + (uint)payload };
            Offload offload = SegmentationTests.OffloadOf(packet, segment);
            if (payload > segment)
            {
                return ((packet with { IsPartial = true }).Build(), offload);
            }

            return _random.Next(2) == 0
                ? (packet.Build(), default)
                : ((packet with { IsPartial = true }).Build(), offload with { Gso = GsoType.None, SegmentSize = 0, HeaderLength = 0 });
        }
    }
}
