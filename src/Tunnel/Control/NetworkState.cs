using Tunnel.Control.Configuration;
using Tunnel.Control.Diagnosis;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control;

/// <summary>What a network is made of; put together by the composition root.</summary>
/// <param name="ConfigPath">The configuration file, as given on the command line.</param>
/// <param name="Device">The TUN device.</param>
/// <param name="Store">Where peers added by command are kept.</param>
/// <param name="Host">The host's kernel.</param>
/// <param name="Firewall">The host's firewall.</param>
/// <param name="Claims">What keeps senders and ports unique among the networks of this host.</param>
/// <param name="Routing">Where the packet threads find their snapshot.</param>
/// <param name="NetworkCounters">What the workers count for no peer, one each; so there are as many workers.</param>
/// <param name="Queues">What waits between the kernel and the workers, and what was dropped there.</param>
/// <param name="Reception">What is told which encapsulations to receive.</param>
/// <param name="Paths">Which ways the underlays use.</param>
/// <param name="PathReasons">Why a way is not the one that would be best, or not the one that is configured, for people; empty where it is.</param>
/// <param name="Offloads">Which offloads are in use.</param>
/// <param name="Warnings">What the configuration's reader warned of.</param>
/// <param name="Events">Where events are told.</param>
/// <param name="Time">The clock.</param>
/// <param name="Probes">Questions to peers and their answers.</param>
/// <param name="WakeProber">Wakes the worker that sends questions.</param>
/// <param name="Changed">Is told of a configuration in force, or of peers that have changed under the same one; null where nobody needs to know.</param>
internal sealed record NetworkParts(
    string ConfigPath,
    HostLink Device,
    PeerStore Store,
    IHostNetwork Host,
    IHostFirewall Firewall,
    IEndpointClaims Claims,
    RoutingHolder Routing,
    PeerCounters[] NetworkCounters,
    IUnderlayQueues Queues,
    IUnderlayReception Reception,
    IUnderlayPaths Paths,
    Func<IReadOnlyList<string>> PathReasons,
    OffloadState Offloads,
    IReadOnlyList<string> Warnings,
    EventStream Events,
    TimeProvider Time,
    ProbeExchange Probes,
    Action WakeProber,
    Action<NetworkConfig>? Changed = null)
{
    /// <summary>Whether the device and its addresses are an earlier process's, and this one's now.</summary>
    public bool InheritsDevice { get; init; }

    /// <summary>How the host is looked at where somebody asks what is wrong; null where nobody can.</summary>
    public HostExaminers? Examiners { get; init; }

    /// <summary>How addresses behind a peer are asked without a tunnel; null where they can't be.</summary>
    public IDirectProbe? DirectProbe { get; init; }

    /// <summary>Where copies of packets can be had.</summary>
    public CaptureTap Tap { get; init; } = new();
}

/// <summary>What a reload changed: peers by name, and whether anything else in the file differs.</summary>
internal sealed record ReloadResult(IReadOnlyList<string> Added, IReadOnlyList<string> Changed, IReadOnlyList<string> Removed, bool Network);

