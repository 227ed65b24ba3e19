using System.Buffers.Binary;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Linux;

/// <summary>
/// One worker's sockets. More are opened while it runs (a packet ring, UDP ports); none is closed before the end, since the worker may be
/// using it: what is no longer wanted gets a filter that takes nothing.
/// Thread rule: as <see cref="IUnderlay"/>'s; <see cref="HostUnderlay"/> opens sockets from the control plane's thread and publishes each
/// with one reference write.
/// </summary>
internal sealed class WorkerUnderlay : IUnderlay
{
    private const int SocketCount = 5;

    private readonly RawGreSocket? _raw4;
    private readonly RawGreSocket? _raw6;
    private readonly Func<bool, UdpSender> _openSender;
    private readonly OffloadState _offloads;
    private readonly int _number;
    private KernelSegmenter? _segmenter;
    private PacketRing? _ring;
    private PacketSender? _packetSender;
    private UdpReceiver? _udp4;
    private UdpReceiver? _udp6;
    private UdpSender? _udpSender4;
    private UdpSender? _udpSender6;
    private int _turn;

    /// <summary>Takes over a worker's raw sockets.</summary>
    /// <param name="raw4">The IPv4 socket, where there is one.</param>
    /// <param name="raw6">The IPv6 socket, where there is one.</param>
    /// <param name="number">The worker's number.</param>
    /// <param name="offloads">Which offloads are in use.</param>
    /// <param name="openSender">Opens the UDP ports of a family (true: IPv6) to send from, when the first packet needs them.</param>
    public WorkerUnderlay(RawGreSocket? raw4, RawGreSocket? raw6, int number, OffloadState offloads, Func<bool, UdpSender> openSender)
    {
        _number = number;
        _offloads = offloads;
        _raw4 = raw4;
        _raw6 = raw6;
        _openSender = openSender;
    }

    /// <inheritdoc/>
    /// <remarks>The kernel counts in 32 bits for most sockets and begins again at 0 after 2^32.</remarks>
    public long ReceiveQueueDrops =>
        (_raw4?.ReceiveQueueDrops ?? 0) + (_raw6?.ReceiveQueueDrops ?? 0) + (Ring?.Drops ?? 0) +
        (Udp4?.ReceiveQueueDrops ?? 0) + (Udp6?.ReceiveQueueDrops ?? 0);

    /// <summary>What waits at the sockets. Any thread, until they are closed.</summary>
    public QueueDepth QueueDepth
    {
        get
        {
            QueueDepth[] depths = [_raw4?.QueueDepth ?? default, _raw6?.QueueDepth ?? default, Udp4?.QueueDepth ?? default, Udp6?.QueueDepth ?? default];
            return new QueueDepth(depths.Sum(depth => depth.Receive) + (Ring?.WaitingBytes ?? 0), depths.Sum(depth => depth.Send));
        }
    }

    /// <summary>What makes the kernel cut super-packets; set before the worker starts, if at all.</summary>
    public KernelSegmenter? Segmenter
    {
        set => _segmenter = value;
    }

    /// <summary>The IPv4 raw socket.</summary>
    public RawGreSocket? Raw4 => _raw4;

    /// <summary>The IPv6 raw socket.</summary>
    public RawGreSocket? Raw6 => _raw6;

    /// <summary>The receive ring; null until one is opened.</summary>
    public PacketRing? Ring
    {
        get => Volatile.Read(ref _ring);
        set => Volatile.Write(ref _ring, value);
    }

    /// <summary>The packet socket to send through, its owner's; null where raw sockets send.</summary>
    public PacketSender? PacketSender
    {
        get => Volatile.Read(ref _packetSender);
        set => Volatile.Write(ref _packetSender, value);
    }

    /// <summary>Receives GRE-in-UDP over IPv4; null until it is opened.</summary>
    public UdpReceiver? Udp4
    {
        get => Volatile.Read(ref _udp4);
        set => Volatile.Write(ref _udp4, value);
    }

    /// <summary>Receives GRE-in-UDP over IPv6; null until it is opened.</summary>
    public UdpReceiver? Udp6
    {
        get => Volatile.Read(ref _udp6);
        set => Volatile.Write(ref _udp6, value);
    }

