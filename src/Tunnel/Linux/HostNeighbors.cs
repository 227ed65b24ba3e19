using Tunnel.Dataplane;
using Tunnel.Wire;
using static Tmds.Linux.LibC;
using static Tunnel.Linux.Uapi;

namespace Tunnel.Linux;

/// <summary>
/// Next hops and neighbours over rtnetlink(7), of the network namespace of the thread that makes the object. The methods work from any
/// thread. Neighbours change often where a link has many, so they have a socket and a wait of their own.
/// </summary>
internal sealed class HostNeighbors : IHostNeighbors
{
    // More than that at once, and a new list is cheaper.
    private const int MaxChanges = 4096;

    // What a device must have to take TCP super-packets inside GRE-in-UDP, with an outer checksum, as they are.
    private static readonly string[] UdpTunnelFeatures = ["tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"];
    private static readonly string[] GreFeatures = ["tx-gre-segmentation"];

    private readonly Lock _gate = new();
    private readonly Lock _changesGate = new();
    private readonly NetlinkSocket _requests = new();
    private readonly DeviceFeatures _features = new();
    private readonly NetlinkMonitor _neighbors;
    private readonly NetlinkMonitor _routes;
    private List<HostNeighbor> _changes = [];
    private bool _lost;

    /// <summary>Opens the sockets; changes are remembered from here on.</summary>
    /// <exception cref="HostNetworkException">The kernel refused.</exception>
    public HostNeighbors()
    {
        NetlinkMonitor? neighbors = null;
        try
        {
            neighbors = new NetlinkMonitor(NETLINK_ROUTE, [RTNLGRP_NEIGH], Remember, Forget);
            _routes = new NetlinkMonitor(
                NETLINK_ROUTE, [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_NEXTHOP]);
        }
        catch
        {
            neighbors?.Dispose();
            _requests.Dispose();
            _features.Dispose();
            throw;
        }

        _neighbors = neighbors;
        _neighbors.Start();
        _routes.Start();
    }

    /// <inheritdoc/>
    public IReadOnlyList<HostNextHop?> GetNextHops(IReadOnlyList<(InetAddress Destination, InetAddress Source)> flows)
    {
        var links = new Dictionary<int, LinkKind?>();
        var hops = new HostNextHop?[flows.Count];
        for (int i = 0; i < hops.Length; i++)
        {
            hops[i] = GetNextHop(flows[i].Destination, flows[i].Source, links);
        }

        return hops;
    }

