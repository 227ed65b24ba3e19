using Tmds.Linux;
using Tunnel.Dataplane;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// Receives plain GRE over IPv4 through a packet socket, packet(7), whose packets the kernel writes into a ring of frames that it shares
/// with this process (TPACKET_V2): no system call a packet, and no copy, since the frames themselves go to the TUN device. What is larger
/// than a frame, because the kernel has coalesced it, waits in the socket's queue instead and keeps its place in the order.
/// <para>
/// Beside each packet comes what the kernel knows of its checksum and segment size (PACKET_VNET_HDR). Fragments of outer packets arrive
/// put together (PACKET_FANOUT_FLAG_DEFRAG). What the socket takes also goes its ordinary way through the host's IP layer, where the raw
/// sockets' guard takes it.
/// </para>
/// Thread rule: as <see cref="IUnderlay"/>'s; <see cref="Take"/> and the counter from any thread.
/// </summary>
internal sealed unsafe class PacketRing : IDisposable
{
    private const int BlockSize = 1 << 16;
    private const int RingSize = 8 << 20;
    private const int QueueSize = 32 << 20;

    private readonly FileDescriptor _descriptor;
    private readonly MappedMemory _frames;
    private readonly int _fd;
    private readonly int _frameSize;
    private readonly int _frameCount;
    private readonly PinnedArray<virtio_net_hdr> _header = new(1);
    private readonly PinnedArray<iovec> _pieces = new(2);
    private readonly PinnedArray<mmsghdr> _message = new(1);

    private int _next;
    private int _firstHeld;
    private long _drops;

