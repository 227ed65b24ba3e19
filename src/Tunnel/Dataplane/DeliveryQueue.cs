using System.Buffers.Binary;
using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// The packets that one batch of the underlay delivers to the TUN device. Consecutive segments of a TCP flow, and datagrams of equal
/// size of a UDP flow, become one super-packet that is gathered from the received memory without copying payload; packets of a flow
/// keep their order. What TCP and UDP receive is the same as without it.
/// <para>
/// What is put together: only packets without IP options and no fragments; equal addresses, ports, traffic class, TTL and DF; for TCP
/// flags exactly ACK or ACK and PSH, equal acknowledgement number, window and options, and sequence numbers that join; equal payload
/// sizes but for a shorter last; nothing after PSH; checksums that are right. These are wireguard-go's rules, and the kernel's window rule.
/// </para>
/// Thread rule: used by one worker; allocates nothing. Lifetime: whatever is added must stay untouched until <see cref="Flush"/>.
/// </summary>
internal sealed class DeliveryQueue
{
    private const int MaxPackets = 512;
    private const int MaxPieces = 1024;

    // Super-packets of more segments gain nothing, and UDP receivers of older kernels refuse them (UDP_MAX_SEGMENTS).
    private const int MaxSegments = 64;
    private const int LargestPacket = ushort.MaxValue;
    private const int HeaderSlot = 128;
    private const int Buckets = 64;

    private readonly ITunDevice _tun;
    private readonly OffloadState _offloads;
    private readonly int _worker;
    private readonly Arrived[] _packets = new Arrived[MaxPackets];
    private readonly Item[] _items = new Item[MaxPackets];
    private readonly int[] _lastOfFlow = new int[Buckets];
    private readonly GatherBatch _writes = new(MaxPackets, MaxPieces);
    private readonly int[] _written = new int[MaxPackets];
    private readonly PinnedPacketMemory _headers = new(MaxPackets * HeaderSlot);
    private readonly GatherBatch _single = new(1, 2);
    private readonly PinnedPacketMemory _singleHeader = new(Segmentation.MaxHeader);
    private int _packetCount;
    private int _itemCount;

    // Super-packets of the kernel's that the device is known to refuse: cut at once, so that nothing behind them overtakes them.
    private Offloads _refused;

    public DeliveryQueue(ITunDevice tun, OffloadState offloads, int worker)
    {
        _tun = tun;
        _offloads = offloads;
        _worker = worker;
    }

    /// <summary>Where copies of packets go; null while nobody watches.</summary>
    public CaptureRing? Capture { get; set; }

    /// <summary>Adds an inner packet.</summary>
    /// <param name="packet">The packet, its IP header checked, without bytes beyond its length.</param>
    /// <param name="offload">What is known to be unfinished or coalesced in it.</param>
    /// <param name="isSegmentSizeKnown">Whether the offload's segment size is the sender's own, and not a safe guess.</param>
    /// <param name="sender">The peer that sent it.</param>
    public void Add(in Piece packet, in Offload offload, bool isSegmentSizeKnown, Peer sender)
    {
        if (_packetCount == MaxPackets)
        {
            Flush();
        }

        ReadOnlySpan<byte> bytes = packet.Span;
        int index = _packetCount++;
        SegmentShape shape = SegmentShape.Of(bytes, offload);
        int segments = isSegmentSizeKnown && shape.Payload > 0 ? shape.Segments : 1;
        _packets[index] = new Arrived { Packet = packet, Offload = offload, Sender = sender, Segments = segments, Next = -1 };
        shape = shape with { MayJoin = shape.MayJoin && isSegmentSizeKnown };
        if (shape.Protocol == 0)
        {
            // It may be a fragment, of any flow: nothing that comes later goes before it.
            _lastOfFlow.AsSpan().Clear();
            AddItem(index, shape, bytes, closed: true);
            return;
        }

        ref int last = ref _lastOfFlow[BucketOf(bytes, shape)];
        if (last > 0 && TryJoin(ref _items[last - 1], index, bytes, shape))
        {
            return;
        }

        AddItem(index, shape, bytes, closed: !shape.MayJoin);
        last = _itemCount;
    }

    /// <summary>Hands what was added to the TUN device, in order, and counts what became of it.</summary>
    public void Flush()
    {
        if (_packetCount == 0)
        {
            return;
        }

        for (int i = 0; i < _itemCount; i++)
        {
            ref Item item = ref _items[i];
            if (_writes.PieceCount + item.Count + 1 > MaxPieces)
            {
                Write();
            }

            ref Arrived only = ref _packets[item.Head];
            if (item.Count == 1 && (OffloadOf(only.Offload.Gso) & _refused) != 0)
            {
                Write();
                WriteSingly(item, only.Offload.Gso);
            }
            else if (item.Count == 1)
            {
                Begin(i, only.Packet, only.Offload);
            }
            else
            {
                Gather(i, ref item);
            }
        }

        Write();
        _packetCount = 0;
        _itemCount = 0;
        _lastOfFlow.AsSpan().Clear();
    }