    /// <inheritdoc/>
    public IReadOnlyList<HostNeighbor> GetNeighbors()
    {
        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength], RTM_GETNEIGH, NLM_F_DUMP, new ndmsg { ndm_family = (byte)(int)AF_INET });
        var neighbors = new List<HostNeighbor>();
        NetlinkResult result = NetlinkList.Read(
            Exchange,
            request.Finish(),
            (NetlinkMessage message, out HostNeighbor neighbor) =>
            {
                bool isOne = NetlinkRecords.TryParseNeighbor(message.Header.nlmsg_type, message.Payload, out HostNeighbor? found);
                neighbor = found!;
                return isOne;
            },
            neighbors);
        return result.Errno == 0 ? neighbors : throw new HostNetworkException("list the neighbours", result.Errno, result.Reason);
    }

    /// <inheritdoc/>
    public void UseNeighbor(int linkIndex, InetAddress address)
    {
        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength],
            RTM_NEWNEIGH,
            (ushort)(NLM_F_ACK | NLM_F_CREATE),
            new ndmsg { ndm_family = (byte)(int)AF_INET, ndm_ifindex = linkIndex, ndm_flags = NTF_USE });
        request.Add(NDA_DST, address);
        NetlinkResult result = Exchange(request.Finish(), null);
        if (result.Errno != 0)
        {
            throw new HostNetworkException($"ask for neighbour {address} on device {linkIndex}", result.Errno, result.Reason);
        }
    }

    /// <inheritdoc/>
    public async Task<IReadOnlyList<HostNeighbor>?> ReadNeighborChangesAsync(CancellationToken cancellationToken)
    {
        await _neighbors.WaitForChangeAsync(cancellationToken);
        lock (_changesGate)
        {
            IReadOnlyList<HostNeighbor>? changes = _lost ? null : _changes;
            _changes = [];
            _lost = false;
            return changes;
        }
    }

    /// <inheritdoc/>
    public Task WaitForRouteChangeAsync(CancellationToken cancellationToken) => _routes.WaitForChangeAsync(cancellationToken);

    /// <inheritdoc/>
    public void Dispose()
    {
        _neighbors.Dispose();
        _routes.Dispose();
        lock (_gate)
        {
            _requests.Dispose();
            _features.Dispose();
        }
    }

    // The route for one packet (RTM_GETROUTE without NLM_F_DUMP); of several next hops the kernel names one.
    private HostNextHop? GetNextHop(InetAddress destination, InetAddress source, Dictionary<int, LinkKind?> links)
    {
        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength],
            RTM_GETROUTE,
            NLM_F_ACK,
            new rtmsg { rtm_family = (byte)(int)AF_INET, rtm_dst_len = 32, rtm_src_len = source.IsNone ? (byte)0 : (byte)32 });
        request.Add(RTA_DST, destination);
        if (!source.IsNone)
        {
            request.Add(RTA_SRC, source);
        }

        NetlinkRoute? found = null;
        NetlinkResult result = Exchange(request.Finish(), reply =>
        {
            if (NetlinkRecords.TryParseRoute(reply.Payload, out NetlinkRoute parsed))
            {
                found = parsed;
            }
        });

        // Whatever the refusal, the kernel itself knows no way at this moment. Where the host itself is meant, it is by loopback.
        if (result.Errno != 0 || found is not NetlinkRoute route || route.Type is not (RTN_UNICAST or RTN_LOCAL))
        {
            return null;
        }

        int link = route.Route.LinkIndex;
        if (!links.TryGetValue(link, out LinkKind? kind))
        {
            kind = GetLink(link);
            links.Add(link, kind);
        }

        InetAddress hop = route.NeedsMore ? InetAddress.None : route.Gateway.IsNone ? destination : route.Gateway;
        return kind is LinkKind known ? new HostNextHop(link, known.Name, known.IsEthernet, hop, known.CarriesUdpTunnels, known.CarriesGre) : null;
    }

    private LinkKind? GetLink(int index)
    {
        if (index <= 0)
        {
            return null;
        }

        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength], RTM_GETLINK, NLM_F_ACK, new ifinfomsg { ifi_index = index });
        request.Add(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        LinkKind? link = null;
        Exchange(request.Finish(), reply =>
        {
            if (NetlinkRecords.TryParseLinkKind(reply.Payload, out string name, out bool isEthernet))
            {
                link = new LinkKind(name, isEthernet, false, false);
            }
        });
        if (link is not { IsEthernet: true } ethernet)
        {
            return link;
        }

        lock (_gate)
        {
            return ethernet with
            {
                CarriesUdpTunnels = _features.HasAll(ethernet.Name, UdpTunnelFeatures),

                // What is not known to be cut may reach the peer whole, and not every peer takes it.
                CarriesGre = !_features.HasNone(ethernet.Name, GreFeatures),
            };
        }
    }

    private void Remember(NetlinkMessage message)
    {
        if (message.Header.nlmsg_type is not (RTM_NEWNEIGH or RTM_DELNEIGH) ||
            !NetlinkRecords.TryParseNeighbor(message.Header.nlmsg_type, message.Payload, out HostNeighbor? neighbor))
        {
            return;
        }

        lock (_changesGate)
        {
            if (_changes.Count < MaxChanges)
            {
                _changes.Add(neighbor!);
            }
            else
            {
                _lost = true;
            }
        }
    }

    private void Forget()
    {
        lock (_changesGate)
        {
            _lost = true;
        }
    }

    private NetlinkResult Exchange(Span<byte> request, NetlinkReply? onReply)
    {
        lock (_gate)
        {
            return _requests.Exchange(request, onReply);
        }
    }

    private readonly record struct LinkKind(string Name, bool IsEthernet, bool CarriesUdpTunnels, bool CarriesGre);
}
