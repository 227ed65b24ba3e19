using System.Runtime.CompilerServices;

namespace Tunnel.Linux;

// What HostNeighbors and HostPolicies need: linux/neighbour.h, linux/if_arp.h, linux/xfrm.h, linux/netfilter.h, linux/netfilter/nfnetlink.h,
// linux/netfilter/nf_tables.h.
internal static unsafe partial class Uapi
{
    public const int NETLINK_XFRM = 6;
    public const int NETLINK_NETFILTER = 12;

    public const ushort RTM_NEWNEIGH = 28;
    public const ushort RTM_DELNEIGH = 29;
    public const ushort RTM_GETNEIGH = 30;

    public const int RTNLGRP_NEIGH = 3;
    public const int RTNLGRP_IPV4_RULE = 8;
    public const int RTNLGRP_NEXTHOP = 32;

    public const ushort RTA_GATEWAY = 5;
    public const ushort RTA_VIA = 18;
    public const ushort RTA_ENCAP_TYPE = 21;
    public const ushort RTA_ENCAP = 22;

    public const ushort ARPHRD_ETHER = 1;
    public const uint IFF_LOOPBACK = 0x8;

    public const ushort NDA_DST = 1;
    public const ushort NDA_LLADDR = 2;
    public const byte NTF_USE = 0x01;
    public const ushort NUD_REACHABLE = 0x02;
    public const ushort NUD_STALE = 0x04;
    public const ushort NUD_DELAY = 0x08;
    public const ushort NUD_PROBE = 0x10;
    public const ushort NUD_NOARP = 0x40;
    public const ushort NUD_PERMANENT = 0x80;

    public const ushort XFRM_MSG_NEWPOLICY = 0x13;
    public const ushort XFRM_MSG_GETPOLICY = 0x15;
    public const ushort XFRM_MSG_GETDEFAULT = 0x28;
    public const int XFRMNLGRP_EXPIRE = 2;
    public const int XFRMNLGRP_POLICY = 4;
    public const ushort XFRMA_TMPL = 5;
    public const ushort XFRMA_IF_ID = 31;
    public const byte XFRM_POLICY_IN = 0;
    public const byte XFRM_POLICY_OUT = 1;
    public const byte XFRM_POLICY_BLOCK = 1;
    public const byte XFRM_USERPOLICY_BLOCK = 1;

    public const byte NFPROTO_INET = 1;
    public const byte NFPROTO_IPV4 = 2;
    public const byte NFPROTO_NETDEV = 5;
    public const byte NFPROTO_IPV6 = 10;
    public const int NFNL_SUBSYS_NFTABLES = 10;
    public const int NFT_MSG_GETTABLE = 1;
    public const int NFT_MSG_GETCHAIN = 4;
    public const ushort NFTA_CHAIN_TABLE = 1;
    public const ushort NFTA_CHAIN_NAME = 3;
    public const ushort NFTA_CHAIN_HOOK = 4;
    public const ushort NFTA_CHAIN_POLICY = 5;
    public const ushort NFTA_CHAIN_TYPE = 7;
    public const ushort NFTA_HOOK_HOOKNUM = 1;
    public const uint NF_DROP = 0;
    public const int NFNLGRP_NFTABLES = 7;
}

// C's names are lower case.
#pragma warning disable CS8981

/// <summary>The payload of neighbour messages: rtnetlink(7).</summary>
internal struct ndmsg
{
    public byte ndm_family;
    public byte ndm_pad1;
    public ushort ndm_pad2;
    public int ndm_ifindex;
    public ushort ndm_state;
    public byte ndm_flags;
    public byte ndm_type;
}

/// <summary>The head of a message of nfnetlink: linux/netfilter/nfnetlink.h.</summary>
internal struct nfgenmsg
{
    public byte nfgen_family;
    public byte version;
    public ushort res_id;
}

/// <summary>An address of either family, in network byte order; IPv4 in the first four bytes: linux/xfrm.h.</summary>
[InlineArray(4)]
internal struct xfrm_address_t
{
    private uint _a6;
}

/// <summary>What an XFRM policy applies to: linux/xfrm.h.</summary>
internal struct xfrm_selector
{
    public xfrm_address_t daddr;
    public xfrm_address_t saddr;
    public ushort dport;
    public ushort dport_mask;
    public ushort sport;
    public ushort sport_mask;
    public ushort family;
    public byte prefixlen_d;
    public byte prefixlen_s;
    public byte proto;
    public int ifindex;
    public uint user;
}

/// <summary>The limits of a policy's life: linux/xfrm.h.</summary>
internal struct xfrm_lifetime_cfg
{
    public ulong soft_byte_limit;
    public ulong hard_byte_limit;
    public ulong soft_packet_limit;
    public ulong hard_packet_limit;
    public ulong soft_add_expires_seconds;
    public ulong hard_add_expires_seconds;
    public ulong soft_use_expires_seconds;
    public ulong hard_use_expires_seconds;
}

/// <summary>A policy's life so far: linux/xfrm.h.</summary>
internal struct xfrm_lifetime_cur
{
    public ulong bytes;
    public ulong packets;
    public ulong add_time;
    public ulong use_time;
}

/// <summary>An XFRM policy: linux/xfrm.h.</summary>
internal struct xfrm_userpolicy_info
{
    public xfrm_selector sel;
    public xfrm_lifetime_cfg lft;
    public xfrm_lifetime_cur curlft;
    public uint priority;
    public uint index;
    public byte dir;
    public byte action;
    public byte flags;
    public byte share;
}

/// <summary>Which XFRM policy a request is about: linux/xfrm.h.</summary>
internal struct xfrm_userpolicy_id
{
    public xfrm_selector sel;
    public uint index;
    public byte dir;
}

/// <summary>What happens to packets that no XFRM policy selects: linux/xfrm.h.</summary>
internal struct xfrm_userpolicy_default
{
    public byte @in;
    public byte fwd;
    public byte @out;
}
