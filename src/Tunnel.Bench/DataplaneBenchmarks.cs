using BenchmarkDotNet.Attributes;
using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Bench;

/// <summary>
/// A packet's whole way between devices in memory that cost nothing themselves, by packet: batches of 64 that go to 64 different
/// routes. IPv4 in IPv4.
/// </summary>
public class DataplaneBenchmarks
{
    private const int Batch = 64;

    private Outbound _outbound = null!;
    private Inbound _inbound = null!;

    [Params(10, 100_000)]
    public int Routes { get; set; }

    /// <summary>The inner packets' size.</summary>
    [Params(64, 1400)]
    public int Bytes { get; set; }

    [GlobalSetup(Target = nameof(Out))]
    public void SetupOutbound()
    {
        (RoutingHolder routing, IpPrefix[] used) = MakeRouting(Routes);
        byte[][] packets = [.. used.Select(p => Packets.UdpPacket("172.17.51.2", HostOf(p), new byte[Bytes - 28]))];
        _outbound = new Outbound(new ReplayTun(packets), new ReplayUnderlay([]), routing, new PeerCounters(), new OffloadState(Offloads.TunTcp | Offloads.TunUdp), worker: 0);
        Check(_outbound.Run(), routing, c => c.SentPackets);
    }

    [GlobalSetup(Target = nameof(In))]
    public void SetupInbound() => _inbound = MakeInbound(Routes, Bytes, isCoalesced: false);

    [Benchmark(OperationsPerInvoke = Batch)]
    public int Out() => _outbound.Run();

    [Benchmark(OperationsPerInvoke = Batch)]
    public int In() => _inbound.Run();

    internal static Inbound MakeInbound(int routes, int size, bool isCoalesced)
    {
        (RoutingHolder routing, IpPrefix[] used) = MakeRouting(routes);
        byte[][] packets = [.. used.Select(p => Packets.Outer(
            EndpointOf(routing, p),
            "192.168.40.11",
            Packets.GrePacket(Packets.TcpPacket(HostOf(p), "172.17.51.2", new byte[size - 40], isCoalesced))))];
        var inbound = new Inbound(new ReplayUnderlay(packets), new ReplayTun([]), routing, new PeerCounters(), new OffloadState(Offloads.TunTcp | Offloads.TunUdp), worker: 0);
        Check(inbound.Run(), routing, c => c.ReceivedPackets);
        return inbound;
    }

    // A peer for every ten routes, and at least two.
    private static (RoutingHolder Routing, IpPrefix[] Used) MakeRouting(int routes)
    {
        var random = new Random(1);
        Peer[] peers = [.. Enumerable.Range(0, Math.Max(2, routes / 10)).Select(i => Overlay.Peer($"vm{i}", $"192.168.{i >> 8}.{i & 255}"))];
        KeyValuePair<IpPrefix, Peer>[] all = BenchRoutes.Make(random, routes, isIpv4: true, i => peers[i % peers.Length]);
        var snapshot = new RoutingSnapshot(new RouteTable<Peer>(all), peers, [Overlay.Address("10.0.201.1")]);
        IpPrefix[] used = [.. Enumerable.Range(0, Batch).Select(_ => all[random.Next(all.Length)].Key)];
        return (new RoutingHolder { Current = snapshot }, used);
    }

    private static string HostOf(IpPrefix prefix) => InetAddress.FromIpv4(prefix.Address.Ipv4 + 2).ToString();

    private static string EndpointOf(RoutingHolder routing, IpPrefix prefix) =>
        routing.Current.Routes.Lookup(prefix.Address)!.Settings.Endpoint.ToString();

    // What is measured must be the way to the end, not to a drop.
    private static void Check(int count, RoutingHolder routing, Func<PeerCounters, long> passed)
    {
        if (count != Batch || routing.Current.Peers.Sum(p => passed(p.Counters[0])) != Batch)
        {
            throw new InvalidOperationException("not every packet of the batch arrives");
        }
    }
}

/// <summary>Super-packets of 65,000 bytes that the kernel has coalesced, from the wire to the TUN device, by super-packet.</summary>
public class CoalescedBenchmarks
{
    private const int Batch = 64;

    private Inbound _inbound = null!;

    [Params(10, 100_000)]
    public int Routes { get; set; }

    [GlobalSetup]
    public void Setup() => _inbound = DataplaneBenchmarks.MakeInbound(Routes, 65_000, isCoalesced: true);

    [Benchmark(OperationsPerInvoke = Batch)]
    public int In() => _inbound.Run();
}
