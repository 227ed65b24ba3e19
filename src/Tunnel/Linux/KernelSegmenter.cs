using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Tunnel.Dataplane;
using Tunnel.Wire;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// Makes the kernel cut super-packets inside GRE over IPv4. The kernel can cut TCP and UDP inside GRE or inside a UDP tunnel, in software or in the
/// device, but takes such a packet from no socket. So the worker writes it to its TUN queue, behind a header that only marks it, and a BPF program
/// on what the device receives takes the mark off and sends the packet through the underlay's device. What is inside plain GRE the kernel
/// must have encapsulated itself: the program has it do so. In a UDP tunnel the TUN device takes it encapsulated, as virtual machines
/// send it (Linux 6.17). Everything else that the device receives passes by.
/// Thread rule: <see cref="Send"/> by each worker with its own number; the rest before the workers start.
/// </summary>
internal sealed unsafe class KernelSegmenter : IDisposable
{
    // Peers beyond that are cut for by tunneld itself.
    private const int SlotsPerWorker = 4096;
    private const int EthernetLength = 14;

    // Many times what GRO holds packets back for.
    private const int InUseMilliseconds = 50;

    // The kernel makes nothing longer than SKB_MAX_ALLOC, 16,064 bytes with pages of 4 KiB, of a packet that it is not to cut: with longer ones, on links
    // that carry them, the program would fail.
    private const int LongestWhole = 15_000;

    // Flows that share an entry only send packets by a way that costs about as much.
    private const uint Flows = 4096;
    private const int LongestOuter = Ipv4Header.Length + GreHeader.MinLength + 4;

    // Where the mark has the number of the map's entry: the destination address. The rest of it but for the source says what outer headers of one
    // target differ in: traffic class, identification, DF, TTL.
    private const int MarkEntry = 16;

    // An entry of the map: device, sum of the outer IP header without its length and without what the mark says, length of the outer headers, then
    // those behind an Ethernet header. Length 0: the packet has them already.
    private const int SlotLink = 0;
    private const int SlotSum = 4;
    private const int SlotOuterLength = 8;
    private const int SlotHeaders = 16;
    private const int SlotSize = 64;

    private readonly FileDescriptor _map;
    private readonly FileDescriptor _program;
    private readonly FileDescriptor _link;
    private readonly FileDescriptor _control;
    private readonly Worker[] _workers;

