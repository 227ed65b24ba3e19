using System.Buffers.Binary;
using Tmds.Linux;
using Tunnel.Wire;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>What the UDP sockets of the underlay have in common: udp(7).</summary>
internal static unsafe class UdpSocket
{
    /// <summary>Opens a socket that sets DF and never fragments.</summary>
    /// <exception cref="DeviceOpenException">It cannot be opened; says why and what to do.</exception>
    public static FileDescriptor Open(bool isIpv6)
    {
        SysResult opened = Sys.Socket(isIpv6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        if (opened.IsError)
        {
            throw new DeviceOpenException(
                $"cannot open a UDP socket: {opened.Reason}", "see the limits of the process (LimitNOFILE=) and whether the kernel has this address family on");
        }

        var descriptor = new FileDescriptor(opened.Value);
        try
        {
            if (isIpv6)
            {
                Set(opened.Value, SOL_IPV6, Uapi.IPV6_V6ONLY, 1);
                Set(opened.Value, SOL_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO);
            }
            else
            {
                Set(opened.Value, SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO);
            }

            return descriptor;
        }
        catch
        {
            descriptor.Dispose();
            throw;
        }
    }

    /// <summary>Binds a socket.</summary>
    /// <exception cref="DeviceOpenException">The address or port cannot be used; says why and what to do.</exception>
    public static void Bind(int fd, bool isIpv6, InetAddress local, ushort port)
    {
        SysResult bound = TryBind(fd, isIpv6, local, port);
        if (!bound.IsError)
        {
            return;
        }

        string at = $"{(local.IsNone ? (isIpv6 ? "::" : "0.0.0.0") : local.ToString())} port {port}";
        throw bound.Errno == EADDRINUSE
            ? new DeviceOpenException($"UDP port {port} is in use: cannot receive at {at}", $"see `ss -ulpn sport = :{port}`; choose another underlay.udp-port or underlay.local")
            : new DeviceOpenException($"cannot receive at {at}: {bound.Reason}", "set underlay.local to one of the addresses that `ip -br addr` shows");
    }

    /// <summary>Binds a socket, or says why not.</summary>
    public static SysResult TryBind(int fd, bool isIpv6, InetAddress local, ushort port)
    {
        ushort networkOrder = BinaryPrimitives.ReverseEndianness(port);
        if (isIpv6)
        {
            sockaddr_in6 address = default;
            address.sin6_family = AF_INET6;
            address.sin6_port = networkOrder;
            local.Write(new Span<byte>(address.sin6_addr.s6_addr, 16));
            return Sys.Bind(fd, &address, sizeof(sockaddr_in6));
        }

        sockaddr_in address4 = default;
        address4.sin_family = AF_INET;
        address4.sin_port = networkOrder;
        if (!local.IsNone)
        {
            local.Write(new Span<byte>(address4.sin_addr.s_addr, 4));
        }

        return Sys.Bind(fd, &address4, sizeof(sockaddr_in));
    }

    /// <summary>Sets both buffers' sizes in bytes: beyond net.core.rmem_max and wmem_max with CAP_NET_ADMIN, else as far as they allow.</summary>
    public static void SetBuffers(int fd, int size)
    {
        if (Sys.SetOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, size).IsError)
        {
            Set(fd, SOL_SOCKET, SO_RCVBUF, size);
        }

        if (Sys.SetOption(fd, SOL_SOCKET, SO_SNDBUFFORCE, size).IsError)
        {
            Set(fd, SOL_SOCKET, SO_SNDBUF, size);
        }
    }

    /// <summary>Sets an option that every kernel has.</summary>
    public static void Set(int fd, int level, int name, int value)
    {
        SysResult set = Sys.SetOption(fd, level, name, value);
        if (set.IsError)
        {
            throw new DeviceOpenException($"cannot set up a UDP socket: {set.Reason}", "this kernel lacks something that the program needs; see the README");
        }
    }

    /// <summary>Packets that the kernel dropped at a socket's full receive queue, modulo 2^32; 0 after it is closed. Any thread.</summary>
    public static uint ReceiveQueueDrops(FileDescriptor descriptor)
    {
        if (!descriptor.TryHold())
        {
            return 0;
        }

        uint* values = stackalloc uint[Uapi.SK_MEMINFO_VARS];
        SysResult got = Sys.GetOption(descriptor.Number, SOL_SOCKET, SO_MEMINFO, values, Uapi.SK_MEMINFO_VARS * sizeof(uint));
        descriptor.DangerousRelease();
        return got.IsError ? 0 : values[Uapi.SK_MEMINFO_DROPS];
    }
}
