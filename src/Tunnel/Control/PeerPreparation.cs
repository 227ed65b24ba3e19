using Tunnel.Control.Configuration;
using Tunnel.Control.Encapsulations;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control;

/// <summary>
/// Turns configured peers into peers that the packet threads can use: resolves endpoints, asks the kernel for the path to each, and
/// works out the GMTU. Changes nothing on the host. Not thread-safe: its owner serialises.
/// </summary>
/// <param name="host">The host's kernel.</param>
/// <param name="tunIndex">The TUN device.</param>
/// <param name="workers">How many workers there are.</param>
/// <param name="choiceOf">What has been chosen for a peer, by name, whose encapsulation is left to tunneld.</param>
internal sealed class PeerPreparation(IHostNetwork host, int tunIndex, int workers, Func<string, EncapsulationChoice> choiceOf)
{
    // What plain Ethernet takes, for a network that has no peer yet and no local address to look at.
    private const int UsualUnderlayMtu = 1500;
    private const int LargestIpPacket = 65_535;

    /// <summary>
    /// Resolves the names among some peers' endpoints. It may take as long as <paramref name="patience"/> says, so nobody should be kept
    /// waiting for it; may be called from any thread.
    /// </summary>
    public Task<IReadOnlyDictionary<string, Resolution>> ResolveAsync(
        NetworkConfig config, IEnumerable<PeerConfig> peers, TimeSpan patience, CancellationToken cancellationToken)
    {
        InetAddress[] local = [.. LocalAddresses(config)];
        return EndpointResolver.ResolveAsync(
            peers.Where(peer => peer.Endpoint.IsName).Select(peer => peer.Endpoint.Host),
            address => local.Length == 0 || local.Any(own => own.IsIpv4 == address.IsIpv4),
            patience,
            cancellationToken);
    }

    /// <summary>Prepares all peers. What counts and sequence numbers a peer of the same name has is kept.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="before">The peers as they are now.</param>
    /// <param name="names">What names came to lately. One that is not there, or has failed, keeps the address that it had.</param>
    public IReadOnlyList<PeerEntry> Prepare(
        NetworkConfig config, IReadOnlyList<PeerEntry> before, IReadOnlyDictionary<string, Resolution> names)
    {
        Dictionary<string, PeerEntry> known = before.ToDictionary(entry => entry.Config.Name, StringComparer.Ordinal);
        var entries = new List<PeerEntry>(config.Peers.Count);
        var senders = new Dictionary<(InetAddress, uint?), string>();
        foreach (PeerConfig peer in config.Peers)
        {
            PeerEntry? old = known.GetValueOrDefault(peer.Name);
            (InetAddress address, string? problem, _) = AddressOf(peer, old, names);
            string? clash = problem is null ? FindClash(config, peer, address, senders) : null;
            entries.Add(Prepare(config, peer, clash is null ? address : InetAddress.None, problem ?? clash, old) with { IsClash = clash is not null });
        }

        return entries;
    }

    /// <summary>
    /// The device's MTU where the configuration leaves it open: what the best path takes; routes of lesser ones say theirs. The kernel takes
    /// IPv6 off a device with less than 1280 bytes, so where the network has IPv6 it is that at least.
    /// </summary>
    public int AutomaticMtu(NetworkConfig config, IReadOnlyList<PeerEntry> peers)
    {
        bool hasIpv6 = config.Interface.Addresses.Concat(peers.SelectMany(entry => entry.Config.Subnets)).Any(prefix => !prefix.Address.IsIpv4);
        return Math.Max(BestGmtu(config, peers), hasIpv6 ? Ipv6Header.MinMtu : 0);
    }

    private int BestGmtu(NetworkConfig config, IReadOnlyList<PeerEntry> peers)
    {
        int[] ready = [.. peers.Where(entry => entry.Peer.IsReady).Select(entry => entry.Peer.Settings.Gmtu)];
        if (ready.Length > 0)
        {
            return ready.Max();
        }

        InetAddress local = config.Underlay.Local is [InetAddress first, ..] ? first : InetAddress.None;
        HostLink? link = config.Underlay.Interface is string name ? host.FindLink(name) : local.IsNone ? null : host.FindLinkWithAddress(local);
        bool usesUdp = config.DefaultEncapsulation == Encapsulation.GreUdp;
        int overhead = PeerSettings.OverheadOf(isIpv4: !local.IsIpv6, hasKey: false, usesChecksum: false, usesSequence: false, usesUdp);
        return Math.Min(link?.Mtu ?? UsualUnderlayMtu, LargestIpPacket) - overhead;
    }

