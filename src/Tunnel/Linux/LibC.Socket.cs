using System.Runtime.InteropServices;

namespace Tmds.Linux;

/// <summary>Sockets: socket(7), ip(7), ipv6(7), cmsg(3).</summary>
internal static unsafe partial class LibC
{
    public static sa_family_t AF_INET => 2;
    public static sa_family_t AF_INET6 => 10;
    public static sa_family_t AF_NETLINK => 16;

    public static int SOCK_DGRAM => 2;
    public static int SOCK_RAW => 3;
    public static int SOCK_NONBLOCK => 0x800;
    public static int SOCK_CLOEXEC => 0x80000;

    public static int SOL_IP => 0;
    public static int SOL_SOCKET => 1;
    public static int SOL_IPV6 => 41;
    public static int SOL_NETLINK => 270;

    public static int SO_SNDBUF => 7;
    public static int SO_RCVBUF => 8;
    public static int SO_PEERCRED => 17;
    public static int SO_ATTACH_FILTER => 26;
    public static int SO_SNDBUFFORCE => 32;
    public static int SO_RCVBUFFORCE => 33;
    public static int SO_MEMINFO => 55;

    public static int MSG_TRUNC => 0x20;
    public static int MSG_DONTWAIT => 0x40;

    public static int IPPROTO_GRE => 47;

    public static int IP_HDRINCL => 3;
    public static int IP_MTU_DISCOVER => 10;
    public static int IP_PMTUDISC_DONT => 0;
    public static int IP_PMTUDISC_PROBE => 3;

    public static int IPV6_MTU_DISCOVER => 23;
    public static int IPV6_RECVERR => 25;
    public static int IPV6_HDRINCL => 36;
    public static int IPV6_RECVPKTINFO => 49;
    public static int IPV6_PKTINFO => 50;
    public static int IPV6_RECVHOPLIMIT => 51;
    public static int IPV6_HOPLIMIT => 52;
    public static int IPV6_RECVTCLASS => 66;
    public static int IPV6_TCLASS => 67;
    public static int IPV6_PMTUDISC_DONT => 0;
    public static int IPV6_PMTUDISC_PROBE => 3;

    /// <summary>socket(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial int socket(int domain, int type, int protocol);

    /// <summary>bind(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial int bind(int socket, sockaddr* address, socklen_t address_len);

    /// <summary>connect(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial int connect(int socket, sockaddr* address, socklen_t address_len);

    /// <summary>getsockopt(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial int getsockopt(int socket, int level, int optname, void* optval, socklen_t* optlen);

    /// <summary>setsockopt(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial int setsockopt(int socket, int level, int optname, void* optval, socklen_t optlen);

    /// <summary>send(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial ssize_t send(int socket, void* buf, size_t len, int flags);

    /// <summary>recv(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial ssize_t recv(int socket, void* buf, size_t len, int flags);

    /// <summary>The payload of an ancillary message: cmsg(3).</summary>
    public static byte* CMSG_DATA(cmsghdr* cmsg) => (byte*)(cmsg + 1);

    /// <summary>The first ancillary message, or null: cmsg(3).</summary>
    public static cmsghdr* CMSG_FIRSTHDR(msghdr* mhdr) =>
        mhdr->msg_controllen >= sizeof(cmsghdr) ? (cmsghdr*)mhdr->msg_control : null;

    /// <summary>The ancillary message after this one, or null where no further header fits: cmsg(3).</summary>
    public static cmsghdr* CMSG_NXTHDR(msghdr* mhdr, cmsghdr* cmsg)
    {
        long left = (byte*)mhdr->msg_control + (uint)mhdr->msg_controllen - (byte*)cmsg;
        long length = CMSG_ALIGN((int)cmsg->cmsg_len);
        return length < sizeof(cmsghdr) || length + sizeof(cmsghdr) > left ? null : (cmsghdr*)((byte*)cmsg + length);
    }

    /// <summary>A length rounded up to the alignment of ancillary messages, in bytes: cmsg(3).</summary>
    public static int CMSG_ALIGN(int len) => (len + sizeof(size_t) - 1) & ~(sizeof(size_t) - 1);

    /// <summary>Bytes that an ancillary message with a payload of this many bytes takes: cmsg(3).</summary>
    public static int CMSG_SPACE(int len) => CMSG_ALIGN(sizeof(cmsghdr)) + CMSG_ALIGN(len);
}
