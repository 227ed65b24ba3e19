using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Dataplane;

public sealed class BatchTests
{
    [Fact]
    public void Slots_do_not_overlap_and_have_their_headroom()
    {
        var batch = new PacketBatch(3);
        Assert.Equal(3, batch.Capacity);
        Assert.Equal(3 * PacketBatch.SlotSize, batch.Memory.Array.Length);
        for (int i = 0; i < 3; i++)
        {
            int start = PacketBatch.SlotStart(i);
            Assert.Equal((i * PacketBatch.SlotSize) + PacketBatch.Headroom, start);
            batch.Memory.Slice(start - PacketBatch.Headroom, PacketBatch.SlotSize).Fill((byte)i);
            batch.Add(start, 10 + i);
        }

        for (int i = 0; i < 3; i++)
        {
            Assert.Equal(10 + i, batch.Bytes(i).Length);
            Assert.All(batch.Bytes(i).ToArray(), b => Assert.Equal(i, b));
        }

        // The largest IPv6 packet and the largest outer packet fit.
        Assert.True(PacketBatch.MaxPacket >= 65_535 + 40);
        batch.Clear();
        Assert.Equal(0, batch.Count);
    }

    [Fact]
    public void A_packet_gathers_its_pieces_in_order()
    {
        var memory = new PinnedPacketMemory(100);
        Packets.Payload(100).CopyTo(memory.Array.AsSpan());
        var batch = new GatherBatch(2, 4);
        Assert.Equal((2, 4), (batch.Capacity, batch.PieceCapacity));
        Assert.Equal(0, batch.Add(new Piece(memory, 10, 2)));
        batch.Append(new Piece(memory, 50, 3));
        Assert.Equal(1, batch.Add(new Piece(memory, 90, 1), target: new UnderlayTarget(Overlay.Address("192.168.40.12"))));
        batch.Append(new Piece(memory, 20, 0));

        Assert.Equal(2, batch.Count);
        Assert.Equal((5, 1), (batch[0].Length, batch[1].Length));
        Assert.Equal([10, 11, 50, 51, 52], batch.Pieces(0).ToArray().SelectMany(p => p.Span.ToArray()));
        Assert.Equal([90], batch.Pieces(1).ToArray().SelectMany(p => p.Span.ToArray()));
        Assert.Equal("192.168.40.12", batch[1].Target?.Endpoint.ToString());

        batch[0].Result = TransmitResult.Failed;
        batch.Clear();
        batch.Add(new Piece(memory, 0, 1));
        Assert.Equal((1, TransmitResult.Sent), (batch.Count, batch[0].Result));
    }

    [Fact]
    public void Packet_memory_stays_where_it_is()
    {
        var memory = new PinnedPacketMemory(64);
        Assert.Equal(64, memory.Array.Length);
        Assert.Equal(2, GC.GetGeneration(memory.Array));
        Assert.Throws<ArgumentOutOfRangeException>(() => memory.Slice(60, 5));
    }
}
