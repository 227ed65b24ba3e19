using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Tmds.Linux;
using Tunnel.Dataplane;
using Tunnel.Wire;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>What the underlay's sockets have in common, raw, packet and UDP: socket(7), ip(7), ipv6(7).</summary>
internal static unsafe class InetSocket
{
    /// <summary>Binds a socket, or says why not.</summary>
    /// <param name="fd">The socket.</param>
    /// <param name="isIpv6">Its address family.</param>
    /// <param name="local">The address, or <see cref="InetAddress.None"/> for every local one.</param>
    /// <param name="port">The port; 0 for whichever is free, and for sockets that have none.</param>
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

    /// <summary>Whether a socket is bound as <see cref="TryBind"/> would bind it now.</summary>
    public static bool IsBound(FileDescriptor descriptor, bool isIpv6, InetAddress local, ushort port)
    {
        try
        {
            using var socket = new Socket(new SafeSocketHandle(descriptor.Number, ownsHandle: false));
            return socket.AddressFamily == (isIpv6 ? AddressFamily.InterNetworkV6 : AddressFamily.InterNetwork) &&
                socket.LocalEndPoint is IPEndPoint bound && (port == 0 || bound.Port == port) &&
                bound.Address.Equals(local.IsNone ? (isIpv6 ? IPAddress.IPv6Any : IPAddress.Any) : IPAddress.Parse(local.ToString()));
        }
        catch (SocketException)
        {
            return false;
        }
    }

    /// <summary>Writes an address to the place that its family has for it; the socket address says which that is.</summary>
    public static void WriteAddress(sockaddr_in6* destination, InetAddress address) =>
        address.Write(destination->sin6_family == AF_INET6
            ? new Span<byte>(destination->sin6_addr.s6_addr, 16)
            : new Span<byte>(((sockaddr_in*)destination)->sin_addr.s_addr, 4));

    /// <summary>Writes the header of an ancillary message: cmsg(3).</summary>
    /// <param name="control">Where it lies; its data follow.</param>
    /// <param name="level">Its level.</param>
    /// <param name="type">Its type.</param>
    /// <param name="length">How many bytes of data it has.</param>
    public static void WriteControl(cmsghdr* control, int level, int type, int length)
    {
        control->cmsg_len = CMSG_SPACE(0) + length;
        control->cmsg_level = level;
        control->cmsg_type = type;
    }

    /// <summary>Sets the receive buffer's size in bytes: beyond net.core.rmem_max with CAP_NET_ADMIN, else as far as that allows.</summary>
    public static SysResult SetReceiveBuffer(int fd, int size) => SetBuffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, size);

    /// <summary>Sets the send buffer's size in bytes: beyond net.core.wmem_max with CAP_NET_ADMIN, else as far as that allows.</summary>
    public static SysResult SetSendBuffer(int fd, int size) => SetBuffer(fd, SO_SNDBUFFORCE, SO_SNDBUF, size);

    /// <summary>Packets that the kernel dropped at a socket's full receive queue, modulo 2^32; 0 after it is closed. Any thread.</summary>
    public static uint ReceiveQueueDrops(FileDescriptor descriptor)
    {
        uint* values = stackalloc uint[Uapi.SK_MEMINFO_VARS];
        return TryReadMemory(descriptor, values) ? values[Uapi.SK_MEMINFO_DROPS] : 0;
    }

    /// <summary>What waits at a socket; nothing after it is closed. Any thread.</summary>
    public static QueueDepth QueueDepth(FileDescriptor descriptor)
    {
        uint* values = stackalloc uint[Uapi.SK_MEMINFO_VARS];
        return TryReadMemory(descriptor, values) ? new QueueDepth(values[Uapi.SK_MEMINFO_RMEM_ALLOC], values[Uapi.SK_MEMINFO_WMEM_ALLOC]) : default;
    }

    private static bool TryReadMemory(FileDescriptor descriptor, uint* values)
    {
        if (!descriptor.TryHold())
        {
            return false;
        }

        SysResult got = Sys.GetOption(descriptor.Number, SOL_SOCKET, SO_MEMINFO, values, Uapi.SK_MEMINFO_VARS * sizeof(uint));
        descriptor.DangerousRelease();
        return !got.IsError;
    }

    private static SysResult SetBuffer(int fd, int forced, int polite, int size)
    {
        SysResult set = Sys.SetOption(fd, SOL_SOCKET, forced, size);
        return set.IsError ? Sys.SetOption(fd, SOL_SOCKET, polite, size) : set;
    }
}
