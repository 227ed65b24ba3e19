namespace Tunnel.Linux;

/// <summary>UDP sockets: udp(7), ip(7), ipv6(7), linux/udp.h.</summary>
internal static unsafe partial class Uapi
{
    public const int SOL_UDP = 17;
    public const int UDP_SEGMENT = 103;
    public const int UDP_GRO = 104;

    public const int SO_REUSEPORT = 15;
    public const int SO_BINDTOIFINDEX = 62;

    public const int IP_TOS = 1;
    public const int IP_TTL = 2;
    public const int IP_RECVTOS = 13;
    public const int IP_PROTOCOL = 52;
    public const int IPV6_UNICAST_HOPS = 16;
    public const int IPV6_V6ONLY = 26;
}
