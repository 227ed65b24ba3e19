using System.Buffers.Binary;
using System.Net;
using Tunnel.Dataplane;
using Tunnel.Tests.Fuzzing;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

/// <summary>
/// Ten million random and mutated packets, half of them each way: every one ends in delivery or under one drop reason, nothing
/// throws, nothing is allocated, and what comes out is well-formed. Every other shard has all offloads, two peers of GRE-in-UDP, and
/// packets from UDP and packet sockets and beside random offloads. Seeded: a failure comes again with the same seed and shard, and the packets that it
/// came with are saved.
/// </summary>
[Trait("Category", FuzzRun.Category)]
public sealed class FuzzTests
{
#if DEBUG
    private const int Total = 1_000_000;
#else
    private const int Total = 10_000_000;
#endif
    private const int Shards = 8;
    private const int PerShardAndWay = Total / Shards / 2;
    private const int WarmUp = 20_000;

    // Less than IPv6 needs, so that there are outer fragments, too.
    private const int LeastGmtu = 1000;

    // The runtime's own bookkeeping may show; a single byte for each packet would be ten times as much.
    private const long MostAllocated = PerShardAndWay / 10;

    [Fact]
    public void Every_packet_ends_in_delivery_or_a_named_drop()
    {
        foreach (int seed in FuzzRun.Rounds())
        {
            RunRound(seed);
        }
    }

    /// <summary>Gives saved packets to a shard again.</summary>
    /// <param name="target">The way and the shard's number, as in inbound-3.</param>
    /// <param name="inputs">The packets.</param>
    /// <returns>What went wrong, one line; null where nothing did.</returns>
    internal static string? Replay(string target, IReadOnlyList<FuzzInput> inputs)
    {
        string[] words = target.Split('-');
        return Shard.Replay(words[0], int.Parse(words[1]), inputs);
    }

    private static void RunRound(int seed)
    {
        var totals = new long[PeerCounters.ReasonCount];
        long passed = 0;
        long least = 0;
        long most = 0;
        var failures = new List<string>();
        Parallel.For(0, Shards, new ParallelOptions { MaxDegreeOfParallelism = Environment.ProcessorCount }, number =>
        {
            var shard = new Shard(number, seed);
            string? failure = shard.RunInbound() ?? shard.RunOutbound();
            lock (failures)
            {
                shard.AddTo(totals);
                passed += shard.Passed;
                least += shard.Least;
                most += shard.Most;
                if (failure is not null)
                {
                    failures.Add($"seed {seed}, shard {number}: {failure}");
                }
            }
        });

        Assert.True(failures.Count == 0, string.Join('\n', failures));
        Assert.InRange(passed + totals.Sum(), least, most);
        Assert.InRange(least, Total + (2 * Shards * WarmUp), long.MaxValue);

        // The packets reach every end that there is.
        IEnumerable<DropReason> never = Enum.GetValues<DropReason>().Where(r => totals[(int)r] == 0);
        Assert.Equal([DropReason.ReceiveQueueFull], never);
        Assert.InRange(passed, least / 10, most - (least / 10));
    }

    private sealed class Shard
    {
        private static readonly string[] Endpoints = ["192.168.40.12", "192.168.40.13", "fd00:40::12", "fd00:40::13"];
        private static readonly string[] Locals = ["192.168.40.11", "fd00:40::11"];

        private readonly int _number;
        private readonly PeerCounters _network = new();
        private readonly ProbeExchange _probes = new(workers: 1);
        private readonly Peer[] _peers;
        private readonly RoutingSnapshot[] _snapshots;
        private readonly RoutingHolder _routing = new();
        private readonly bool _hasOffloads;
        private readonly OffloadingSource _arriving;
        private readonly OffloadingSource _leaving;
        private readonly CheckingTun _tun;
        private readonly CheckingUnderlay _underlay;
        private readonly Inbound _inbound;
        private readonly Outbound _outbound;

