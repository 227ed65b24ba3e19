using System.Runtime.ExceptionServices;
using System.Threading.Channels;
using Tmds.Linux;
using Tunnel.Dataplane;
using static Tmds.Linux.LibC;
using static Tunnel.Linux.Uapi;

namespace Tunnel.Linux;

/// <summary>
/// Waits for the kernel's notifications, such as those about links, addresses and routes, of the network namespace that it was made in.
/// One thread of its own sleeps in poll(2) and remembers that something changed until somebody asks; what changed is not looked at,
/// unless somebody wants to, so that a lost notification (ENOBUFS) and a received one mean the same.
/// </summary>
internal sealed class NetlinkMonitor : IDisposable
{
    // Under a steady flood of notifications the waiting caller hears of it after this many.
    private const int MaxBatch = 4096;

    private readonly NetlinkSocket _notifications;
    private readonly NetlinkReply? _onMessage;
    private readonly Action? _onLoss;
    private readonly int _stop;
    private readonly Thread _thread;

    // One place: a change that nobody has asked for yet stands for all later ones.
    private readonly Channel<bool> _changes =
        Channel.CreateBounded<bool>(new BoundedChannelOptions(1) { FullMode = BoundedChannelFullMode.DropWrite });

    private long _overflows;
    private bool _started;
    private bool _disposed;

    /// <summary>
    /// Subscribes to links, addresses and routes; notifications queue from here on, and are read once <see cref="Start"/> was called.
    /// </summary>
    /// <param name="receiveBuffer">The size of the kernel's queue in bytes (SO_RCVBUF), or null for the system's default.</param>
    public NetlinkMonitor(int? receiveBuffer = null)
        : this(
            NETLINK_ROUTE,
            [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE],
            receiveBuffer: receiveBuffer)
    {
    }

    /// <summary>Subscribes to other notifications.</summary>
    /// <param name="protocol">NETLINK_...</param>
    /// <param name="groups">The groups to join.</param>
    /// <param name="onMessage">Gets every message, on the monitor's thread; null where nobody wants to know what changed.</param>
    /// <param name="onLoss">Is told on the same thread, and in order with the messages, that some were lost.</param>
    /// <param name="receiveBuffer">The size of the kernel's queue in bytes (SO_RCVBUF), or null for the system's default.</param>
    public NetlinkMonitor(
        int protocol, ReadOnlySpan<int> groups, NetlinkReply? onMessage = null, Action? onLoss = null, int? receiveBuffer = null)
    {
        _onMessage = onMessage;
        _onLoss = onLoss;
        _notifications = new NetlinkSocket(protocol, groups);
        try
        {
            if (receiveBuffer is int bytes)
            {
                _notifications.SetReceiveBuffer(bytes);
            }

            _stop = eventfd(0, EFD_CLOEXEC);
            if (_stop < 0)
            {
                int error = errno;
                throw new HostNetworkException("make an eventfd", error, NetlinkSocket.ErrorText(error));
            }
        }
        catch
        {
            _notifications.Dispose();
            throw;
        }

        _thread = new Thread(Run) { IsBackground = true, Name = "netlink" };
    }

    /// <summary>How often the kernel dropped notifications because the queue was full.</summary>
    public long Overflows => Volatile.Read(ref _overflows);

    /// <summary>Starts the thread.</summary>
    public void Start()
    {
        _started = true;
        _thread.Start();
    }

    /// <summary>Completes when something changed since the last call completed. One caller at a time.</summary>
    /// <exception cref="ObjectDisposedException">The monitor was disposed.</exception>
    /// <exception cref="HostNetworkException">The notification socket failed for good.</exception>
    public async Task WaitForChangeAsync(CancellationToken cancellationToken)
    {
        try
        {
            await _changes.Reader.ReadAsync(cancellationToken);
        }
        catch (ChannelClosedException closed) when (closed.InnerException is HostNetworkException failure)
        {
            ExceptionDispatchInfo.Throw(failure);
        }
        catch (ChannelClosedException closed)
        {
            throw new ObjectDisposedException("the network monitor was disposed", closed);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_disposed)
        {
            return;
        }

        _disposed = true;
        if (_started)
        {
            Wake();
            _thread.Join();
        }

        _changes.Writer.TryComplete();
        _ = close(_stop);
        _notifications.Dispose();
    }

    private unsafe void Wake()
    {
        ulong one = 1;
        _ = write(_stop, &one, sizeof(ulong));
    }

    private unsafe void Run()
    {
        pollfd* descriptors = stackalloc pollfd[2];
        descriptors[0] = new pollfd { fd = _notifications.Descriptor, events = POLLIN };
        descriptors[1] = new pollfd { fd = _stop, events = POLLIN };
        while (true)
        {
            if (poll(descriptors, 2, -1) < 0)
            {
                // EINTR: with two good descriptors nothing else can be meant.
                continue;
            }

            if (descriptors[1].revents != 0)
            {
                return;
            }

            int error = Drain();
            if (error != EAGAIN)
            {
                _changes.Writer.TryComplete(
                    new HostNetworkException("read network changes", error, NetlinkSocket.ErrorText(error)));
                return;
            }
        }
    }

    // The change is told after the queue is empty, not before: the kernel reports a loss once and then drops silently until the reader
    // has caught up (NETLINK_S_CONGESTED), so only a look taken after that sees everything.
    private int Drain()
    {
        while (true)
        {
            int error = 0;
            for (int i = 0; i < MaxBatch && error == 0; i++)
            {
                error = _onMessage is null ? _notifications.Discard() : _notifications.Read(_onMessage);
                if (error == ENOBUFS)
                {
                    _onLoss?.Invoke();
                    Volatile.Write(ref _overflows, _overflows + 1);
                    error = 0;
                }
            }

            _changes.Writer.TryWrite(true);
            if (error != 0)
            {
                return error;
            }
        }
    }
}