    private static Resolution AddressOf(PeerConfig peer, PeerEntry? old, IReadOnlyDictionary<string, Resolution> names)
    {
        if (!peer.Endpoint.IsName)
        {
            return new Resolution(peer.Endpoint.Address, null);
        }

        bool isKnown = names.TryGetValue(peer.Endpoint.Host, out Resolution resolved);
        bool isFound = isKnown && resolved.Problem is null;

        // A name server that is down takes no peer down, and one that tells several addresses in turns moves none.
        if (old is not null && old.Config.Endpoint == peer.Endpoint && !old.Address.IsNone && (!isFound || resolved.All?.Contains(old.Address) == true))
        {
            return new Resolution(old.Address, null);
        }

        if (isFound)
        {
            return resolved;
        }

        return isKnown ? resolved : new Resolution(InetAddress.None, $"endpoint {peer.Endpoint} is not resolved yet");
    }

    // What the configuration's check refuses for literal addresses can come about through a name. The first in the file goes before.
    private static string? FindClash(
        NetworkConfig config, PeerConfig peer, InetAddress address, Dictionary<(InetAddress, uint?), string> senders)
    {
        if (!senders.TryAdd((address, peer.Key?.In), peer.Name))
        {
            return $"endpoint {peer.Endpoint} is {Also(peer, address)}the endpoint of peer {senders[(address, peer.Key?.In)]}, under the same key";
        }

        if (!peer.Endpoint.IsName)
        {
            return null;
        }

        if (config.FindSubnet(address) is (PeerConfig owner, IpPrefix subnet))
        {
            return $"endpoint {peer.Endpoint} is {address}, which lies in subnet {subnet} of peer {owner.Name}";
        }

        bool isOwn = config.Underlay.Local.Contains(address) || config.Interface.Addresses.Any(own => own.Contains(address)) ||
            System.Net.IPAddress.IsLoopback(address.ToIPAddress());
        return isOwn ? $"endpoint {peer.Endpoint} is {address}, an address of this host or of the overlay" : null;
    }

    private static string Also(PeerConfig peer, InetAddress address) => peer.Endpoint.IsName ? $"{address}, " : "";

    private IEnumerable<InetAddress> LocalAddresses(NetworkConfig config)
    {
        if (config.Underlay.Interface is not string name)
        {
            return config.Underlay.Local;
        }

        return host.FindLink(name) is HostLink link
            ? host.GetAddresses(link.Index).Select(prefix => prefix.Address).Where(own => !IpPrefix.Ipv6LinkLocal.Contains(own))
            : [];
    }

