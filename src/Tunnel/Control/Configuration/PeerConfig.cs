using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Configuration;

/// <summary>Where a peer's settings come from, and so what keeps them.</summary>
internal enum PeerOrigin
{
    /// <summary>The network's own file, which only people edit.</summary>
    File,

    /// <summary>NAME.d/PEER.yaml, which <see cref="PeerStore"/> writes.</summary>
    Stored,

    /// <summary>Nothing but this process: kept until it ends.</summary>
    Ephemeral,
}

/// <summary>
/// The GRE keys shared with a peer (RFC 2890 section 2.1).
/// </summary>
/// <param name="In">The key that its packets to us carry.</param>
/// <param name="Out">The key that our packets to it carry.</param>
internal readonly record struct GreKeys(uint In, uint Out)
{
    /// <summary>"42", or "1:2" where the directions differ.</summary>
    public override string ToString() => In == Out ? $"{In}" : $"{In}:{Out}";
}

/// <summary>A peer's place in the underlay, as configured.</summary>
/// <param name="Host">An address in its usual text form, or a DNS name in lower case.</param>
/// <param name="Address">The address; <see cref="InetAddress.None"/> where the host is a DNS name.</param>
/// <param name="Port">The UDP port, 1 to 65535, for GRE-in-UDP only; null where none is given.</param>
internal readonly record struct PeerEndpoint(string Host, InetAddress Address, int? Port)
{
    /// <summary>Whether the host is a DNS name, which is to be resolved.</summary>
    public bool IsName => Address.IsNone;

    /// <summary>The host, with ":PORT" where there is one; an IPv6 address with a port stands in brackets.</summary>
    public override string ToString() => Port is null ? Host : Address.IsIpv6 ? $"[{Host}]:{Port}" : $"{Host}:{Port}";
}

/// <summary>One peer as configured. Compares by value; the origin counts, positions in files don't.</summary>
internal sealed record PeerConfig
{
    /// <summary>The peer's name: 1 to 63 characters [A-Za-z0-9_.-], the first a letter or digit.</summary>
    public required string Name { get; init; }

    /// <summary>Where its packets go to and come from.</summary>
    public required PeerEndpoint Endpoint { get; init; }

    /// <summary>The overlay subnets behind it: at least one, host bits clear.</summary>
    public required EquatableList<IpPrefix> Subnets { get; init; }

    /// <summary>Its own encapsulation, or null for the network's default; <see cref="NetworkConfig.EncapsulationOf"/> decides.</summary>
    public Encapsulation? Encapsulation { get; init; }

    /// <summary>Its keys; null where GRE packets carry none.</summary>
    public GreKeys? Key { get; init; }

    /// <summary>Whether our packets carry the GRE checksum.</summary>
    public bool Checksum { get; init; }

    /// <summary>Whether our packets carry sequence numbers.</summary>
    public bool Sequence { get; init; }

    /// <summary>What the outer IP headers say beside addresses and protocol.</summary>
    public OuterHeaderOptions Outer { get; init; } = OuterHeaderOptions.Default;

    /// <summary>Whether its packets must have checksum and sequence number just as ours to it.</summary>
    public bool Strict { get; init; }

    /// <summary>How it is asked whether it is there.</summary>
    public Keepalive Keepalive { get; init; } = Keepalive.Auto;

    /// <summary>The same where <see cref="OnDown"/> counts: who is to be withdrawn when it is down must answer, or it would keep its routes from those who are there.</summary>
    public Keepalive EffectiveKeepalive => OnDown == OnDown.Withdraw && Keepalive == Keepalive.Auto ? Keepalive with { IsDemanded = true } : Keepalive;

    /// <summary>What becomes of its routes while it is down.</summary>
    public OnDown OnDown { get; init; }

    /// <summary>What to do where its host says that nobody listens at its UDP port.</summary>
    public OnRefused OnRefused { get; init; }

    /// <summary>Where the settings come from.</summary>
    public PeerOrigin Origin { get; init; }

    /// <summary>Where each setting stands, by its path below the peer ("subnets[0]"; "" is the peer itself).</summary>
    public SourcePositions Source { get; init; } = SourcePositions.None;

    /// <summary>Whether the length of packets to an endpoint follows the path's MTU. Over IPv6 always: nobody but the sender fragments.</summary>
    public bool FollowsPathMtuTo(InetAddress endpoint) => Outer.DiscoversPathMtu || endpoint.IsIpv6;
}
