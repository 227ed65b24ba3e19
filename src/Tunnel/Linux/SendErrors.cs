using Tunnel.Dataplane;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>What the kernel's refusal of a packet means to the data plane.</summary>
internal static class SendErrors
{
    /// <summary>Names a refusal: netdevice and socket errors as in ip(7), send(2) and tuntap.rst.</summary>
    public static TransmitResult ResultOf(SysResult refusal)
    {
        // The binding's constants are properties, so there is no switch.
        int errno = refusal.Errno;
        if (refusal.WouldBlock || errno == ENOBUFS || errno == ENOMEM)
        {
            return TransmitResult.QueueFull;
        }

        if (errno == EMSGSIZE)
        {
            return TransmitResult.TooLong;
        }

        // A packet socket's link may have been deleted.
        if (errno == ENETUNREACH || errno == EHOSTUNREACH || errno == ENETDOWN || errno == EHOSTDOWN || errno == ENXIO || errno == ENODEV)
        {
            return TransmitResult.Unreachable;
        }

        return errno == EPERM || errno == EACCES ? TransmitResult.Denied : TransmitResult.Failed;
    }
}
