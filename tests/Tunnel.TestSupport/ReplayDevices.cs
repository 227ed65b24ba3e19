using Tunnel.Dataplane;

namespace Tunnel.TestSupport;

/// <summary>
/// Devices that replay the same packets in every batch, for benchmarks: the packets are copied into the slots at the first batch only,
/// since the way of a packet writes before it but (with no ECN mark to merge, and no single checksum to finish) never into it. Nothing is
/// allocated after the first batch.
/// </summary>
/// <param name="packets">The packets.</param>
/// <param name="offload">What is said beside each of them.</param>
public sealed class ReplayTun(IReadOnlyList<byte[]> packets, Offload offload = default) : ITunDevice
{
    private readonly Replay _replay = new([.. packets.Select(p => new ReceivedPacket(p) { Offload = offload })]);

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
public sealed class ReplayUnderlay(IReadOnlyList<ReceivedPacket> packets) : IUnderlay
{
    private readonly Replay _replay = new(packets);

    /// <summary>An underlay with a raw socket's packets.</summary>
    public ReplayUnderlay(IReadOnlyList<byte[]> packets)
        : this([.. packets.Select(p => new ReceivedPacket(p))])
    {
    }

    /// <summary>An underlay that receives nothing.</summary>
    public ReplayUnderlay()
        : this(Array.Empty<ReceivedPacket>())
    {
    }

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

internal sealed class Replay(IReadOnlyList<ReceivedPacket> packets)
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
                packets[i].CopyTo(batch, start);
            }

            batch.Add(packets[i].At(batch, start));
        }

        _filled = batch;
        return count;
    }
}
