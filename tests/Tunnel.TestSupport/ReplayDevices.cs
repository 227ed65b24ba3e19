using Tunnel.Dataplane;

namespace Tunnel.TestSupport;

/// <summary>
/// Devices that replay the same packets in every batch, for benchmarks: the packets are copied into the slots at the first batch only,
/// since the way of a packet writes before it but (with no ECN mark to merge) never into it. Nothing is allocated after the first batch.
/// </summary>
public sealed class ReplayTun(IReadOnlyList<byte[]> packets) : ITunDevice
{
    private readonly Replay _replay = new(packets);

    /// <inheritdoc/>
    public string Name => "tun0";

    /// <summary>Packets written.</summary>
    public long Written { get; private set; }

    /// <inheritdoc/>
    public int Read(PacketBatch batch) => _replay.Fill(batch);

    /// <inheritdoc/>
    public void Write(GatherBatch batch) => Written += batch.Count;

    /// <inheritdoc/>
    public void Dispose()
    {
    }
}

/// <summary>The underlay's twin of <see cref="ReplayTun"/>.</summary>
public sealed class ReplayUnderlay(IReadOnlyList<byte[]> packets) : IUnderlay
{
    private readonly Replay _replay = new(packets);

    /// <inheritdoc/>
    public long ReceiveQueueDrops => 0;

    /// <summary>Packets sent.</summary>
    public long Sent { get; private set; }

    /// <inheritdoc/>
    public int Receive(PacketBatch batch) => _replay.Fill(batch);

    /// <inheritdoc/>
    public bool Cuts(UnderlayTarget target) => false;

    /// <inheritdoc/>
    public void Send(GatherBatch batch) => Sent += batch.Count;

    /// <inheritdoc/>
    public void Dispose()
    {
    }
}

internal sealed class Replay(IReadOnlyList<byte[]> packets)
{
    private PacketBatch? _filled;

    public int Fill(PacketBatch batch)
    {
        batch.Clear();
        int count = Math.Min(packets.Count, batch.Capacity);
        for (int i = 0; i < count; i++)
        {
            int start = PacketBatch.SlotStart(i);
            if (!ReferenceEquals(_filled, batch))
            {
                packets[i].CopyTo(batch.Memory.Slice(start, packets[i].Length));
            }

            batch.Add(start, packets[i].Length);
        }

        _filled = batch;
        return count;
    }
}
