using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>The direction of an XFRM policy.</summary>
public enum XfrmDirection
{
    /// <summary>For packets that this host receives (XFRM_POLICY_IN).</summary>
    In,

    /// <summary>For packets that this host sends (XFRM_POLICY_OUT).</summary>
    Out,
}

/// <summary>An XFRM (IPsec) policy for packets that this host receives or sends: ip-xfrm(8).</summary>
/// <param name="Direction">Which packets.</param>
/// <param name="Source">The selector's source prefix.</param>
/// <param name="Destination">The selector's destination prefix.</param>
/// <param name="Protocol">The selector's IP protocol; 0 for all.</param>
/// <param name="IsBlock">Whether it discards what it selects, rather than allow it.</param>
/// <param name="HasTemplates">Whether it demands a transformation of what it selects.</param>
public sealed record XfrmPolicy(
    XfrmDirection Direction, IpPrefix Source, IpPrefix Destination, byte Protocol, bool IsBlock, bool HasTemplates);

/// <summary>The XFRM policies of a network namespace.</summary>
/// <param name="Policies">Those that this host's own packets may meet: no forwarding, no sockets' own, none of xfrm devices.</param>
/// <param name="BlocksIn">Whether received packets that no policy selects are discarded.</param>
/// <param name="BlocksOut">The same for packets to be sent.</param>
public sealed record XfrmPolicies(IReadOnlyList<XfrmPolicy> Policies, bool BlocksIn, bool BlocksOut)
{
    /// <summary>A host without IPsec.</summary>
    public static XfrmPolicies None { get; } = new([], false, false);
}

/// <summary>The netfilter rules of a network namespace as their own tools print them.</summary>
/// <param name="Nftables">What `nft -j list ruleset` prints; null where there is no table.</param>
/// <param name="Compatible">
/// What `iptables-nft-save` prints, for those of the tables that iptables manages and that nft can't tell all of; null where not needed, or
/// where the program is missing.
/// </param>
/// <param name="Legacy">What `iptables-legacy-save` prints; null where there is no legacy table.</param>
/// <param name="Unreadable">Why tables that exist could not be read, for people; empty where all could.</param>
public sealed record NetfilterRules(string? Nftables, string? Compatible, string? Legacy, IReadOnlyList<string> Unreadable)
{
    /// <summary>A host without netfilter rules.</summary>
    public static NetfilterRules None { get; } = new(null, null, null, []);
}

/// <summary>
/// What this host does to packets between a raw socket and the link that a packet socket goes around: IPsec policies and netfilter
/// rules of this process's network namespace. The methods may be called from any thread but by one caller at a time.
/// </summary>
public interface IHostPolicies : IDisposable
{
    /// <summary>Reads the XFRM policies; none where the kernel has no XFRM.</summary>
    /// <exception cref="HostNetworkException">The kernel refused.</exception>
    XfrmPolicies ReadXfrmPolicies();

    /// <summary>
    /// Reads the netfilter rules. May run other programs and so take a while: tens of milliseconds, or seconds where rules are many.
    /// Never throws for what can't be read: that is part of the answer.
    /// </summary>
    NetfilterRules ReadNetfilterRules();

    /// <summary>Whether tables of iptables-legacy exist, or may exist; nobody tells when their rules change.</summary>
    bool HasLegacyTables { get; }

    /// <summary>
    /// Completes when XFRM policies or nftables rules have changed since the last call completed (or since the object was made). Several
    /// changes may be reported as one. One caller at a time.
    /// </summary>
    Task WaitForChangeAsync(CancellationToken cancellationToken);
}