        public Shard(int number, int seed, IPacketSource? replayed = null)
        {
            _number = number;
            _hasOffloads = number % 2 == 1;
            ushort udpPort = (ushort)(_hasOffloads ? 4754 : 0);
            bool strict = number is 2 or 3;
            OuterHeaderOptions outer = number % 3 == 0
                ? OuterHeaderOptions.Default
                : new OuterHeaderOptions { Dscp = null, Ecn = EcnMode.Normal, TimeToLive = null, DiscoversPathMtu = number % 3 == 1 };
            _peers =
            [
                Overlay.Peer("plain", outer: outer, strict: strict),
                Overlay.Peer("keyed", keyIn: 42, keyOut: 43, checksum: true, sequence: true, gmtu: LeastGmtu, udpPort: udpPort, outer: outer),
                Overlay.Peer("other", endpoint: Endpoints[1], keyIn: 0, keyOut: 0, sequence: strict, gmtu: 70_000, strict: strict),
                Overlay.Peer("six", endpoint: Endpoints[2], local: "fd00:40::11", checksum: true, gmtu: LeastGmtu + 1, outer: outer, strict: strict),
                Overlay.Peer("seven", endpoint: Endpoints[3], local: "fd00:40::11", keyIn: 1, keyOut: 1, sequence: !strict, gmtu: 70_000, udpPort: udpPort, strict: strict),
                Overlay.Peer("waiting", endpoint: "::", local: "::"),
            ];
            _peers[1].Target.TakesRawFragments = number % 4 == 1;
            string[] addresses = ["10.0.201.1", "fd00:201::1"];
            _snapshots =
            [
                Overlay.Snapshot(
                    [
                        (_peers[0], ["172.17.0.0/16", "fd00:52::/48"]),
                        (_peers[1], ["172.17.52.0/24", "fd00:52:0:1::/64"]),
                        (_peers[2], ["172.17.53.0/24", "fd00:53::/64"]),
                        (_peers[3], ["172.17.52.2/32", "fd00:52::2/128"]),
                        (_peers[4], ["0.0.0.0/0", "::/0"]),
                        (_peers[5], ["172.17.54.0/24"]),
                    ],
                    addresses,
                    ownAddresses: Locals),
                Overlay.Snapshot(
                    [
                        (_peers[0], ["172.17.52.0/24", "fd00:52::/64"]),
                        (_peers[1], ["172.17.51.0/24", "fd00:51::/64"]),
                        (_peers[2], ["172.17.53.0/24", "192.168.40.0/24"]),
                        (_peers[3], ["10.0.0.0/8", "fd00::/16"]),
                        (_peers[5], ["172.17.54.0/24"]),
                    ],
                    addresses,
                    dropsPartialUdp: true,
                    ownAddresses: Locals),
            ];
            _arriving = new OffloadingSource(new PacketMutator((ulong)(2 * ((seed * Shards) + number)), ArrivingCorpus(), LargeArrivingCorpus()), _hasOffloads, isTun: false);
            _leaving = new OffloadingSource(new PacketMutator((ulong)((2 * ((seed * Shards) + number)) + 1), LeavingCorpus(), LargeLeavingCorpus()), _hasOffloads, isTun: true);
            _tun = new CheckingTun(this);
            _underlay = new CheckingUnderlay(this);
            var tun = new SourceTun(replayed ?? _leaving, _tun);
            var underlay = new SourceUnderlay(replayed ?? _arriving, _underlay);
            var offloads = new OffloadState(_hasOffloads ? (Offloads)15 : Offloads.None);
            _inbound = new Inbound(underlay, tun, _routing, _network, offloads, worker: 0, _probes);
            _outbound = new Outbound(tun, underlay, _routing, _network, offloads, worker: 0);
        }

        /// <summary>Packets that came out at the other end.</summary>
        public long Passed => _peers.Sum(p => p.Counters[0].SentPackets + p.Counters[0].ReceivedPackets);

        /// <summary>The least that there must be delivered or dropped: a super-packet that is dropped whole counts once.</summary>
        public long Least => _arriving.Least + _leaving.Least;

        /// <summary>The most that there can be delivered or dropped: every segment by itself.</summary>
        public long Most => _arriving.Most + _leaving.Most;

        private long Messages => _peers.Sum(p => p.Counters[0].ReceivedMessages);

        private long Drops => _network.TotalDrops + _peers.Sum(p => p.Counters[0].TotalDrops);

        public void AddTo(long[] totals)
        {
            foreach (PeerCounters counters in _peers.Select(p => p.Counters[0]).Append(_network))
            {
                for (int i = 0; i < totals.Length; i++)
                {
                    totals[i] += counters.Drops((DropReason)i);
                }
            }
        }

        /// <summary>Gives packets to a new shard, once with each of the snapshots.</summary>
        public static string? Replay(string way, int number, IReadOnlyList<FuzzInput> inputs)
        {
            var source = new ReplaySource([.. inputs.Select(input => input.Received), .. inputs.Select(input => input.Received)]);
            var shard = new Shard(number, seed: 0, source);
            foreach (RoutingSnapshot snapshot in shard._snapshots)
            {
                shard._routing.Current = snapshot;
                source.Remaining += inputs.Count;
                string? failure = way == "inbound" ? shard.RunBatch(shard._inbound.Run, shard._tun, out _) : shard.RunBatch(shard._outbound.Run, shard._underlay, out _);
                if (failure is not null)
                {
                    return failure;
                }
            }

            return null;
        }

