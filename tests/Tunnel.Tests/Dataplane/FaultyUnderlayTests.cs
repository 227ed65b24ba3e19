using System.Buffers.Binary;
using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Dataplane;

/// <summary>
/// vm1 (172.17.51.0/24) == underlay that loses, duplicates, reorders, damages, cuts and delays == vm2 (172.17.52.0/24). What arrives is what was sent, and
/// each packet that does not was lost by the underlay or is counted under the reason that fits.
/// </summary>
public sealed class FaultyUnderlayTests
{
    // GRE with checksum, key and sequence number; without the last some of the inner header is kept as well.
    private const int WholeHeader = 16;

    private static readonly Faults Everything = new() { Lose = 0.03, Duplicate = 0.03, Reorder = 0.03, Corrupt = 0.03, Truncate = 0.03, Delay = 0.03, KeptHeader = WholeHeader };

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void Every_packet_that_does_not_arrive_is_counted_under_its_reason(bool isIpv6, bool sequence)
    {
        for (int seed = 0; seed < 20; seed++)
        {
            using var there = new Way(isIpv6, sequence, Everything, seed);
            List<byte[]> sent = Trace(seed, 600);
            sent.ForEach(there.Send);
            there.Faulty.Settle();
            List<byte[]> arrivals = there.Arrivals();
            there.Receive();

            FaultyUnderlay faulty = there.Faulty;
            Assert.Equal(sent.Count, faulty.Sent);
            Assert.Equal(0, faulty.UnderWay);
            Assert.Equal(sent.Count - faulty.Lost + faulty.Duplicated, arrivals.Count);
            int old = sequence ? CountOld(arrivals, isIpv6) : 0;
            Dictionary<DropReason, long> expected = new() { [DropReason.ChecksumMismatch] = faulty.Corrupted + faulty.Truncated };
            if (sequence)
            {
                expected[DropReason.SequenceOld] = old;
                Assert.InRange(old, faulty.Duplicated + 1, faulty.Duplicated + faulty.Overtaken);
            }

            Assert.Equal(expected, there.Drops());
            Assert.Equal(arrivals.Count - expected.Values.Sum(), there.Delivered.Count);
            Assert.Subset(sent.Select(Convert.ToHexString).ToHashSet(), there.Delivered.Select(Convert.ToHexString).ToHashSet());
            Assert.All((int[])[faulty.Lost, faulty.Duplicated, faulty.Overtaken, faulty.Corrupted, faulty.Truncated], count => Assert.InRange(count, 1, 200));
        }
    }

    // A bit of the GRE header itself may turn the packet into another peer's, or into one that nobody checks: still nothing false is delivered.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Nothing_that_was_damaged_anywhere_is_delivered(bool isIpv6)
    {
        var reasons = new HashSet<DropReason>();
        for (int seed = 0; seed < 20; seed++)
        {
            using var there = new Way(isIpv6, sequence: true, new Faults { Corrupt = 0.5, Truncate = 0.5 }, seed);
            Trace(seed, 600).ForEach(there.Send);
            there.Receive();

            Assert.Empty(there.Delivered);
            Assert.Equal(there.Faulty.Sent, there.Drops().Values.Sum());
            reasons.UnionWith(there.Drops().Keys);
        }

        Assert.Subset(
            new HashSet<DropReason>
            {
                DropReason.OuterMalformed, DropReason.GreTruncated, DropReason.GreVersionUnsupported, DropReason.GreReservedBits, DropReason.KeyMismatch,
                DropReason.ChecksumAbsent, DropReason.ChecksumMismatch, DropReason.GreProtocolUnknown, DropReason.InnerHeaderMalformed,
            },
            reasons);
        Assert.Superset(new HashSet<DropReason> { DropReason.GreTruncated, DropReason.KeyMismatch, DropReason.ChecksumMismatch }, reasons);
    }

    // Sends what was not acknowledged again and again, both ways through bad links, until all of it is there.
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void A_transfer_with_acknowledgements_comes_to_its_end(int seed)
    {
        const int Segments = 300;
        using var there = new Way(isIpv6: false, sequence: seed % 2 == 0, Everything, seed);
        using var back = new Way(isIpv6: false, sequence: seed % 2 == 0, Everything, 100 + seed, isBack: true);
        var received = new HashSet<uint>();
        var acknowledged = new HashSet<uint>();
        int rounds = 0;
        for (; acknowledged.Count < Segments && rounds < 200; rounds++)
        {
            foreach (uint number in Enumerable.Range(0, Segments).Select(n => (uint)n).Where(n => !acknowledged.Contains(n)).Take(32))
            {
                there.Send(Packets.TcpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(700), sequence: number));
            }

            there.Receive();
            foreach (uint number in there.TakeDelivered().Select(SequenceOf))
            {
                received.Add(number);
                back.Send(Packets.TcpPacket("172.17.52.2", "172.17.51.2", [], sequence: number));
            }

            back.Receive();
            acknowledged.UnionWith(back.TakeDelivered().Select(SequenceOf));
        }