/// <summary>The whole network at one moment. Immutable.</summary>
/// <param name="Config">The configuration: FILE, NAME.d and ephemeral peers.</param>
/// <param name="Peers">The peers, in the configuration's order.</param>
/// <param name="Mtu">The device's MTU in bytes.</param>
/// <param name="UdpCoalescer">A receiving device that coalesces UDP; null where none does.</param>
/// <param name="OwnAddresses">The underlay addresses at which packets are received.</param>
/// <param name="Problems">What is wrong with device or addresses, for people.</param>
/// <param name="RouteProblems">Why a route is not there, for people.</param>
internal sealed record NetworkState(
    NetworkConfig Config,
    IReadOnlyList<PeerEntry> Peers,
    int Mtu,
    string? UdpCoalescer,
    IReadOnlySet<InetAddress> OwnAddresses,
    IReadOnlyList<string> Problems,
    IReadOnlyDictionary<IpPrefix, string> RouteProblems)
{
    /// <summary>Whether plain GRE is received.</summary>
    public bool AcceptsGre => Config.AcceptsGre;

    /// <summary>Whether GRE-in-UDP is received.</summary>
    public bool AcceptsGreUdp => Config.AcceptsGreUdp;

    /// <summary>The senders that no other network of this host may have.</summary>
    public IEnumerable<EndpointClaim> SenderClaims => AcceptsGre ? Peers.Select(entry => entry.Claim).OfType<EndpointClaim>() : [];

    /// <summary>The UDP ports that no other network of this host may have.</summary>
    public IEnumerable<UdpPortClaim> PortClaims
    {
        get
        {
            IReadOnlyList<InetAddress> local = Config.Underlay.Local is { Count: > 0 } some ? some : [InetAddress.None];
            return AcceptsGreUdp ? local.Select(address => new UdpPortClaim(address, (ushort)Config.Underlay.UdpPort)) : [];
        }
    }

    /// <summary>
    /// Who gets the packets for each subnet: where several peers have it, the first that is not withdrawn. Nobody where all are.
    /// </summary>
    public IEnumerable<KeyValuePair<IpPrefix, PeerEntry>> Owners =>
        from entry in Peers
        where !entry.IsWithdrawn
        from prefix in entry.Config.Subnets
        group entry by prefix into owners
        select KeyValuePair.Create(owners.Key, owners.First());

    /// <summary>The subnets that are routed.</summary>
    public IEnumerable<IpPrefix> Prefixes => Owners.Select(owner => owner.Key);

    /// <summary>A peer by name; null where there is none.</summary>
    public PeerEntry? FindPeer(string name) => Peers.FirstOrDefault(entry => entry.Config.Name == name);

    /// <summary>Whether packet threads, kernel and whoever watches over the peers would see no difference.</summary>
    public bool LooksLike(NetworkState other) =>
        Mtu == other.Mtu && UdpCoalescer == other.UdpCoalescer && OwnAddresses.SetEquals(other.OwnAddresses) && ReferenceEquals(Config, other.Config) &&
        Peers.Count == other.Peers.Count && Peers.Zip(other.Peers).All(pair => pair.First.LooksLike(pair.Second));

    /// <summary>What the packet threads need.</summary>
    public RoutingSnapshot ToSnapshot()
    {
        var routes = new RouteTable<Peer>(Owners.Select(owner => KeyValuePair.Create(owner.Key, owner.Value.Peer)));
        return new RoutingSnapshot(
            routes,
            [.. Peers.Select(entry => entry.Peer)],
            [.. Config.Interface.Addresses.Select(address => address.Address)],
            dropsPartialUdp: UdpCoalescer is not null,
            OwnAddresses,
            SenderTable());
    }

    // Who may send from each subnet, withdrawn or not. Null where nobody shares one, as nearly always: then it is who gets its packets.
    private RouteTable<Peer[]>? SenderTable()
    {
        KeyValuePair<IpPrefix, Peer[]>[] senders =
        [
            .. from entry in Peers
               from prefix in entry.Config.Subnets
               group entry.Peer by prefix into owners
               select KeyValuePair.Create(owners.Key, owners.ToArray()),
        ];
        return senders.All(subnet => subnet.Value.Length == 1) ? null : new RouteTable<Peer[]>(senders);
    }

    /// <summary>The largest packet that may go to a peer's subnet, in bytes.</summary>
    public int RouteMtu(PeerEntry entry, IpPrefix prefix) => IsDirect(entry, prefix)
        ? entry.Peer.Settings.Gmtu + entry.Peer.Settings.Overhead
        : Math.Min(Mtu, prefix.Address.IsIpv4 ? entry.Peer.Settings.Gmtu : entry.Peer.LargestIpv6);

    /// <summary>What the kernel is to look like. A route says its MTU only where it is less than the device's.</summary>
    public KernelState ToKernelState()
    {
        var routes = new Dictionary<IpPrefix, int>();
        var direct = new Dictionary<IpPrefix, DirectWay>();
        foreach ((IpPrefix prefix, PeerEntry entry) in Owners)
        {
            int mtu = RouteMtu(entry, prefix);
            bool isDirect = IsDirect(entry, prefix);
            routes[prefix] = isDirect || (entry.Peer.IsReady && mtu < Mtu) ? mtu : 0;
            if (isDirect)
            {
                direct[prefix] = entry.OnLink!;
            }
        }

        return new KernelState(Mtu, Config.Interface.Addresses, routes) { Direct = direct };
    }

    /// <summary>Whether a peer's subnet is reached without a tunnel.</summary>
    public static bool IsDirect(PeerEntry entry, IpPrefix subnet) => entry.DirectSubnets.Contains(subnet);
}
