using Tmds.Linux;
using Tunnel.Dataplane;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// Waits with poll(2) on a TUN device, the sockets of an underlay, and an eventfd(2) that stops the wait. Owns none but the last.
/// </summary>
internal sealed unsafe class PollReadiness : IReadiness
{
    private const int StopEntry = 0;
    private const int TunEntry = 1;
    private const int UnderlayEntry = 2;
    private const int EntryCount = 4;

    private readonly FileDescriptor _stop;
    private readonly string _tunName;
    private readonly PinnedArray<pollfd> _entries = new(EntryCount);

    /// <summary>Makes the wait for one worker.</summary>
    /// <exception cref="DeviceOpenException">There is no descriptor left.</exception>
    public PollReadiness(TunDevice tun, RawGreUnderlay underlay)
    {
        SysResult created = SysResult.From(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        _stop = created.IsError
            ? throw new DeviceOpenException($"cannot create an eventfd: {created.Reason}", "raise the limit of open files (LimitNOFILE=)")
            : new FileDescriptor(created.Value);
        _tunName = tun.Name;
        Watch(StopEntry, _stop.Number);
        Watch(TunEntry, tun.Descriptor);
        Watch(UnderlayEntry, underlay.Ipv4Descriptor);
        Watch(UnderlayEntry + 1, underlay.Ipv6Descriptor);
    }

    /// <inheritdoc/>
    /// <exception cref="DeviceGoneException">The TUN device was deleted: it will never be readable again, and nothing is left to do.</exception>
    public Ready Wait()
    {
        if (Sys.Poll(_entries.Address, EntryCount, -1) == 0)
        {
            return Ready.None;
        }

        var ready = Ready.None;
        if (_entries.Address[StopEntry].revents != 0)
        {
            ready |= Ready.Stopped;
        }

        int tun = _entries.Address[TunEntry].revents;

        // The driver reports an error for one reason only: the device is no more. A device that is down is merely never readable.
        if ((tun & ~POLLIN) != 0 && ready == Ready.None)
        {
            throw new DeviceGoneException(_tunName);
        }

        if (tun != 0)
        {
            ready |= Ready.Tun;
        }

        for (int i = UnderlayEntry; i < EntryCount; i++)
        {
            // An error on a socket counts too: receiving takes it off, so that it does not end every wait from now on.
            if (_entries.Address[i].revents != 0)
            {
                ready |= Ready.Underlay;
            }
        }

        return ready;
    }

    /// <inheritdoc/>
    public void Stop()
    {
        if (_stop.TryHold())
        {
            // Never read again, so the descriptor stays readable.
            ulong one = 1;
            _ = Sys.Write(_stop.Number, &one, sizeof(ulong));
            _stop.DangerousRelease();
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _stop.Dispose();

    // poll(2) leaves out entries with a negative descriptor.
    private void Watch(int index, int fd)
    {
        _entries.Address[index].fd = fd;
        _entries.Address[index].events = POLLIN;
    }
}
