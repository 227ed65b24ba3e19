using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// The packets that one batch of the TUN device sends: encapsulates them, gathers segments of super-packets without copying payload,
/// puts datagrams of one flow together, and counts what became of each.
/// Thread rule: used by one worker; allocates nothing. Lifetime: whatever is added must stay untouched until <see cref="Flush"/>.
/// </summary>
internal sealed partial class SendQueue
{
    private const int MaxPackets = 128;
    private const int WorthAsking = 16;
    private const int MaxPieces = 1024;
    private const int HeaderSlot = PacketBatch.Headroom + Segmentation.MaxHeader;
    private const int HeaderSlots = MaxPieces / 2;

    // What UDP_SEGMENT takes in one call: UDP_MAX_SEGMENTS of kernels before 6.9, and what fits the outer lengths with IPv6 before it.
    private const int MaxDatagrams = 64;
    private const int MaxDatagramBytes = 65_487;

    private readonly IUnderlay _underlay;
    private readonly OffloadState _offloads;
    private readonly int _worker;
    private readonly GatherBatch _sends = new(MaxPackets, MaxPieces);
    private readonly Peer[] _receivers = new Peer[MaxPackets];

    // Inner bytes that a packet stands for, beside those that it has: headers that the kernel will repeat, or what is in other fragments.
    private readonly int[] _repeated = new int[MaxPackets];

    // How many packets of the batch are fragments of the same outer packet, for the first of them; else 1.
    private readonly int[] _parts = new int[MaxPackets];
    private readonly PinnedPacketMemory _headers = new(HeaderSlots * HeaderSlot);
    private readonly DatagramRun _run = new();
    private readonly DatagramWays _ways = new();
    private int _headersUsed;

    // What the underlay refused of this batch, for whoever watches; the rest of many is not told.
    private readonly (int Offset, DropReason Reason)[] _refusals = new (int, DropReason)[MaxPackets];
    private PacketMemory? _refusedMemory;
    private int _refused;
    private uint _runHash;

    // Datagrams of the batch that would have left together if the peer were known to take it.
    private int _missed;

    // Whether the packet added last may be followed by a datagram in the same call, and how long each may be.
    private bool _isOpen;
    private int _datagramLength;

    public SendQueue(IUnderlay underlay, OffloadState offloads, int worker)
    {
        _underlay = underlay;
        _offloads = offloads;
        _worker = worker;
    }

    /// <summary>
    /// Adds a datagram that may leave together with others, for plain GRE. Where the device does not carry super-packets, the kernel cuts them before the
    /// device gets them, so that the peer need not take them. Where these are too few, they leave one by one. Its checksum need not be finished.
    /// </summary>
    /// <param name="packet">The inner packet, with free headroom before it.</param>
    /// <param name="offload">What the TUN device said of it.</param>
    /// <param name="peer">Who gets it.</param>
    /// <param name="flowHash">The hash of its flow.</param>
    /// <returns>False where it is none of these: the caller finishes it and adds it as a packet.</returns>
    public bool TryAddDatagram(in Piece packet, in Offload offload, Peer peer, uint flowHash)
    {
        if (peer.Target.UdpPort != 0 || peer.Target.Neighbor is not LinkNeighbor neighbor || !_offloads.Has(Offloads.GreSegment) ||
            !IsGreHeaderRepeated(peer))
        {
            return false;
        }

        if (neighbor.CarriesGre && !peer.Target.Abilities.Has(Abilities.UdpSuperPackets, Environment.TickCount64))
        {
            // Where they come singly there is nothing to gain.
            if (++_missed == WorthAsking && _underlay.Cuts(peer.Target))
            {
                Ask(peer);
            }

            return false;
        }

        SegmentShape shape = DatagramRun.ShapeOf(packet.Span, offload);
        if (shape.Protocol == 0 || (!neighbor.CarriesGre && !_ways.GoesUncut(flowHash, Environment.TickCount64)))
        {
            return false;
        }

        if (!_run.TryAdd(packet, offload, shape, peer))
        {
            EndRun();
            _run.TryAdd(packet, offload, shape, peer);
        }

        _runHash = flowHash;
        return true;
    }

    /// <summary>Adds a packet with free headroom before it.</summary>
    /// <param name="packet">The inner packet, complete.</param>
    /// <param name="protocolType">Its EtherType.</param>
    /// <param name="peer">Who gets it.</param>
    /// <param name="flowHash">The hash of its flow.</param>
    public void Add(in Piece packet, ushort protocolType, Peer peer, uint flowHash)
    {
        EndRun();
        AddWhole(packet, protocolType, peer, flowHash);
    }