        public string? RunInbound() => Run("inbound", _arriving, _inbound.Run, _tun);

        // The answers to packets that are too big are no packets of the fuzzer's; only the underlay is counted here.
        public string? RunOutbound() => Run("outbound", _leaving, _outbound.Run, _underlay);

        private string? Run(string way, OffloadingSource source, Func<int> batch, Checker checker)
        {
            long before = Passed + Drops + Messages;
            long takenBefore = checker.Taken;
            long passedBefore = Passed;

            // Super-packets are refused towards the end only, since a refusal turns the offload off for good.
            checker.RefusesSuperPackets = false;
            source.Remaining = WarmUp;
            string? failure = RunAll(way, source, batch, checker);
            source.Remaining = PerShardAndWay / 2;
            long allocated = GC.GetAllocatedBytesForCurrentThread();
            failure ??= RunAll(way, source, batch, checker);
            checker.RefusesSuperPackets = true;
            source.Remaining = PerShardAndWay - (PerShardAndWay / 2);
            failure ??= RunAll(way, source, batch, checker);
            allocated = GC.GetAllocatedBytesForCurrentThread() - allocated;

            long accounted = Passed + Drops + Messages - before;
            return failure
                ?? (accounted >= source.Least && accounted <= source.Most ? null : $"{way}: {accounted} of {source.Least} to {source.Most} packets")
                ?? (IsCounted(checker, checker.Taken - takenBefore, Passed - passedBefore) ? null : $"{way}: {checker.Taken} packets taken, {Passed} counted")
                ?? (!_hasOffloads || checker.SuperPackets > PerShardAndWay / 2000 ? null : $"{way}: only {checker.SuperPackets} super-packets")
                ?? (allocated <= MostAllocated ? null : $"{way}: {allocated} bytes allocated");
        }

        private static bool IsCounted(Checker checker, long taken, long passed) =>
            checker.TakesSuperPackets || (checker.HasRefusedGuess ? taken >= passed : taken == passed);

        private string? RunAll(string way, OffloadingSource source, Func<int> batch, Checker checker)
        {
            for (int i = 0; ; i++)
            {
                _routing.Current = _snapshots[i / 100 % _snapshots.Length];
                _peers[2].Target.Refuses = i % 32 == 0;
                string? failure = RunBatch(batch, checker, out int count);
                if (failure is not null)
                {
                    return Save(way, failure, source.Recent());
                }

                if (count == 0)
                {
                    return null;
                }
            }
        }

        // What the other way has sent or written meanwhile counts, too: answers.
        private string? RunBatch(Func<int> batch, Checker checker, out int count)
        {
            count = 0;
            try
            {
                count = batch();
                return checker.Failure ?? _tun.Failure ?? _underlay.Failure;
            }
#pragma warning disable CA1031 // Whatever is thrown is the finding.
            catch (Exception thrown)
#pragma warning restore CA1031
            {
                return FuzzCase.Describe(thrown);
            }
        }

        // One packet that fails alone is worth more than the batch that it was in.
        private string Save(string way, string failure, IReadOnlyList<FuzzInput> recent)
        {
            FuzzInput? alone = recent.Reverse().FirstOrDefault(input => Replay(way, _number, [input]) is not null);
            return FuzzCase.Save($"{way}-{_number}", failure, alone is null ? recent : [alone]);
        }

