using System.Net;
using Tunnel.Wire;

namespace Tunnel.Control.Configuration;

/// <summary>The network's device on this host.</summary>
internal sealed record InterfaceConfig
{
    /// <summary>This host's overlay addresses; host bits are theirs. May be empty.</summary>
    public EquatableList<IpPrefix> Addresses { get; init; } = [];

    /// <summary>The device's MTU in bytes, 576 to 65535; null follows the underlay and the encapsulation.</summary>
    public int? Mtu { get; init; }

    /// <summary>The smallest GMTU that path MTU discovery may end at, in bytes; what claims less is not believed.</summary>
    public int PathMtuFloor { get; init; } = DefaultPathMtuFloor;

    /// <summary>What every IPv4 host takes (RFC 791 section 3.1), less the largest header that stands before it.</summary>
    public const int DefaultPathMtuFloor = 512;
}

/// <summary>How the network is watched from outside.</summary>
internal sealed record ControlConfig
{
    /// <summary>The TCP address at which metrics and health are told beside the control socket; null for none.</summary>
    public IPEndPoint? Metrics { get; init; }
}

/// <summary>What becomes of the overlay's packets in the host's firewall.</summary>
/// <param name="Masquerade">Whether packets from the overlay to elsewhere get this host's address as their source.</param>
/// <param name="Forward">Whether packets from the overlay are let through where Docker's firewall would drop them.</param>
internal sealed record NatConfig(bool Masquerade, bool Forward);

/// <summary>How the network crosses the underlay.</summary>
internal sealed record UnderlayConfig
{
    /// <summary>GRE-in-UDP's destination port (RFC 8086 section 8).</summary>
    public const int DefaultUdpPort = 4754;

    /// <summary>Source addresses, at most one of a family; empty leaves the choice to <see cref="Interface"/> or to the kernel.</summary>
    public EquatableList<InetAddress> Local { get; init; } = [];

    /// <summary>The device whose addresses are the sources; null where <see cref="Local"/> or the kernel decides.</summary>
    public string? Interface { get; init; }

    /// <summary>The default for peers that name none.</summary>
    public Encapsulation Encapsulation { get; init; } = Encapsulation.Gre;

    /// <summary>What is received, as configured; empty means what the peers use. See <see cref="NetworkConfig.Accepted"/>.</summary>
    public EquatableList<Encapsulation> Accept { get; init; } = [];

    /// <summary>Whether <see cref="Encapsulation.Auto"/> may come to GRE-in-UDP where plain GRE does not arrive.</summary>
    public bool AllowUdp { get; init; }

    /// <summary>The UDP port that GRE-in-UDP is received on and, by default, sent to.</summary>
    public int UdpPort { get; init; } = DefaultUdpPort;

    /// <summary>GRE-in-UDP's source port; null takes it from a hash of the inner flow.</summary>
    public int? SourcePort { get; init; }
}

/// <summary>
/// The whole configuration of one network. Immutable and checked: an instance made by <see cref="ConfigReader"/>, or by the
/// methods here from such a one, keeps every rule. Compares by value; positions in files don't count.
/// </summary>
internal sealed record NetworkConfig
{
    /// <summary>The name of the network and of its device: 1 to 15 characters [A-Za-z0-9_.-].</summary>
    public required string Name { get; init; }

    /// <summary>The path of its file, as it was given.</summary>
    public required string File { get; init; }

    /// <summary>The device.</summary>
    public InterfaceConfig Interface { get; init; } = new();

    /// <summary>The underlay.</summary>
    public UnderlayConfig Underlay { get; init; } = new();

    /// <summary>How packets are carried on this host.</summary>
    public DatapathConfig Datapath { get; init; } = new();

    /// <summary>How the network is watched from outside.</summary>
    public ControlConfig Control { get; init; } = new();

    /// <summary>Overlay subnets behind this host. May be empty.</summary>
    public EquatableList<IpPrefix> Subnets { get; init; } = [];

    /// <summary>What becomes of its packets in the host's firewall; null where nothing is said: then sources are kept where somebody else would change them.</summary>
    public NatConfig? Nat { get; init; }

    /// <summary>The peers: the file's in its order, then the stored ones by name, then those that commands added.</summary>
    public EquatableList<PeerConfig> Peers { get; init; } = [];

    /// <summary>Where each setting but the peers' stands, by its path ("interface.mtu").</summary>
    public SourcePositions Source { get; init; } = SourcePositions.None;

    /// <summary>What is received: <see cref="UnderlayConfig.Accept"/>, or else what the peers (without any: the default) use.</summary>
    public IReadOnlyList<Encapsulation> Accepted =>
        Underlay.Accept.Count > 0 ? Underlay.Accept
        : Peers.Count > 0 ? [.. Peers.SelectMany(EncapsulationsOf).Distinct().Order()]
        : [DefaultEncapsulation];

    /// <summary>Whether plain GRE is received.</summary>
    public bool AcceptsGre => Accepted.Contains(Encapsulation.Gre);

    /// <summary>Whether GRE-in-UDP is received, at <see cref="UnderlayConfig.UdpPort"/>.</summary>
    public bool AcceptsGreUdp => Accepted.Contains(Encapsulation.GreUdp);

    /// <summary>The encapsulation for peers that name none: what <see cref="EncapsulationOf"/> would say of them.</summary>
    public Encapsulation DefaultEncapsulation => Carried(Underlay.Encapsulation);

    /// <summary>The encapsulation that is configured for a peer: its own or the default.</summary>
    public Encapsulation ConfiguredFor(PeerConfig peer) => peer.Encapsulation ?? Underlay.Encapsulation;

