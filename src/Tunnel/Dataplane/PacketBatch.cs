namespace Tunnel.Dataplane;

/// <summary>One packet of a <see cref="PacketBatch"/>.</summary>
public struct Packet
{
    /// <summary>Where the packet begins in the batch's memory, in bytes.</summary>
    public int Start;

    /// <summary>How long it is, in bytes.</summary>
    public int Length;

    /// <summary>What the TUN device said beside it; the default for packets from the underlay.</summary>
    public Offload Offload;
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
        Memory = new PacketMemory(capacity * SlotSize);
    }

    /// <summary>The memory of all slots.</summary>
    public PacketMemory Memory { get; }

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
        _packets[Count++] = new Packet { Start = start, Length = length, Offload = offload };

    /// <summary>The bytes of a packet.</summary>
    public Span<byte> Bytes(int index) => Memory.Slice(_packets[index].Start, _packets[index].Length);
}
