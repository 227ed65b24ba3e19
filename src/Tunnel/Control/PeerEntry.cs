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
    /// <summary>Whether the endpoint is a name that has no usable address yet.</summary>
    public bool AwaitsName => Address.IsNone && Config.Endpoint.IsName;

    /// <summary>What makes this sender's packets of plain GRE unmistakable in this network namespace; null while addresses are missing.</summary>
    public EndpointClaim? Claim =>
        Peer.IsReady ? new EndpointClaim(Peer.Settings.Local, Peer.Settings.Endpoint, Peer.Settings.KeyIn) : null;

    /// <summary>All workers' counters added up.</summary>
    public long Sum(Func<PeerCounters, long> value) => Peer.Counters.Sum(value);
}
