using Tmds.Linux;
using Tunnel.Dataplane;
using Tunnel.Wire;
using static Tmds.Linux.LibC;
using static Tunnel.Linux.Uapi;

namespace Tunnel.Linux;

/// <summary>
/// Links, addresses and routes over rtnetlink(7), of the network namespace of the thread that makes the object. The methods work
/// from any thread.
/// </summary>
internal sealed class HostNetwork : IHostNetwork
{
    private static readonly string[] UdpCoalescing = ["rx-udp-gro-forwarding", "rx-gro-list"];

    private readonly Lock _gate = new();
    private readonly NetlinkSocket _requests = new();
    private readonly DeviceFeatures _features = new();
    private readonly NetlinkMonitor _monitor;

    /// <summary>Opens the sockets; changes are remembered from here on.</summary>
    /// <exception cref="HostNetworkException">The kernel refused.</exception>
    public HostNetwork()
    {
        try
        {
            _monitor = new NetlinkMonitor();
        }
        catch
        {
            _requests.Dispose();
            _features.Dispose();
            throw;
        }

        _monitor.Start();
    }

    /// <inheritdoc/>
    public HostLink? FindLink(string name)
    {
        if (name.Length is 0 or >= IFNAMSIZ)
        {
            return null;
        }

        var request = NetlinkRequest.Begin(stackalloc byte[NetlinkRequest.MaxLength], RTM_GETLINK, NLM_F_ACK, default(ifinfomsg));
        request.Add(IFLA_IFNAME, name);
        return GetLink($"find device {name}", request);
    }