    /// <summary>Loads the program and attaches it to the TUN device.</summary>
    /// <param name="linkIndex">The TUN device's index.</param>
    /// <param name="queues">The workers' queues.</param>
    /// <exception cref="DeviceOpenException">The kernel refuses; says why.</exception>
    public KernelSegmenter(int linkIndex, IReadOnlyList<TunDevice> queues)
    {
        _workers = [.. queues.Select(queue => new Worker(queue))];
        _map = Open(Bpf.CreateArray(SlotSize, SlotsPerWorker * queues.Count), "make a BPF map");
        try
        {
            SysResult loaded = Bpf.Load(Program(_map.Number), out string log);
            if (loaded.IsError && log.Length > 0)
            {
                throw new DeviceOpenException($"the kernel refuses the BPF program: {log.Trim().Split('\n')[^1]}", Cure);
            }

            _program = Open(loaded, "load a BPF program");
            _link = Open(Bpf.AttachIngress(_program.Number, linkIndex), "attach a BPF program (Linux 6.6)");
            _control = Open(Sys.Socket(AF_INET, SOCK_DGRAM, 0), "open a socket");
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    private static string Cure => "nothing: packets are cut by tunneld itself, at a higher cost";

    /// <summary>Whether a worker has room to describe a target to the program. Its own thread.</summary>
    public bool HasRoomFor(int worker, UnderlayTarget target) => _workers[worker].SlotOf(target) >= 0;

    /// <summary>
    /// Whether a packet must go the way of super-packets inside plain GRE: it says so, or a worker has sent another of its flow like that a moment ago. Those of a
    /// packet socket belong to the socket, for which GRO at the other end of a virtual link takes them for another flow's, and lets them overtake.
    /// </summary>
    /// <param name="worker">The worker's number.</param>
    /// <param name="batch">The batch.</param>
    /// <param name="index">The packet, which begins with its outer headers.</param>
    public bool MustFollow(int worker, GatherBatch batch, int index)
    {
        ref GatherPacket packet = ref batch[index];
        return !packet.IsFragment && packet.Length <= LongestWhole && (packet.FollowsUncut || (packet.FlowHash != 0 && _workers[worker].IsInUseFor(packet.FlowHash))) &&
            (GreFlags(batch.Pieces(index)[0].Span) & (GreHeader.FlagChecksum | GreHeader.FlagSequence)) == 0;
    }

    /// <summary>Sends a packet to a target that there is room for, and writes its result.</summary>
    /// <param name="worker">The worker's number.</param>
    /// <param name="batch">The batch.</param>
    /// <param name="index">
    /// The packet. A super-packet has its outer headers as a piece (<see cref="Peer.WriteUncutHeaders"/>), and its offload counts from the inner packet.
    /// </param>
    /// <param name="neighbor">The next hop.</param>
    public void Send(int worker, GatherBatch batch, int index, LinkNeighbor neighbor)
    {
        ref GatherPacket packet = ref batch[index];
        ReadOnlySpan<Piece> pieces = batch.Pieces(index);
        bool isUdp = packet.Target!.UdpPort != 0;
        ReadOnlySpan<byte> outer = isUdp ? [] : OuterHeaders(pieces[0].Span);
        Worker own = _workers[worker];
        int slot = own.SlotOf(packet.Target);
        int entry = (worker * SlotsPerWorker) + slot;
        if (!own.IsDescribed(slot, outer, neighbor))
        {
            if (!Describe(entry, outer, neighbor))
            {
                // The link has gone since the next hop was found.
                packet.Result = TransmitResult.Unreachable;
                return;
            }

            own.Remember(slot, outer, neighbor);
        }

        packet.Result = own.Write(entry, pieces, outer, isUdp ? InUdp(packet.Offload, pieces[0].Length) : packet.Offload);
        if (!isUdp && (packet.FollowsUncut || packet.Offload.Gso != GsoType.None))
        {
            own.Use(packet.FlowHash);
        }
    }

    /// <summary>Detaches the program.</summary>
    public void Dispose()
    {
        _link?.Dispose();
        _program?.Dispose();
        _map.Dispose();
        _control?.Dispose();
    }

    // Neither checksum nor sequence number: there is a key or nothing.
    private static ReadOnlySpan<byte> OuterHeaders(ReadOnlySpan<byte> packet) =>
        packet[..((GreFlags(packet) & GreHeader.FlagKey) == 0 ? LongestOuter - 4 : LongestOuter)];

    private static ushort GreFlags(ReadOnlySpan<byte> packet) => BinaryPrimitives.ReadUInt16BigEndian(packet[Ipv4Header.Length..]);

    // The same offload of a packet with its outer headers.
    private static Offload InUdp(in Offload inner, int outerLength) => inner with
    {
        ChecksumStart = (ushort)(inner.ChecksumStart + outerLength),
        HeaderLength = (ushort)(inner.HeaderLength + outerLength),
        OuterTransport = Ipv4Header.Length,
        InnerNetwork = (ushort)outerLength,
    };

    private static FileDescriptor Open(SysResult result, string action)
    {
        string missing = result.Errno == EPERM ? ": CAP_BPF is missing" : "";
        return result.IsError
            ? throw new DeviceOpenException($"cannot {action}: {result.Reason}{missing}", Cure)
            : new FileDescriptor(result.Value);
    }

    // Registers: 6 the packet, 7 the slot, 8 the outer length, 9 what it is computed with. The stack has the headers at -56.
    private static BpfInstruction[] Program(int map)
    {
        const int Packet = 6;
        const int Slot = 7;
        const int Length = 8;
        const int Scratch = 9;
        const int Stack = 10;
        const int Headers = -56;
        const int Outer = Headers + EthernetLength;
        const int Key = -8;
        const int Mark = Headers - 8;
        const int Grow = Uapi.BPF_F_ADJ_ROOM_FIXED_GSO | Uapi.BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | Uapi.BPF_F_ADJ_ROOM_ENCAP_L4_GRE;

        // struct __sk_buff
        const int PacketLength = 0;
        const int Data = 76;
        const int DataEnd = 80;

        BpfAssembler program = new BpfAssembler()
            .Move(Packet, 1)

            // Marked: version 4, protocol 47, source 0.0.0.0. Inbound lets no such packet through.
            .Load(Uapi.BPF_W, 2, Packet, Data).Load(Uapi.BPF_W, 3, Packet, DataEnd)
            .Move(4, 2).Compute(Uapi.BPF_ADD, 4, Ipv4Header.Length + 1).JumpIfRegister(Uapi.BPF_JGT, 4, 3, "pass")
            .Load(Uapi.BPF_B, 4, 2, 0).JumpIf(Uapi.BPF_JNE, 4, 0x45, "pass")
            .Load(Uapi.BPF_B, 4, 2, 9).JumpIf(Uapi.BPF_JNE, 4, IpProtocol.Gre, "pass")
            .Load(Uapi.BPF_W, 4, 2, 12).JumpIf(Uapi.BPF_JNE, 4, 0, "pass")

            // What the mark says for the outer header, the entry's number, and the inner version behind the mark.
            .Load(Uapi.BPF_H, 4, 2, 0).Store(Uapi.BPF_H, Stack, Mark, 4)
            .Load(Uapi.BPF_H, 4, 2, 4).Store(Uapi.BPF_H, Stack, Mark + 2, 4)
            .Load(Uapi.BPF_H, 4, 2, 6).Store(Uapi.BPF_H, Stack, Mark + 4, 4)
            .Load(Uapi.BPF_H, 4, 2, 8).Store(Uapi.BPF_H, Stack, Mark + 6, 4)
            .Load(Uapi.BPF_W, 4, 2, MarkEntry).Store(Uapi.BPF_W, Stack, Key, 4)
            .Load(Uapi.BPF_B, Scratch, 2, Ipv4Header.Length).Compute(Uapi.BPF_RSH, Scratch, 4)
            .LoadMap(1, map).Move(2, Stack).Compute(Uapi.BPF_ADD, 2, Key).Call(Uapi.BPF_FUNC_map_lookup_elem)
            .JumpIf(Uapi.BPF_JEQ, 0, 0, "drop")
            .Move(Slot, 0);
        for (int i = 0; i < 48; i += 8)
        {
            program.Load(Uapi.BPF_DW, 1, Slot, SlotHeaders + i).Store(Uapi.BPF_DW, Stack, Headers + i, 1);
        }

        program
            .JumpIf(Uapi.BPF_JEQ, Scratch, 6, "ipv6")
            .Set(1, BinaryPrimitives.ReverseEndianness(EtherType.Ipv4)).Store(Uapi.BPF_H, Stack, Outer + Ipv4Header.Length + 2, 1)
            .Set(4, Uapi.BPF_F_ADJ_ROOM_FIXED_GSO | Uapi.BPF_F_ADJ_ROOM_DECAP_L3_IPV4)
            .JumpIf(Uapi.BPF_JEQ, Scratch, 4, "unmark")
            .Exit(Uapi.TC_ACT_SHOT)
            .Label("ipv6")
            .Set(1, BinaryPrimitives.ReverseEndianness(EtherType.Ipv6)).Store(Uapi.BPF_H, Stack, Outer + Ipv4Header.Length + 2, 1)
            .Set(4, Uapi.BPF_F_ADJ_ROOM_FIXED_GSO | Uapi.BPF_F_ADJ_ROOM_DECAP_L3_IPV6)
            .Label("unmark")
            .Move(1, Packet).Set(2, -Ipv4Header.Length).Set(3, Uapi.BPF_ADJ_ROOM_MAC).Call(Uapi.BPF_FUNC_skb_adjust_room)
            .JumpIf(Uapi.BPF_JNE, 0, 0, "drop")
            .Load(Uapi.BPF_W, Length, Slot, SlotOuterLength)
            .JumpIf(Uapi.BPF_JEQ, Length, 0, "frame")

            // Total length and header checksum.
            .Load(Uapi.BPF_W, Scratch, Packet, PacketLength).ComputeWith(Uapi.BPF_ADD, Scratch, Length)
            .Move(1, Scratch).ToNetwork16(1).Store(Uapi.BPF_H, Stack, Outer + Ipv4Header.TotalLengthOffset, 1)
            .Load(Uapi.BPF_W, 1, Slot, SlotSum).ComputeWith(Uapi.BPF_ADD, 1, Scratch);
        foreach ((int from, int to) in new[] { (0, 0), (2, Ipv4Header.IdentificationOffset), (4, Ipv4Header.FlagsOffset), (6, 8) })
        {
            program.Load(Uapi.BPF_H, 2, Stack, Mark + from).Store(Uapi.BPF_H, Stack, Outer + to, 2).ToNetwork16(2).ComputeWith(Uapi.BPF_ADD, 1, 2);
        }

        program
            .Move(2, 1).Compute(Uapi.BPF_RSH, 2, 16).Compute(Uapi.BPF_AND, 1, 0xffff).ComputeWith(Uapi.BPF_ADD, 1, 2)
            .Move(2, 1).Compute(Uapi.BPF_RSH, 2, 16).Compute(Uapi.BPF_AND, 1, 0xffff).ComputeWith(Uapi.BPF_ADD, 1, 2)
            .Compute(Uapi.BPF_XOR, 1, 0xffff).ToNetwork16(1).Store(Uapi.BPF_H, Stack, Outer + Ipv4Header.ChecksumOffset, 1)

            .Move(1, Packet).Move(2, Length).Set(3, Uapi.BPF_ADJ_ROOM_MAC).Set(4, Grow).Set(5, 0).Call(Uapi.BPF_FUNC_skb_adjust_room)
            .JumpIf(Uapi.BPF_JNE, 0, 0, "drop")

            .Label("frame")
            .Move(1, Packet).Set(2, EthernetLength).Set(3, 0).Call(Uapi.BPF_FUNC_skb_change_head)
            .JumpIf(Uapi.BPF_JNE, 0, 0, "drop")
            .Move(1, Packet).Set(2, 0).Move(3, Stack).Compute(Uapi.BPF_ADD, 3, Headers).Set(5, 0)
            .Set(4, EthernetLength).JumpIf(Uapi.BPF_JEQ, Length, 0, "store")
            .Set(4, EthernetLength + LongestOuter - 4).JumpIf(Uapi.BPF_JNE, Length, LongestOuter, "store")
            .Set(4, EthernetLength + LongestOuter)
            .Label("store").Call(Uapi.BPF_FUNC_skb_store_bytes)
            .JumpIf(Uapi.BPF_JNE, 0, 0, "drop")

            // No flow hash of its own, as what packet sockets send has none: GRO at the other end of a virtual link looks for a flow's packets under
            // the hash that they bring along, and lets those overtake that it does not find.
            .Move(1, Packet).Call(Uapi.BPF_FUNC_set_hash_invalid)

            // A clone: the original belongs to the TUN queue, and its segments would not all show that, which GRO on a virtual link takes for
            // different flows.
            .Move(1, Packet).Load(Uapi.BPF_W, 2, Slot, SlotLink).Set(3, 0).Call(Uapi.BPF_FUNC_clone_redirect)
            .Label("drop").Exit(Uapi.TC_ACT_SHOT)
            .Label("pass").Exit(Uapi.TC_ACT_UNSPEC);
        return program.Build();
    }

    private bool Describe(int slot, ReadOnlySpan<byte> outer, LinkNeighbor neighbor)
    {
        byte* value = stackalloc byte[SlotSize];
        var bytes = new Span<byte>(value, SlotSize);
        bytes.Clear();
        Span<byte> ethernet = bytes.Slice(SlotHeaders, EthernetLength);
        Span<byte> headers = bytes.Slice(SlotHeaders + EthernetLength, LongestOuter);
        if (outer.Length > LongestOuter || !TryReadAddress(neighbor.LinkIndex, ethernet.Slice(6, 6)))
        {
            return false;
        }

        Span<byte> address = stackalloc byte[sizeof(ulong)];
        BinaryPrimitives.WriteUInt64BigEndian(address, neighbor.Address);
        address[2..].CopyTo(ethernet);
        BinaryPrimitives.WriteUInt16BigEndian(ethernet[12..], EtherType.Ipv4);
        outer.CopyTo(headers);

        headers[..12].Clear();
        MemoryMarshal.Write(bytes[SlotLink..], neighbor.LinkIndex);
        MemoryMarshal.Write(bytes[SlotSum..], (uint)InternetChecksum.Sum(headers[..Ipv4Header.Length]));
        MemoryMarshal.Write(bytes[SlotOuterLength..], outer.Length);
        return !Bpf.Update(_map.Number, (uint)slot, value).IsError;
    }

    // SIOCGIFNAME gives the name for the index, SIOCGIFHWADDR the link-layer address for the name: netdevice(7).
    private bool TryReadAddress(int linkIndex, Span<byte> destination)
    {
        byte* request = stackalloc byte[40];
        new Span<byte>(request, 40).Clear();
        *(int*)(request + Uapi.IFNAMSIZ) = linkIndex;
        if (Sys.Ioctl(_control.Number, Uapi.SIOCGIFNAME, request).IsError ||
            Sys.Ioctl(_control.Number, Uapi.SIOCGIFHWADDR, request).IsError)
        {
            return false;
        }

        new ReadOnlySpan<byte>(request + Uapi.IFNAMSIZ + sizeof(ushort), destination.Length).CopyTo(destination);
        return true;
    }

    // What one worker has described to the program.
    private sealed class Worker
    {
        private readonly TunDevice _queue;
        private readonly Dictionary<UnderlayTarget, int> _slots = new(SlotsPerWorker);
        private readonly LinkNeighbor?[] _neighbors = new LinkNeighbor?[SlotsPerWorker];
        private readonly long[] _uses = new long[Flows];
        private readonly byte[] _outers = new byte[SlotsPerWorker * LongestOuter];
        private readonly PinnedPacketMemory _mark = new(Ipv4Header.Length);
        private readonly GatherBatch _write = new(1, 3 + DatagramRun.MaxDatagrams);

        public Worker(TunDevice queue)
        {
            _queue = queue;
            new Ipv4Header(InetAddress.FromIpv4(0), InetAddress.None, IpProtocol.Gre, PayloadLength: 0).Write(_mark.Array);
        }

        // A target's slot; -1 where there is none left.
        public int SlotOf(UnderlayTarget target)
        {
            if (!_slots.TryGetValue(target, out int slot))
            {
                slot = _slots.Count < SlotsPerWorker ? _slots.Count : -1;
                if (slot >= 0)
                {
                    _slots.Add(target, slot);
                }
            }

            return slot;
        }

        public bool IsInUseFor(uint flowHash) =>
            _uses[flowHash % Flows] is long last and not 0 && Environment.TickCount64 - last < InUseMilliseconds;

        public void Use(uint flowHash) => _uses[flowHash % Flows] = Environment.TickCount64;

        // The mark and the program write the first 12 bytes; the rest of the headers tells whether the peer's settings have changed.
        public bool IsDescribed(int slot, ReadOnlySpan<byte> outer, LinkNeighbor neighbor)
        {
            if (!ReferenceEquals(_neighbors[slot], neighbor))
            {
                return false;
            }

            ReadOnlySpan<byte> known = Outer(slot, outer.Length);
            return outer.IsEmpty || known[12..20].SequenceEqual(outer[12..20]) && known[24..].SequenceEqual(outer[24..]) && known[20] == outer[20];
        }

        public void Remember(int slot, ReadOnlySpan<byte> outer, LinkNeighbor neighbor)
        {
            _neighbors[slot] = neighbor;
            outer.CopyTo(Outer(slot, outer.Length));
        }

        // The offload counts from behind the outer headers; there the mark comes instead, which says what the program can't know.
        public TransmitResult Write(int entry, ReadOnlySpan<Piece> pieces, ReadOnlySpan<byte> outer, in Offload offload)
        {
            if (!outer.IsEmpty)
            {
                outer[..2].CopyTo(_mark.Array);
                outer[Ipv4Header.IdentificationOffset..10].CopyTo(_mark.Array.AsSpan(Ipv4Header.IdentificationOffset));
            }

            int skip = outer.Length;
            MemoryMarshal.Write(_mark.Slice(MarkEntry, sizeof(int)), entry);
            _write.Clear();
            _write.Add(new Piece(_mark, 0, Ipv4Header.Length), offload.Gso == GsoType.None ? default : offload with
            {
                ChecksumStart = (ushort)(offload.ChecksumStart + Ipv4Header.Length),
                HeaderLength = (ushort)(offload.HeaderLength + Ipv4Header.Length),
                OuterTransport = Marked(offload.OuterTransport),
                InnerNetwork = Marked(offload.InnerNetwork),
            });
            foreach (ref readonly Piece piece in pieces)
            {
                int skipped = Math.Min(skip, piece.Length);
                skip -= skipped;
                if (skipped < piece.Length)
                {
                    _write.Append(new Piece(piece.Memory, piece.Offset + skipped, piece.Length - skipped));
                }
            }

            _queue.Write(_write);
            return _write[0].Result;
        }

        private static ushort Marked(ushort offset) => (ushort)(offset == 0 ? 0 : offset + Ipv4Header.Length);

        private Span<byte> Outer(int slot, int length) => _outers.AsSpan(slot * LongestOuter, length);
    }
}
