using System.Runtime.InteropServices;
using Tmds.Linux;
using Tunnel.Dataplane;
using Tunnel.Wire;
using static Tunnel.Linux.Uapi;

namespace Tunnel.Linux;

/// <summary>A route as the kernel tells of it (rtnetlink(7)), more than <see cref="HostRoute"/> shows.</summary>
/// <param name="Table">Its table.</param>
/// <param name="Type">RTN_...</param>
/// <param name="Tos">The only TOS that it is for; 0 for all.</param>
/// <param name="Source">The source address that goes with it (RTA_PREFSRC), or none.</param>
/// <param name="Route">The route.</param>
internal readonly record struct NetlinkRoute(uint Table, byte Type, byte Tos, InetAddress Source, HostRoute Route)
{
    /// <summary>The gateway (RTA_GATEWAY), or none.</summary>
    public InetAddress Gateway { get; init; }

    /// <summary>Whether it is one that the kernel has learnt, and will forget (RTA_CACHEINFO, rta_expires): its MTU is a path's, not a route's.</summary>
    public bool IsLearnt { get; init; }

    /// <summary>Whether packets need more than a neighbour of the same family: RTA_VIA, or RTA_ENCAP.</summary>
    public bool NeedsMore { get; init; }
}

/// <summary>Parses the payloads of rtnetlink(7) messages. Each method is false for what is malformed or of another address family.</summary>
internal static class NetlinkRecords
{
    private const int EthernetAddressLength = 6;

    /// <summary>Parses RTM_NEWLINK.</summary>
    public static unsafe bool TryParseLink(ReadOnlySpan<byte> payload, out HostLink? link)
    {
        link = null;
        if (!MemoryMarshal.TryRead(payload, out ifinfomsg head))
        {
            return false;
        }

        string? name = null;
        uint mtu = 0;
        var attributes = new NetlinkReader(payload[sizeof(ifinfomsg)..]);
        while (attributes.TryReadAttribute(out ushort type, out ReadOnlySpan<byte> value))
        {
            switch (type)
            {
                case IFLA_IFNAME:
                    name = NetlinkReader.ReadString(value);
                    break;
                case IFLA_MTU:
                    MemoryMarshal.TryRead(value, out mtu);
                    break;
            }
        }

        if (name is null)
        {
            return false;
        }

        link = new HostLink(head.ifi_index, name, (int)mtu, (head.ifi_flags & IFF_UP) != 0);
        return true;
    }

    /// <summary>Parses RTM_NEWADDR.</summary>
    public static unsafe bool TryParseAddress(ReadOnlySpan<byte> payload, out int linkIndex, out IpPrefix address)
    {
        linkIndex = 0;
        address = default;
        if (!MemoryMarshal.TryRead(payload, out ifaddrmsg head))
        {
            return false;
        }

        // IFA_ADDRESS is the far end's address on a point-to-point link and the same as IFA_LOCAL elsewhere; IPv6 omits IFA_LOCAL there.
        ReadOnlySpan<byte> local = default;
        ReadOnlySpan<byte> other = default;
        var attributes = new NetlinkReader(payload[sizeof(ifaddrmsg)..]);
        while (attributes.TryReadAttribute(out ushort type, out ReadOnlySpan<byte> value))
        {
            switch (type)
            {
                case IFA_LOCAL:
                    local = value;
                    break;
                case IFA_ADDRESS:
                    other = value;
                    break;
            }
        }

        linkIndex = (int)head.ifa_index;
        return TryReadPrefix(head.ifa_family, local.IsEmpty ? other : local, head.ifa_prefixlen, out address);
    }