        private static List<byte[]> ArrivingCorpus()
        {
            List<byte[]> corpus = [.. GoldenPackets.All.Where(p => p.Bytes.Length < 300).Select(p => p.Bytes)];
            foreach (string endpoint in Endpoints)
            {
                string local = endpoint.Contains('.', StringComparison.Ordinal) ? "192.168.40.11" : "fd00:40::11";
                foreach ((string source, string destination) in Pairs())
                {
                    foreach (bool isPartial in (bool[])[false, true])
                    {
                        byte[] tcp = Packets.TcpPacket(source, destination, Packets.Payload(40), isPartial, trafficClass: 2);
                        byte[] udp = Packets.UdpPacket(source, destination, Packets.Payload(33), isPartial, trafficClass: 1);
                        corpus.Add(Packets.Outer(endpoint, local, Packets.GrePacket(tcp, checksum: true), trafficClass: 3));
                        corpus.Add(Packets.Outer(endpoint, local, Packets.GrePacket(udp)));
                        corpus.Add(Packets.Outer(endpoint, local, Packets.GrePacket(tcp, key: 0)));
                        corpus.Add(Packets.Outer(endpoint, local, Packets.GrePacket(udp, key: 1, sequence: 9)));
                        corpus.Add(Packets.Outer(endpoint, local, Packets.GrePacket(udp, checksum: true, key: 42, sequence: 8)));
                        if (!isPartial && endpoint.Contains('.', StringComparison.Ordinal))
                        {
                            corpus.AddRange(FuzzCorpus.Syns(source, destination).Select(syn => Packets.Outer(endpoint, local, Packets.GrePacket(syn, key: 0))));
                        }

                        if (source.Contains('.', StringComparison.Ordinal) == endpoint.Contains('.', StringComparison.Ordinal))
                        {
                            corpus.Add(Packets.Outer(endpoint, local, Packets.GrePacket(Packets.UdpPacket(source, endpoint, []))));
                        }
                    }
                }

                foreach (uint? key in (uint?[])[null, 0, 1, 42])
                {
                    corpus.AddRange(FuzzCorpus.Messages(local, endpoint, key).Select(message =>
                        Packets.Outer(endpoint, local, Packets.GrePacket(message.Payload, key: key, protocolType: message.ProtocolType))));
                }

                corpus.AddRange(FuzzCorpus.Fragments("172.17.52.2", "172.17.51.2").Select(fragment => Packets.Outer(endpoint, local, Packets.GrePacket(fragment))));
            }

            return corpus;
        }

        private static List<byte[]> LargeArrivingCorpus() =>
        [
            .. from pair in Pairs()
               from packet in (byte[][])[
                   Packets.TcpPacket(pair.Source, pair.Destination, new byte[60_000], isPartial: true),
                   Packets.UdpPacket(pair.Source, pair.Destination, new byte[20_000], isPartial: true)]
               select Packets.Outer(Endpoints[0], "192.168.40.11", Packets.GrePacket(packet, checksum: true)),
        ];

        private static List<byte[]> LeavingCorpus()
        {
            List<byte[]> corpus = [];
            foreach ((string source, string destination) in Pairs())
            {
                foreach (int length in (int[])[0, 33, 150])
                {
                    corpus.Add(Packets.TcpPacket(destination, source, Packets.Payload(length)));
                    corpus.Add(Packets.UdpPacket(destination, source, Packets.Payload(length)));
                    corpus.Add(Packets.Ip(destination, source, Packets.Udp, Packets.Payload(length), ttl: 0));
                }

                corpus.AddRange(FuzzCorpus.Syns(destination, source));
                if (source.Contains('.', StringComparison.Ordinal))
                {
                    corpus.AddRange(FuzzCorpus.Fragments(destination, source));
                }
            }

            foreach (string end in (string[])[.. Locals, .. Endpoints])
            {
                corpus.Add(Packets.UdpPacket(end, end.Contains('.', StringComparison.Ordinal) ? "172.17.52.2" : "fd00:52::2", []));
            }

            corpus.Add(Packets.UdpPacket("172.17.51.2", "224.0.0.1", []));
            corpus.Add(Packets.UdpPacket("fd00:51::2", "ff02::1", []));
            return corpus;
        }

        private static List<byte[]> LargeLeavingCorpus() =>
        [
            .. from pair in Pairs()
               from length in (int[])[1300, 1500, 9000, 65_500]
               select Packets.Ip(pair.Destination, pair.Source, Packets.Udp, new byte[length]),
            .. from pair in Pairs()
               from length in (int[])[1000, 1232, 3000]
               select pair.Source.Contains(':', StringComparison.Ordinal)
                   ? Packets.TcpPacket(pair.Destination, pair.Source, new byte[length])
                   : Packets.Ipv4(pair.Destination, pair.Source, Packets.Udp, new byte[length], df: false),
        ];

        private static (string Source, string Destination)[] Pairs() =>
        [
            ("172.17.52.2", "172.17.51.2"),
            ("172.17.52.3", "172.17.51.2"),
            ("172.17.53.2", "172.17.51.2"),
            ("172.17.54.2", "172.17.51.2"),
            ("172.17.9.9", "172.17.51.2"),
            ("8.8.8.8", "172.17.51.2"),
            ("fd00:52::2", "fd00:51::2"),
            ("fd00:52::3", "fd00:51::2"),
            ("fd00:52:0:1::2", "fd00:51::2"),
            ("fd00:53::2", "fd00:51::2"),
            ("2001:db8::1", "fd00:51::2"),
        ];

