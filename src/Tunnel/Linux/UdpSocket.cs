using Tunnel.Dataplane;
using Tunnel.Wire;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>What the UDP sockets of the underlay have in common: udp(7).</summary>
internal static unsafe class UdpSocket
{
    /// <summary>
    /// Opens a socket that sets DF and a TTL of 64 whatever the host's own is, fragments nothing unless <see cref="AllowFragments"/> says so, and takes nothing
    /// until it gets another filter.
    /// </summary>
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
            Check(ClassicBpf.Attach(opened.Value, GreFilters.Nothing));
            if (isIpv6)
            {
                Set(opened.Value, SOL_IPV6, Uapi.IPV6_V6ONLY, 1);
                Set(opened.Value, SOL_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
                Set(opened.Value, SOL_IPV6, Uapi.IPV6_UNICAST_HOPS, default(OuterFields).TimeToLive);
            }
            else
            {
                Set(opened.Value, SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
                Set(opened.Value, SOL_IP, Uapi.IP_TTL, default(OuterFields).TimeToLive);
            }

            return descriptor;
        }
        catch
        {
            descriptor.Dispose();
            throw;
        }
    }

    /// <summary>Lets a socket fragment what is too large for the path, from now on or no longer.</summary>
    public static void AllowFragments(int fd, bool isIpv6, bool allowed)
    {
        _ = isIpv6
            ? Sys.SetOption(fd, SOL_IPV6, IPV6_MTU_DISCOVER, allowed ? IPV6_PMTUDISC_DONT : IPV6_PMTUDISC_PROBE)
            : Sys.SetOption(fd, SOL_IP, IP_MTU_DISCOVER, allowed ? IP_PMTUDISC_DONT : IP_PMTUDISC_PROBE);
    }

    /// <summary>Binds a socket.</summary>
    /// <exception cref="DeviceOpenException">The address or port cannot be used; says why and what to do.</exception>
    public static void Bind(int fd, bool isIpv6, InetAddress local, ushort port)
    {
        SysResult bound = InetSocket.TryBind(fd, isIpv6, local, port);
        if (!bound.IsError)
        {
            return;
        }

        string at = $"{(local.IsNone ? (isIpv6 ? "::" : "0.0.0.0") : local.ToString())} port {port}";
        throw bound.Errno == EADDRINUSE
            ? new DeviceOpenException($"UDP port {port} is in use: cannot receive at {at}", $"see `ss -ulpn sport = :{port}`; choose another underlay.udp-port or underlay.local")
            : new DeviceOpenException($"cannot receive at {at}: {bound.Reason}", "set underlay.local to one of the addresses that `ip -br addr` shows");
    }

    /// <summary>Sets an option that every kernel has.</summary>
    public static void Set(int fd, int level, int name, int value) => Check(Sys.SetOption(fd, level, name, value));

    /// <summary>Sets both buffers' sizes in bytes.</summary>
    public static void SetBuffers(int fd, int size)
    {
        Check(InetSocket.SetReceiveBuffer(fd, size));
        Check(InetSocket.SetSendBuffer(fd, size));
    }

    private static void Check(SysResult set)
    {
        if (set.IsError)
        {
            throw new DeviceOpenException($"cannot set up a UDP socket: {set.Reason}", "this kernel lacks something that the program needs; see the README");
        }
    }
}