    /// <summary>Parses RTM_NEWROUTE.</summary>
    public static unsafe bool TryParseRoute(ReadOnlySpan<byte> payload, out NetlinkRoute route)
    {
        route = default;
        if (!MemoryMarshal.TryRead(payload, out rtmsg head))
        {
            return false;
        }

        // A default route has no RTA_DST.
        ReadOnlySpan<byte> destination = head.rtm_family == LibC.AF_INET ? [0, 0, 0, 0] : [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        ReadOnlySpan<byte> source = default;
        uint table = head.rtm_table;
        uint link = 0;
        uint metric = 0;
        uint mtu = 0;
        int expires = 0;
        bool severalHops = false;
        ReadOnlySpan<byte> via = default;
        bool needsMore = false;
        var attributes = new NetlinkReader(payload[sizeof(rtmsg)..]);
        while (attributes.TryReadAttribute(out ushort type, out ReadOnlySpan<byte> value))
        {
            switch (type)
            {
                case RTA_DST:
                    destination = value;
                    break;
                case RTA_PREFSRC when source.IsEmpty:
                    source = value;
                    break;
                case RTA_OIF:
                    MemoryMarshal.TryRead(value, out link);
                    break;
                case RTA_PRIORITY:
                    MemoryMarshal.TryRead(value, out metric);
                    break;
                case RTA_TABLE:
                    MemoryMarshal.TryRead(value, out table);
                    break;
                case RTA_METRICS:
                    mtu = ReadMtu(value);
                    break;
                case RTA_CACHEINFO:
                    expires = value.Length >= 3 * sizeof(int) ? MemoryMarshal.Read<int>(value[(2 * sizeof(int))..]) : 0;
                    break;
                case RTA_GATEWAY:
                    via = value;
                    break;
                case RTA_VIA or RTA_ENCAP or RTA_ENCAP_TYPE:
                    needsMore = true;
                    break;
                case RTA_MULTIPATH or RTA_NH_ID:
                    severalHops = true;
                    break;
            }
        }

        if (!TryReadPrefix(head.rtm_family, destination, head.rtm_dst_len, out IpPrefix prefix) ||
            !TryReadAddress(head.rtm_family, source, out InetAddress preferred) ||
            !TryReadAddress(head.rtm_family, via, out InetAddress gateway))
        {
            return false;
        }

        // IPv6 shows the loopback device for routes that lead nowhere.
        bool leadsNowhere = head.rtm_type is RTN_BLACKHOLE or RTN_UNREACHABLE or RTN_PROHIBIT or RTN_THROW;
        int linkIndex = severalHops || leadsNowhere ? 0 : (int)link;
        route = new NetlinkRoute(
            table, head.rtm_type, head.rtm_tos, preferred,
            new HostRoute(prefix, linkIndex, head.rtm_protocol, metric, (int)mtu, linkIndex == 0 ? InetAddress.None : gateway)
            {
                Source = gateway.IsNone ? InetAddress.None : preferred,
            })
        {
            Gateway = gateway,
            IsLearnt = expires != 0,
            NeedsMore = needsMore,
        };
        return true;
    }

    /// <summary>Parses RTM_NEWLINK for what packets over the device need.</summary>
    public static bool TryParseLinkKind(ReadOnlySpan<byte> payload, out string name, out bool isEthernet)
    {
        isEthernet = false;
        name = "";
        if (!TryParseLink(payload, out HostLink? link) || !MemoryMarshal.TryRead(payload, out ifinfomsg head))
        {
            return false;
        }

        name = link!.Name;
        isEthernet = head.ifi_type == ARPHRD_ETHER && (head.ifi_flags & IFF_LOOPBACK) == 0;
        return true;
    }

    /// <summary>Parses RTM_NEWNEIGH and RTM_DELNEIGH of IPv4 neighbours.</summary>
    public static unsafe bool TryParseNeighbor(ushort messageType, ReadOnlySpan<byte> payload, out HostNeighbor? neighbor)
    {
        const int Usable = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_NOARP | NUD_PERMANENT;
        neighbor = null;
        if (!MemoryMarshal.TryRead(payload, out ndmsg head) || head.ndm_family != LibC.AF_INET)
        {
            return false;
        }

        ReadOnlySpan<byte> destination = default;
        ReadOnlySpan<byte> linkAddress = default;
        var attributes = new NetlinkReader(payload[sizeof(ndmsg)..]);
        while (attributes.TryReadAttribute(out ushort type, out ReadOnlySpan<byte> value))
        {
            switch (type)
            {
                case NDA_DST:
                    destination = value;
                    break;
                case NDA_LLADDR:
                    linkAddress = value;
                    break;
            }
        }

        if (destination.IsEmpty || !TryReadAddress(head.ndm_family, destination, out InetAddress address))
        {
            return false;
        }

        bool isUsable = messageType == RTM_NEWNEIGH && (head.ndm_state & Usable) != 0 && linkAddress.Length == EthernetAddressLength;
        ulong bits = 0;
        foreach (byte part in isUsable ? linkAddress : [])
        {
            bits = (bits << 8) | part;
        }

        neighbor = new HostNeighbor(head.ndm_ifindex, address, bits, isUsable, isUsable && head.ndm_state == NUD_STALE);
        return true;
    }

    /// <summary>Parses XFRM_MSG_NEWPOLICY; false also for policies that packets of this host's own never meet.</summary>
    public static unsafe bool TryParsePolicy(ReadOnlySpan<byte> payload, out XfrmPolicy? policy)
    {
        policy = null;

        // Directions beyond these are for forwarding, and a socket's own.
        if (!MemoryMarshal.TryRead(payload, out xfrm_userpolicy_info info) ||
            (info.sel.family != LibC.AF_INET && info.sel.family != LibC.AF_INET6) || info.dir is not (XFRM_POLICY_IN or XFRM_POLICY_OUT))
        {
            return false;
        }

        int bytes = info.sel.family == LibC.AF_INET ? 4 : 16;
        if (info.sel.prefixlen_s > bytes * 8 || info.sel.prefixlen_d > bytes * 8)
        {
            return false;
        }

        bool hasTemplates = false;
        var attributes = new NetlinkReader(payload[sizeof(xfrm_userpolicy_info)..]);
        while (attributes.TryReadAttribute(out ushort type, out ReadOnlySpan<byte> value))
        {
            switch (type)
            {
                case XFRMA_TMPL:
                    hasTemplates = !value.IsEmpty;
                    break;
                case XFRMA_IF_ID when MemoryMarshal.TryRead(value, out uint device) && device != 0:
                    return false;
            }
        }

        policy = new XfrmPolicy(
            info.dir == XFRM_POLICY_IN ? XfrmDirection.In : XfrmDirection.Out,
            ReadSelector(info.sel.saddr, bytes, info.sel.prefixlen_s),
            ReadSelector(info.sel.daddr, bytes, info.sel.prefixlen_d),
            info.sel.proto,
            info.action == XFRM_POLICY_BLOCK,
            hasTemplates);
        return true;
    }

    private static IpPrefix ReadSelector(xfrm_address_t address, int bytes, byte length) =>
        new IpPrefix(InetAddress.Read(MemoryMarshal.AsBytes<uint>(address)[..bytes]), length).Network;

    private static uint ReadMtu(ReadOnlySpan<byte> metrics)
    {
        uint mtu = 0;
        var attributes = new NetlinkReader(metrics);
        while (attributes.TryReadAttribute(out ushort type, out ReadOnlySpan<byte> value))
        {
            if (type == RTAX_MTU)
            {
                MemoryMarshal.TryRead(value, out mtu);
            }
        }

        return mtu;
    }

    private static bool TryReadAddress(byte family, ReadOnlySpan<byte> bytes, out InetAddress address)
    {
        address = InetAddress.None;
        if (bytes.IsEmpty)
        {
            return true;
        }

        bool read = TryReadPrefix(family, bytes, 0, out IpPrefix prefix);
        address = prefix.Address;
        return read;
    }

    private static bool TryReadPrefix(byte family, ReadOnlySpan<byte> bytes, int length, out IpPrefix prefix)
    {
        prefix = default;
        int expected = family == LibC.AF_INET ? 4 : family == LibC.AF_INET6 ? 16 : -1;
        if (bytes.Length != expected || length > expected * 8)
        {
            return false;
        }

        // An IPv4-mapped prefix in the IPv6 tables (some hosts reject ::ffff:0:0/96) would pass for an IPv4 one: nobody's overlay.
        prefix = new IpPrefix(InetAddress.Read(bytes), length);
        return prefix.Address.IsIpv4 == (family == LibC.AF_INET);
    }
}