    /// <summary>Opens the socket and its ring. It receives nothing yet.</summary>
    /// <param name="frameSize">The size of a frame in bytes: a power of two, and enough for the links' MTU.</param>
    /// <param name="fanout">The fan-out group to join, or -1 for a new one.</param>
    /// <param name="workers">How many workers will share the group.</param>
    /// <exception cref="DeviceOpenException">It cannot be opened; says why and what to do.</exception>
    public PacketRing(int frameSize, int fanout, int workers)
    {
        _frameSize = frameSize;
        _frameCount = RingSize / frameSize;
        SysResult opened = Sys.Socket(Uapi.AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
        _descriptor = opened.IsError ? throw Refused(opened, "open") : new FileDescriptor(opened.Value);
        _fd = _descriptor.Number;
        try
        {
            _frames = SetUp();
            Bind();
            Group = Join(fanout, workers);
        }
        catch
        {
            Dispose();
            throw;
        }

        _pieces.Address[0].iov_base = _header.Address;
        _pieces.Address[0].iov_len = sizeof(virtio_net_hdr);
        var message = (msghdr*)_message.Address;
        message->msg_iov = _pieces.Address;
        message->msg_iovlen = 2;
    }

    /// <summary>The socket to wait on. Readable as long as frames are held: see <see cref="Release"/>.</summary>
    public int Descriptor => _fd;

    /// <summary>The fan-out group.</summary>
    public int Group { get; }

    /// <summary>The bytes of packets that wait in its frames. Any thread, until it is closed.</summary>
    public long WaitingBytes
    {
        get
        {
            long bytes = 0;
            for (int i = 0; i < _frameCount; i++)
            {
                var header = (tpacket2_hdr*)(_frames.Address + (i * _frameSize));
                if ((Volatile.Read(ref header->tp_status) & Uapi.TP_STATUS_USER) != 0)
                {
                    bytes += header->tp_len;
                }
            }

            return bytes;
        }
    }

    /// <summary>Packets that the kernel dropped because the ring or the queue was full. Any thread.</summary>
    public long Drops
    {
        get
        {
            if (_descriptor.TryHold())
            {
                // The kernel begins anew whenever it is asked.
                tpacket_stats statistics = default;
                if (!Sys.GetOption(_fd, Uapi.SOL_PACKET, Uapi.PACKET_STATISTICS, &statistics, sizeof(tpacket_stats)).IsError)
                {
                    Interlocked.Add(ref _drops, statistics.tp_drops);
                }

                _descriptor.DangerousRelease();
            }

            return Interlocked.Read(ref _drops);
        }
    }

    /// <summary>
    /// Waits until every packet that the kernel is passing on has reached all sockets: closing a packet socket waits for that
    /// (synchronize_net in the kernel). Some milliseconds.
    /// </summary>
    public static void AwaitPacketsUnderWay()
    {
        SysResult opened = Sys.Socket(Uapi.AF_PACKET, SOCK_RAW, 0);
        if (!opened.IsError)
        {
            new FileDescriptor(opened.Value).Dispose();
        }
    }

    /// <summary>Begins or ends to take packets. Any thread.</summary>
    public void Take(bool packets) => _ = ClassicBpf.Attach(_fd, packets ? GreFilters.GreToThisHost : GreFilters.Nothing);

    /// <summary>Adds the packets that are waiting to the batch until it is full. They stay where they are until <see cref="Release"/>.</summary>
    public void Receive(PacketBatch batch)
    {
        while (batch.Count < batch.Capacity)
        {
            int frame = _next * _frameSize;
            var header = (tpacket2_hdr*)(_frames.Address + frame);
            uint status = Volatile.Read(ref header->tp_status);
            if ((status & Uapi.TP_STATUS_USER) == 0)
            {
                return;
            }

            if ((status & Uapi.TP_STATUS_COPY) != 0)
            {
                TakeFromQueue(batch, header->tp_net - header->tp_mac);
            }
            else if (header->tp_snaplen < header->tp_len)
            {
                // Too large for a frame, and the queue was full.
                Interlocked.Increment(ref _drops);
            }
            else
            {
                int linkHeader = header->tp_net - header->tp_mac;
                batch.Add(new Packet
                {
                    Memory = _frames,
                    Start = frame + header->tp_net,
                    Length = (int)header->tp_snaplen - linkHeader,
                    Reception = Reception.PacketSocket,
                    Offload = Decode(*(virtio_net_hdr*)((byte*)header + header->tp_mac - sizeof(virtio_net_hdr)), linkHeader),
                });
            }

            _next = _next + 1 == _frameCount ? 0 : _next + 1;

            // The ring never comes round to what is held: the batch is smaller.
        }
    }

    /// <summary>Gives the frames of the packets received so far back to the kernel.</summary>
    public void Release()
    {
        while (_firstHeld != _next)
        {
            var header = (tpacket2_hdr*)(_frames.Address + (_firstHeld * _frameSize));
            Volatile.Write(ref header->tp_status, Uapi.TP_STATUS_KERNEL);
            _firstHeld = _firstHeld + 1 == _frameCount ? 0 : _firstHeld + 1;
        }
    }

    /// <summary>Closes the socket and unmaps the ring.</summary>
    public void Dispose()
    {
        _frames?.Dispose();
        _descriptor.Dispose();
    }

    // The checksum start counts from the link-layer header.
    private static Offload Decode(in virtio_net_hdr header, int linkHeader) => new(
        (GsoType)(header.gso_type & ~Uapi.VIRTIO_NET_HDR_GSO_ECN),
        header.gso_size,
        0,
        (header.flags & Uapi.VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0,
        (ushort)(header.csum_start - linkHeader),
        header.csum_offset);

    private static DeviceOpenException Refused(SysResult result, string action) => new(
        $"cannot {action} a packet socket: {result.Reason}",
        "set `datapath: {receive: raw, send: raw}` to do without");

    private static void Check(SysResult result, string action)
    {
        if (result.IsError)
        {
            throw Refused(result, action);
        }
    }

    private void TakeFromQueue(PacketBatch batch, int linkHeader)
    {
        int start = PacketBatch.SlotStart(batch.Count) - linkHeader;
        _pieces.Address[1].iov_base = PinnedMemory.Address(batch.Memory, start, linkHeader + PacketBatch.MaxPacket);
        _pieces.Address[1].iov_len = linkHeader + PacketBatch.MaxPacket;
        SysResult received = Sys.ReceiveMessages(_fd, _message.Address, 1);
        int length = received.IsError ? 0 : (int)_message.Address->msg_len - sizeof(virtio_net_hdr) - linkHeader;
        if (length > 0)
        {
            batch.Add(new Packet
            {
                Memory = batch.Memory,
                Start = start + linkHeader,
                Length = length,
                Reception = Reception.PacketSocket,
                Offload = Decode(*_header.Address, linkHeader),
            });
        }
    }

    private MappedMemory SetUp()
    {
        // Nothing is taken before everything is ready.
        Check(ClassicBpf.Attach(_fd, GreFilters.Nothing), "attach a filter to");
        Set(Uapi.PACKET_VERSION, Uapi.TPACKET_V2);
        Set(Uapi.PACKET_VNET_HDR, 1);
        Set(Uapi.PACKET_COPY_THRESH, 1);
        Check(InetSocket.SetReceiveBuffer(_fd, QueueSize), "set up");

        tpacket_req ring = new()
        {
            tp_block_size = BlockSize,
            tp_block_nr = RingSize / BlockSize,
            tp_frame_size = (uint)_frameSize,
            tp_frame_nr = (uint)_frameCount,
        };
        Check(Sys.SetOption(_fd, Uapi.SOL_PACKET, Uapi.PACKET_RX_RING, &ring, sizeof(tpacket_req)), "make a ring for");
        Check(MappedMemory.Map(_fd, RingSize, out MappedMemory? memory), "map the ring of");
        return memory!;
    }

    private void Bind()
    {
        sockaddr_ll address = default;
        address.sll_family = Uapi.AF_PACKET;
        address.sll_protocol = System.Buffers.Binary.BinaryPrimitives.ReverseEndianness(Uapi.ETH_P_IP);
        Check(Sys.Bind(_fd, &address, sizeof(sockaddr_ll)), "bind");
    }

    // A group of one, too: only groups have fragments put together.
    private int Join(int group, int workers)
    {
        int flags = Uapi.PACKET_FANOUT_FLAG_DEFRAG | (group < 0 ? Uapi.PACKET_FANOUT_FLAG_UNIQUEID : 0);
        int choice = workers == 1 ? Uapi.PACKET_FANOUT_CPU : Uapi.PACKET_FANOUT_CBPF;
        Set(Uapi.PACKET_FANOUT, Math.Max(group, 0) | ((choice | flags) << 16));
        if (group >= 0 || workers == 1)
        {
            return group;
        }

        sock_filter[] program = GreFilters.WorkerOfFlow(workers);
        fixed (sock_filter* instructions = program)
        {
            sock_fprog byFlow = new() { len = (ushort)program.Length, filter = instructions };
            Check(Sys.SetOption(_fd, Uapi.SOL_PACKET, Uapi.PACKET_FANOUT_DATA, &byFlow, sizeof(sock_fprog)), "share packets of");
        }

        int value = 0;
        Check(Sys.GetOption(_fd, Uapi.SOL_PACKET, Uapi.PACKET_FANOUT, &value, sizeof(int)), "share packets of");
        return value & 0xffff;
    }

    private void Set(int name, int value) => Check(Sys.SetOption(_fd, Uapi.SOL_PACKET, name, value), "set up");
}