        /// <summary>
        /// A mutator's packets, a part of them received in other ways than by a raw socket, or beside an offload: one that fits the packet, or
        /// nonsense. It counts how many packets the receiver must account for. Without offloads it changes nothing.
        /// </summary>
        private sealed class OffloadingSource(PacketMutator mutator, bool hasOffloads, bool isTun) : IPacketSource
        {
            // No transport has its checksum there.
            private const ushort NonsenseOffset = 7;

            private static readonly byte[] Local4 = IPAddress.Parse(Locals[0]).GetAddressBytes();
            private static readonly byte[] Local6 = IPAddress.Parse(Locals[1]).GetAddressBytes();
            private static readonly GsoType[] Types = [GsoType.None, GsoType.TcpV4, GsoType.TcpV6, GsoType.UdpL4];
            private readonly RecentPackets _recent = new();
            private readonly InetAddress[] _sources = [.. Endpoints.Select(Overlay.Address), Overlay.Address("192.168.40.99")];

            public long Remaining
            {
                get => mutator.Remaining;
                set => mutator.Remaining = value;
            }

            public long Least { get; private set; }

            public long Most { get; private set; }

            public static bool IsNonsense(in Offload offload) => offload.ChecksumOffset == NonsenseOffset;

            /// <summary>The packets of the last batch, in order.</summary>
            public List<FuzzInput> Recent() => _recent.InOrder();

            public int Next(Span<byte> destination, ref Packet about)
            {
                int start = about.Start;
                int length = Make(destination, ref about);
                if (length >= 0)
                {
                    _recent.Note(destination.Slice(about.Start - start, length), about);
                }

                return length;
            }

            private int Make(Span<byte> destination, ref Packet about)
            {
                int length = mutator.Next(destination);
                if (length < 0)
                {
                    return length;
                }

                int least = 1;
                int most = 1;
                int choice = hasOffloads ? mutator.Below(4) : 0;
                if (isTun && choice > 1)
                {
                    about.Offload = OffloadFor(destination[..length], start: 0);
                    most = MostSegments(length, about.Offload);
                }

                if (isTun)
                {
                    // The longest header leaves so much, and each packet or segment has a last fragment.
                    most += length <= LeastGmtu ? 0 : most + (length / (LeastGmtu - 67));
                }
                else if (choice == 2)
                {
                    about.Reception = Reception.PacketSocket;

                    // What is for another host is passed over in silence, unless it is malformed.
                    least = IsForLocal(destination[..length]) ? 1 : 0;
                    if (mutator.Below(2) == 0)
                    {
                        about.Offload = OffloadFor(destination[..length], InnerOf(destination[..length]));
                        most = MostSegments(length, about.Offload);
                    }
                }
                else if (choice == 3)
                {
                    length = MakeDatagrams(destination, length, ref about);
                    int size = about.SegmentSize == 0 ? length : about.SegmentSize;
                    least = most = length == 0 ? 1 : (length + size - 1) / size;
                }

                Least += least;
                Most += most;
                return length;
            }

            private static int MostSegments(int length, in Offload offload) =>
                offload.Gso == GsoType.None || offload.SegmentSize == 0 ? 1 : (length / offload.SegmentSize) + 1;

            private static bool IsForLocal(ReadOnlySpan<byte> packet) =>
                packet.Length < 20
                || (packet[0] >> 4 == 4 && packet[16..20].SequenceEqual(Local4))
                || (packet[0] >> 4 == 6 && (packet.Length < 40 || packet[24..40].SequenceEqual(Local6)))
                || packet[0] >> 4 is not (4 or 6);

            // Copies of one datagram and a part of it, or one that is cut anywhere.
            private int MakeDatagrams(Span<byte> destination, int length, ref Packet about)
            {
                int outer = Math.Min(length, length > 0 && destination[0] >> 4 == 4 ? 20 : 40);
                about.Start += outer;
                about.Reception = Reception.UdpSocket;
                about.Source = _sources[mutator.Below(_sources.Length)];
                about.OuterEcn = (byte)mutator.Below(4);
                Span<byte> datagram = destination[outer..];
                length -= outer;
                if (length == 0 || length > 1000 || mutator.Below(4) == 0)
                {
                    about.SegmentSize = (ushort)mutator.Below(length + 2);
                    return length;
                }

                int copies = mutator.Below(6);
                for (int i = 1; i <= copies; i++)
                {
                    datagram[..length].CopyTo(datagram[(i * length)..]);
                }

                about.SegmentSize = (ushort)length;
                return ((copies + 1) * length) - mutator.Below(length);
            }