    /// <summary>Which sockets have something to read as far as is known; a set bit costs a system call. Worker's thread only.</summary>
    public Sockets Readable { get; set; } = Sockets.All;

    /// <inheritdoc/>
    public int Receive(PacketBatch batch)
    {
        batch.Clear();
        Ring?.Release();

        // All share the batch, and the one that is asked first may fill it: whoever had the first packet is asked last the next time.
        int turn = _turn;
        for (int i = 0; i < SocketCount; i++)
        {
            int socket = (turn + i) % SocketCount;
            bool isFirst = batch.Count == 0;
            Receive(batch, (Sockets)(1 << socket));
            if (isFirst && batch.Count > 0)
            {
                _turn = socket + 1;
            }
        }

        return batch.Count;
    }

    /// <inheritdoc/>
    /// <remarks>
    /// Where a socket's send buffer is full, the call waits for room, but no longer than 10 ms for a whole batch; what still finds
    /// none is <see cref="TransmitResult.QueueFull"/>. What a queueing discipline drops later is not seen by raw and UDP sockets (the
    /// kernel hides ENOBUFS from them) nor of what the kernel cuts, nor is a neighbour that does not answer.
    /// </remarks>
    public void Send(GatherBatch batch)
    {
        var patience = new SendPatience();
        PacketSender? packets = PacketSender;
        int first = 0;
        while (first < batch.Count)
        {
            UnderlayTarget target = batch[first].Target!;
            LinkNeighbor? neighbor = packets is null && target.UdpPort == 0 ? null : target.Neighbor;
            int end = first + 1;
            bool isUncut = batch[first].Offload.Gso != GsoType.None;
            while (!isUncut && end < batch.Count && ReferenceEquals(batch[end].Target, target) && batch[end].Offload.Gso == GsoType.None &&
                batch[end].IsFragment == batch[first].IsFragment)
            {
                end++;
            }

            if (isUncut)
            {
                SendUncut(batch, first, neighbor);
            }
            else if (target.UdpPort != 0)
            {
                if (SenderOf(target) is not UdpSender sender)
                {
                    MessageSender.SetResult(batch, first, end, TransmitResult.Failed);
                }
                else if (batch[first].IsFragment)
                {
                    SendUdpFragments(batch, first, end, sender, ref patience);
                }
                else
                {
                    sender.Send(batch, first, end, ref patience);
                }
            }
            else if (neighbor is not null)
            {
                SendWhole(batch, first, end, packets!, neighbor, ref patience);
            }
            else if ((target.Endpoint.IsIpv4 ? _raw4 : _raw6) is RawGreSocket raw)
            {
                raw.Send(batch, first, end, IpProtocol.Gre, ref patience);
            }
            else
            {
                MessageSender.SetResult(batch, first, end, TransmitResult.Unreachable);
            }

            first = end;
        }
    }

    /// <inheritdoc/>
    public bool Cuts(UnderlayTarget target) =>
        _segmenter is not null && target.Neighbor is not null &&
        (target.UdpPort != 0 ? _offloads.Has(Offloads.GreUdpSegment) : PacketSender is not null && _offloads.Has(Offloads.GreSegment)) &&
        _segmenter.HasRoomFor(_number, target);

    /// <summary>Before a wait: gives received frames back, without which the ring counts as readable.</summary>
    public void PrepareWait() => Ring?.Release();

    /// <inheritdoc/>
    public void Dispose()
    {
        Ring?.Dispose();
        Udp4?.Dispose();
        Udp6?.Dispose();
        _udpSender4?.Dispose();
        _udpSender6?.Dispose();
        _raw4?.Dispose();
        _raw6?.Dispose();
    }

    private void Receive(PacketBatch batch, Sockets socket)
    {
        if (batch.Count == batch.Capacity)
        {
            return;
        }

        if (socket == Sockets.Ring)
        {
            Ring?.Receive(batch);
            return;
        }

        if ((Readable & socket) == 0)
        {
            return;
        }

        bool more = socket switch
        {
            Sockets.Raw4 => _raw4?.Receive(batch) ?? false,
            Sockets.Raw6 => _raw6?.Receive(batch) ?? false,
            Sockets.Udp4 => Udp4?.Receive(batch) ?? false,
            _ => Udp6?.Receive(batch) ?? false,
        };
        if (!more)
        {
            Readable &= ~socket;
        }
    }

