using System.Runtime.InteropServices;

namespace Tunnel.Linux;

/// <summary>TUN devices: linux/if_tun.h, linux/if.h, linux/virtio_net.h.</summary>
internal static unsafe partial class Uapi
{
    public const int IFNAMSIZ = 16;

    public const int TUNSETIFF = 0x400454ca;
    public const int TUNGETIFF = unchecked((int)0x800454d2);
    public const int TUNSETOFFLOAD = 0x400454d0;
    public const int TUNSETVNETHDRSZ = 0x400454d8;

    public const int IFF_TUN = 0x0001;
    public const int IFF_NO_PI = 0x1000;
    public const int IFF_VNET_HDR = 0x4000;
    public const int IFF_PERSIST = 0x0800;
    public const int IFF_MULTI_QUEUE = 0x0100;

    public const int TUN_F_CSUM = 0x01;
    public const int TUN_F_TSO4 = 0x02;
    public const int TUN_F_TSO6 = 0x04;
    public const int TUN_F_USO4 = 0x20;
    public const int TUN_F_USO6 = 0x40;

    public const int TUN_F_UDP_TUNNEL_GSO = 0x080;
    public const int TUN_F_UDP_TUNNEL_GSO_CSUM = 0x100;

    // linux/sockios.h
    public const int SIOCGIFTXQLEN = 0x8942;
    public const int SIOCSIFTXQLEN = 0x8943;

    public const byte VIRTIO_NET_HDR_F_NEEDS_CSUM = 1;
    public const byte VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM = 8;
    public const byte VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4 = 0x20;
    public const byte VIRTIO_NET_HDR_GSO_ECN = 0x80;
}

// C's names are lower case.
#pragma warning disable CS8981

/// <summary>A request about an interface: netdevice(7). The fields after the name share their bytes.</summary>
[StructLayout(LayoutKind.Explicit, Size = 40)]
internal unsafe struct ifreq
{
    [FieldOffset(0)]
    public fixed byte ifr_name[Uapi.IFNAMSIZ];

    [FieldOffset(16)]
    public short ifr_flags;

    [FieldOffset(16)]
    public int ifr_qlen;
}

/// <summary>What stands before each packet of a TUN device opened with IFF_VNET_HDR: linux/virtio_net.h. Host byte order.</summary>
internal struct virtio_net_hdr
{
    public byte flags;
    public byte gso_type;
    public ushort hdr_len;
    public ushort gso_size;
    public ushort csum_start;
    public ushort csum_offset;
}

/// <summary>The same with a field that is nothing to a TUN device.</summary>
internal struct virtio_net_hdr_v1
{
    public byte flags;
    public byte gso_type;
    public ushort hdr_len;
    public ushort gso_size;
    public ushort csum_start;
    public ushort csum_offset;
    public ushort num_buffers;
}

/// <summary>The same with more of them.</summary>
internal struct virtio_net_hdr_v1_hash
{
    public virtio_net_hdr_v1 hdr;
    public uint hash_value;
    public ushort hash_report;
    public ushort padding;
}

/// <summary>The same for super-packets inside UDP tunnels (Linux 6.17). Where the offsets count from: the packet's first byte.</summary>
internal struct virtio_net_hdr_v1_hash_tunnel
{
    public virtio_net_hdr_v1_hash hash_hdr;
    public ushort outer_th_offset;
    public ushort inner_nh_offset;
}
