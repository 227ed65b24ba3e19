using System.Runtime.InteropServices;

// C's names are lower case.
#pragma warning disable CS8981

namespace Tmds.Linux;

/// <summary>An unsigned size in bytes.</summary>
internal readonly struct size_t
{
    private readonly nuint _value;

    private size_t(nuint value) => _value = value;

    public static implicit operator size_t(int value) => new((uint)value);

    public static implicit operator size_t(uint value) => new(value);

    public static implicit operator size_t(ushort value) => new(value);

    public static explicit operator size_t(ulong value) => new((nuint)value);

    public static implicit operator ulong(size_t value) => value._value;

    public static explicit operator uint(size_t value) => (uint)value._value;

    public static explicit operator int(size_t value) => (int)value._value;
}

/// <summary>A size in bytes, or -1.</summary>
internal readonly struct ssize_t
{
    private readonly nint _value;

    private ssize_t(nint value) => _value = value;

    public static implicit operator ssize_t(int value) => new(value);

    public static explicit operator ssize_t(long value) => new((nint)value);

    public static implicit operator long(ssize_t value) => value._value;

    public static explicit operator int(ssize_t value) => (int)value._value;
}

/// <summary>unsigned long</summary>
internal readonly struct ulong_t
{
    private readonly nuint _value;

    private ulong_t(nuint value) => _value = value;

    public static implicit operator ulong_t(uint value) => new(value);

    public static explicit operator ulong_t(ulong value) => new((nuint)value);

    public static implicit operator ulong(ulong_t value) => value._value;
}

/// <summary>The length of a socket address or option, in bytes.</summary>
internal readonly struct socklen_t
{
    private readonly uint _value;

    private socklen_t(uint value) => _value = value;

    public static implicit operator socklen_t(int value) => new((uint)value);

    public static implicit operator socklen_t(uint value) => new(value);

    public static implicit operator socklen_t(ushort value) => new(value);

    public static implicit operator uint(socklen_t value) => value._value;

    public static explicit operator int(socklen_t value) => (int)value._value;
}

/// <summary>An address family.</summary>
internal readonly struct sa_family_t
{
    private readonly ushort _value;

    private sa_family_t(int value) => _value = (ushort)value;

    public static implicit operator sa_family_t(int value) => new(value);

    public static implicit operator int(sa_family_t value) => value._value;
}

/// <summary>File permission bits.</summary>
internal readonly struct mode_t
{
    private readonly uint _value;

    private mode_t(uint value) => _value = value;

    public static implicit operator mode_t(ushort value) => new(value);

    public static explicit operator ushort(mode_t value) => (ushort)value._value;
}

/// <summary>A user.</summary>
internal readonly struct uid_t
{
    private readonly uint _value;

    private uid_t(uint value) => _value = value;

    public static implicit operator uid_t(uint value) => new(value);

    public static implicit operator uint(uid_t value) => value._value;
}

/// <summary>A group.</summary>
internal readonly struct gid_t
{
    private readonly uint _value;

    private gid_t(uint value) => _value = value;

    public static implicit operator gid_t(uint value) => new(value);

    public static implicit operator uint(gid_t value) => value._value;
}

/// <summary>A run of memory: readv(2).</summary>
internal unsafe struct iovec
{
    public void* iov_base { get; set; }

    public size_t iov_len { get; set; }
}

/// <summary>What poll(2) waits for on one descriptor.</summary>
internal struct pollfd
{
    public int fd { get; set; }

    public short events { get; set; }

    public short revents { get; set; }
}

/// <summary>The head common to all socket addresses: sockaddr(3type).</summary>
[StructLayout(LayoutKind.Sequential, Size = 16)]
internal struct sockaddr
{
    public sa_family_t sa_family { get; set; }
}

/// <summary>An IPv4 address in network byte order.</summary>
internal unsafe struct in_addr
{
    public fixed byte s_addr[4];
}

/// <summary>An IPv6 address in network byte order.</summary>
internal unsafe struct in6_addr
{
    public fixed byte s6_addr[16];
}

/// <summary>ip(7); the port in network byte order.</summary>
[StructLayout(LayoutKind.Sequential, Size = 16)]
internal struct sockaddr_in
{
    public sa_family_t sin_family { get; set; }

    public ushort sin_port { get; set; }

    public in_addr sin_addr;
}

/// <summary>ipv6(7); port and flow information in network byte order.</summary>
internal struct sockaddr_in6
{
    public sa_family_t sin6_family { get; set; }

    public ushort sin6_port { get; set; }

    public uint sin6_flowinfo { get; set; }

    public in6_addr sin6_addr;

    public uint sin6_scope_id { get; set; }
}

/// <summary>The destination and arrival interface of an IPv6 packet: IPV6_PKTINFO in ipv6(7).</summary>
internal struct in6_pktinfo
{
    public in6_addr ipi6_addr;

    public uint ipi6_ifindex { get; set; }
}

/// <summary>recvmsg(2). The members stand in C's order; the widths that the package narrows are hidden behind properties.</summary>
internal unsafe struct msghdr
{
    public void* msg_name { get; set; }

    public socklen_t msg_namelen { get; set; }

    public iovec* msg_iov { get; set; }

    private size_t _msg_iovlen;

    public int msg_iovlen
    {
        readonly get => (int)_msg_iovlen;
        set => _msg_iovlen = value;
    }

    public void* msg_control { get; set; }

    private size_t _msg_controllen;

    public socklen_t msg_controllen
    {
        readonly get => (uint)_msg_controllen;
        set => _msg_controllen = (uint)value;
    }

    public int msg_flags { get; set; }
}

/// <summary>The head of an ancillary message: cmsg(3).</summary>
internal struct cmsghdr
{
    private size_t _cmsg_len;

    public socklen_t cmsg_len
    {
        readonly get => (uint)_cmsg_len;
        set => _cmsg_len = (uint)value;
    }

    public int cmsg_level { get; set; }

    public int cmsg_type { get; set; }
}

/// <summary>sendmmsg(2); as msg_hdr is a property, write it in place through a pointer to the structure, of which it is the head.</summary>
internal struct mmsghdr
{
    public msghdr msg_hdr { get; set; }

    public uint msg_len { get; set; }
}
