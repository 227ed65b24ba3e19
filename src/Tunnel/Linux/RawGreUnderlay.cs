using System.Diagnostics;
using Tmds.Linux;
using Tunnel.Dataplane;
using Tunnel.Wire;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// The underlay over raw GRE sockets, raw(7): one for each address family in use. It needs CAP_NET_RAW.
/// <para>
/// A packet that this host sends to one of its own addresses is received as well, as every packet of protocol 47 to a local address
/// is; who sent it is for the data plane to judge.
/// </para>
/// </summary>
internal sealed class RawGreUnderlay : IUnderlay
{
    private readonly RawGreSocket? _ipv4;
    private readonly RawGreSocket? _ipv6;
    private bool _ipv6First;

    /// <summary>Opens the sockets.</summary>
    /// <param name="ipv4">Whether to open an IPv4 socket, and the local address to receive at (<see cref="InetAddress.None"/>: all); null opens none.</param>
    /// <param name="ipv6">The same for IPv6.</param>
    /// <exception cref="DeviceOpenException">A socket cannot be opened or bound; says why and what to do.</exception>
    public RawGreUnderlay(InetAddress? ipv4, InetAddress? ipv6)
    {
        try
        {
            _ipv4 = ipv4 is { } local4 ? new RawGreSocket(isIpv6: false, local4) : null;
            _ipv6 = ipv6 is { } local6 ? new RawGreSocket(isIpv6: true, local6) : null;
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    /// <remarks>The kernel counts in 32 bits for each socket and begins again at 0 after 2^32.</remarks>
    public long ReceiveQueueDrops => (_ipv4?.ReceiveQueueDrops ?? 0) + (_ipv6?.ReceiveQueueDrops ?? 0);

    /// <summary>The IPv4 socket to wait on, or -1.</summary>
    internal int Ipv4Descriptor => _ipv4?.Descriptor ?? -1;

    /// <summary>The IPv6 socket to wait on, or -1.</summary>
    internal int Ipv6Descriptor => _ipv6?.Descriptor ?? -1;

    /// <inheritdoc/>
    public int Receive(PacketBatch batch)
    {
        batch.Clear();

        // Both share the batch, and the one that is asked first may fill it: they take turns.
        _ipv6First = !_ipv6First;
        (_ipv6First ? _ipv6 : _ipv4)?.Receive(batch);
        (_ipv6First ? _ipv4 : _ipv6)?.Receive(batch);
        return batch.Count;
    }

    /// <inheritdoc/>
    /// <remarks>
    /// Where a socket's send buffer is full, the call waits for room, but no longer than 10 ms for a whole batch; what still finds
    /// none is <see cref="TransmitResult.QueueFull"/>. What a queueing discipline drops later is not seen here (the kernel hides
    /// ENOBUFS unless IP_RECVERR is set), nor is a neighbour that does not answer.
    /// </remarks>
    public void Send(GatherBatch batch)
    {
        var patience = new SendPatience();
        int first = 0;
        while (first < batch.Count)
        {
            bool isIpv4 = batch[first].Target!.Endpoint.IsIpv4;
            int end = first + 1;
            while (end < batch.Count && batch[end].Target!.Endpoint.IsIpv4 == isIpv4)
            {
                end++;
            }

            RawGreSocket? socket = isIpv4 ? _ipv4 : _ipv6;
            if (socket is null)
            {
                SetResult(batch, first, end, TransmitResult.Unreachable);
            }
            else
            {
                socket.Send(batch, first, end, ref patience);
            }

            first = end;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _ipv4?.Dispose();
        _ipv6?.Dispose();
    }

    /// <summary>Gives the packets from <paramref name="first"/> to before <paramref name="end"/> the same result.</summary>
    internal static void SetResult(GatherBatch batch, int first, int end, TransmitResult result)
    {
        for (int i = first; i < end; i++)
        {
            batch[i].Result = result;
        }
    }
}

/// <summary>How long one batch may still wait for room in send buffers: 10 ms from the first wait on.</summary>
internal unsafe struct SendPatience
{
    private static readonly long Limit = Stopwatch.Frequency / 100;

    private long _deadline;

    /// <summary>Waits for room.</summary>
    /// <returns>Whether to try again.</returns>
    public bool WaitForRoom(int socket)
    {
        long now = Stopwatch.GetTimestamp();
        if (_deadline == 0)
        {
            _deadline = now + Limit;
        }

        if (now >= _deadline)
        {
            return false;
        }

        pollfd entry = default;
        entry.fd = socket;
        entry.events = POLLOUT;
        return Sys.Poll(&entry, 1, 1 + (int)((_deadline - now) * 1000 / Stopwatch.Frequency)) > 0;
    }
}
