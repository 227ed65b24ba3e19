using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>How a packet of the underlay was received, and so what is known about it.</summary>
public enum Reception : byte
{
    /// <summary>
    /// By a raw socket: begins with the outer IP header (where the kernel hands that over beside the packet, it is put back in the
    /// headroom). Whether the kernel coalesced it, or left its inner checksum unfinished, must be found out: <see cref="KernelCoalescing"/>.
    /// </summary>
    RawSocket,

    /// <summary>
    /// By a packet socket: begins with the outer IP header, which nobody has checked. <see cref="Packet.Offload"/> says exactly what the
    /// kernel coalesced, its checksum start counted from the outer IP header.
    /// </summary>
    PacketSocket,

    /// <summary>
    /// By a UDP socket: begins with the GRE header. <see cref="Packet.Source"/>, <see cref="Packet.OuterEcn"/> and, for several datagrams
    /// put together (UDP_GRO), <see cref="Packet.SegmentSize"/> say what stood before it.
    /// </summary>
    UdpSocket,
}

/// <summary>One packet of a <see cref="PacketBatch"/>.</summary>
public struct Packet
{
    /// <summary>The memory that it lies in: the batch's own, or a receive ring.</summary>
    public PacketMemory Memory;

    /// <summary>Where the packet begins in that memory, in bytes.</summary>
    public int Start;

    /// <summary>How long it is, in bytes.</summary>
    public int Length;

    /// <summary>What the TUN device or the packet socket said beside it.</summary>
    public Offload Offload;

    /// <summary>How it was received; meaningless for packets from the TUN device.</summary>
    public Reception Reception;

    /// <summary>The outer ECN field, where the outer header is not part of the packet.</summary>
    public byte OuterEcn;

    /// <summary>The size of each datagram but the last, in bytes, where several follow one another; else 0.</summary>
    public ushort SegmentSize;

    /// <summary>The outer source address, where the outer header is not part of the packet.</summary>
    public InetAddress Source;

    /// <summary>Its bytes.</summary>
    public readonly Span<byte> Bytes => Memory.Slice(Start, Length);
}

/// <summary>
/// Packets received together. Each has a slot of its own with <see cref="Headroom"/> bytes before it, so that encapsulation grows
/// a packet to the front and never copies its payload, and room for the largest packet there is: the kernel hands over coalesced
/// packets of up to 64 KiB whatever the MTU says.
/// Thread rule: owned by one worker. Lifetime: slots are valid until the batch is filled again.
/// </summary>
public sealed class PacketBatch
{
    /// <summary>Bytes kept free before each packet: outer IPv6 (40), UDP (8) and a full GRE header (16) fit, and the packet stays on a cache line.</summary>
    public const int Headroom = 128;

    /// <summary>The largest packet a slot takes, in bytes: an IP packet's own limit (IPv6 may carry 65,535 beyond its 40-byte header), rounded up.</summary>
    public const int MaxPacket = 65_536 + 64;

    /// <summary>Distance between the beginnings of two slots, in bytes.</summary>
    public const int SlotSize = Headroom + MaxPacket;

    private readonly Packet[] _packets;

    /// <summary>Makes a batch.</summary>
    /// <param name="capacity">The most packets it holds.</param>
    public PacketBatch(int capacity)
    {
        _packets = new Packet[capacity];
        Memory = new PinnedPacketMemory(capacity * SlotSize);
    }

    /// <summary>The memory of all slots.</summary>
    public PinnedPacketMemory Memory { get; }

    /// <summary>The most packets it holds.</summary>
    public int Capacity => _packets.Length;

    /// <summary>How many packets it holds now.</summary>
    public int Count { get; private set; }

    /// <summary>A packet.</summary>
    /// <param name="index">0 to <see cref="Count"/> - 1.</param>
    public ref Packet this[int index] => ref _packets[index];

    /// <summary>Where a slot's packet begins unless a header is put before it, in bytes from the start of <see cref="Memory"/>.</summary>
    public static int SlotStart(int index) => (index * SlotSize) + Headroom;

    /// <summary>Forgets all packets.</summary>
    public void Clear() => Count = 0;

    /// <summary>Takes the next slot as a packet that has been written to it at <paramref name="start"/>.</summary>
    /// <param name="start">Where it begins; at most <see cref="Headroom"/> bytes before the slot's own start.</param>
    /// <param name="length">Its length in bytes.</param>
    /// <param name="offload">What came beside it.</param>
    public void Add(int start, int length, in Offload offload = default) =>
        _packets[Count++] = new Packet { Memory = Memory, Start = start, Length = length, Offload = offload };

    /// <summary>Takes a packet that lies elsewhere, or about which more is known. The next slot stays unused.</summary>
    public void Add(in Packet packet) => _packets[Count++] = packet;

    /// <summary>The bytes of a packet.</summary>
    public Span<byte> Bytes(int index) => _packets[index].Bytes;
}
