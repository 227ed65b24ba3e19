using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.TestSupport;

/// <summary>An underlay in memory: what a test enqueues is received, what is sent can be looked at, or goes to another one. Single-threaded.</summary>
public sealed class MemoryUnderlay : IUnderlay
{
    private readonly Queue<ReceivedPacket> _toReceive = new();

    /// <inheritdoc/>
    public long ReceiveQueueDrops => 0;

    /// <summary>How many packets wait to be received.</summary>
    public int Waiting => _toReceive.Count;

    /// <summary>What was sent, pieces put together, in order.</summary>
    public List<(byte[] Bytes, InetAddress Destination)> Sent { get; } = [];

    /// <summary>The same with all that was said beside each packet.</summary>
    public List<SentPacket> Packets { get; } = [];

    /// <summary>The address that datagrams of GRE-in-UDP come from at the far end.</summary>
    public InetAddress Address { get; set; }

    /// <summary>What the underlay answers to each send; everything is taken unless a test says otherwise.</summary>
    public Func<byte[], TransmitResult> OnSend { get; set; } = _ => TransmitResult.Sent;

    /// <summary>The far end that gets what is sent; none unless a test joins two.</summary>
    public MemoryUnderlay? FarEnd { get; set; }

    /// <summary>Makes an outer packet wait to be received by a raw socket.</summary>
    public void Enqueue(byte[] packet) => Enqueue(new ReceivedPacket(packet));

    /// <summary>Makes a packet wait to be received in any way.</summary>
    public void Enqueue(ReceivedPacket packet) => _toReceive.Enqueue(packet);

    /// <inheritdoc/>
    public int Receive(PacketBatch batch)
    {
        batch.Clear();
        while (batch.Count < batch.Capacity && _toReceive.TryDequeue(out ReceivedPacket? next))
        {
            int start = PacketBatch.SlotStart(batch.Count);
            next.CopyTo(batch, start);
            batch.Add(next.At(batch, start));
        }

        return batch.Count;
    }

    /// <summary>Whether it takes super-packets uncut; not unless a test says so.</summary>
    public bool CutsAll { get; set; }

    /// <inheritdoc/>
    public bool Cuts(UnderlayTarget target) => CutsAll;

    /// <inheritdoc/>
    public void Send(GatherBatch batch)
    {
        for (int i = 0; i < batch.Count; i++)
        {
            byte[] bytes = Gather(batch, i);
            batch[i].Result = OnSend(bytes);
            if (batch[i].Result == TransmitResult.Sent)
            {
                UnderlayTarget target = batch[i].Target!;
                int segmentSize = batch[i].SegmentSize;
                Sent.Add((bytes, target.Endpoint));
                Packets.Add(new SentPacket(bytes, target, segmentSize, batch[i].Segments, batch[i].FlowHash, batch[i].Offload, batch[i].Outer)
                {
                    IsFragment = batch[i].IsFragment,
                    FollowsUncut = batch[i].FollowsUncut,
                });
                FarEnd?.Enqueue(target.UdpPort == 0
                    ? new ReceivedPacket(bytes)
                    : new ReceivedPacket(bytes)
                    {
                        Reception = Reception.UdpSocket,
                        SegmentSize = segmentSize,
                        Source = Address,
                        OuterEcn = batch[i].Outer.TrafficClass & Ecn.Mask,
                    });
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
    }

    internal static byte[] Gather(GatherBatch batch, int index)
    {
        var bytes = new byte[batch[index].Length];
        int offset = 0;
        foreach (Piece piece in batch.Pieces(index))
        {
            piece.Span.CopyTo(bytes.AsSpan(offset));
            offset += piece.Length;
        }

        return bytes;
    }
}

/// <summary>A packet as an underlay hands it over; see <see cref="Packet"/>.</summary>
public sealed record ReceivedPacket(byte[] Bytes)
{
    public Reception Reception { get; init; }

    public Offload Offload { get; init; }

    public int SegmentSize { get; init; }

    public InetAddress Source { get; init; }

    public int OuterEcn { get; init; }

    /// <summary>Copies the bytes to a batch's memory.</summary>
    public void CopyTo(PacketBatch batch, int start) => Bytes.CopyTo(batch.Memory.Slice(start, Bytes.Length));

    /// <summary>The packet that lies there. Allocates nothing.</summary>
    public Packet At(PacketBatch batch, int start) => new()
    {
        Memory = batch.Memory,
        Start = start,
        Length = Bytes.Length,
        Reception = Reception,
        Offload = Offload,
        SegmentSize = (ushort)SegmentSize,
        Source = Source,
        OuterEcn = (byte)OuterEcn,
    };
}

/// <summary>A packet as an underlay gets it; see <see cref="GatherPacket"/>.</summary>
public sealed record SentPacket(byte[] Bytes, UnderlayTarget Target, int SegmentSize, int Segments, uint FlowHash, Offload Offload, OuterFields Outer)
{
    /// <summary>Whether it is a fragment of an outer packet.</summary>
    public bool IsFragment { get; init; }

    /// <summary>Whether it goes the way of super-packets without being one.</summary>
    public bool FollowsUncut { get; init; }

    /// <summary>The datagrams that the kernel makes of it; itself where it is not cut.</summary>
    public IReadOnlyList<byte[]> Datagrams => SegmentSize == 0 ? [Bytes] : [.. Bytes.Chunk(SegmentSize)];
}
