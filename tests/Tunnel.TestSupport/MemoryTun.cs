using Tunnel.Dataplane;

namespace Tunnel.TestSupport;

/// <summary>A TUN device in memory: what a test enqueues is read, what is written can be looked at. Single-threaded.</summary>
public sealed class MemoryTun : ITunDevice
{
    private readonly Queue<(byte[] Bytes, Offload Offload)> _toRead = new();

    /// <inheritdoc/>
    public string Name => "tun0";

    /// <summary>What was written, pieces put together, in order.</summary>
    public List<(byte[] Bytes, Offload Offload)> Written { get; } = [];

    /// <summary>How often it was read from.</summary>
    public int Reads { get; private set; }

    /// <summary>What the device answers to each write; everything is taken unless a test says otherwise.</summary>
    public Func<byte[], Offload, TransmitResult> OnWrite { get; set; } = (_, _) => TransmitResult.Sent;

    /// <summary>Makes a packet wait to be read.</summary>
    public void Enqueue(byte[] packet, Offload offload = default) => _toRead.Enqueue((packet, offload));

    /// <inheritdoc/>
    public int Read(PacketBatch batch)
    {
        batch.Clear();
        Reads++;
        while (batch.Count < batch.Capacity && _toRead.TryDequeue(out (byte[] Bytes, Offload Offload) next))
        {
            int start = PacketBatch.SlotStart(batch.Count);
            next.Bytes.CopyTo(batch.Memory.Slice(start, next.Bytes.Length));
            batch.Add(start, next.Bytes.Length, next.Offload);
        }

        return batch.Count;
    }

    /// <inheritdoc/>
    public void Write(GatherBatch batch)
    {
        for (int i = 0; i < batch.Count; i++)
        {
            byte[] bytes = MemoryUnderlay.Gather(batch, i);
            batch[i].Result = OnWrite(bytes, batch[i].Offload);
            if (batch[i].Result == TransmitResult.Sent)
            {
                Written.Add((bytes, batch[i].Offload));
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
    }
}