    private void AddWhole(in Piece packet, ushort protocolType, Peer peer, uint flowHash)
    {
        MakeRoom(pieces: 1);
        int start = packet.Offset - peer.Overhead;
        int length = packet.Length + peer.Overhead;
        OuterFields outer = peer.OuterFieldsOf(packet.Span);
        peer.WriteOuterHeaders(packet.Memory.Slice(start, length), protocolType, outer);
        var piece = new Piece(packet.Memory, start, length);
        if (Begin(piece, length, peer, flowHash, outer))
        {
            _sends.Append(piece);
        }
    }

    /// <summary>Adds all segments of a super-packet.</summary>
    /// <param name="segmentation">How it is cut.</param>
    /// <param name="packet">Where it lies.</param>
    /// <param name="offload">What the TUN device said of it.</param>
    /// <param name="protocolType">Its EtherType.</param>
    /// <param name="peer">Who gets it.</param>
    /// <param name="flowHash">The hash of its flow.</param>
    public void Add(in Segmentation segmentation, in Piece packet, in Offload offload, ushort protocolType, Peer peer, uint flowHash)
    {
        EndRun();
        if (IsCutByKernel(packet, offload, peer) && IsWanted(offload, peer, flowHash, segmentation.Count))
        {
            AddUncut(segmentation, packet, offload, protocolType, peer, flowHash);
            return;
        }

        OuterFields outer = peer.OuterFieldsOf(packet.Span);
        for (int i = 0; i < segmentation.Count; i++)
        {
            AddSegment(segmentation, i, packet, protocolType, peer, flowHash, outer);
        }
    }

    private void AddSegment(
        in Segmentation segmentation, int index, in Piece packet, ushort protocolType, Peer peer, uint flowHash, OuterFields outer)
    {
        MakeRoom(pieces: 2);
        int headerLength = peer.Overhead + segmentation.HeaderLength;
        int slot = _headersUsed++ * HeaderSlot;
        Span<byte> headers = _headers.Slice(slot, headerLength);
        Span<byte> inner = headers[peer.Overhead..];
        (int offset, int length) = segmentation.WriteHeaders(index, inner, out ushort payloadSum);
        ushort innerSum = peer.Settings.UsesChecksum ? InternetChecksum.Sum(inner, payloadSum) : (ushort)0;
        peer.WriteOuterHeaders(headers[..peer.Overhead], segmentation.HeaderLength + length, protocolType, innerSum, outer);

        var header = new Piece(_headers, slot, headerLength);
        if (Begin(header, headerLength + length, peer, flowHash, outer))
        {
            _sends.Append(header);
        }

        _sends.Append(new Piece(packet.Memory, packet.Offset + offset, length));
    }

    // GRE checksums and sequence numbers differ from segment to segment.
    private static bool IsGreHeaderRepeated(Peer peer) => !peer.Settings.UsesChecksum && !peer.Settings.UsesSequence;

    // Where a UDP socket receives a super-packet of datagrams whole, it takes their size for that of outer datagrams.
    private bool IsCutByKernel(in Piece packet, in Offload offload, Peer peer)
    {
        return _underlay.Cuts(peer.Target) && IsGreHeaderRepeated(peer) &&
            (offload.Gso != GsoType.UdpL4 || peer.Target.UdpPort == 0) && packet.Length + peer.UncutOverhead <= ushort.MaxValue;
    }

    // Datagrams that the device gets cut keep to their flow's way; all else the peer must take.
    private bool IsWanted(in Offload offload, Peer peer, uint flowHash, int segments)
    {
        if (offload.Gso != GsoType.UdpL4 || IsCarried(peer))
        {
            return Takes(peer, offload.Gso == GsoType.UdpL4 ? Abilities.UdpSuperPackets : Abilities.TcpSuperPackets);
        }

        bool goesUncut = _ways.GoesUncut(flowHash, Environment.TickCount64);
        _ways.Note(flowHash, segments);
        return goesUncut;
    }

    // Whether the device may carry super-packets inside plain GRE as they are.
    private static bool IsCarried(Peer peer) => peer.Target.Neighbor is not { CarriesGre: false };

    // Virtual links carry super-packets uncut, and not every receiver can take them.
    private bool Takes(Peer peer, Abilities ability)
    {
        Ask(peer);
        return peer.Target.Abilities.Has(ability, Environment.TickCount64);
    }