    /// <summary>
    /// The encapsulation to begin with for a peer, and for what can't go without one: <see cref="Encapsulation.Gre"/> where it is configured as
    /// <see cref="Encapsulation.Auto"/> or <see cref="Encapsulation.Direct"/>.
    /// </summary>
    public Encapsulation EncapsulationOf(PeerConfig peer) => Carried(ConfiguredFor(peer));

    /// <summary>Whether a peer's packets may go by GRE-in-UDP: where that is configured, and where it is left to tunneld and allowed.</summary>
    public bool MayUseUdp(PeerConfig peer) =>
        ConfiguredFor(peer) is Encapsulation.GreUdp || (ConfiguredFor(peer) is Encapsulation.Auto && Underlay.AllowUdp);

    /// <summary>The UDP port that a peer's packets go to; 0 where they go by plain GRE.</summary>
    public ushort UdpPortOf(PeerConfig peer) => UdpPortOf(peer, EncapsulationOf(peer));

    /// <summary>The UDP port that a peer's packets would go to by an encapsulation; 0 by plain GRE.</summary>
    public ushort UdpPortOf(PeerConfig peer, Encapsulation encapsulation) =>
        encapsulation == Encapsulation.GreUdp ? (ushort)(peer.Endpoint.Port ?? Underlay.UdpPort) : (ushort)0;

    /// <summary>Finds a peer by its exact name; null where there is none.</summary>
    public PeerConfig? FindPeer(string name) => Peers.FirstOrDefault(peer => peer.Name == name);

    /// <summary>
    /// Finds the longest peer subnet that holds an address; null where none does. An underlay address must not be found here:
    /// packets to it would enter the network again. Literal endpoints are checked with the file, resolved names by their resolver.
    /// </summary>
    public (PeerConfig Peer, IpPrefix Subnet)? FindSubnet(InetAddress address)
    {
        (PeerConfig, IpPrefix Subnet)? best = null;
        foreach (PeerConfig peer in Peers)
        {
            foreach (IpPrefix subnet in peer.Subnets)
            {
                if (subnet.Contains(address) && (best is null || subnet.Length > best.Value.Subnet.Length))
                    best = (peer, subnet);
            }
        }

        return best;
    }

    /// <summary>
    /// Adds a peer, or replaces the one of its name in place. The errors' fields are paths below the peer. A peer that comes from
    /// the network's file is not replaced (<see cref="ConfigErrorKind.Conflict"/>).
    /// </summary>
    public ConfigResult<NetworkConfig> WithPeer(PeerConfig peer)
    {
        var errors = new ConfigErrorList();
        PeerConfig? existing = FindPeer(peer.Name);
        if (existing is not null)
            RefuseChange(existing, errors);

        PeerIndex index = IndexOf(Peers.Where(other => other != existing));
        index.Add(peer, string.Empty, errors);
        PeerConfig[] peers = existing is null ? [.. Peers, peer] : [.. Peers.Select(other => other == existing ? peer : other)];
        return errors.ToResult(this with { Peers = new EquatableList<PeerConfig>(peers) });
    }

    /// <summary>Removes a peer. One that comes from the network's file is not removed (<see cref="ConfigErrorKind.Conflict"/>).</summary>
    /// <exception cref="ArgumentException">There is no such peer; <see cref="FindPeer"/> tells.</exception>
    public ConfigResult<NetworkConfig> WithoutPeer(string name)
    {
        PeerConfig existing = FindPeer(name) ?? throw new ArgumentException($"no peer {name}", nameof(name));
        var errors = new ConfigErrorList();
        RefuseChange(existing, errors);
        return errors.ToResult(this with { Peers = [.. Peers.Where(peer => peer != existing)] });
    }

    /// <summary>Appends the ephemeral peers that this process keeps to a freshly read configuration, in their order.</summary>
    /// <returns>The errors name the ephemeral peer that clashes with what was read; their fields begin with "peers.NAME".</returns>
    public ConfigResult<NetworkConfig> WithEphemeral(IEnumerable<PeerConfig> peers)
    {
        var errors = new ConfigErrorList();
        PeerIndex index = IndexOf(Peers);
        var all = new List<PeerConfig>(Peers);
        foreach (PeerConfig peer in peers)
        {
            if (FindPeer(peer.Name) is { } other)
            {
                errors.Conflict(
                    default,
                    $"peers.{peer.Name}",
                    $"{PeerIndex.Describe(other, string.Empty)} is also an ephemeral peer",
                    $"remove the one kept in memory first: tunnelctl -n {Name} remove-peer {peer.Name}");
                continue;
            }

            index.Add(peer, $"peers.{peer.Name}.", errors);
            all.Add(peer);
        }

        return errors.ToResult(this with { Peers = [.. all] });
    }

    private static Encapsulation Carried(Encapsulation encapsulation) =>
        encapsulation == Encapsulation.GreUdp ? Encapsulation.GreUdp : Encapsulation.Gre;

    private IEnumerable<Encapsulation> EncapsulationsOf(PeerConfig peer) =>
        MayUseUdp(peer) ? [EncapsulationOf(peer), Encapsulation.GreUdp] : [EncapsulationOf(peer)];

    // Of peers that are known to be good.
    private PeerIndex IndexOf(IEnumerable<PeerConfig> peers)
    {
        var index = new PeerIndex(this);
        var none = new ConfigErrorList();
        foreach (PeerConfig peer in peers)
            index.Add(peer, string.Empty, none);

        return index;
    }

    private void RefuseChange(PeerConfig existing, ConfigErrorList errors)
    {
        if (existing.Origin == PeerOrigin.File)
        {
            errors.Conflict(
                default,
                null,
                $"{PeerIndex.Describe(existing, string.Empty)} comes from the network's file and is not changed by command",
                $"edit the file, then: tunnelctl -n {Name} reload");
        }
    }
}