    // Each packet follows those of its flow that went uncut, or that are to go that way.
    private void SendWhole(GatherBatch batch, int first, int end, PacketSender packets, LinkNeighbor neighbor, ref SendPatience patience)
    {
        bool cuts = Cuts(batch[first].Target!);
        while (first < end)
        {
            bool follows = Follows(first);
            int next = first + 1;
            if (follows)
            {
                _segmenter!.Send(_number, batch, first, neighbor);
            }
            else
            {
                while (next < end && !Follows(next))
                {
                    next++;
                }

                packets.Send(batch, first, next, neighbor, ref patience);
            }

            first = next;
        }

        bool Follows(int index) => cuts && _segmenter!.MustFollow(_number, batch, index);
    }

    // They have a port like all else that goes there; a UDP socket would fragment by what the kernel knows of the path.
    private void SendUdpFragments(GatherBatch batch, int first, int end, UdpSender sender, ref SendPatience patience)
    {
        bool isIpv4 = batch[first].Target!.Endpoint.IsIpv4;
        if ((isIpv4 ? _raw4 : _raw6) is not RawGreSocket raw)
        {
            MessageSender.SetResult(batch, first, end, TransmitResult.Unreachable);
            return;
        }

        for (int i = first; i < end; i++)
        {
            if (batch[i].Segments != 0)
            {
                UdpView.AddSourcePort(batch.Pieces(i)[0].Span[(isIpv4 ? Ipv4Header.Length : Ipv6Fragment.HeaderLength)..], sender.PortOf(batch[i].FlowHash));
            }
        }

        raw.Send(batch, first, end, IpProtocol.Udp, ref patience);
    }

    // The next hop may have been lost since the packet was begun.
    private void SendUncut(GatherBatch batch, int index, LinkNeighbor? neighbor)
    {
        ref GatherPacket packet = ref batch[index];
        if (neighbor is null)
        {
            packet.Result = TransmitResult.Unreachable;
            return;
        }

        bool isUdp = packet.Target!.UdpPort != 0;
        if (isUdp)
        {
            // The ports are bound, so that they are this process's own.
            if (SenderOf(packet.Target) is not UdpSender sender)
            {
                packet.Result = TransmitResult.Failed;
                return;
            }

            BinaryPrimitives.WriteUInt16BigEndian(batch.Pieces(index)[0].Span[Ipv4Header.Length..], sender.PortOf(packet.FlowHash));
        }

        _segmenter!.Send(_number, batch, index, neighbor);
        if (packet.Result == TransmitResult.Failed)
        {
            _offloads.Refuse(isUdp ? Offloads.GreUdpSegment : Offloads.GreSegment, "the kernel refused a super-packet");
        }
    }

    // Where the ports cannot be had, the packets are lost and counted, and the next ones try again.
    private UdpSender? SenderOf(UnderlayTarget target)
    {
        try
        {
            return target.Endpoint.IsIpv4
                ? _udpSender4 ??= _openSender(false)
                : _udpSender6 ??= _openSender(true);
        }
        catch (DeviceOpenException)
        {
            return null;
        }
    }
}

/// <summary>The sockets of a worker that packets are received from.</summary>
[Flags]
internal enum Sockets
{
    /// <summary>None.</summary>
    None = 0,

    /// <summary>Plain GRE over IPv4, raw.</summary>
    Raw4 = 1,

    /// <summary>Plain GRE over IPv6, raw.</summary>
    Raw6 = 2,

    /// <summary>GRE-in-UDP over IPv4.</summary>
    Udp4 = 4,

    /// <summary>GRE-in-UDP over IPv6.</summary>
    Udp6 = 8,

    /// <summary>Plain GRE over IPv4, by the packet ring. Looked at every time, since that costs nothing.</summary>
    Ring = 16,

    /// <summary>All.</summary>
    All = 31,
}
