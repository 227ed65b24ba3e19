using Tunnel.Dataplane;

namespace Tunnel.TestSupport;

/// <summary>A host of the network in memory: both halves of one worker between a TUN device and an underlay in memory.</summary>
public sealed class MemoryHost
{
    private readonly Outbound _outbound;
    private readonly Inbound _inbound;

    /// <summary>Makes a host; packet by packet unless offloads are asked for.</summary>
    public MemoryHost(Offloads offloads = default)
    {
        OffloadState = new OffloadState(offloads);
        _outbound = new Outbound(Tun, Underlay, Routing, Network, OffloadState, worker: 0, Probes.Requests, Tap);
        _inbound = new Inbound(Underlay, Tun, Routing, Network, OffloadState, worker: 0, Probes, Tap);
    }

    /// <summary>Its TUN device.</summary>
    public MemoryTun Tun { get; } = new();

    /// <summary>Its underlay.</summary>
    public MemoryUnderlay Underlay { get; } = new();

    /// <summary>Questions to its peers, and their answers.</summary>
    public ProbeExchange Probes { get; } = new(workers: 1);

    /// <summary>Where its packets can be watched.</summary>
    public CaptureTap Tap { get; } = new();

    /// <summary>Its offloads.</summary>
    public OffloadState OffloadState { get; }

    /// <summary>Where its snapshot is published.</summary>
    public RoutingHolder Routing { get; } = new();

    /// <summary>Counters of packets of no peer.</summary>
    public PeerCounters Network { get; } = new();

    /// <summary>Publishes a snapshot of peers with their subnets.</summary>
    public MemoryHost With(
        IReadOnlyList<(Peer Peer, string[] Subnets)> peers,
        string[]? interfaceAddresses = null,
        bool dropsPartialUdp = false,
        string[]? ownAddresses = null)
    {
        Routing.Current = Overlay.Snapshot(peers, interfaceAddresses, dropsPartialUdp, ownAddresses);
        return this;
    }

    /// <summary>Carries what waits on the TUN device; returns how many packets there were.</summary>
    public int RunOutbound() => RunUntilEmpty(_outbound.Run);

    /// <summary>Carries what waits on the underlay; returns how many packets there were.</summary>
    public int RunInbound() => RunUntilEmpty(_inbound.Run);

    /// <summary>Sends one packet through the TUN device.</summary>
    public void Send(byte[] packet, Offload offload = default)
    {
        Tun.Enqueue(packet, offload);
        RunOutbound();
    }

    /// <summary>Lets one packet arrive on the underlay.</summary>
    public void Receive(byte[] packet)
    {
        Underlay.Enqueue(packet);
        RunInbound();
    }

    /// <summary>Lets one packet arrive in any way.</summary>
    public void Receive(ReceivedPacket packet)
    {
        Underlay.Enqueue(packet);
        RunInbound();
    }

    /// <summary>All drops by reason that are not zero, the network's and the peers' together.</summary>
    public Dictionary<DropReason, long> Drops()
    {
        PeerCounters[] all = [Network, .. Routing.Current.Peers.Select(p => p.Counters[0])];
        return Enum.GetValues<DropReason>()
            .Select(reason => KeyValuePair.Create(reason, all.Sum(c => c.Drops(reason))))
            .Where(pair => pair.Value != 0)
            .ToDictionary();
    }

    private static int RunUntilEmpty(Func<int> run)
    {
        int total = 0;
        for (int count = run(); count > 0; count = run())
        {
            total += count;
        }

        return total;
    }
}
