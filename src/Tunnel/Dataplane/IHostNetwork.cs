using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>A network device of this host.</summary>
/// <param name="Index">Interface index (ifindex).</param>
/// <param name="Name">Its name.</param>
/// <param name="Mtu">Its MTU in bytes.</param>
/// <param name="IsUp">Whether IFF_UP is set.</param>
public sealed record HostLink(int Index, string Name, int Mtu, bool IsUp);

/// <summary>A route of the host's main table: unicast, or one that rejects (unreachable, prohibit, blackhole, throw).</summary>
/// <param name="Destination">The destination, host bits cleared.</param>
/// <param name="LinkIndex">The device it leaves by; 0 where there is none or several (unreachable, multipath, a nexthop object).</param>
/// <param name="Protocol">Who installed it: rtm_protocol (rtnetlink(7)).</param>
/// <param name="Metric">Its priority; IPv6 shows 1024 where none was given.</param>
/// <param name="Mtu">The MTU that the route sets for packets along it, in bytes; 0 where it sets none.</param>
/// <param name="Gateway">The next hop, of the destination's family; none where the destination is on the link itself, or <paramref name="LinkIndex"/> is 0.</param>
public sealed record HostRoute(IpPrefix Destination, int LinkIndex, byte Protocol, uint Metric, int Mtu, InetAddress Gateway = default)
{
    /// <summary>The source of this host's own packets along it (RTA_PREFSRC), where there is a gateway; none for the kernel's choice.</summary>
    public InetAddress Source { get; init; }
}

/// <summary>A way to a peer's host without a tunnel.</summary>
/// <param name="LinkIndex">The device.</param>
/// <param name="Gateway">The peer's host, a neighbour on that device's link.</param>
/// <param name="Source">The source of this host's own packets along it, of the same family.</param>
public sealed record DirectWay(int LinkIndex, InetAddress Gateway, InetAddress Source);

/// <summary>How this host reaches an underlay address at this moment (RTM_GETROUTE).</summary>
/// <param name="Source">The source address: the one asked for, else what the kernel would choose.</param>
/// <param name="LinkIndex">The device that the packet would leave by.</param>
/// <param name="Mtu">The route's or else the device's MTU, in bytes.</param>
/// <param name="LearntMtu">What the kernel has learnt of the path from routers (ICMP), in bytes, and keeps for some minutes; 0 where nothing.</param>
/// <param name="IsOnLink">Whether the address is a neighbour on that device: no router is between, and it is none of this host's own.</param>
public sealed record HostPath(InetAddress Source, int LinkIndex, int Mtu, int LearntMtu = 0, bool IsOnLink = false);

/// <summary>The kernel refused a change to links, addresses or routes.</summary>
public sealed class HostNetworkException : Exception
{
    /// <summary>Describes a refusal.</summary>
    /// <param name="operation">What was tried, as a person would say it: "add route 172.17.52.0/24 dev tun0".</param>
    /// <param name="errno">The kernel's errno, positive.</param>
    /// <param name="reason">The errno's text, or the kernel's own extended message where it gave one.</param>
    public HostNetworkException(string operation, int errno, string reason)
        : base($"{operation}: {reason}")
    {
        Errno = errno;
    }

    /// <summary>The kernel's errno, positive.</summary>
    public int Errno { get; }

    /// <summary>Whether the thing to add is there already (EEXIST).</summary>
    public bool AlreadyExists => Errno == 17;

    /// <summary>Whether the thing to change or remove is not there (ENOENT, ESRCH, ENODEV, EADDRNOTAVAIL).</summary>
    public bool NotFound => Errno is 2 or 3 or 19 or 99;
}

/// <summary>
/// The links, addresses and routes of this process's network namespace. Implemented over rtnetlink(7). Every method is a short
/// synchronous exchange with the kernel and may be called from any thread; calls are serialised inside.
/// All but <see cref="WaitForChangeAsync"/> throw <see cref="HostNetworkException"/> where the kernel refuses.
/// </summary>
public interface IHostNetwork : IDisposable
{
    /// <summary>Finds a link by name; null where there is none.</summary>
    HostLink? FindLink(string name);

    /// <summary>Finds a link by index; null where there is none.</summary>
    HostLink? FindLink(int index);

