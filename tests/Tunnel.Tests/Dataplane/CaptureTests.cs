using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Dataplane;

/// <summary>Copies of packets for whoever watches.</summary>
public sealed class CaptureTests
{
    [Fact]
    public void Packets_come_out_as_they_went_in_through_many_turns_of_the_ring()
    {
        var ring = new CaptureRing(262_144);
        var random = new Random(7);
        var expected = new Queue<byte[]>();
        for (int round = 0; round < 200; round++)
        {
            for (int i = random.Next(20); i >= 0; i--)
            {
                byte[] packet = new byte[random.Next(1, 40_000)];
                random.NextBytes(packet);
                ring.Add(isReceived: i % 2 == 0, null, DropReason.NoRoute, packet);
                expected.Enqueue(packet);
            }

            while (ring.TryTake(out CapturedPacket packet, out byte[] bytes))
            {
                Assert.Equal(expected.Dequeue(), bytes);
                Assert.Equal(bytes.Length, packet.Length);
            }

            Assert.Empty(expected);
        }

        Assert.Equal(0, ring.Missed);
    }

    [Theory]
    [InlineData(60_000, 17)] // 1 MiB
    [InlineData(40, 8192)]
    public void What_finds_no_room_is_counted(int length, int room)
    {
        var ring = new CaptureRing(262_144);
        for (int i = 0; i < room + 5; i++)
        {
            ring.Add(isReceived: true, null, null, new byte[length]);
        }

        Assert.Equal(5, ring.Missed);
        Assert.True(ring.TryTake(out _, out _));
        ring.Add(isReceived: true, null, null, new byte[length]);
        Assert.Equal(5, ring.Missed);
    }

    [Fact]
    public void A_snap_length_cuts()
    {
        var ring = new CaptureRing(100);
        ring.Add(isReceived: true, null, null, new byte[1000]);
        Assert.True(ring.TryTake(out CapturedPacket packet, out byte[] bytes));
        Assert.Equal((1000, 100, 100), (packet.Length, packet.Captured, bytes.Length));
    }

    [Fact]
    public void One_capture_runs_at_a_time()
    {
        var tap = new CaptureTap();
        Assert.Null(tap.RingOf(0));
        CaptureRing[] rings = tap.TryStart(2, 1000)!;
        Assert.Same(rings[1], tap.RingOf(1));
        Assert.Null(tap.TryStart(2, 1000));
        tap.Stop();
        Assert.Null(tap.RingOf(1));
        Assert.NotNull(tap.TryStart(2, 1000));
    }

    [Fact]
    public void Each_packet_is_captured_once_with_what_became_of_it()
    {
        var host = new MemoryHost();
        Peer peer = Overlay.Peer();
        host.With([(peer, ["172.17.52.0/24"])]);
        CaptureRing ring = host.Tap.TryStart(1, 262_144)![0];
        byte[] sent = Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(10));
        byte[] unrouted = Packets.UdpPacket("172.17.51.2", "172.17.99.2", Packets.Payload(11));
        byte[] refused = Packets.UdpPacket("172.17.51.2", "172.17.52.3", Packets.Payload(12));
        host.Send(sent);
        host.Send(unrouted);
        host.Underlay.OnSend = _ => TransmitResult.Unreachable;
        host.Send(refused);
        byte[] received = Packets.UdpPacket("172.17.52.2", "172.17.51.2", Packets.Payload(13));
        byte[] stray = Packets.UdpPacket("172.17.99.2", "172.17.51.2", Packets.Payload(14));
        host.Receive(Packets.Outer("192.168.40.12", "192.168.40.11", Packets.GrePacket(received)));
        host.Receive(Packets.Outer("192.168.40.12", "192.168.40.11", Packets.GrePacket(stray)));
        host.Receive(Packets.Outer("192.168.40.77", "192.168.40.11", Packets.GrePacket(received)));
        byte[] truncated = Packets.Outer("192.168.40.12", "192.168.40.11", [0, 0]);
        host.Receive(truncated);
        host.Tap.Stop();
        host.Send(sent);

        Expect(false, peer, null, sent);
        Expect(false, null, DropReason.NoRoute, unrouted);
        Expect(false, peer, DropReason.UnderlayUnreachable, refused);
        Expect(true, peer, null, received);
        Expect(true, peer, DropReason.SourceNotInPeerSubnets, stray);
        Expect(true, null, DropReason.UnknownPeer, received);
        Expect(true, peer, DropReason.GreTruncated, truncated);
        Assert.False(ring.TryTake(out _, out _));

        void Expect(bool isReceived, Peer? whose, DropReason? reason, byte[] bytes)
        {
            Assert.True(ring.TryTake(out CapturedPacket packet, out byte[] captured));
            Assert.Equal((isReceived, whose, reason), (packet.IsReceived, packet.Peer, packet.Reason));
            Assert.Equal(bytes, captured);
        }
    }

    [Fact]
    public void Adding_allocates_nothing()
    {
        var ring = new CaptureRing(262_144);
        Peer peer = Overlay.Peer();
        byte[] packet = new byte[100];
        long allocated = Allocations.InSteadyState(() =>
        {
            for (int i = 0; i < 10_000; i++)
            {
                ring.Add(isReceived: true, peer, null, packet);
            }
        });

        Assert.Equal(0, allocated);
    }
}
