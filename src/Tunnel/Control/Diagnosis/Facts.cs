using Tunnel.Control.Configuration;
using Tunnel.Control.Monitoring;
using Tunnel.Control.Paths;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Diagnosis;

/// <summary>A device of this host.</summary>
/// <param name="Link">The device.</param>
/// <param name="Addresses">Its addresses.</param>
/// <param name="ForwardsIpv4">Whether packets of IPv4 that come by it are forwarded.</param>
/// <param name="ForwardsIpv6">The same for IPv6.</param>
/// <param name="ReversePathFilter">What is in force: 0 none, 1 strict, 2 loose (RFC 3704).</param>
internal sealed record LinkFacts(HostLink Link, IReadOnlyList<IpPrefix> Addresses, bool ForwardsIpv4, bool ForwardsIpv6, int ReversePathFilter);

/// <summary>What is known of a peer.</summary>
/// <param name="Entry">The peer.</param>
/// <param name="Health">What watching it has shown; null where it is not watched yet.</param>
internal sealed record PeerFacts(PeerEntry Entry, PeerHealth? Health)
{
    /// <summary>Its name.</summary>
    public string Name => Entry.Config.Name;

    /// <summary>Whether its daemon has answered just now.</summary>
    public bool Answers { get; init; }

    /// <summary>Whether it has not answered a question as long as packets to it may be, though it has answered a short one.</summary>
    public bool IsLongLost { get; init; }

    /// <summary>Whether its host answers ping on the underlay; null where that is not known.</summary>
    public bool? HostAnswers { get; init; }

    /// <summary>How long ago the last packet or message of it was taken, in seconds; null for never.</summary>
    public double? HeardSeconds { get; init; }

    /// <summary>Whether it has ever said what only tunneld says.</summary>
    public bool IsDaemon { get; init; }

    /// <summary>What it said last that it hears of this host; null where that is too long ago, or never was.</summary>
    public Hearing? Hearing { get; init; }

    /// <summary>How long ago a packet came from its endpoint with another key, in seconds; null where none came lately, or where good ones came since.</summary>
    public double? WrongKeySeconds { get; init; }

    /// <summary>Whether another network of this host has a peer at the same endpoint: every raw socket gets that one's packets as well, with its keys.</summary>
    public bool IsShared { get; init; }

    /// <summary>The way to it; null where there is none.</summary>
    public HostPath? Path { get; init; }

    /// <summary>The source that the kernel would choose by itself; none where there is no way.</summary>
    public InetAddress KernelSource { get; init; }

    /// <summary>The next hop, IPv4 only; null where it is not known.</summary>
    public HostNextHop? Hop { get; init; }

    /// <summary>Whether the next hop was asked for and has not answered.</summary>
    public bool HopFailed { get; init; }
}

/// <summary>Everything that the checks look at: this host, its rules, the network and its peers at one moment. No clock is needed to judge it.</summary>
internal sealed record Facts
{
    /// <summary>The configuration.</summary>
    public required NetworkConfig Config { get; init; }

    /// <summary>The configuration's file.</summary>
    public required string ConfigPath { get; init; }

    /// <summary>The network's device.</summary>
    public required HostLink Device { get; init; }

    /// <summary>What is wrong with the network itself.</summary>
    public IReadOnlyList<string> NetworkProblems { get; init; } = [];

    /// <summary>Why routes are not there.</summary>
    public IReadOnlyDictionary<IpPrefix, string> RouteProblems { get; init; } = new Dictionary<IpPrefix, string>();

    /// <summary>The peers that are asked about.</summary>
    public IReadOnlyList<PeerFacts> Peers { get; init; } = [];

    /// <summary>What was dropped lately.</summary>
    public IReadOnlyList<NetworkMonitor.Sighting> Sightings { get; init; } = [];

    /// <summary>Whether plain GRE is received by raw sockets, behind the firewall's rules.</summary>
    public bool ReceivesRaw { get; init; }

    /// <summary>All devices.</summary>
    public IReadOnlyList<LinkFacts> Links { get; init; } = [];

    /// <summary>The routes of the main table.</summary>
    public IReadOnlyList<HostRoute> Routes { get; init; } = [];

    /// <summary>By which device each subnet of a peer is reached: its index, or 0 for none.</summary>
    public IReadOnlyDictionary<IpPrefix, int> RouteLinks { get; init; } = new Dictionary<IpPrefix, int>();

    /// <summary>net.ipv4.ip_forward.</summary>
    public bool ForwardsIpv4 { get; init; }

    /// <summary>The netfilter rules; null where they are not known.</summary>
    public NetfilterFate? Rules { get; init; }

    /// <summary>Why some rules are not known, for people.</summary>
    public IReadOnlyList<string> UnreadableRules { get; init; } = [];

    /// <summary>Whether there are tables of iptables-legacy.</summary>
    public bool HasLegacyTables { get; init; }

    /// <summary>The device itself with its settings; null where it is gone.</summary>
    public LinkFacts? DeviceFacts => Links.FirstOrDefault(link => link.Link.Index == Device.Index);

    /// <summary>The devices behind which containers may be: not the network's own, no underlay, no loopback.</summary>
    public IEnumerable<LinkFacts> ContainerLinks =>
        from link in Links
        where link.Link is { IsUp: true, Name: not "lo" } && link.Link.Index != Device.Index && !IsUnderlay(link)
        let subnets = Config.Subnets
        where link.Addresses.Any(own => !IsLinkLocal(own.Address) && (subnets.Count == 0 || subnets.Any(subnet => subnet.Contains(own.Address))))
        select link;

    /// <summary>The device of an index; null where there is none.</summary>
    public LinkFacts? FindLink(int index) => Links.FirstOrDefault(link => link.Link.Index == index);

    /// <summary>The device that has an address; null where none has.</summary>
    public LinkFacts? FindLinkWith(InetAddress address) => Links.FirstOrDefault(link => link.Addresses.Any(own => own.Address == address));

    /// <summary>
    /// An address that stands for a subnet: its last but one, which is seldom somebody's in particular, as rules for published ports are.
    /// </summary>
    public static InetAddress AddressIn(IpPrefix subnet)
    {
        UInt128 hosts = subnet.Length >= subnet.MaxLength ? 0 : (UInt128.One << (subnet.MaxLength - subnet.Length)) - 1;
        return new InetAddress(subnet.Network.Address.Bits | (hosts > 1 ? hosts - 1 : 0));
    }

    /// <summary>Whether an address is good for one link only (fe80::/10, 169.254.0.0/16).</summary>
    public static bool IsLinkLocal(InetAddress address) =>
        address.IsIpv4 ? address.Ipv4 >> 16 == 0xa9fe : IpPrefix.Ipv6LinkLocal.Contains(address);

    private bool IsUnderlay(LinkFacts link) =>
        Peers.Any(peer => peer.Path?.LinkIndex == link.Link.Index || link.Addresses.Any(own => own.Address == peer.Entry.Peer.Settings.Local)) ||
        link.Addresses.Any(own => Config.Underlay.Local.Contains(own.Address)) || link.Link.Name == Config.Underlay.Interface ||
        Routes.Any(route => route.Destination.Length == 0 && route.LinkIndex == link.Link.Index);
}
