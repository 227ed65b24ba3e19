using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Tmds.Linux;

[assembly: DisableRuntimeMarshalling]

namespace Tunnel.Linux;

/// <summary>
/// What the kernel's and the C library's headers have and Tmds.LibC 0.5.0 has not, under C's own names. Compiled with the in-tree
/// binding and with the package alike; a test compares every value, size and offset with the system's headers. Functions are called
/// with the class's name (<c>Uapi.sendmmsg</c>), so that a later version of the package that has them too makes no ambiguity.
/// </summary>
[SuppressMessage("ApiDesign", "RS0030", Justification = "The generated half of the class lies outside the folder that the ban leaves out.")]
internal static unsafe partial class Uapi
{
    // bits/socket.h
    public const int MSG_PEEK = 2;
    public const int SCM_RIGHTS = 1;

    // asm-generic/ioctls.h: close on exec.
    public const int FIOCLEX = 0x5451;

    // linux/uio.h: the most iovecs of one message and the most messages of one call.
    public const int UIO_MAXIOV = 1024;

    // linux/sock_diag.h: indices into what SO_MEMINFO returns, an array of 32-bit numbers.
    public const int SK_MEMINFO_RMEM_ALLOC = 0;
    public const int SK_MEMINFO_WMEM_ALLOC = 2;
    public const int SK_MEMINFO_DROPS = 8;
    public const int SK_MEMINFO_VARS = 9;

    // linux/bpf_common.h, linux/filter.h: classic BPF.
    public const ushort BPF_LD = 0x00;
    public const ushort BPF_LDX = 0x01;
    public const ushort BPF_ST = 0x02;
    public const ushort BPF_STX = 0x03;
    public const ushort BPF_ALU = 0x04;
    public const ushort BPF_JMP = 0x05;
    public const ushort BPF_RET = 0x06;
    public const ushort BPF_MISC = 0x07;
    public const ushort BPF_W = 0x00;
    public const ushort BPF_H = 0x08;
    public const ushort BPF_B = 0x10;
    public const ushort BPF_IMM = 0x00;
    public const ushort BPF_ABS = 0x20;
    public const ushort BPF_IND = 0x40;
    public const ushort BPF_MEM = 0x60;
    public const ushort BPF_LEN = 0x80;
    public const ushort BPF_ADD = 0x00;
    public const ushort BPF_SUB = 0x10;
    public const ushort BPF_MUL = 0x20;
    public const ushort BPF_AND = 0x50;
    public const ushort BPF_LSH = 0x60;
    public const ushort BPF_RSH = 0x70;
    public const ushort BPF_MOD = 0x90;
    public const ushort BPF_XOR = 0xa0;
    public const ushort BPF_JEQ = 0x10;
    public const ushort BPF_JGE = 0x30;
    public const ushort BPF_JSET = 0x40;
    public const ushort BPF_K = 0x00;
    public const ushort BPF_X = 0x08;
    public const ushort BPF_A = 0x10;
    public const ushort BPF_TAX = 0x00;

    // malloc.h
    public const int M_TRIM_THRESHOLD = -1;
    public const int M_ARENA_MAX = -8;

    /// <summary>readv(2)</summary>
    [LibraryImport("libc", SetLastError = true)]
    public static partial nint readv(int fd, iovec* iov, int iovcnt);

    /// <summary>writev(2)</summary>
    [LibraryImport("libc", SetLastError = true)]
    public static partial nint writev(int fd, iovec* iov, int iovcnt);

    /// <summary>sendmmsg(2)</summary>
    [LibraryImport("libc", SetLastError = true)]
    public static partial int sendmmsg(int sockfd, mmsghdr* msgvec, uint vlen, int flags);

    /// <summary>recvmmsg(2), always without a timeout: pass null.</summary>
    [LibraryImport("libc", SetLastError = true)]
    public static partial int recvmmsg(int sockfd, mmsghdr* msgvec, uint vlen, int flags, void* timeout);

    /// <summary>sched_getaffinity(2)</summary>
    [LibraryImport("libc", SetLastError = true)]
    public static partial int sched_getaffinity(int pid, nuint cpusetsize, void* mask);

    /// <summary>sched_setaffinity(2)</summary>
    [LibraryImport("libc", SetLastError = true)]
    public static partial int sched_setaffinity(int pid, nuint cpusetsize, void* mask);

    /// <summary>mallopt(3)</summary>
    [LibraryImport("libc")]
    public static partial int mallopt(int param, int value);

    /// <summary>sched_yield(2)</summary>
    [LibraryImport("libc")]
    public static partial int sched_yield();

    /// <summary>getgrnam_r(3); returns the error number and leaves errno alone.</summary>
    [LibraryImport("libc")]
    public static partial int getgrnam_r(byte* name, group* grp, byte* buf, nuint buflen, group** result);
}

// C's names are lower case.
#pragma warning disable CS8981

/// <summary>One instruction of classic BPF: linux/filter.h.</summary>
internal struct sock_filter
{
    public ushort code;
    public byte jt;
    public byte jf;
    public uint k;
}

/// <summary>A classic BPF program: linux/filter.h.</summary>
internal unsafe struct sock_fprog
{
    public ushort len;
    public sock_filter* filter;
}

/// <summary>An entry of the group database: getgrnam(3).</summary>
internal unsafe struct group
{
    public byte* gr_name;
    public byte* gr_passwd;
    public uint gr_gid;
    public byte** gr_mem;
}