    /// <summary>All links.</summary>
    IReadOnlyList<HostLink> GetLinks();

    /// <summary>Finds the link that has an address; null where none has.</summary>
    HostLink? FindLinkWithAddress(InetAddress address);

    /// <summary>
    /// Finds a link that is up and coalesces UDP datagrams on receive although no socket asked for it: one with the feature
    /// rx-udp-gro-forwarding or rx-gro-list on; null where none does.
    /// </summary>
    /// <param name="exceptLinkIndex">A link to leave out.</param>
    HostLink? FindUdpCoalescingLink(int exceptLinkIndex);

    /// <summary>Sets a link's MTU in bytes.</summary>
    void SetMtu(int linkIndex, int mtu);

    /// <summary>Sets a link up. The device makes no IPv6 link-local address of its own (IFLA_INET6_ADDR_GEN_MODE none), so it stays silent.</summary>
    void SetUp(int linkIndex);

    /// <summary>The addresses of a link, both families, with their prefix lengths; link-local IPv6 ones that nobody configured are included.</summary>
    IReadOnlyList<IpPrefix> GetAddresses(int linkIndex);

    /// <summary>The addresses of all links, both families.</summary>
    IReadOnlySet<InetAddress> GetOwnAddresses();

    /// <summary>Adds an address to a link (IPv6: without duplicate address detection: nobody else can hold it on a TUN device).</summary>
    void AddAddress(int linkIndex, IpPrefix address);

    /// <summary>Removes an address from a link.</summary>
    void RemoveAddress(int linkIndex, IpPrefix address);

    /// <summary>All routes of the main table, both families: unicast ones, the kernel's own (connected) included, and those that reject.</summary>
    IReadOnlyList<HostRoute> GetRoutes();

    /// <summary>
    /// Adds a route; fails with <see cref="HostNetworkException.AlreadyExists"/> rather than replace one. The kernel compares prefix and
    /// metric only: beside a route of another metric the new one is added (and the lower metric wins), so who must not get in the way of
    /// somebody's route looks at <see cref="GetRoutes"/> first. An IPv6 route given metric 0 gets 1024, here and in the methods below.
    /// </summary>
    void AddRoute(HostRoute route);

    /// <summary>
    /// Changes the MTU of a route of ours (same destination, device, protocol and metric) in place, so that traffic along it is never
    /// without a route. Fails with <see cref="HostNetworkException.NotFound"/> where it is not there, and with
    /// <see cref="HostNetworkException.AlreadyExists"/>, changing nothing, where somebody else has one of the same prefix and metric too.
    /// Costs a list of all routes.
    /// </summary>
    void ReplaceRoute(HostRoute route);

    /// <summary>
    /// Puts one route in the place of another of ours with the same destination and metric; at every moment a packet takes one of the two. Fails
    /// with <see cref="HostNetworkException.NotFound"/> where the other is not there, and with <see cref="HostNetworkException.AlreadyExists"/>,
    /// changing nothing, where somebody else has one of the same prefix and metric too.
    /// </summary>
    void SwitchRoute(HostRoute from, HostRoute to);

    /// <summary>
    /// Removes exactly this route: destination, device, gateway, protocol and metric must match; the MTU need not. For IPv4 the kernel takes metric
    /// 0 as "any": the route with the lowest metric among those that match otherwise goes.
    /// </summary>
    void RemoveRoute(HostRoute route);

    /// <summary>
    /// How the host would send to an underlay address; null where it has no route there, or one that rejects. An address of the host itself
    /// is reached by its loopback device. A source that is not an address of this host is refused with EADDRNOTAVAIL.
    /// </summary>
    /// <param name="destination">The underlay address.</param>
    /// <param name="source">The source to ask for, of the same family, or <see cref="InetAddress.None"/> for the kernel's choice.</param>
    HostPath? GetPath(InetAddress destination, InetAddress source);

    /// <summary>
    /// Completes when links, addresses or routes have changed since the last call completed (or since the object was made):
    /// multicast notifications, and their loss (ENOBUFS), which counts as a change. Several changes may be reported as one.
    /// One caller at a time.
    /// </summary>
    Task WaitForChangeAsync(CancellationToken cancellationToken);
}
