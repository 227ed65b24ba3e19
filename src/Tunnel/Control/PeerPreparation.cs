using Tunnel.Control.Configuration;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control;

/// <summary>
/// Turns configured peers into peers that the packet threads can use: resolves endpoints, asks the kernel for the path to each, and
/// works out the GMTU. Changes nothing on the host. Not thread-safe: its owner serialises.
/// </summary>
internal sealed class PeerPreparation(IHostNetwork host, int tunIndex, int workers)
{
    // What plain Ethernet takes, for a network that has no peer yet and no local address to look at.
    private const int UsualUnderlayMtu = 1500;
    private const int LargestIpPacket = 65_535;

    // fe80::/10 (RFC 4291 section 2.5.6): good for one link only, and of no use as a source towards an endpoint.
    private static readonly IpPrefix LinkLocal = new(new InetAddress((UInt128)0xfe80 << 112), 10);

    /// <summary>Prepares all peers. What counts and sequence numbers a peer of the same name has is kept.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="before">The peers as they are now.</param>
    /// <param name="resolveAll">Whether names that have been resolved already are resolved again.</param>
    public async Task<IReadOnlyList<PeerEntry>> PrepareAsync(NetworkConfig config, IReadOnlyList<PeerEntry> before, bool resolveAll)
    {
        Dictionary<string, PeerEntry> known = before.ToDictionary(entry => entry.Config.Name, StringComparer.Ordinal);
        var entries = new List<PeerEntry>(config.Peers.Count);
        var senders = new Dictionary<(InetAddress, uint?), string>();
        foreach (PeerConfig peer in config.Peers)
        {
            PeerEntry? old = known.GetValueOrDefault(peer.Name);
            (InetAddress address, string? unresolved) = await ResolveAsync(config, peer, resolveAll ? null : old);
            if (unresolved is null && peer.Endpoint.IsName && config.FindSubnet(address) is (PeerConfig owner, IpPrefix subnet))
            {
                // What the file's check refuses for literal addresses: packets to the endpoint would enter the network again.
                unresolved = $"endpoint {peer.Endpoint} is {address}, which lies in subnet {subnet} of peer {owner.Name}";
                address = InetAddress.None;
            }

            PeerEntry entry = Prepare(config, peer, address, unresolved, old);

            // Names that differ may lead to one address; then packets can't be told apart, and the first in the file has them.
            if (!address.IsNone && !senders.TryAdd((address, peer.Key?.In), peer.Name))
            {
                string clash = $"endpoint {peer.Endpoint} is {address}, which peer {senders[(address, peer.Key?.In)]} has already under the same key";
                entry = Prepare(config, peer, InetAddress.None, clash, old);
            }

            entries.Add(entry);
        }

        return entries;
    }

    /// <summary>The device's MTU where the configuration leaves it open: what the best path takes; routes of lesser ones say theirs.</summary>
    public int AutomaticMtu(NetworkConfig config, IReadOnlyList<PeerEntry> peers)
    {
        int[] ready = [.. peers.Where(entry => entry.Peer.IsReady).Select(entry => entry.Peer.Settings.Gmtu)];
        if (ready.Length > 0)
        {
            return ready.Max();
        }

        InetAddress local = config.Underlay.Local is [InetAddress first, ..] ? first : InetAddress.None;
        HostLink? link = config.Underlay.Interface is string name ? host.FindLink(name) : local.IsNone ? null : host.FindLinkWithAddress(local);
        int overhead = PeerSettings.OverheadOf(isIpv4: !local.IsIpv6, hasKey: false, usesChecksum: false, usesSequence: false);
        return Math.Min(link?.Mtu ?? UsualUnderlayMtu, LargestIpPacket) - overhead;
    }

    private static Task<(InetAddress Address, string? Problem)> ResolveAsync(NetworkConfig config, PeerConfig peer, PeerEntry? old)
    {
        if (old is not null && old.Config.Endpoint == peer.Endpoint && !old.Address.IsNone)
        {
            return Task.FromResult<(InetAddress, string?)>((old.Address, null));
        }

        EquatableList<InetAddress> local = config.Underlay.Local;
        return EndpointResolver.ResolveAsync(peer.Endpoint.Host, address => local.Count == 0 || local.Any(own => own.IsIpv4 == address.IsIpv4));
    }

    private PeerEntry Prepare(NetworkConfig config, PeerConfig peer, InetAddress address, string? unresolved, PeerEntry? old)
    {
        HostPath? path = null;
        string? problem = unresolved;
        if (problem is null)
        {
            (path, problem) = FindPath(config, address);
        }

        int overhead = PeerSettings.OverheadOf(!address.IsIpv6, peer.Key is not null, peer.Checksum, peer.Sequence);
        var settings = new PeerSettings(
            peer.Name,
            address,
            path?.Source ?? InetAddress.None,
            peer.Key?.In,
            peer.Key?.Out,
            peer.Checksum,
            peer.Sequence,
            Math.Min(path?.Mtu ?? UsualUnderlayMtu, LargestIpPacket) - overhead);
        IReadOnlyList<string> problems = problem is null ? [] : [problem];
        if (old is not null && old.Peer.Settings == settings)
        {
            return old with { Config = peer, Problems = problems };
        }

        PeerCounters[] counters = old?.Peer.Counters ?? [.. Enumerable.Range(0, workers).Select(_ => new PeerCounters())];
        bool sameSender = old is not null && old.Address == address && old.Config.Key == peer.Key;
        return new PeerEntry(peer, address, new Peer(settings, counters, sameSender ? old!.Peer.Sequences : new SequenceState()), problems);
    }

    private (HostPath? Path, string? Problem) FindPath(NetworkConfig config, InetAddress address)
    {
        InetAddress local = config.Underlay.Local.FirstOrDefault(own => own.IsIpv4 == address.IsIpv4);
        if (config.Underlay.Interface is string name)
        {
            if (host.FindLink(name) is not HostLink link)
            {
                return (null, $"underlay interface {name} does not exist");
            }

            local = host.GetAddresses(link.Index)
                .Select(prefix => prefix.Address)
                .FirstOrDefault(own => own.IsIpv4 == address.IsIpv4 && !LinkLocal.Contains(own));
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
