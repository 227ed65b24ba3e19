using Tunnel.Dataplane;

namespace Tunnel.TestSupport;

/// <summary>Where the devices below take packets from.</summary>
public interface IPacketSource
{
    /// <summary>Writes the next packet and returns its length in bytes; -1 where there is none at present.</summary>
    /// <param name="destination">The packet's slot.</param>
    /// <param name="about">What is said beside the packet may be set, and its beginning moved; memory and length are set afterwards.</param>
    int Next(Span<byte> destination, ref Packet about);
}

/// <summary>Looks at packets that a device was given; they are valid during the call only.</summary>
public interface IPacketSink
{
    /// <summary>Looks at one packet and what goes beside it, and says what became of it.</summary>
    TransmitResult Take(ReadOnlySpan<byte> packet, in GatherPacket about);
}

/// <summary>A TUN device that reads from a source and writes to a sink, and allocates nothing.</summary>
public sealed class SourceTun(IPacketSource source, IPacketSink sink) : ITunDevice
{
    /// <inheritdoc/>
    public string Name => "tun0";

    /// <inheritdoc/>
    public int Read(PacketBatch batch) => SourceDevices.Fill(batch, source);

    /// <inheritdoc/>
    public void Write(GatherBatch batch) => SourceDevices.Empty(batch, sink);

    /// <inheritdoc/>
    public void Dispose()
    {
    }
}

/// <summary>An underlay that receives from a source and sends to a sink, and allocates nothing.</summary>
public sealed class SourceUnderlay(IPacketSource source, IPacketSink sink) : IUnderlay
{
    /// <inheritdoc/>
    public long ReceiveQueueDrops => 0;

    /// <inheritdoc/>
    public int Receive(PacketBatch batch) => SourceDevices.Fill(batch, source);

    /// <inheritdoc/>
    public bool Cuts(UnderlayTarget target) => false;

    /// <inheritdoc/>
    public void Send(GatherBatch batch) => SourceDevices.Empty(batch, sink);

    /// <inheritdoc/>
    public void Dispose()
    {
    }
}

/// <summary>A source that never has a packet.</summary>
public sealed class NoPackets : IPacketSource
{
    /// <inheritdoc/>
    public int Next(Span<byte> destination, ref Packet about) => -1;
}

internal static class SourceDevices
{
    public static int Fill(PacketBatch batch, IPacketSource source)
    {
        batch.Clear();
        while (batch.Count < batch.Capacity)
        {
            int start = PacketBatch.SlotStart(batch.Count);
            var packet = new Packet { Memory = batch.Memory, Start = start };
            packet.Length = source.Next(batch.Memory.Slice(start, PacketBatch.MaxPacket), ref packet);
            if (packet.Length < 0)
            {
                break;
            }

            batch.Add(packet);
        }

        return batch.Count;
    }

    [ThreadStatic]
    private static byte[]? _gathered;

    public static void Empty(GatherBatch batch, IPacketSink sink)
    {
        byte[] gathered = _gathered ??= new byte[PacketBatch.MaxPacket];
        for (int i = 0; i < batch.Count; i++)
        {
            ReadOnlySpan<Piece> pieces = batch.Pieces(i);
            int length = 0;
            foreach (ref readonly Piece piece in pieces)
            {
                piece.Span.CopyTo(gathered.AsSpan(length));
                length += piece.Length;
            }

            batch[i].Result = sink.Take(pieces.Length == 1 ? pieces[0].Span : gathered.AsSpan(0, length), batch[i]);
        }
    }
}
