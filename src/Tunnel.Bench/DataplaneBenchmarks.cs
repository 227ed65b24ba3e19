using BenchmarkDotNet.Attributes;
using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Bench;

/// <summary>
/// A packet's whole way between devices in memory that cost nothing themselves, by packet: batches of 64 that go to 64 different
/// routes. IPv4 in IPv4. 64 and 1,400 bytes are single packets, 62,000 are super-packets of TCP with segments of 1,400 bytes: cut on the
/// way out; on the way in whole as a packet socket hands them over (gre), or as the datagrams of one UDP_GRO reception (gre-udp).
/// </summary>
public class DataplaneBenchmarks
{
    private const int Batch = 64;
    private const int SuperPacket = 62_000;
    private const int SegmentSize = 1400 - 40;

    private Outbound _outbound = null!;
    private Inbound _inbound = null!;

    [Params(10, 100_000)]
    public int Routes { get; set; }

    /// <summary>The inner packets' size.</summary>
    [Params(64, 1400, SuperPacket)]
    public int Bytes { get; set; }

    [Params("gre", "gre-udp")]
    public string Encapsulation { get; set; } = "gre";

    private bool IsUdp => Encapsulation == "gre-udp";

    [GlobalSetup(Target = nameof(Out))]
    public void SetupOutbound()
    {
        (RoutingHolder routing, IpPrefix[] used) = MakeRouting();
        var head = new FlowPacket { Source = "172.17.51.2", Payload = new byte[Bytes - 40], IsPartial = Bytes == SuperPacket };
        byte[][] packets = [.. used.Select(p => (head with { Destination = HostOf(p) }).Build())];
        Offload offload = Bytes == SuperPacket ? SuperPacketAt(20) : default;
        var underlay = new ReplayUnderlay();
        _outbound = new Outbound(new ReplayTun(packets, offload), underlay, routing, new PeerCounters(), new OffloadState(OffloadState.All), worker: 0);
        Check(_outbound.Run(), routing, c => c.SentPackets, Batch * Segments);
    }

    [GlobalSetup(Target = nameof(In))]
    public void SetupInbound()
    {
        (RoutingHolder routing, IpPrefix[] used) = MakeRouting();
        ReceivedPacket[] packets = [.. used.Select(p => IsUdp ? Datagrams(routing, p) : Outer(routing, p))];
        _inbound = new Inbound(new ReplayUnderlay(packets), new ReplayTun([]), routing, new PeerCounters(), new OffloadState(OffloadState.All), worker: 0);
        Check(_inbound.Run(), routing, c => c.ReceivedPackets, Batch * Segments);
    }

    [Benchmark(OperationsPerInvoke = Batch)]
    public int Out() => _outbound.Run();

    [Benchmark(OperationsPerInvoke = Batch)]
    public int In() => _inbound.Run();

    private int Segments => (Bytes - 40 + SegmentSize - 1) / SegmentSize;

    private static Offload SuperPacketAt(int transportStart) =>
        new(GsoType.TcpV4, SegmentSize, 0, NeedsChecksum: true, (ushort)transportStart, TcpView.ChecksumOffset);

    private ReceivedPacket Outer(RoutingHolder routing, IpPrefix prefix)
    {
        var inner = new FlowPacket { Source = HostOf(prefix), Payload = new byte[Bytes - 40], IsPartial = Bytes == SuperPacket };
        return new ReceivedPacket(Packets.Outer(EndpointOf(routing, prefix).ToString(), "192.168.40.11", Packets.GrePacket(inner.Build())))
        {
            Reception = Reception.PacketSocket,
            Offload = Bytes == SuperPacket ? SuperPacketAt(20 + 4 + 20) : default,
        };
    }

    private ReceivedPacket Datagrams(RoutingHolder routing, IpPrefix prefix)
    {
        var whole = new FlowPacket { Source = HostOf(prefix), Payload = new byte[Bytes - 40] };
        byte[][] datagrams = [.. ReferenceSegmenter.Cut(whole.Build(), SuperPacketAt(20)).Select(s => Packets.GrePacket(s))];
        return new ReceivedPacket([.. datagrams.SelectMany(d => d)])
        {
            Reception = Reception.UdpSocket,
            Source = EndpointOf(routing, prefix),
            SegmentSize = datagrams.Length == 1 ? 0 : datagrams[0].Length,
        };
    }

    // A peer for every ten routes, and at least two.
    private (RoutingHolder Routing, IpPrefix[] Used) MakeRouting()
    {
        var random = new Random(1);
        Peer[] peers = [.. Enumerable.Range(0, Math.Max(2, Routes / 10)).Select(i =>
            Overlay.Peer($"vm{i}", $"192.168.{i >> 8}.{i & 255}", udpPort: (ushort)(IsUdp ? 4754 : 0)))];
        KeyValuePair<IpPrefix, Peer>[] all = BenchRoutes.Make(random, Routes, isIpv4: true, i => peers[i % peers.Length]);
        var snapshot = new RoutingSnapshot(new RouteTable<Peer>(all), peers, [Overlay.Address("10.0.201.1")]);
        IpPrefix[] used = [.. Enumerable.Range(0, Batch).Select(_ => all[random.Next(all.Length)].Key)];
        return (new RoutingHolder { Current = snapshot }, used);
    }

    private static string HostOf(IpPrefix prefix) => InetAddress.FromIpv4(prefix.Address.Ipv4 + 2).ToString();

    private static InetAddress EndpointOf(RoutingHolder routing, IpPrefix prefix) =>
        routing.Current.Routes.Lookup(prefix.Address)!.Settings.Endpoint;

    // What is measured must be the way to the end, not to a drop.
    private static void Check(int count, RoutingHolder routing, Func<PeerCounters, long> passed, int expected)
    {
        if (count != Batch || routing.Current.Peers.Sum(p => passed(p.Counters[0])) != expected)
        {
            throw new InvalidOperationException("not every packet of the batch arrives");
        }
    }
}
