using BenchmarkDotNet.Attributes;
using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Bench;

/// <summary>
/// Cutting a super-packet of 64 KB into 46 segments, and putting 45 segments of 1,400 bytes together, by super-packet, every checksum
/// computed or verified. Both include the encapsulation by or for plain GRE without options.
/// </summary>
public class OffloadBenchmarks
{
    private const int Segments = 45;
    private const int SegmentSize = 1400;
    private const int SuperPacket = 64_000;

    private Outbound _segmentation = null!;
    private Inbound _coalescing = null!;
    private Inbound _single = null!;

    [GlobalSetup]
    public void Setup()
    {
        Peer peer = Overlay.Peer();
        var routing = new RoutingHolder { Current = Overlay.Snapshot([(peer, ["172.17.52.0/24"])]) };
        var leaving = new FlowPacket { Source = "172.17.51.2", Destination = "172.17.52.2", Payload = new byte[SuperPacket], IsPartial = true };
        var offload = new Offload(GsoType.TcpV4, SegmentSize, 0, NeedsChecksum: true, 20, 16);
        var arriving = new FlowPacket { Payload = Packets.Payload(SegmentSize) };
        byte[][] segments = [.. Enumerable.Range(0, Segments).Select(i => Packets.Outer(
            "192.168.40.12", "192.168.40.11", Packets.GrePacket((arriving with { Sequence = (uint)(i * SegmentSize) }).Build())))];
        _segmentation = new Outbound(
            new ReplayTun([leaving.Build()], offload), new ReplayUnderlay(), routing, new PeerCounters(), new OffloadState(Offloads.TunTcp), worker: 0);
        var tun = new ReplayTun([]);
        _coalescing = new Inbound(new ReplayUnderlay(segments), tun, routing, new PeerCounters(), new OffloadState(Offloads.TunTcp), worker: 0);
        _single = new Inbound(
            new ReplayUnderlay(segments), new ReplayTun([]), routing, new PeerCounters(), new OffloadState(Offloads.None), worker: 0);
        _segmentation.Run();
        _coalescing.Run();
        if (peer.Counters[0].SentPackets != (SuperPacket + SegmentSize - 1) / SegmentSize || tun.Written != 1)
        {
            throw new InvalidOperationException("nothing is cut or put together");
        }
    }

    [Benchmark]
    public int Segment64Kb() => _segmentation.Run();

    [Benchmark]
    public int Coalesce45() => _coalescing.Run();

    /// <summary>The same 45 packets without coalescing, to compare.</summary>
    [Benchmark]
    public int Deliver45Singly() => _single.Run();
}
