using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// Everything that a packet's way depends on, as it is at one moment: the overlay routes, the peers by endpoint and key, this
/// host's own addresses. Immutable; a change of configuration makes a new one.
/// </summary>
public sealed class RoutingSnapshot
{
    private readonly Dictionary<SenderKey, Peer> _senders = [];
    private readonly Dictionary<InetAddress, Peer?> _endpoints = [];
    private readonly IReadOnlySet<InetAddress> _ownAddresses;
    private readonly RouteTable<Peer[]>? _sharedSenders;

    /// <summary>Builds a snapshot.</summary>
    /// <param name="routes">The peers' subnets.</param>
    /// <param name="peers">The peers; no two may have the same endpoint and inbound key.</param>
    /// <param name="interfaceAddresses">This host's overlay addresses: ICMP errors are sent from them.</param>
    /// <param name="dropsPartialUdp">Whether a receiving device coalesces UDP; see <see cref="KernelCoalescing"/>.</param>
    /// <param name="ownAddresses">The underlay addresses at which packets are received; see <see cref="IsOwn"/>.</param>
    /// <param name="senders">Who may send from each subnet, where several peers share one; null where nobody does.</param>
    public RoutingSnapshot(
        RouteTable<Peer> routes,
        IReadOnlyList<Peer> peers,
        IReadOnlyList<InetAddress> interfaceAddresses,
        bool dropsPartialUdp = false,
        IReadOnlySet<InetAddress>? ownAddresses = null,
        RouteTable<Peer[]>? senders = null)
    {
        _sharedSenders = senders;
        _ownAddresses = ownAddresses ?? new HashSet<InetAddress>();
        Routes = routes;
        Peers = peers;
        DropsPartialUdp = dropsPartialUdp;
        Ipv6Address = interfaceAddresses.FirstOrDefault(a => a.IsIpv6);
        foreach (Peer peer in peers)
        {
            PeerSettings settings = peer.Settings;
            if (settings.Endpoint.IsNone)
            {
                continue;
            }

            _senders.Add(new SenderKey(settings.Endpoint, settings.KeyIn.HasValue, settings.KeyIn.GetValueOrDefault()), peer);

            // Where several peers share an endpoint, a packet with a wrong key can't be blamed on one of them.
            _endpoints[settings.Endpoint] = _endpoints.ContainsKey(settings.Endpoint) ? null : peer;
        }
    }

    /// <summary>A snapshot of a network without peers.</summary>
    public static RoutingSnapshot Empty { get; } = new(new RouteTable<Peer>([]), [], []);

    /// <summary>The overlay route table.</summary>
    public RouteTable<Peer> Routes { get; }

    /// <summary>All peers.</summary>
    public IReadOnlyList<Peer> Peers { get; }

    /// <summary>Whether a receiving device coalesces UDP datagrams, so that one with an unfinished checksum can't be trusted to be one.</summary>
    public bool DropsPartialUdp { get; }

    /// <summary>This host's first IPv6 address in the overlay; none where it has none.</summary>
    public InetAddress Ipv6Address { get; }

    /// <summary>
    /// The address that an ICMP error about a packet comes from. Over IPv6 one of this host's, as RFC 4443 section 2.2 demands: an overlay address, or at
    /// least the one that the peer knows. Over IPv4, and where this host has none, the packet's own destination: whatever comes from a device with an IPv4
    /// address of the host's own as its source, the kernel drops (docs/decisions/0026).
    /// </summary>
    /// <param name="peer">Who would have got the packet.</param>
    /// <param name="destination">The packet's destination.</param>
    public InetAddress ErrorSource(Peer peer, InetAddress destination) =>
        destination.IsIpv4 ? destination
        : !Ipv6Address.IsNone ? Ipv6Address
        : peer.Settings.Local.IsIpv6 ? peer.Settings.Local
        : destination;

    /// <summary>Finds the peer that sent a packet: endpoint and key must both match, and a packet without key matches a peer without key only.</summary>
    public Peer? FindSender(InetAddress outerSource, bool hasKey, uint key) =>
        _senders.GetValueOrDefault(new SenderKey(outerSource, hasKey, key));

    /// <summary>Whether any peer has this endpoint.</summary>
    /// <param name="outerSource">The endpoint.</param>
    /// <param name="peer">The peer, where just one has it.</param>
    public bool IsEndpoint(InetAddress outerSource, out Peer? peer) => _endpoints.TryGetValue(outerSource, out peer);

    /// <summary>
    /// Whether a packet to this outer address is for this host, for packet sockets: they also get what the host forwards. The address that
    /// a peer's packets are sent from counts without being asked for here.
    /// </summary>
    public bool IsOwn(InetAddress outerDestination) => _ownAddresses.Contains(outerDestination);

    /// <summary>Whether a peer shares the longest subnet that holds an address: then it may send from it, whoever gets the packets for it.</summary>
    public bool Shares(Peer peer, InetAddress address) =>
        _sharedSenders?.Lookup(address) is Peer[] owners && Array.IndexOf(owners, peer) >= 0;

    private readonly record struct SenderKey(InetAddress Endpoint, bool HasKey, uint Key);
}

/// <summary>
/// Where the packet threads find the snapshot in force. Thread rule: the control plane publishes with one reference write; a worker
/// reads once a batch, so a batch is handled under one snapshot.
/// </summary>
public sealed class RoutingHolder
{
    private RoutingSnapshot _current = RoutingSnapshot.Empty;

    /// <summary>The snapshot in force.</summary>
    public RoutingSnapshot Current
    {
        get => Volatile.Read(ref _current);
        set => Volatile.Write(ref _current, value);
    }
}