            // Where the inner packet begins, if there is a plausible one.
            private static int InnerOf(ReadOnlySpan<byte> packet)
            {
                int gre = packet.Length > 0 && packet[0] >> 4 == 4 ? (packet[0] & 0x0f) * 4 : 40;
                return packet.Length < gre + 4 ? -1 : gre + 4 + ((packet[gre] & 0x80) >> 5) + ((packet[gre] & 0x20) >> 3) + ((packet[gre] & 0x10) >> 2);
            }

            private Offload OffloadFor(ReadOnlySpan<byte> packet, int start)
            {
                if (mutator.Below(3) > 0 && start >= 0 && packet.Length >= start + 60)
                {
                    ReadOnlySpan<byte> inner = packet[start..];
                    bool isIpv4 = inner[0] >> 4 == 4;
                    int header = isIpv4 ? 20 : 40;
                    int total = isIpv4 ? (inner[2] << 8) | inner[3] : 40 + ((inner[4] << 8) | inner[5]);
                    bool isTcp = inner[isIpv4 ? 9 : 6] == Packets.Tcp;
                    bool isUdp = inner[isIpv4 ? 9 : 6] == Packets.Udp;
                    if ((isTcp || isUdp) && total >= header + 20 && inner[0] is 0x45 or 0x60)
                    {
                        bool isSuper = mutator.Below(2) == 0;
                        GsoType gso = !isSuper ? GsoType.None : isUdp ? GsoType.UdpL4 : isIpv4 ? GsoType.TcpV4 : GsoType.TcpV6;
                        ushort size = (ushort)(isSuper ? 8 + mutator.Below(60) : 0);
                        return new Offload(gso, size, 0, NeedsChecksum: true, (ushort)(start + header), (ushort)(isTcp ? 16 : 6));
                    }
                }

                return new Offload(
                    Types[mutator.Below(Types.Length)],
                    (ushort)mutator.Below(mutator.Below(2) == 0 ? 4 : 65_536),
                    (ushort)mutator.Below(65_536),
                    NeedsChecksum: mutator.Below(2) == 0,
                    (ushort)mutator.Below(mutator.Below(2) == 0 ? 100 : 65_536),
                    NonsenseOffset);
            }
        }

        /// <summary>Keeps the packets of the last batch, without allocating.</summary>
        private sealed class RecentPackets
        {
            private const int Most = 64;

            private readonly byte[] _bytes = GC.AllocateUninitializedArray<byte>(Most * PacketBatch.MaxPacket);
            private readonly Packet[] _about = new Packet[Most];
            private long _count;

            public void Note(ReadOnlySpan<byte> packet, in Packet about)
            {
                int slot = (int)(_count++ % Most);
                packet.CopyTo(_bytes.AsSpan(slot * PacketBatch.MaxPacket));
                _about[slot] = about;
                _about[slot].Length = packet.Length;
            }

            public List<FuzzInput> InOrder()
            {
                var inputs = new List<FuzzInput>();
                for (long i = Math.Max(0, _count - Most); i < _count; i++)
                {
                    int slot = (int)(i % Most);
                    Packet about = _about[slot];
                    inputs.Add(new FuzzInput(Convert.ToHexString(_bytes, slot * PacketBatch.MaxPacket, about.Length))
                    {
                        Reception = about.Reception,
                        Offload = about.Offload,
                        SegmentSize = about.SegmentSize,
                        Source = about.Source.IsNone ? null : about.Source.ToString(),
                        OuterEcn = about.OuterEcn,
                    });
                }

                return inputs;
            }
        }

        /// <summary>Packets that were saved, as many as asked for.</summary>
        private sealed class ReplaySource(IReadOnlyList<ReceivedPacket> packets) : IPacketSource
        {
            private int _next;

            public int Remaining { get; set; }

            public int Next(Span<byte> destination, ref Packet about)
            {
                if (Remaining == 0)
                {
                    return -1;
                }

                Remaining--;
                ReceivedPacket packet = packets[_next++];
                packet.Bytes.CopyTo(destination);
                about.Reception = packet.Reception;
                about.Offload = packet.Offload;
                about.SegmentSize = (ushort)packet.SegmentSize;
                about.Source = packet.Source;
                about.OuterEcn = (byte)packet.OuterEcn;
                return packet.Bytes.Length;
            }
        }

