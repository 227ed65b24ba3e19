namespace Tunnel.Linux;

// What HostNetwork needs beyond Uapi.Netlink.cs: linux/rtnetlink.h.
internal static unsafe partial class Uapi
{
    public const ushort RTA_NH_ID = 30;
    public const uint RTEXT_FILTER_SKIP_STATS = 8;
    public const uint IP6_RT_PRIO_USER = 1024;
}
