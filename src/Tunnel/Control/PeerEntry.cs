using Tunnel.Control.Configuration;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control;

/// <summary>A peer as the control plane sees it at one moment: what is configured and what the host made of it. Immutable.</summary>
/// <param name="Config">What is configured.</param>
/// <param name="Address">The endpoint resolved; none where it does not resolve.</param>
/// <param name="Peer">What the packet threads use.</param>
/// <param name="Problems">What keeps packets from flowing, for people; empty where nothing does.</param>
/// <param name="IsClash">Whether the problem is that the endpoint's address is taken or cannot be an endpoint.</param>
internal sealed record PeerEntry(PeerConfig Config, InetAddress Address, Peer Peer, IReadOnlyList<string> Problems, bool IsClash = false)
{
    /// <summary>What the device or the route takes towards the endpoint, in bytes, outer headers included.</summary>
    public int LinkMtu { get; init; }

    /// <summary>What the kernel has learnt of the path from routers, in bytes, outer headers included; 0 where nothing.</summary>
    public int LearntMtu { get; init; }

    /// <summary>Whether the length of packets follows the path's MTU.</summary>
    public bool FollowsPathMtu => Config.FollowsPathMtuTo(Address);

    /// <summary>The way to its host where that is a neighbour on a link, and this host has an overlay address of its family; else null.</summary>
    public DirectWay? OnLink { get; init; }

    /// <summary>Its subnets to which packets go that way, without a tunnel.</summary>
    public EquatableList<IpPrefix> DirectSubnets { get; init; } = [];

    /// <summary>How packets reach it: what is configured, or what that has come to.</summary>
    public Encapsulation Encapsulation { get; init; }

    /// <summary>Why, for people; null where that is what is configured.</summary>
    public string? EncapsulationReason { get; init; }

    /// <summary>Whether its routes are withdrawn, because it is down.</summary>
    public bool IsWithdrawn { get; init; }

    /// <summary>Whether the endpoint is a name that has no usable address yet.</summary>
    public bool AwaitsName => Address.IsNone && Config.Endpoint.IsName;

    /// <summary>What makes this sender's packets of plain GRE unmistakable in this network namespace; null while addresses are missing.</summary>
    public EndpointClaim? Claim =>
        Peer.IsReady ? new EndpointClaim(Peer.Settings.Local, Peer.Settings.Endpoint, Peer.Settings.KeyIn) : null;

    /// <summary>Whether nobody who uses the peer would see a difference.</summary>
    public bool LooksLike(PeerEntry other) =>
        Peer.Settings == other.Peer.Settings && LinkMtu == other.LinkMtu && LearntMtu == other.LearntMtu && IsWithdrawn == other.IsWithdrawn &&
        OnLink == other.OnLink && DirectSubnets.Equals(other.DirectSubnets) && Encapsulation == other.Encapsulation && EncapsulationReason == other.EncapsulationReason &&
        Problems.SequenceEqual(other.Problems);

    /// <summary>All workers' counters added up.</summary>
    public long Sum(Func<PeerCounters, long> value) => Peer.Counters.Sum(value);
}
