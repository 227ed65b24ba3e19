using System.Diagnostics;
using Tmds.Linux;
using Tunnel.Dataplane;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// Waits with poll(2) on a TUN queue, the sockets of a worker's underlay, and an eventfd(2) that ends the wait. Owns none but the last.
/// </summary>
internal sealed unsafe class PollReadiness : IReadiness
{
    private const int WakeEntry = 0;
    private const int TunEntry = 1;
    private const int UnderlayEntry = 2;
    private const int EntryCount = UnderlayEntry + 5;

    private readonly FileDescriptor _wake;
    private readonly TunDevice _tun;
    private readonly WorkerUnderlay _underlay;
    private readonly PinnedArray<pollfd> _entries = new(EntryCount);
    private readonly long _busyTicks;
    private volatile bool _stopped;

    /// <summary>Makes the wait for one worker.</summary>
    /// <param name="tun">Its TUN queue.</param>
    /// <param name="underlay">Its sockets.</param>
    /// <param name="busyMicroseconds">How long to look for packets before the thread sleeps, in microseconds.</param>
    /// <exception cref="DeviceOpenException">There is no descriptor left.</exception>
    public PollReadiness(TunDevice tun, WorkerUnderlay underlay, int busyMicroseconds = 0)
    {
        _busyTicks = Stopwatch.Frequency * busyMicroseconds / 1_000_000;
        SysResult created = SysResult.From(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        _wake = created.IsError
            ? throw new DeviceOpenException($"cannot create an eventfd: {created.Reason}", "raise the limit of open files (LimitNOFILE=)")
            : new FileDescriptor(created.Value);
        _tun = tun;
        _underlay = underlay;
        Watch(WakeEntry, _wake.Number);
        Watch(TunEntry, tun.Descriptor);
    }

    /// <inheritdoc/>
    /// <exception cref="DeviceGoneException">The TUN device was deleted: it will never be readable again, and nothing is left to do.</exception>
    public Ready Wait()
    {
        // The control plane may have opened some since.
        Watch(UnderlayEntry, _underlay.Raw4?.Descriptor ?? -1);
        Watch(UnderlayEntry + 1, _underlay.Raw6?.Descriptor ?? -1);
        Watch(UnderlayEntry + 2, _underlay.Udp4?.Descriptor ?? -1);
        Watch(UnderlayEntry + 3, _underlay.Udp6?.Descriptor ?? -1);
        Watch(UnderlayEntry + 4, _underlay.Ring?.Descriptor ?? -1);
        _underlay.PrepareWait();
        if (!IsReadyWhileBusy() && Sys.Poll(_entries.Address, EntryCount, -1) == 0)
        {
            return Ready.None;
        }

        if (_entries.Address[WakeEntry].revents != 0)
        {
            if (_stopped)
            {
                return Ready.Stopped;
            }

            ulong count;
            _ = Sys.Read(_wake.Number, &count, sizeof(ulong));
        }

        return ReadyOf();
    }

    /// <inheritdoc/>
    public void Stop()
    {
        // Never read again, so the descriptor stays readable.
        _stopped = true;
        Wake();
    }

    /// <summary>Makes the present <see cref="Wait"/> return, to begin again with the sockets that there are then. Any thread.</summary>
    public void Wake()
    {
        if (_wake.TryHold())
        {
            ulong one = 1;
            _ = Sys.Write(_wake.Number, &one, sizeof(ulong));
            _wake.DangerousRelease();
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _wake.Dispose();

    // Looks again and again for as long as configured. Whoever else wants the processor gets it.
    private bool IsReadyWhileBusy()
    {
        if (_busyTicks == 0)
        {
            return false;
        }

        long end = Stopwatch.GetTimestamp() + _busyTicks;
        do
        {
            if (Sys.Poll(_entries.Address, EntryCount, 0) > 0)
            {
                return true;
            }

            _ = Uapi.sched_yield();
        }
        while (Stopwatch.GetTimestamp() < end);

        return false;
    }

    private Ready ReadyOf()
    {
        var ready = Ready.None;
        int tun = _entries.Address[TunEntry].revents;

        // The driver reports an error for one reason only: the device is no more. A device that is down is merely never readable.
        if ((tun & ~POLLIN) != 0)
        {
            throw new DeviceGoneException(_tun.Name);
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
                _underlay.Readable |= (Sockets)(1 << (i - UnderlayEntry));
            }
        }

        return ready;
    }

    // poll(2) leaves out entries with a negative descriptor.
    private void Watch(int index, int fd)
    {
        _entries.Address[index].fd = fd;
        _entries.Address[index].events = POLLIN;
    }
}
