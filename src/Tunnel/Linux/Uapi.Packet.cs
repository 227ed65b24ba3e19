using System.Runtime.InteropServices;

namespace Tunnel.Linux;

/// <summary>Packet sockets: packet(7), linux/if_packet.h, linux/if_ether.h; their receive ring: packet_mmap.rst in the kernel's documentation.</summary>
internal static unsafe partial class Uapi
{
    public const int AF_PACKET = 17;
    public const int SOL_PACKET = 263;
    public const int PACKET_RX_RING = 5;
    public const int PACKET_STATISTICS = 6;
    public const int PACKET_COPY_THRESH = 7;
    public const int PACKET_VERSION = 10;
    public const int PACKET_VNET_HDR = 15;
    public const int PACKET_FANOUT = 18;
    public const int PACKET_FANOUT_CPU = 2;
    public const int PACKET_FANOUT_CBPF = 6;
    public const int PACKET_FANOUT_DATA = 22;
    public const int PACKET_FANOUT_FLAG_UNIQUEID = 0x2000;
    public const int PACKET_FANOUT_FLAG_DEFRAG = 0x8000;
    public const int PACKET_HOST = 0;

    public const int TPACKET_V2 = 1;
    public const uint TP_STATUS_KERNEL = 0;
    public const uint TP_STATUS_USER = 1;
    public const uint TP_STATUS_COPY = 2;

    public const ushort ETH_P_IP = 0x0800;

    // linux/filter.h: where a filter's loads begin to mean the network header, or something beside the packet.
    public const int SKF_NET_OFF = -0x100000;
    public const int SKF_AD_OFF = -0x1000;
    public const int SKF_AD_PKTTYPE = 4;

    // sys/mman.h
    public const int PROT_READ = 1;
    public const int PROT_WRITE = 2;
    public const int MAP_SHARED = 1;

    /// <summary>mmap(2); -1 where it fails.</summary>
    [LibraryImport("libc", SetLastError = true)]
    public static partial nint mmap(void* addr, nuint length, int prot, int flags, int fd, nint offset);

    /// <summary>munmap(2)</summary>
    [LibraryImport("libc", SetLastError = true)]
    public static partial int munmap(void* addr, nuint length);
}

// C's names are lower case.
#pragma warning disable CS8981

/// <summary>A link-layer address: packet(7). The protocol in network byte order.</summary>
internal unsafe struct sockaddr_ll
{
    public ushort sll_family;
    public ushort sll_protocol;
    public int sll_ifindex;
    public ushort sll_hatype;
    public byte sll_pkttype;
    public byte sll_halen;
    public fixed byte sll_addr[8];
}

/// <summary>The layout of a ring: linux/if_packet.h.</summary>
internal struct tpacket_req
{
    public uint tp_block_size;
    public uint tp_block_nr;
    public uint tp_frame_size;
    public uint tp_frame_nr;
}

/// <summary>What a frame of a ring of version 2 begins with: linux/if_packet.h.</summary>
internal unsafe struct tpacket2_hdr
{
    public uint tp_status;
    public uint tp_len;
    public uint tp_snaplen;
    public ushort tp_mac;
    public ushort tp_net;
    public uint tp_sec;
    public uint tp_nsec;
    public ushort tp_vlan_tci;
    public ushort tp_vlan_tpid;
    public fixed byte tp_padding[4];
}

/// <summary>What PACKET_STATISTICS returns, and begins to count anew: linux/if_packet.h.</summary>
internal struct tpacket_stats
{
    public uint tp_packets;
    public uint tp_drops;
}