        /// <summary>Looks at what comes out; refuses one packet in 16 in one of five ways.</summary>
        private abstract class Checker : IPacketSink
        {
            private uint _count;

            public long Taken { get; private set; }

            public string? Failure { get; private set; }

            /// <summary>Packets that were put together from several, or are to be cut.</summary>
            public long SuperPackets { get; private set; }

            public bool RefusesSuperPackets { get; set; }

            /// <summary>Whether what is taken may be several packets, and it is not said how many.</summary>
            public abstract bool TakesSuperPackets { get; }

            /// <summary>Whether super-packets whose segment size is a guess come singly from now on: all segments of one count as one (decision 0005).</summary>
            public bool HasRefusedGuess { get; private set; }

            /// <summary>Whether the segment size of a super-packet is a guess.</summary>
            protected virtual bool GuessesSegments => false;

            public TransmitResult Take(ReadOnlySpan<byte> packet, in GatherPacket about)
            {
                Failure ??= Check(packet, about);
                bool isSuper = about.Offload.Gso != GsoType.None || about.SegmentSize != 0;
                SuperPackets += isSuper ? 1 : 0;

                // Of a packet in outer fragments the first counts for all.
                bool isPart = IsPart(packet, about);
                TransmitResult result = !isPart && ++_count % 16 == 0 ? (TransmitResult)(1 + (_count / 16 % 5)) : TransmitResult.Sent;
                if (isSuper && result == TransmitResult.Failed && !RefusesSuperPackets)
                {
                    result = TransmitResult.QueueFull;
                }

                Taken += result == TransmitResult.Sent ? about.Segments : 0;
                HasRefusedGuess |= GuessesSegments && about.Offload.Gso != GsoType.None && result == TransmitResult.Failed;
                return result;
            }

            protected abstract string? Check(ReadOnlySpan<byte> packet, in GatherPacket about);

            /// <summary>Whether what is taken is an outer fragment. Those of plain GRE say so themselves.</summary>
            protected static bool IsPart(ReadOnlySpan<byte> packet, in GatherPacket about) =>
                about.Target is { UdpPort: 0 } ? Reassembler.IsFragment(packet) : about.IsFragment;

            protected static string Fault(string what, ReadOnlySpan<byte> packet) => $"{what}: {Convert.ToHexString(packet)}";
        }

        /// <summary>Whole inner packets of some peer's source, with an offload that stays inside the packet; or answers of this host's.</summary>
        private sealed class CheckingTun(Shard shard) : Checker
        {
            public override bool TakesSuperPackets => shard._hasOffloads;

            protected override bool GuessesSegments => !shard._hasOffloads;

            protected override string? Check(ReadOnlySpan<byte> packet, in GatherPacket about)
            {
                Offload offload = about.Offload;
                RouteTable<Peer> routes = shard._routing.Current.Routes;
                bool isAnswer = false;
                Peer? sender;
                if (Ipv4View.TryParse(packet, out Ipv4View ipv4))
                {
                    if (ipv4.TotalLength != packet.Length || !ipv4.IsChecksumValid)
                    {
                        return Fault("not a whole IPv4 packet", packet);
                    }

                    sender = routes.LookupIpv4(ipv4.Source.Ipv4);
                }
                else if (Ipv6View.TryParse(packet, out Ipv6View ipv6) && ipv6.TotalLength == packet.Length)
                {
                    sender = routes.LookupIpv6(ipv6.Source.Bits);
                    isAnswer = ipv6.Source == shard._routing.Current.Ipv6Address && packet.Length <= IcmpMessage.MaxErrorIpv6;
                }
                else
                {
                    return Fault("not a whole IP packet", packet);
                }

                // What the kernel said goes on as it is, sense or nonsense.
                bool isOffloadInside = OffloadingSource.IsNonsense(offload) || !offload.NeedsChecksum
                    ? OffloadingSource.IsNonsense(offload) || offload == default
                    : offload.ChecksumStart + offload.ChecksumOffset + 2 <= packet.Length && offload.HeaderLength <= packet.Length &&
                        (offload.Gso == GsoType.None) == (offload.SegmentSize == 0);
                return !isOffloadInside ? Fault($"{offload} does not fit", packet)
                    : sender is null && !isAnswer ? Fault("source of no peer", packet)
                    : null;
            }
        }

        /// <summary>Whole outer packets to some peer, with a GRE header that is right, around a whole inner packet.</summary>
        private sealed class CheckingUnderlay(Shard shard) : Checker
        {
            private readonly byte[] _whole = new byte[2000];
            private int _length;

