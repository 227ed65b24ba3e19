using System.Runtime.InteropServices;

namespace Tunnel.Linux;

/// <summary>Extended BPF: bpf(2), linux/bpf.h. The attributes are the heads of union bpf_attr as far as they are used.</summary>
internal static unsafe partial class Uapi
{
    public const int BPF_MAP_CREATE = 0;
    public const int BPF_MAP_UPDATE_ELEM = 2;
    public const int BPF_PROG_LOAD = 5;
    public const int BPF_LINK_CREATE = 28;

    public const uint BPF_MAP_TYPE_ARRAY = 2;
    public const uint BPF_PROG_TYPE_SCHED_CLS = 3;
    public const uint BPF_TCX_INGRESS = 46;

    public const int BPF_FUNC_map_lookup_elem = 1;
    public const int BPF_FUNC_skb_store_bytes = 9;
    public const int BPF_FUNC_clone_redirect = 13;
    public const int BPF_FUNC_set_hash_invalid = 41;
    public const int BPF_FUNC_skb_change_head = 43;
    public const int BPF_FUNC_skb_adjust_room = 50;

    public const int BPF_ADJ_ROOM_MAC = 1;
    public const int BPF_F_ADJ_ROOM_FIXED_GSO = 1;
    public const int BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 = 2;
    public const int BPF_F_ADJ_ROOM_ENCAP_L4_GRE = 8;
    public const int BPF_F_ADJ_ROOM_DECAP_L3_IPV4 = 128;
    public const int BPF_F_ADJ_ROOM_DECAP_L3_IPV6 = 256;

    // linux/bpf_common.h, linux/bpf.h: instruction classes, sizes and operations that classic BPF has not.
    public const int BPF_ALU64 = 0x07;
    public const int BPF_DW = 0x18;
    public const int BPF_MOV = 0xb0;
    public const int BPF_END = 0xd0;
    public const int BPF_TO_BE = 0x08;
    public const int BPF_JNE = 0x50;
    public const int BPF_JGT = 0x20;
    public const int BPF_CALL = 0x80;
    public const int BPF_EXIT = 0x90;
    public const int BPF_PSEUDO_MAP_FD = 1;

    // linux/pkt_cls.h
    public const int TC_ACT_UNSPEC = -1;
    public const int TC_ACT_SHOT = 2;

    // linux/sockios.h
    public const int SIOCGIFNAME = 0x8910;
    public const int SIOCGIFHWADDR = 0x8927;

    /// <summary>syscall(2)</summary>
    [LibraryImport("libc", SetLastError = true)]
    public static partial nint syscall(nint number, nint first, void* second, nint third);
}