    /// <inheritdoc/>
    public HostLink? FindLink(int index)
    {
        // Index 0 would be no index, and a request for everything.
        if (index <= 0)
        {
            return null;
        }

        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength], RTM_GETLINK, NLM_F_ACK, new ifinfomsg { ifi_index = index });
        return GetLink($"find device {index}", request);
    }

    /// <inheritdoc/>
    public HostLink? FindUdpCoalescingLink(int exceptLinkIndex)
    {
        IReadOnlyList<HostLink> links = GetLinks();
        lock (_gate)
        {
            return links.FirstOrDefault(link => link.IsUp && link.Index != exceptLinkIndex && _features.HasAny(link.Name, UdpCoalescing));
        }
    }

    /// <inheritdoc/>
    public IReadOnlyList<HostLink> GetLinks()
    {
        var request = NetlinkRequest.Begin(stackalloc byte[NetlinkRequest.MaxLength], RTM_GETLINK, NLM_F_DUMP, default(ifinfomsg));
        request.Add(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        return
        [
            .. Dump(request, () => "list the devices", (NetlinkMessage message, out HostLink? link) =>
                NetlinkRecords.TryParseLink(message.Payload, out link)).OfType<HostLink>(),
        ];
    }

    /// <inheritdoc/>
    public void SetMtu(int linkIndex, int mtu)
    {
        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength], RTM_NEWLINK, NLM_F_ACK, new ifinfomsg { ifi_index = linkIndex });
        request.Add(IFLA_MTU, (uint)mtu);
        Check(Execute(request), () => $"set mtu {mtu} on {LinkName(linkIndex)}");
    }

    /// <inheritdoc/>
    public void SetUp(int linkIndex)
    {
        var silence = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength], RTM_NEWLINK, NLM_F_ACK, new ifinfomsg { ifi_index = linkIndex });
        int families = silence.BeginNested(IFLA_AF_SPEC | NLA_F_NESTED);
        int inet6 = silence.BeginNested((ushort)((int)AF_INET6 | NLA_F_NESTED));
        silence.Add(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
        silence.EndNested(inet6);
        silence.EndNested(families);
        NetlinkResult silenced = Execute(silence);

        // Without IPv6 on the host, or on the device (MTU below 1,280), there is nothing to silence.
        if (silenced.Errno != EAFNOSUPPORT)
        {
            Check(silenced, () => $"turn off automatic IPv6 addresses on {LinkName(linkIndex)}");
        }

        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength],
            RTM_NEWLINK,
            NLM_F_ACK,
            new ifinfomsg { ifi_index = linkIndex, ifi_flags = IFF_UP, ifi_change = IFF_UP });
        Check(Execute(request), () => $"set {LinkName(linkIndex)} up");
    }

    /// <inheritdoc/>
    public IReadOnlyList<IpPrefix> GetAddresses(int linkIndex) => [.. DumpAddresses(AF_INET, linkIndex), .. DumpAddresses(AF_INET6, linkIndex)];

    /// <inheritdoc/>
    public IReadOnlySet<InetAddress> GetOwnAddresses() => DumpAddresses(AF_INET, null).Concat(DumpAddresses(AF_INET6, null)).Select(prefix => prefix.Address).ToHashSet();

    /// <inheritdoc/>
    public HostLink? FindLinkWithAddress(InetAddress address)
    {
        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength],
            RTM_GETADDR,
            NLM_F_DUMP,
            new ifaddrmsg { ifa_family = (byte)(int)(address.IsIpv4 ? AF_INET : AF_INET6) });
        List<int> indexes = Dump(request, () => $"find address {address}", (NetlinkMessage message, out int index) =>
            NetlinkRecords.TryParseAddress(message.Payload, out index, out IpPrefix found) && found.Address == address);
        return indexes.Count == 0 ? null : FindLink(indexes[0]);
    }

    /// <inheritdoc/>
    public void AddAddress(int linkIndex, IpPrefix address) =>
        Check(
            ChangeAddress(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, linkIndex, address),
            () => $"add address {address} to {LinkName(linkIndex)}");

    /// <inheritdoc/>
    public void RemoveAddress(int linkIndex, IpPrefix address) =>
        Check(ChangeAddress(RTM_DELADDR, 0, linkIndex, address), () => $"remove address {address} from {LinkName(linkIndex)}");

    /// <inheritdoc/>
    public IReadOnlyList<HostRoute> GetRoutes() =>
        [.. ListRoutes(AF_INET).Concat(ListRoutes(AF_INET6)).Select(found => found.Route)];

    /// <inheritdoc/>
    public void AddRoute(HostRoute route) =>
        Check(ChangeRoute(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, route), () => $"add route {Describe(route)}");

    /// <inheritdoc/>
    public void ReplaceRoute(HostRoute route)
    {
        RequireAlone(route);
        Check(ChangeRoute(RTM_NEWROUTE, NLM_F_REPLACE, route), () => $"change route {Describe(route)}");
    }

    /// <inheritdoc/>
    public void SwitchRoute(HostRoute from, HostRoute to)
    {
        RequireAlone(from);

        // IPv6 replaces a route with a gateway by one with a gateway only; there the other stays until the new one is beside it.
        bool isIpv4 = from.Destination.Address.IsIpv4;
        Check(
            ChangeRoute(RTM_NEWROUTE, isIpv4 ? NLM_F_REPLACE : NLM_F_CREATE | NLM_F_APPEND, to),
            () => $"change route {Describe(from)} to {Describe(to)}");
        if (!isIpv4)
        {
            RemoveRoute(from);
        }
    }

    /// <inheritdoc/>
    public void RemoveRoute(HostRoute route) =>
        Check(ChangeRoute(RTM_DELROUTE, 0, route with { Mtu = 0, Source = InetAddress.None }), () => $"remove route {Describe(route)}");

    /// <inheritdoc/>
    public HostPath? GetPath(InetAddress destination, InetAddress source)
    {
        if (!source.IsNone && source.IsIpv4 != destination.IsIpv4)
        {
            throw new ArgumentException("source and destination are of different families", nameof(source));
        }

        // The kernel refuses a foreign source over IPv4 (EINVAL) and accepts it over IPv6; here it is the same error for both.
        if (!source.IsNone && (FindRoute(source, InetAddress.None, out NetlinkRoute own).Errno != 0 || own.Type != RTN_LOCAL))
        {
            throw new HostNetworkException(
                $"find the way from {source} to {destination}", EADDRNOTAVAIL, $"{source} is not an address of this host");
        }

        NetlinkResult result = FindRoute(destination, source, out NetlinkRoute found);
        if (IsNoRoute(result.Errno))
        {
            return null;
        }

        Check(result, () => $"find the way to {destination}");
        HostRoute route = found.Route;
        int learnt = found.IsLearnt ? route.Mtu : 0;
        int mtu = learnt == 0 && route.Mtu != 0 ? route.Mtu : FindLink(route.LinkIndex)?.Mtu ?? 0;
        return mtu == 0 ? null : new HostPath(
            source.IsNone ? found.Source : source, route.LinkIndex, mtu, learnt,
            IsOnLink: found is { NeedsMore: false, Type: RTN_UNICAST } && found.Gateway.IsNone);
    }

    /// <inheritdoc/>
    public Task WaitForChangeAsync(CancellationToken cancellationToken) => _monitor.WaitForChangeAsync(cancellationToken);

    /// <inheritdoc/>
    public void Dispose()
    {
        _monitor.Dispose();
        lock (_gate)
        {
            _requests.Dispose();
            _features.Dispose();
        }
    }

    private static sa_family_t FamilyOf(HostRoute route) => route.Destination.Address.IsIpv4 ? AF_INET : AF_INET6;

    // How the kernel says "no route", "unreachable", "prohibit", "blackhole", and "no such address family".
    private static bool IsNoRoute(int error) =>
        error == ENETUNREACH || error == EHOSTUNREACH || error == EACCES || error == EINVAL || error == EOPNOTSUPP || error == EAFNOSUPPORT;

    // What the kernel does with an IPv6 route that is given no metric.
    private static HostRoute WithMetric(HostRoute route) =>
        route.Metric == 0 && !route.Destination.Address.IsIpv4 ? route with { Metric = IP6_RT_PRIO_USER } : route;

    private static void Check(NetlinkResult result, Func<string> operation)
    {
        if (result.Errno != 0)
        {
            throw new HostNetworkException(operation(), result.Errno, result.Reason);
        }
    }

    private HostLink? GetLink(string operation, NetlinkRequest request)
    {
        request.Add(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        HostLink? link = null;
        NetlinkResult result = Execute(request, reply =>
        {
            if (NetlinkRecords.TryParseLink(reply.Payload, out HostLink? parsed))
            {
                link = parsed;
            }
        });
        if (result.Errno == ENODEV)
        {
            return null;
        }

        Check(result, () => operation);
        return link;
    }

    private NetlinkResult ChangeAddress(ushort type, int flags, int linkIndex, IpPrefix address)
    {
        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength],
            type,
            (ushort)(NLM_F_ACK | flags),
            new ifaddrmsg
            {
                ifa_family = (byte)(int)(address.Address.IsIpv4 ? AF_INET : AF_INET6),
                ifa_prefixlen = (byte)address.Length,
                ifa_flags = address.Address.IsIpv4 ? (byte)0 : (byte)IFA_F_NODAD,
                ifa_index = (uint)linkIndex,
            });
        request.Add(IFA_LOCAL, address.Address);
        request.Add(IFA_ADDRESS, address.Address);
        return Execute(request);
    }

    // NLM_F_REPLACE replaces the first route of the same prefix, metric and TOS, whosever it is. So ours must be the only one.
    private void RequireAlone(HostRoute route)
    {
        HostRoute wanted = WithMetric(route);
        bool present = false;
        foreach (NetlinkRoute found in ListRoutes(FamilyOf(route)))
        {
            if (found.Route.Destination != wanted.Destination || found.Route.Metric != wanted.Metric || found.Tos != 0)
            {
                continue;
            }

            if (found.Route.LinkIndex != wanted.LinkIndex || found.Route.Protocol != wanted.Protocol || found.Route.Gateway != wanted.Gateway)
            {
                throw new HostNetworkException(
                    $"change route {Describe(route)}", EEXIST, "someone else has a route with the same prefix and metric");
            }

            present = true;
        }

        if (!present)
        {
            throw new HostNetworkException($"change route {Describe(route)}", ESRCH, "there is no such route");
        }
    }

    private NetlinkResult ChangeRoute(ushort type, int flags, HostRoute route)
    {
        route = WithMetric(route);
        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength],
            type,
            (ushort)(NLM_F_ACK | flags),
            new rtmsg
            {
                rtm_family = (byte)(int)FamilyOf(route),
                rtm_dst_len = (byte)route.Destination.Length,
                rtm_table = RT_TABLE_MAIN,
                rtm_protocol = route.Protocol,
                rtm_scope = route.Destination.Address.IsIpv4 && route.Gateway.IsNone ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE,
                rtm_type = RTN_UNICAST,
            });
        request.Add(RTA_DST, route.Destination.Address);
        request.Add(RTA_OIF, (uint)route.LinkIndex);
        if (!route.Gateway.IsNone)
        {
            request.Add(RTA_GATEWAY, route.Gateway);
        }

        if (!route.Source.IsNone)
        {
            request.Add(RTA_PREFSRC, route.Source);
        }

        if (route.Metric != 0)
        {
            request.Add(RTA_PRIORITY, route.Metric);
        }

        if (route.Mtu != 0)
        {
            int metrics = request.BeginNested(RTA_METRICS | NLA_F_NESTED);
            request.Add(RTAX_MTU, (uint)route.Mtu);
            request.EndNested(metrics);
        }

        return Execute(request);
    }

    // Of one link, or of all.
    private IEnumerable<IpPrefix> DumpAddresses(sa_family_t family, int? linkIndex)
    {
        // Not filtered by the kernel, although it could: it doesn't watch for changes during a filtered list (NLM_F_DUMP_INTR). Even so
        // one that is added meanwhile may push another into the list twice.
        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength],
            RTM_GETADDR,
            NLM_F_DUMP,
            new ifaddrmsg { ifa_family = (byte)(int)family });
        return Dump(request, () => $"list the addresses of {(linkIndex is int link ? LinkName(link) : "this host")}", (NetlinkMessage message, out IpPrefix address) =>
            NetlinkRecords.TryParseAddress(message.Payload, out int index, out address) &&
            (linkIndex is null || index == linkIndex) && address.Address.IsIpv4 == (family == AF_INET)).Distinct();
    }

    // The kernel resumes a list of IPv6 routes by counting, and says nothing where a change has shifted the count: a route may be
    // missing or there twice. One that is missing in two lists in a row is not there.
    private IEnumerable<NetlinkRoute> ListRoutes(sa_family_t family) =>
        family == AF_INET6 ? DumpRoutes(family).Union(DumpRoutes(family)) : DumpRoutes(family);

    private List<NetlinkRoute> DumpRoutes(sa_family_t family)
    {
        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength],
            RTM_GETROUTE,
            NLM_F_DUMP,
            new rtmsg { rtm_family = (byte)(int)family, rtm_table = RT_TABLE_MAIN });
        request.Add(RTA_TABLE, (uint)RT_TABLE_MAIN);
        return Dump(request, () => "list the routes", (NetlinkMessage message, out NetlinkRoute route) =>
            NetlinkRecords.TryParseRoute(message.Payload, out route) &&
            route.Table == RT_TABLE_MAIN &&
            route.Type is RTN_UNICAST or RTN_BLACKHOLE or RTN_UNREACHABLE or RTN_PROHIBIT or RTN_THROW &&
            route.Route.Destination.Address.IsIpv4 == (family == AF_INET));
    }

    // The route for one packet (RTM_GETROUTE without NLM_F_DUMP).
    private NetlinkResult FindRoute(InetAddress destination, InetAddress source, out NetlinkRoute route)
    {
        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength],
            RTM_GETROUTE,
            NLM_F_ACK,
            new rtmsg
            {
                rtm_family = (byte)(int)(destination.IsIpv4 ? AF_INET : AF_INET6),
                rtm_dst_len = destination.IsIpv4 ? (byte)32 : (byte)128,
                rtm_src_len = source.IsNone ? (byte)0 : destination.IsIpv4 ? (byte)32 : (byte)128,
            });
        request.Add(RTA_DST, destination);
        if (!source.IsNone)
        {
            request.Add(RTA_SRC, source);
        }

        NetlinkRoute found = default;
        NetlinkResult result = Execute(request, reply =>
        {
            if (NetlinkRecords.TryParseRoute(reply.Payload, out NetlinkRoute parsed))
            {
                found = parsed;
            }
        });
        route = found;
        return result;
    }

    private NetlinkResult Execute(NetlinkRequest request, NetlinkReply? onReply = null) => Exchange(request.Finish(), onReply);

    private List<T> Dump<T>(NetlinkRequest request, Func<string> operation, NetlinkParse<T> parse)
    {
        var records = new List<T>();
        Check(NetlinkList.Read(Exchange, request.Finish(), parse, records), operation);
        return records;
    }

    private NetlinkResult Exchange(Span<byte> request, NetlinkReply? onReply)
    {
        lock (_gate)
        {
            return _requests.Exchange(request, onReply);
        }
    }

    private string Describe(HostRoute route)
    {
        string metric = route.Metric == 0 ? "" : $" metric {route.Metric}";
        string via = route.Gateway.IsNone ? "" : $" via {route.Gateway}";
        return $"{route.Destination}{via} dev {LinkName(route.LinkIndex)}{metric}";
    }

    // For messages only.
    private string LinkName(int index)
    {
        try
        {
            return FindLink(index)?.Name ?? $"device {index} (gone)";
        }
        catch (HostNetworkException)
        {
            return $"device {index}";
        }
    }
}
