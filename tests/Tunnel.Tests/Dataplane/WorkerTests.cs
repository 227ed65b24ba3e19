using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Dataplane;

public sealed class WorkerTests : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    private readonly FakeReadiness _readiness = new();
    private readonly RoutingHolder _routing = new();

    [Fact]
    public async Task Carries_both_ways_when_woken_and_ends_when_disposed()
    {
        Peer peer = Overlay.Peer();
        _routing.Current = Overlay.Snapshot([(peer, ["172.17.52.0/24"])]);
        var tun = new MemoryTun();
        var underlay = new MemoryUnderlay();
        tun.Enqueue(Packets.UdpPacket("172.17.51.2", "172.17.52.2", []));
        underlay.Enqueue(Packets.Outer("192.168.40.12", "192.168.40.11", Packets.GrePacket(Packets.UdpPacket("172.17.52.2", "172.17.51.2", []))));
        using Worker worker = Make(tun, underlay);
        worker.Start();
        _readiness.Wake();
        _readiness.AwaitSleep();
        Assert.Single(underlay.Sent);
        Assert.Single(tun.Written);
        Assert.False(worker.Ended.IsCompleted);

        worker.Dispose();
        await worker.Ended.WaitAsync(Patience);
        Assert.True(_readiness.IsDisposed);
    }

    [Fact]
    public async Task Disposed_before_it_started_it_has_ended_too()
    {
        Worker worker = Make(new MemoryTun(), new MemoryUnderlay());
        worker.Dispose();
        await worker.Ended.WaitAsync(Patience);
    }

    [Fact]
    public async Task What_ends_the_thread_is_told()
    {
        Peer peer = Overlay.Peer();
        _routing.Current = Overlay.Snapshot([(peer, ["172.17.52.0/24"])]);
        var tun = new MemoryTun();
        tun.Enqueue(Packets.UdpPacket("172.17.51.2", "172.17.52.2", []));
        var underlay = new MemoryUnderlay { OnSend = _ => throw new InvalidOperationException("the device is gone") };
        using Worker worker = Make(tun, underlay);
        worker.Start();
        _readiness.Wake();
        InvalidOperationException thrown = await Assert.ThrowsAsync<InvalidOperationException>(() => worker.Ended.WaitAsync(Patience));
        Assert.Equal("the device is gone", thrown.Message);
    }

    // It was empty after the packet had been written, and only another packet could have put an answer there.
    [Fact]
    public void An_empty_TUN_queue_is_looked_at_once()
    {
        _routing.Current = Overlay.Snapshot([(Overlay.Peer(), ["172.17.52.0/24"])]);
        var tun = new MemoryTun();
        var underlay = new MemoryUnderlay();
        byte[] inner = Packets.UdpPacket("172.17.52.2", "172.17.51.2", []);
        underlay.Enqueue(Packets.Outer("192.168.40.12", "192.168.40.11", Packets.GrePacket(inner)));
        using Worker worker = Make(tun, underlay);
        worker.Start();
        _readiness.Wake();
        _readiness.AwaitSleep();
        Assert.Equal((1, 1), (tun.Written.Count, tun.Reads));
    }

    public void Dispose() => _readiness.Dispose();

    private Worker Make(MemoryTun tun, MemoryUnderlay underlay)
    {
        var network = new PeerCounters();
        return new Worker(
            "test",
            new Outbound(tun, underlay, _routing, network, new OffloadState(Offloads.None), worker: 0),
            new Inbound(underlay, tun, _routing, network, new OffloadState(Offloads.None), worker: 0),
            _readiness);
    }

    private sealed class FakeReadiness : IReadiness
    {
        private readonly SemaphoreSlim _wakes = new(0);
        private readonly SemaphoreSlim _sleeps = new(0);
        private volatile bool _isStopped;
        private bool _wasWoken;

        public bool IsDisposed { get; private set; }

        public void Wake() => _wakes.Release();

        /// <summary>Waits until the worker sleeps again after it was woken.</summary>
        public void AwaitSleep() => Assert.True(_sleeps.Wait(Patience));

        public Ready Wait()
        {
            if (_wasWoken)
            {
                _sleeps.Release();
            }

            _wakes.Wait();
            _wasWoken = true;
            return _isStopped ? Ready.Stopped : Ready.Tun | Ready.Underlay;
        }

        public void Stop()
        {
            _isStopped = true;
            _wakes.Release();
        }

        public void Dispose() => IsDisposed = true;
    }
}
