using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>A chain of nftables, those of iptables-nft included: of family ip, ip6 or inet.</summary>
/// <param name="Family">ip, ip6 or inet.</param>
/// <param name="Table">Its table.</param>
/// <param name="Name">Its name.</param>
/// <param name="Type">The type of a base chain (filter, nat, route); null for others.</param>
/// <param name="Hook">The hook of a base chain in nft's words; null for others.</param>
/// <param name="DropsAtEnd">Whether it is a base chain with policy drop.</param>
public sealed record FirewallChain(string Family, string Table, string Name, string? Type = null, string? Hook = null, bool DropsAtEnd = false)
{
    /// <summary>The table as nft names it: "inet tunnel_tun0".</summary>
    public string FullTable => $"{Family} {Table}";
}

/// <summary>What a network's own nftables table is to hold. It is of family inet.</summary>
/// <param name="Name">Its name, tunnel_NETWORK.</param>
/// <param name="Device">The network's device.</param>
/// <param name="Overlay">The prefixes of the overlay, sorted, none within another. Between these, sources are kept.</param>
/// <param name="Local">
/// Those behind this host, likewise. Empty where they are not known: then what goes into the device to the overlay, or comes out of it from there, keeps
/// its source whatever the other end.
/// </param>
/// <param name="Masquerades">Whether packets from the overlay to elsewhere get the source of the device that they leave by.</param>
public sealed record NatTable(string Name, string Device, IReadOnlyList<IpPrefix> Overlay, IReadOnlyList<IpPrefix> Local, bool Masquerades);

/// <summary>The host's firewall, or a program that speaks for it, did not do what it was asked.</summary>
/// <param name="message">One line for people, with the cure where there is one.</param>
public sealed class HostFirewallException(string message) : Exception(message);

/// <summary>
/// The netfilter rules of this process's network namespace, as far as a network has some of its own. Most methods run a program, which takes tens of
/// milliseconds, and seconds at most before it is given up: never call them on a packet thread. One caller at a time; all but the last throw
/// <see cref="HostFirewallException"/>.
/// </summary>
public interface IHostFirewall : IDisposable
{
    /// <summary>Lists the chains of families ip, ip6 and inet. Runs no program. A kernel without nf_tables has none.</summary>
    IReadOnlyList<FirewallChain> GetChains();

    /// <summary>
    /// Whether a table of iptables-legacy or ip6tables-legacy exists, or may exist where this user may not know. Nobody tells when their rules change.
    /// </summary>
    /// <param name="table">Its name: nat, filter.</param>
    bool MayHaveLegacyTable(string table);

    /// <summary>What nft prints of a table; null where there is none. Only good for comparing, and for finding a name in it.</summary>
    /// <param name="fullTable">The table, as <see cref="FirewallChain.FullTable"/>.</param>
    string? PrintTable(string fullTable);

    /// <summary>Makes the network's own table, or replaces it, in one transaction.</summary>
    void WriteTable(NatTable table);

    /// <summary>Removes the network's own table. Nothing happens where there is none.</summary>
    /// <param name="name">Its name.</param>
    void RemoveTable(string name);

    /// <summary>
    /// The programs whose filter tables exist: of iptables-nft, ip6tables-nft, iptables-legacy, ip6tables-legacy. Runs no program.
    /// </summary>
    IReadOnlyList<string> FindIptablesFilters();

    /// <summary>The filter table's policies, chains and rules, as `PROGRAM -S` prints them, a line each.</summary>
    /// <param name="program">One of <see cref="FindIptablesFilters"/>.</param>
    IReadOnlyList<string> ListRules(string program);

    /// <summary>Puts a rule at the beginning of a chain of a filter table.</summary>
    /// <param name="program">The table's program.</param>
    /// <param name="chain">The chain.</param>
    /// <param name="rule">The rule's words, as `-S` prints them after the chain.</param>
    void InsertRule(string program, string chain, IReadOnlyList<string> rule);

    /// <summary>Deletes a rule from a chain of a filter table: the first that is the same.</summary>
    void DeleteRule(string program, string chain, IReadOnlyList<string> rule);

    /// <summary>
    /// Completes when nftables rules have changed since the last call completed (or since the object was made), by whomever. Several changes may
    /// be reported as one. One caller at a time.
    /// </summary>
    Task WaitForChangeAsync(CancellationToken cancellationToken);
}
