using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.TestSupport;

/// <summary>An underlay in memory: what a test enqueues is received, what is sent can be looked at, or goes to another one. Single-threaded.</summary>
public sealed class MemoryUnderlay : IUnderlay
{
    private readonly Queue<byte[]> _toReceive = new();

    /// <inheritdoc/>
    public long ReceiveQueueDrops => 0;

    /// <summary>What was sent, pieces put together, in order.</summary>
    public List<(byte[] Bytes, InetAddress Destination)> Sent { get; } = [];

    /// <summary>What the underlay answers to each send; everything is taken unless a test says otherwise.</summary>
    public Func<byte[], TransmitResult> OnSend { get; set; } = _ => TransmitResult.Sent;

    /// <summary>The far end that gets what is sent; none unless a test joins two.</summary>
    public MemoryUnderlay? FarEnd { get; set; }

    /// <summary>Makes an outer packet wait to be received.</summary>
    public void Enqueue(byte[] packet) => _toReceive.Enqueue(packet);

    /// <inheritdoc/>
    public int Receive(PacketBatch batch)
    {
        batch.Clear();
        while (batch.Count < batch.Capacity && _toReceive.TryDequeue(out byte[]? next))
        {
            int start = PacketBatch.SlotStart(batch.Count);
            next.CopyTo(batch.Memory.Slice(start, next.Length));
            batch.Add(start, next.Length);
        }

        return batch.Count;
    }

    /// <inheritdoc/>
    public bool Cuts(UnderlayTarget target) => false;

    /// <inheritdoc/>
    public void Send(GatherBatch batch)
    {
        for (int i = 0; i < batch.Count; i++)
        {
            byte[] bytes = Gather(batch, i);
            batch[i].Result = OnSend(bytes);
            if (batch[i].Result == TransmitResult.Sent)
            {
                Sent.Add((bytes, batch[i].Target!.Endpoint));
                FarEnd?.Enqueue(bytes);
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
