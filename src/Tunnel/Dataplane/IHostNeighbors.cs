using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>The next hop towards an underlay address, as the host's routes have it at one moment.</summary>
/// <param name="LinkIndex">The device that packets leave by (ifindex).</param>
/// <param name="LinkName">Its name.</param>
/// <param name="IsEthernet">Whether the device takes Ethernet frames (ARPHRD_ETHER) and is not a loopback device.</param>
/// <param name="Address">
/// The IPv4 neighbour that packets go to: a gateway, or the destination itself. None where it can't be said: a gateway of the other
/// family (RTA_VIA), or a route that encapsulates (RTA_ENCAP).
/// </param>
/// <param name="CarriesUdpTunnels">
/// Whether the device takes TCP super-packets inside GRE-in-UDP uncut, outer checksum included: both tx-udp_tnl-segmentation and
/// tx-udp_tnl-csum-segmentation are on (ethtool(8)). False where it is no Ethernet device.
/// </param>
/// <param name="CarriesGre">The same for super-packets inside plain GRE: tx-gre-segmentation.</param>
public sealed record HostNextHop(int LinkIndex, string LinkName, bool IsEthernet, InetAddress Address, bool CarriesUdpTunnels, bool CarriesGre);

/// <summary>An IPv4 neighbour as the kernel knows it at one moment (ip-neighbour(8)).</summary>
/// <param name="LinkIndex">The device that it is reached by (ifindex).</param>
/// <param name="Address">Its address.</param>
/// <param name="LinkAddress">Its Ethernet address: 48 bits, the first byte on the wire highest; meaningless where <paramref name="IsUsable"/> is false.</param>
/// <param name="IsUsable">Whether packets may go there: NUD_REACHABLE, STALE, DELAY, PROBE, PERMANENT or NOARP, with an address of 6 bytes.</param>
/// <param name="IsStale">Whether nothing has confirmed it for a while (NUD_STALE): the next packet of the kernel's own would make it ask.</param>
public sealed record HostNeighbor(int LinkIndex, InetAddress Address, ulong LinkAddress, bool IsUsable, bool IsStale);

/// <summary>
/// Next hops and neighbours of this process's network namespace, IPv4 only. Implemented over rtnetlink(7). The methods are short
/// synchronous exchanges with the kernel and may be called from any thread; calls are serialised inside.
/// </summary>
public interface IHostNeighbors : IDisposable
{
    /// <summary>Finds the next hops of many destinations: one request each, and two for each device.</summary>
    /// <param name="flows">IPv4 destinations, each with the source address to ask for.</param>
    /// <returns>One for each destination, in their order; null where the host has no unicast route there from that source.</returns>
    /// <exception cref="HostNetworkException">The exchange failed.</exception>
    IReadOnlyList<HostNextHop?> GetNextHops(IReadOnlyList<(InetAddress Destination, InetAddress Source)> flows);

    /// <summary>All IPv4 neighbours.</summary>
    /// <exception cref="HostNetworkException">The kernel refused.</exception>
    IReadOnlyList<HostNeighbor> GetNeighbors();

    /// <summary>
    /// Makes the kernel find out or confirm a neighbour, as traffic to it would (NTF_USE): one that is not known, or has failed, is asked
    /// for; one that is stale is probed some seconds later unless something else confirms it. Returns at once; the outcome is told as a change.
    /// </summary>
    /// <exception cref="HostNetworkException">The kernel refused: the device is gone or down, or the neighbour table is full.</exception>
    void UseNeighbor(int linkIndex, InetAddress address);

    /// <summary>
    /// Completes when neighbours have changed since the last call completed (or since the object was made). One caller at a time.
    /// </summary>
    /// <returns>The changes in their order; null where some were lost, so that only a new list tells.</returns>
    Task<IReadOnlyList<HostNeighbor>?> ReadNeighborChangesAsync(CancellationToken cancellationToken);

    /// <summary>
    /// Completes when IPv4 routes, addresses, policy rules or nexthop objects, or links and their features, have changed since the last call completed (or since
    /// the object was made). Several changes may be reported as one. One caller at a time.
    /// </summary>
    Task WaitForRouteChangeAsync(CancellationToken cancellationToken);
}