            public override bool TakesSuperPackets => false;

            protected override string? Check(ReadOnlySpan<byte> packet, in GatherPacket about) =>
                IsPart(packet, about) ? CheckFragment(packet, about) : about.Target!.UdpPort == 0 ? CheckPacket(packet) : CheckDatagrams(packet, about);

            private static string? CheckDatagrams(ReadOnlySpan<byte> bytes, in GatherPacket about)
            {
                int size = about.SegmentSize == 0 ? bytes.Length : about.SegmentSize;
                int count = (bytes.Length + size - 1) / size;
                if (count != about.Segments || count > 64 || bytes.Length > 65_535 - 8 - 20)
                {
                    return Fault($"{count} datagrams of {size} bytes said to be {about.Segments}", bytes);
                }

                for (int offset = 0; offset < bytes.Length; offset += size)
                {
                    string? fault = CheckGre(bytes.Slice(offset, Math.Min(size, bytes.Length - offset)), bytes);
                    if (fault is not null)
                    {
                        return fault;
                    }
                }

                return null;
            }

            // Fragments of one packet follow one another.
            private string? CheckFragment(ReadOnlySpan<byte> packet, in GatherPacket about)
            {
                bool isIpv4 = packet[0] >> 4 == 4;
                int header = isIpv4 ? 20 : 48;
                ushort field = BinaryPrimitives.ReadUInt16BigEndian(packet[(isIpv4 ? 6 : 42)..]);
                int offset = isIpv4 ? (field & 0x1fff) * 8 : field & 0xfff8;
                bool isLast = (field & (isIpv4 ? 0x2000 : 1)) == 0;
                _length = about.Segments == 1 ? 0 : _length;
                if (offset != _length || packet.Length > LeastGmtu + 1 + 40 + (about.Target!.UdpPort == 0 ? 0 : 8) + 16 || _length + packet.Length > _whole.Length)
                {
                    return Fault($"not the next fragment at {_length}", packet);
                }

                packet[header..].CopyTo(_whole.AsSpan(_length));
                _length += packet.Length - header;
                if (!isLast || about.Target!.UdpPort == 0)
                {
                    return isLast ? CheckGre(_whole.AsSpan(0, _length), packet) : null;
                }

                return UdpView.TryParse(_whole.AsSpan(0, _length), out UdpView udp) && udp.Length == _length && udp.SourcePort == 0
                    ? CheckGre(udp.Payload, packet)
                    : Fault("UDP header wrong", packet);
            }

            private string? CheckPacket(ReadOnlySpan<byte> packet)
            {
                InetAddress destination;
                ReadOnlySpan<byte> payload;
                if (Ipv4View.TryParse(packet, out Ipv4View ipv4) && ipv4.TotalLength == packet.Length && ipv4.IsChecksumValid)
                {
                    destination = ipv4.Destination;
                    payload = ipv4.Payload;
                }
                else if (Ipv6View.TryParse(packet, out Ipv6View ipv6) && ipv6.TotalLength == packet.Length)
                {
                    destination = ipv6.Destination;
                    payload = ipv6.Payload;
                }
                else
                {
                    return Fault("not a whole outer packet", packet);
                }

                if (!shard._routing.Current.IsEndpoint(destination, out _))
                {
                    return Fault("to no peer", packet);
                }

                return CheckGre(payload, packet);
            }

            private static string? CheckGre(ReadOnlySpan<byte> bytes, ReadOnlySpan<byte> packet)
            {
                if (GreView.TryParse(bytes, out GreView gre) != GreParseResult.Ok)
                {
                    return Fault("GRE header wrong", packet);
                }

                // What a router has sent to get it back is its own affair.
                if (gre.ProtocolType == EtherType.Keepalive)
                {
                    return null;
                }

                if (!gre.IsChecksumValid)
                {
                    return Fault("GRE checksum wrong", packet);
                }

                bool isWhole = gre.ProtocolType == EtherType.Experimental ? AbilitiesMessage.TryParse(gre.Payload, out _) || EchoMessage.TryParse(gre.Payload, out _)
                    : gre.ProtocolType == EtherType.Ipv4
                    ? Ipv4View.TryParse(gre.Payload, out Ipv4View inner4) && inner4.TotalLength == gre.Payload.Length
                    : Ipv6View.TryParse(gre.Payload, out Ipv6View inner6) && inner6.TotalLength == gre.Payload.Length;
                return isWhole ? null : Fault("inner packet not whole", packet);
            }
        }
    }
}