    // Addresses and ports, folded: flows that share a bucket only keep each other from being put together.
    private static int BucketOf(ReadOnlySpan<byte> bytes, in SegmentShape shape)
    {
        uint ports = BinaryPrimitives.ReadUInt32LittleEndian(bytes[shape.TransportStart..]);
        int addressesEnd = shape.IsIpv4 ? Ipv4Header.Length : Ipv6Header.Length;
        uint addresses = BinaryPrimitives.ReadUInt32LittleEndian(bytes[(addressesEnd - 4)..]) +
            BinaryPrimitives.ReadUInt32LittleEndian(bytes[(shape.IsIpv4 ? 12 : 20)..]);
        return (int)(((ports ^ addresses) * 0x9e37_79b1u) >> 26);
    }

    private static uint SequenceOf(ReadOnlySpan<byte> bytes, in SegmentShape shape) =>
        BinaryPrimitives.ReadUInt32BigEndian(bytes[(shape.TransportStart + 4)..]);

    // Nothing follows a segment that its sender pushed, nor one shorter than those before it.
    private static bool IsLast(ReadOnlySpan<byte> bytes, in SegmentShape shape, int segmentSize) =>
        shape.Payload % segmentSize != 0 || (shape.Protocol == IpProtocol.Tcp && (bytes[shape.TransportStart + TcpView.FlagsOffset] & TcpView.Push) != 0);

    private void AddItem(int index, in SegmentShape shape, ReadOnlySpan<byte> bytes, bool closed)
    {
        bool offloaded = _offloads.Has(shape.Protocol == IpProtocol.Tcp ? Offloads.TunTcp : Offloads.TunUdp);
        _items[_itemCount++] = new Item
        {
            Head = index,
            Tail = index,
            Count = 1,
            Segments = _packets[index].Segments,
            Shape = shape,
            Length = bytes.Length,
            NextSequence = closed ? 0 : SequenceOf(bytes, shape) + (uint)shape.Payload,
            IsClosed = closed || !offloaded || IsLast(bytes, shape, shape.SegmentSize),
        };
    }

    // What can't join ends its flow's item, so that nothing behind it is delivered before it.
    private bool TryJoin(ref Item item, int index, ReadOnlySpan<byte> bytes, in SegmentShape shape)
    {
        if (item.IsClosed || item.Shape.IsIpv4 != shape.IsIpv4 || item.Shape.Protocol != shape.Protocol)
        {
            return false;
        }

        ref Arrived head = ref _packets[item.Head];
        ReadOnlySpan<byte> headBytes = head.Packet.Span;
        bool joins = shape.MayJoin &&
            item.Segments + shape.Segments <= MaxSegments &&
            item.Length + shape.Payload <= LargestPacket &&
            item.Shape.HeaderLength == shape.HeaderLength &&
            (shape.SegmentSize == item.Shape.SegmentSize || (shape.IsSingle && shape.Payload < item.Shape.SegmentSize)) &&
            (shape.Protocol == IpProtocol.Udp || SequenceOf(bytes, shape) == item.NextSequence) &&
            shape.IsSameFlow(headBytes, bytes) &&
            (item.Count > 1 || item.Shape.IsChecksumRight(headBytes, head.Offload)) &&
            shape.IsChecksumRight(bytes, _packets[index].Offload);
        if (!joins)
        {
            return false;
        }

        _packets[item.Tail].Next = index;
        item.Tail = index;
        item.Count++;
        item.Segments += shape.Segments;
        item.Length += shape.Payload;
        item.NextSequence += (uint)shape.Payload;
        item.IsClosed = IsLast(bytes, shape, item.Shape.SegmentSize);
        return true;
    }

    // A super-packet: a header of its own, so that the packets stay as they are, and their payloads.
    private void Gather(int itemIndex, ref Item item)
    {
        SegmentShape shape = item.Shape;
        Piece head = _packets[item.Head].Packet;
        int slot = itemIndex * HeaderSlot;
        Span<byte> header = _headers.Slice(slot, shape.HeaderLength);
        head.Span[..shape.HeaderLength].CopyTo(header);
        shape.WriteHeader(header, item.Length, _packets[item.Tail].Packet.Span);

        Begin(itemIndex, new Piece(_headers, slot, shape.HeaderLength), shape.SuperPacketOffload);
        for (int i = item.Head; i >= 0; i = _packets[i].Next)
        {
            Piece packet = _packets[i].Packet;
            _writes.Append(new Piece(packet.Memory, packet.Offset + shape.HeaderLength, packet.Length - shape.HeaderLength));
        }
    }