    private void Ask(Peer peer)
    {
        if (!peer.Target.Abilities.TryAsk(Environment.TickCount64))
        {
            return;
        }

        MakeRoom(pieces: 1);
        int slot = _headersUsed++ * HeaderSlot;
        int length = peer.Overhead + AbilitiesMessage.Length;
        Span<byte> packet = _headers.Slice(slot, length);
        new AbilitiesMessage(Abilities.None, IsQuestion: true).Write(packet[peer.Overhead..]);
        peer.WriteOuterHeaders(packet, EtherType.Experimental, peer.MessageFields);
        int index = _sends.Add(new Piece(_headers, slot, length), target: peer.Target);
        _sends[index].Segments = 0;
        _sends[index].Outer = peer.MessageFields;
        _receivers[index] = peer;
        _parts[index] = 1;
        _isOpen = false;
    }

    // The kernel cuts it. The inner packet's own headers are written again in every segment.
    private void AddUncut(
        in Segmentation segmentation, in Piece packet, in Offload offload, ushort protocolType, Peer peer, uint flowHash)
    {
        MakeRoom(pieces: 2);
        Offload cut = offload with { HeaderLength = (ushort)segmentation.HeaderLength };
        BeginUncut(packet.Length, cut, segmentation.Count, protocolType, peer, flowHash, peer.OuterFieldsOf(packet.Span));
        _sends.Append(packet);
    }

    // Begins a packet with the outer headers of a super-packet; the caller has made room, and appends it. Returns the slot of the headers.
    private int BeginUncut(int length, in Offload offload, int segments, ushort protocolType, Peer peer, uint flowHash, OuterFields outer)
    {
        int slot = _headersUsed++ * HeaderSlot;
        peer.WriteUncutHeaders(_headers.Slice(slot, peer.UncutOverhead), length, protocolType, outer, segments);
        int index = _sends.Add(new Piece(_headers, slot, peer.UncutOverhead), offload, peer.Target);
        _sends[index].Segments = segments;
        _sends[index].FlowHash = flowHash;
        _receivers[index] = peer;
        _repeated[index] = (segments - 1) * offload.HeaderLength;
        _parts[index] = 1;
        _isOpen = false;
        return slot;
    }

    // Where the device carries them, datagrams leave together where they are larger together than any packet by itself: a receiver that can't tell their
    // boundaries any more, because it has just changed to a raw socket, never takes them for one datagram. Fewer gain little.
    // Where it does not, the receiver sees datagrams as ever, and all of a flow go the same way (DatagramWays).
    private void EndRun()
    {
        if (_run.Count == 0)
        {
            return;
        }

        Peer peer = _run.Peer;
        bool isCarried = IsCarried(peer);
        if (!isCarried)
        {
            _ways.Note(_runHash, _run.Count);
        }

        if (_run.Count > 1 && _underlay.Cuts(peer.Target) &&
            (!isCarried || (_run.Length > peer.Gmtu && Takes(peer, Abilities.UdpSuperPackets))))
        {
            AddTogether();
        }
        else
        {
            for (int i = 0; i < _run.Count; i++)
            {
                _run.FinishChecksum(i);
                AddWhole(_run[i], _run.ProtocolType, peer, _runHash);
                _sends[_sends.Count - 1].FollowsUncut = !isCarried;
            }
        }

        _run.Clear();
    }

    // The headers are written anew, so that the datagrams stay as they are, and their payloads gathered. The kernel cuts it.
    private void AddTogether()
    {
        Peer peer = _run.Peer;
        SegmentShape shape = _run.Shape;
        MakeRoom(pieces: _run.Count + 2);
        OuterFields outer = peer.OuterFieldsOf(_run[0].Span);
        int start = BeginUncut(_run.Length, shape.SuperPacketOffload, _run.Count, _run.ProtocolType, peer, _runHash, outer) + peer.UncutOverhead;
        Span<byte> inner = _headers.Slice(start, shape.HeaderLength);
        _run[0].Span[..shape.HeaderLength].CopyTo(inner);
        shape.WriteHeader(inner, _run.Length, _run[_run.Count - 1].Span);
        _sends.Append(new Piece(_headers, start, shape.HeaderLength));
        for (int i = 0; i < _run.Count; i++)
        {
            Piece datagram = _run[i];
            _sends.Append(new Piece(datagram.Memory, datagram.Offset + shape.HeaderLength, datagram.Length - shape.HeaderLength));
        }
    }

    /// <summary>Begins a batch: what was refused of the one before is forgotten.</summary>
    public void ForgetRefusals()
    {
        _refused = 0;
        _refusedMemory = null;
    }

