using System.Net.Sockets;
using Tunnel.Control;
using Tunnel.Control.Configuration;
using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.Wire;

namespace Tunnel;

/// <summary>
/// The packet side of a network, put together: the TUN device's queues, the underlay's sockets, and a worker for each. Part of the
/// composition root.
/// </summary>
internal sealed class PacketThreads : IDisposable
{
    private const int UsualLinkMtu = 1500;

    // Packets for which there is room in the device while nobody reads: a second's worth of 10,000 a second. The device's own length stays what it is.
    private const int WaitingRoom = 10_000;

    private readonly TunDevice[] _queues;
    private readonly Worker[] _workers;
    private readonly KernelSegmenter? _segmenter;

    /// <summary>Opens device and sockets; <see cref="Start"/> starts the workers.</summary>
    /// <param name="config">The configuration to start with.</param>
    /// <param name="host">The host's links.</param>
    /// <param name="inherited">What an earlier process has left; disposed of by the caller.</param>
    /// <exception cref="DeviceOpenException">The device or a socket cannot be opened; says why and what to do.</exception>
    public PacketThreads(NetworkConfig config, IHostNetwork host, InheritedDescriptors inherited)
    {
        int count = WorkerCount.Choose(config, Environment.ProcessorCount);
        _queues = TunDevice.OpenQueues(config.Name, count, inherited);
        _workers = new Worker[count];
        try
        {
            _queues[0].EnableOffloads(Offloads);
            Underlay = new HostUnderlay(SettingsOf(config, host, count), Offloads, inherited);
            NetworkCounters = [.. _queues.Select(_ => new PeerCounters())];
            Probes = new ProbeExchange(count);
            var waits = new PollReadiness[count];
            for (int i = 0; i < count; i++)
            {
                waits[i] = new PollReadiness(_queues[i], Underlay.Workers[i], config.Datapath.BusyPollMicroseconds);
                _workers[i] = new Worker(
                    $"{config.Name}-{i}",
                    new Outbound(_queues[i], Underlay.Workers[i], Routing, NetworkCounters[i], Offloads, i, i == 0 ? Probes.Requests : null, Tap),
                    new Inbound(Underlay.Workers[i], _queues[i], Routing, NetworkCounters[i], Offloads, i, Probes, Tap),
                    waits[i],
                    config.Datapath.Pin ? CpuAffinity.PinTo(i) : null);
            }

            _segmenter = OpenSegmenter(config.Name, host);
            WakeProber = waits[0].Wake;
            Underlay.OnSocketsChanged = () => Array.ForEach(waits, wait => wait.Wake());
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Where the workers find the routing snapshot.</summary>
    public RoutingHolder Routing { get; } = new();

    /// <summary>What each worker counts for no peer.</summary>
    public PeerCounters[] NetworkCounters { get; }

    /// <summary>Questions to peers and their answers.</summary>
    public ProbeExchange Probes { get; }

    /// <summary>Where the workers look whether somebody watches their packets.</summary>
    public CaptureTap Tap { get; } = new();

    /// <summary>Wakes the worker that sends questions.</summary>
    public Action WakeProber { get; }

    /// <summary>Hands single packets to the kernel as the TUN device would.</summary>
    public ITunInjector Injector => _queues[0];

    /// <summary>Whether the workers still go round.</summary>
    public IReadOnlyList<IHeartbeat> Heartbeats => _workers;

    /// <summary>Which offloads are in use.</summary>
    public OffloadState Offloads { get; } = new(OffloadState.All);

    /// <summary>The workers' sockets.</summary>
    public HostUnderlay Underlay { get; }

    /// <summary>Completes when the first worker has ended, with the exception that ended it.</summary>
    public Task Ended => Task.WhenAny(_workers.Select(worker => worker.Ended)).Unwrap();

    /// <summary>Whether an earlier process had the device.</summary>
    public bool IsInherited => _queues[0].IsInherited;

    /// <summary>What a next process can go on with, by its name there. Valid until this is disposed.</summary>
    public IReadOnlyList<(string Name, int Descriptor)> Descriptors =>
        [.. _queues.Select((queue, i) => (TunDevice.NameOf(i, _queues.Length), queue.Descriptor)), .. Underlay.Descriptors];

    /// <summary>Whether the device goes with this process unless another one goes on with it.</summary>
    public bool OwnsDevice => !_queues[0].IsPersistent;

    /// <summary>Starts the workers.</summary>
    public void Start() => Array.ForEach(_workers, worker => worker.Start());

    /// <summary>Takes back the room that an earlier process has made for packets to wait in, once they have been read: what is beyond it would be lost.</summary>
    public void Settle()
    {
        if (Underlay.HasRoom)
        {
            Underlay.MakeRoom(false);
            _queues[0].QueueLength -= WaitingRoom;
        }
    }

    /// <summary>
    /// Lets what comes once the workers have stopped wait in the device and in the sockets, for a next process to read. They go on until then, with raw
    /// sockets: a packet ring lies in this process's memory.
    /// </summary>
    public void KeepPackets()
    {
        if (!Underlay.HasRoom)
        {
            Underlay.MakeRoom(true);
            _queues[0].QueueLength += WaitingRoom;
        }

        Underlay.UsePaths(UnderlayPath.Raw, UnderlayPath.Raw);
    }

    /// <summary>Stops the workers, then closes sockets and device.</summary>
    public void Dispose()
    {
        foreach (Worker? worker in _workers)
        {
            worker?.Dispose();
        }

        Underlay?.Dispose();
        _segmenter?.Dispose();
        Array.ForEach(_queues, queue => queue.Dispose());
    }

    // Where the kernel does not let us, packets are cut here.
    private KernelSegmenter? OpenSegmenter(string network, IHostNetwork host)
    {
        try
        {
            var segmenter = new KernelSegmenter(host.FindLink(network)?.Index ?? 0, _queues);
            foreach (WorkerUnderlay worker in Underlay.Workers)
            {
                worker.Segmenter = segmenter;
            }

            return segmenter;
        }
        catch (DeviceOpenException refused)
        {
            Offloads.Refuse(Dataplane.Offloads.GreSegment, refused.Message);
            Offloads.Refuse(Dataplane.Offloads.GreUdpSegment, refused.Message);
            return null;
        }
    }

    // Where the configuration wants a family, its absence is an error; otherwise a host without IPv6 simply has none. Where local
    // addresses are configured, only GRE-in-UDP's own families are received.
    private static UnderlaySettings SettingsOf(NetworkConfig config, IHostNetwork host, int workers)
    {
        InetAddress ipv4 = config.Underlay.Local.FirstOrDefault(address => address.IsIpv4);
        InetAddress ipv6 = config.Underlay.Local.FirstOrDefault(address => address.IsIpv6);
        bool needsIpv6 = !ipv6.IsNone || config.Peers.Any(peer => peer.Endpoint.Address.IsIpv6);
        HostLink? link = config.Underlay.Interface is string name ? host.FindLink(name) : ipv4.IsNone ? null : host.FindLinkWithAddress(ipv4);
        return new UnderlaySettings(
            ipv4,
            needsIpv6 || Socket.OSSupportsIPv6 ? ipv6 : null,
            config.Underlay.Local.Count > 0,
            (ushort)config.Underlay.UdpPort,
            (ushort?)config.Underlay.SourcePort,
            link?.Mtu ?? UsualLinkMtu,
            workers);
    }
}