    private PeerEntry Prepare(NetworkConfig config, PeerConfig peer, InetAddress address, string? unresolved, PeerEntry? old)
    {
        HostPath? path = null;
        string? problem = unresolved;
        if (problem is null)
        {
            (path, problem) = FindPath(config, address);
        }

        Encapsulation configured = config.ConfiguredFor(peer);
        EncapsulationChoice choice = configured == Encapsulation.Auto ? choiceOf(peer.Name) : EncapsulationChoice.None;
        Encapsulation tunnel = choice.IsUdp && config.MayUseUdp(peer) ? Encapsulation.GreUdp : config.EncapsulationOf(peer);
        InetAddress source = config.Interface.Addresses.Select(own => own.Address).FirstOrDefault(own => own.IsIpv4 == address.IsIpv4);
        DirectWay? onLink = path is { IsOnLink: true } && !source.IsNone ? new DirectWay(path.LinkIndex, address, source) : null;
        EquatableList<IpPrefix> direct = onLink is null ? []
            : configured == Encapsulation.Direct ? [.. peer.Subnets.Where(subnet => subnet.Address.IsIpv4 == address.IsIpv4)]
            : [.. peer.Subnets.Intersect(choice.Direct)];
        ushort udpPort = config.UdpPortOf(peer, tunnel);
        UnderlayTarget? target = old?.Peer.Target is UnderlayTarget was && was.Endpoint == address && was.UdpPort == udpPort ? was : null;
        int linkMtu = Math.Min(path?.Mtu ?? UsualUnderlayMtu, LargestIpPacket);
        int learntMtu = path?.LearntMtu ?? 0;
        var settings = new PeerSettings(
            peer.Name,
            address,
            path?.Source ?? InetAddress.None,
            peer.Key?.In,
            peer.Key?.Out,
            peer.Checksum,
            peer.Sequence,
            Gmtu: 0,
            udpPort)
        {
            Outer = peer.Outer,
            IsStrict = peer.Strict,
        };
        bool followsPath = peer.FollowsPathMtuTo(address);
        int mtu = followsPath ? PathMtuOf(linkMtu, learntMtu, target, config.Interface.PathMtuFloor + settings.Overhead) : linkMtu;
        settings = settings with { Gmtu = mtu - settings.Overhead };
        bool isSame = old is not null && old.Peer.Settings == settings;
        PeerCounters[] counters = old?.Peer.Counters ?? [.. Enumerable.Range(0, workers).Select(_ => new PeerCounters())];
        bool sameSender = old is not null && old.Address == address && old.Config.Key == peer.Key;
        SequenceState sequences = sameSender ? old!.Peer.Sequences : new SequenceState();
        Peer prepared = isSame ? old!.Peer : new Peer(settings, counters, sequences, target);
        return new PeerEntry(peer, address, prepared, problem is null ? [] : [problem])
        {
            LinkMtu = linkMtu,
            LearntMtu = learntMtu,
            OnLink = onLink,
            DirectSubnets = direct,
            Encapsulation = direct.Count > 0 ? Encapsulation.Direct : tunnel,
            EncapsulationReason = configured switch
            {
                Encapsulation.Auto => choice.Reason,
                Encapsulation.Direct when direct.Count > 0 => $"{address} is a neighbour",
                Encapsulation.Direct when path is { IsOnLink: true } => $"direct is configured, but this host has no overlay address, or the peer no subnet, of the family of {peer.Endpoint}",
                Encapsulation.Direct => $"direct is configured, but {peer.Endpoint} is not a neighbour on a link of this host",
                _ => null,
            },
            IsWithdrawn = peer.OnDown == OnDown.Withdraw && prepared.Target.IsDown,
        };
    }

    // What was found out by probes goes before what routers have said. Neither is believed beyond the link's MTU, nor below the floor.
    private static int PathMtuOf(int linkMtu, int learntMtu, UnderlayTarget? target, int floor)
    {
        int known = target is { PathMtu: > 0 } ? target.PathMtu : learntMtu > 0 ? learntMtu : linkMtu;
        return Math.Min(Math.Max(known, floor), linkMtu);
    }

    private (HostPath? Path, string? Problem) FindPath(NetworkConfig config, InetAddress address)
    {
        InetAddress local = config.Underlay.Local.FirstOrDefault(own => own.IsIpv4 == address.IsIpv4);
        if (config.Underlay.Interface is string name)
        {
            if (host.FindLink(name) is null)
            {
                return (null, $"underlay interface {name} does not exist");
            }

            local = LocalAddresses(config).FirstOrDefault(own => own.IsIpv4 == address.IsIpv4);
            if (local.IsNone)
            {
                return (null, $"underlay interface {name} has no {(address.IsIpv4 ? "IPv4" : "IPv6")} address");
            }
        }

        try
        {
            HostPath? path = host.GetPath(address, local);
            if (path is null)
            {
                return (null, $"this host has no route to {address}");
            }

            // Packets for the endpoint would go into the tunnel again, and again.
            return path.LinkIndex == tunIndex ? (null, $"the route to {address} leads into the tunnel itself") : (path, null);
        }
        catch (HostNetworkException refused)
        {
            return (null, refused.Message);
        }
    }
}