    /// <summary>Why the underlay refused a packet, or a part of it, of the batch that was flushed last; null where it did not.</summary>
    /// <param name="packet">The inner packet, as it was added.</param>
    public DropReason? RefusalOf(in Packet packet)
    {
        for (int i = 0; i < _refused && ReferenceEquals(packet.Memory, _refusedMemory); i++)
        {
            (int offset, DropReason reason) = _refusals[i];
            if (offset >= packet.Start - PacketBatch.Headroom && offset < packet.Start + packet.Length)
            {
                return reason;
            }
        }

        return null;
    }

    /// <summary>Sends what was added and counts what became of it.</summary>
    public void Flush()
    {
        EndRun();
        SendAll();
        _missed = 0;
    }

    private void SendAll()
    {
        if (_sends.Count == 0)
        {
            return;
        }

        _underlay.Send(_sends);
        for (int i = 0; i < _sends.Count; i++)
        {
            Peer peer = _receivers[i];
            PeerCounters counters = peer.Counters[_worker];
            ref GatherPacket sent = ref _sends[i];
            if (sent.Segments == 0)
            {
                // A question of our own, or a fragment that counts with the first.
                continue;
            }

            TransmitResult result = ResultOf(i);
            if (result == TransmitResult.Sent)
            {
                int outer = sent.Offload.Gso != GsoType.None ? peer.UncutOverhead : sent.Segments * peer.Overhead;
                counters.CountSent(sent.Segments, sent.Length - outer + _repeated[i]);
            }
            else
            {
                counters.CountDrops(ReasonOf(result), sent.Segments);
                NoteRefusal(i, ReasonOf(result));
            }
        }

        _sends.Clear();
        _headersUsed = 0;
        _isOpen = false;
    }

    // Where its bytes came from is behind the headers that were made here.
    private void NoteRefusal(int index, DropReason reason)
    {
        foreach (ref readonly Piece piece in _sends.Pieces(index))
        {
            if (!ReferenceEquals(piece.Memory, _headers) && _refused < _refusals.Length)
            {
                _refusedMemory = piece.Memory;
                _refusals[_refused++] = (piece.Offset, reason);
            }
        }
    }

    // Of a packet in fragments all must have been taken.
    private TransmitResult ResultOf(int index)
    {
        int end = index + _parts[index];
        while (_sends[index].Result == TransmitResult.Sent && index + 1 < end)
        {
            index++;
        }

        return _sends[index].Result;
    }

    private static DropReason ReasonOf(TransmitResult result) => result switch
    {
        TransmitResult.QueueFull => DropReason.UnderlayQueueFull,
        TransmitResult.TooLong => DropReason.UnderlayTooLong,
        TransmitResult.Unreachable => DropReason.UnderlayUnreachable,
        TransmitResult.Denied => DropReason.UnderlayDenied,
        _ => DropReason.UnderlaySendFailed,
    };

    private void MakeRoom(int pieces, int packets = 1)
    {
        if (_sends.Count + packets > MaxPackets || _sends.PieceCount + pieces > MaxPieces || _headersUsed + packets > HeaderSlots)
        {
            SendAll();
        }
    }

    // Begins a packet, unless it can follow the one before as a datagram of the same call: then the caller appends.
    private bool Begin(in Piece first, int length, Peer peer, uint flowHash, OuterFields outer)
    {
        bool isUdp = peer.Target.UdpPort != 0;
        if (_isOpen && isUdp && Follows(length, peer, flowHash, outer))
        {
            ref GatherPacket last = ref _sends[_sends.Count - 1];
            last.SegmentSize = _datagramLength;
            last.Segments++;

            // A shorter datagram can only be the last.
            _isOpen = length == _datagramLength;
            return true;
        }

        int index = _sends.Add(first, target: peer.Target);
        _sends[index].FlowHash = flowHash;
        _sends[index].Outer = outer;
        _receivers[index] = peer;
        _repeated[index] = 0;
        _parts[index] = 1;

        // The kernel does not cut for a path on which it may have to fragment.
        _isOpen = isUdp && _offloads.Has(Offloads.UdpSegment) && outer.DontFragment;
        _datagramLength = length;
        return false;
    }

    private bool Follows(int length, Peer peer, uint flowHash, OuterFields outer)
    {
        ref GatherPacket last = ref _sends[_sends.Count - 1];
        return ReferenceEquals(_receivers[_sends.Count - 1], peer) && last.FlowHash == flowHash && last.Outer == outer && length <= _datagramLength &&
            last.Segments < MaxDatagrams && last.Length + length <= MaxDatagramBytes;
    }
}
