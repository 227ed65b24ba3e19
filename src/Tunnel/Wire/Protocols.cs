namespace Tunnel.Wire;

/// <summary>GRE protocol types and Ethernet types in use (IANA "ieee-802-numbers").</summary>
public static class EtherType
{
    /// <summary>A router's keepalive, sent to come back: a GRE header with nothing behind it that matters.</summary>
    public const ushort Keepalive = 0;

    /// <summary>IPv4.</summary>
    public const ushort Ipv4 = 0x0800;

    /// <summary>IPv6.</summary>
    public const ushort Ipv6 = 0x86DD;

    /// <summary>Local Experimental Ethertype 1 (IEEE 802): messages between daemons.</summary>
    public const ushort Experimental = 0x88B5;
}

/// <summary>IP protocol and next-header numbers in use (IANA "protocol-numbers").</summary>
public static class IpProtocol
{
    /// <summary>ICMP for IPv4.</summary>
    public const byte Icmp = 1;

    /// <summary>TCP.</summary>
    public const byte Tcp = 6;

    /// <summary>UDP.</summary>
    public const byte Udp = 17;

    /// <summary>The Fragment header of IPv6.</summary>
    public const byte Ipv6Fragment = 44;

    /// <summary>GRE.</summary>
    public const byte Gre = 47;

    /// <summary>ICMP for IPv6.</summary>
    public const byte Icmpv6 = 58;
}