    private void Begin(int itemIndex, in Piece first, in Offload offload)
    {
        _written[_writes.Count] = itemIndex;
        _writes.Add(first, offload);
    }

    private void Write()
    {
        if (_writes.Count == 0)
        {
            return;
        }

        _tun.Write(_writes);
        long now = Environment.TickCount64;
        for (int i = 0; i < _writes.Count; i++)
        {
            ref Item item = ref _items[_written[i]];
            Peer sender = _packets[item.Head].Sender;
            if (_writes[i].Result == TransmitResult.Sent)
            {
                sender.Counters[_worker].CountReceived(item.Segments, item.Length + ((item.Segments - 1) * item.Shape.HeaderLength), now);
                CaptureAll(item, null);
            }
            else if (_writes[i].Result == TransmitResult.Failed && _writes[i].Offload.Gso != GsoType.None)
            {
                WriteSingly(item, _writes[i].Offload.Gso);
            }
            else
            {
                sender.Counters[_worker].CountDrops(DropReason.TunWriteFailed, item.Segments);
                CaptureAll(item, DropReason.TunWriteFailed);
            }
        }

        _writes.Clear();
    }

    // As they came, not as they were put together.
    private void CaptureAll(in Item item, DropReason? reason)
    {
        for (int i = item.Head; Capture is not null && i >= 0; i = _packets[i].Next)
        {
            Capture.Add(isReceived: true, _packets[i].Sender, reason, _packets[i].Packet.Span);
        }
    }

    private static Offloads OffloadOf(GsoType gso) => gso switch
    {
        GsoType.None => Offloads.None,
        GsoType.UdpL4 => Offloads.TunUdp,
        _ => Offloads.TunTcp,
    };

    // The kernel refused a super-packet. Its segments go one by one, and where those are taken, the offload is off from now on.
    private void WriteSingly(in Item item, GsoType gso)
    {
        int sent = 0;
        for (int i = item.Head; i >= 0; i = _packets[i].Next)
        {
            ref Arrived packet = ref _packets[i];
            if (packet.Offload.Gso == GsoType.None)
            {
                _single.Clear();
                _single.Add(packet.Packet, packet.Offload);
                sent += WriteSingle(packet.Sender, 1, packet.Packet.Length);
                continue;
            }

            if (!Segmentation.TryBegin(packet.Packet.Span, packet.Offload, out Segmentation segments))
            {
                packet.Sender.Counters[_worker].CountDrops(DropReason.TunWriteFailed, packet.Segments);
                continue;
            }

            for (int segment = 0; segment < segments.Count; segment++)
            {
                (int offset, int length) = segments.WriteHeaders(segment, _singleHeader.Slice(0, segments.HeaderLength), out _);
                _single.Clear();
                _single.Add(new Piece(_singleHeader, 0, segments.HeaderLength));
                _single.Append(new Piece(packet.Packet.Memory, packet.Packet.Offset + offset, length));

                // Where the segment size is a guess, nobody knows how many packets it was.
                bool isLast = segment == segments.Count - 1;
                sent += packet.Segments == segments.Count
                    ? WriteSingle(packet.Sender, 1, segments.HeaderLength + length)
                    : WriteSingle(packet.Sender, isLast ? 1 : 0, isLast ? packet.Packet.Length : 0);
            }
        }

        CaptureAll(item, sent > 0 ? null : DropReason.TunWriteFailed);
        if (sent > 0)
        {
            _refused |= OffloadOf(gso);
            _offloads.Refuse(OffloadOf(gso), "the TUN device refused a super-packet");
        }
    }

    private int WriteSingle(Peer sender, int packets, int bytes)
    {
        _tun.Write(_single);
        if (_single[0].Result != TransmitResult.Sent)
        {
            sender.Counters[_worker].CountDrops(DropReason.TunWriteFailed, packets);
            return 0;
        }

        sender.Counters[_worker].CountReceived(packets, bytes, Environment.TickCount64);
        return 1;
    }

    // A packet of this batch, in the list of its item.
    private struct Arrived
    {
        public Piece Packet;
        public Offload Offload;
        public Peer Sender;
        public int Segments;
        public int Next;
    }

    // What will be one write: a packet by itself, or several put together.
    private struct Item
    {
        public int Head;
        public int Tail;
        public int Count;
        public int Segments;
        public int Length;
        public uint NextSequence;
        public bool IsClosed;
        public SegmentShape Shape;
    }
}