        Assert.Equal(Segments, acknowledged.Count);
        Assert.Superset(acknowledged, received);

        // 300 segments, 32 at a time; a third of the round trips fails.
        Assert.InRange(rounds, Segments / 32, 40);
    }

    private static uint SequenceOf(byte[] packet) => BinaryPrimitives.ReadUInt32BigEndian(packet.AsSpan(24));

    // Three connections in turn and datagrams between: no two packets are alike.
    private static List<byte[]> Trace(int seed, int count)
    {
        var random = new Random(seed);
        var sequences = new uint[3];
        var packets = new List<byte[]>();
        for (int i = 0; i < count; i++)
        {
            int flow = random.Next(4);
            byte[] payload = Packets.Payload(random.Next(4, 1200));
            if (flow == 3)
            {
                BinaryPrimitives.WriteInt32BigEndian(payload, i);
                packets.Add(Packets.UdpPacket("172.17.51.3", "172.17.52.2", payload));
            }
            else
            {
                packets.Add(Packets.TcpPacket("172.17.51.2", "172.17.52.2", payload, sourcePort: (ushort)(40_000 + flow), sequence: sequences[flow]));
                sequences[flow] += (uint)payload.Length;
            }
        }

        return packets;
    }

    // RFC 2890 section 2.2, by the numbers alone. What is damaged comes to nothing before.
    private static int CountOld(IReadOnlyList<byte[]> arrivals, bool isIpv6)
    {
        int header = isIpv6 ? 40 : 20;
        uint? last = null;
        int old = 0;
        foreach (byte[] packet in arrivals.Where(packet => Rfc1071.Sum(packet.AsSpan(header)) == 0xffff))
        {
            uint number = BinaryPrimitives.ReadUInt32BigEndian(packet.AsSpan(header + 12));
            if (last is uint before && unchecked((int)(number - before)) <= 0)
            {
                old++;
            }
            else
            {
                last = number;
            }
        }

        return old;
    }

    /// <summary>One direction: a host that sends, a bad underlay, a host that receives.</summary>
    private sealed class Way : IDisposable
    {
        private readonly MemoryTun _tun = new();
        private readonly MemoryHost _receiver = new();
        private readonly Outbound _outbound;

        public Way(bool isIpv6, bool sequence, Faults faults, int seed, bool isBack = false)
        {
            (string local, string endpoint) = isIpv6 ? ("fd00:40::11", "fd00:40::12") : ("192.168.40.11", "192.168.40.12");
            (string near, string far) = isBack ? ("172.17.52.0/24", "172.17.51.0/24") : ("172.17.51.0/24", "172.17.52.0/24");
            Peer to = Overlay.Peer("to", endpoint, local, 42, 42, checksum: true, sequence);
            _receiver.With([(Overlay.Peer("from", local, endpoint, 42, 42, checksum: true, sequence, strict: true), [near])]);
            Faulty = new FaultyUnderlay(new MemoryUnderlay(), _receiver.Underlay, faults, seed);
            var routing = new RoutingHolder { Current = Overlay.Snapshot([(to, [far])]) };
            _outbound = new Outbound(_tun, Faulty, routing, new PeerCounters(), new OffloadState(Offloads.None), worker: 0);
        }

        public FaultyUnderlay Faulty { get; }

        public IReadOnlyList<byte[]> Delivered => [.. _receiver.Tun.Written.Select(written => written.Bytes)];

        public void Send(byte[] packet)
        {
            _tun.Enqueue(packet);
            Assert.Equal(1, _outbound.Run());
        }

        /// <summary>What waits to be received, which stays there.</summary>
        public List<byte[]> Arrivals()
        {
            var batch = new PacketBatch(64);
            var all = new List<byte[]>();
            while (_receiver.Underlay.Receive(batch) > 0)
            {
                all.AddRange(Enumerable.Range(0, batch.Count).Select(i => batch.Bytes(i).ToArray()));
            }

            all.ForEach(_receiver.Underlay.Enqueue);
            return all;
        }

        public void Receive() => _receiver.RunInbound();

        public IReadOnlyList<byte[]> TakeDelivered()
        {
            IReadOnlyList<byte[]> delivered = Delivered;
            _receiver.Tun.Written.Clear();
            return delivered;
        }

        public Dictionary<DropReason, long> Drops() => _receiver.Drops();

        public void Dispose()
        {
            Faulty.Dispose();
            _tun.Dispose();
        }
    }
}
