using System.Buffers.Binary;
using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.TestSupport;
using Tunnel.Wire;
using static Tunnel.NetworkTests.Linux.RawGreLab;

namespace Tunnel.NetworkTests.Linux;

/// <summary>A packet ring at the end of a veth pair; raw sockets at the other end send.</summary>
public sealed class PacketRingTests
{
    private const string A4 = "10.77.1.1";
    private const string B4 = "10.77.1.2";
    private const int FrameSize = 2048;

    [SkippableFact]
    public void PacketsLieInTheRingAndNothingIsSaidBesideThem()
    {
        using var ends = new RingLab();
        byte[][] packets = [.. Enumerable.Range(0, 10).Select(i => Packet(A4, B4, 100 + (137 * i), (byte)i))];

        ends.Send(packets);

        var batch = new PacketBatch(64);
        Assert.True(NetnsThread.Eventually(() => ends.ReceiveMore(batch) == 10));
        for (int i = 0; i < 10; i++)
        {
            Assert.Equal(packets[i], batch.Bytes(i));
            Assert.NotSame(batch.Memory, batch[i].Memory);
            Assert.Equal(Reception.PacketSocket, batch[i].Reception);
            Assert.Equal((GsoType.None, (ushort)0, false), (batch[i].Offload.Gso, batch[i].Offload.SegmentSize, batch[i].Offload.NeedsChecksum));
        }
    }

    [SkippableFact]
    public void NothingIsTakenUnlessAskedFor()
    {
        using var ends = new RingLab();
        ends.Ring.Take(false);
        ends.Send(Packet(A4, B4, seed: 1));
        ends.AwaitByRaw(1);

        ends.Ring.Take(true);
        ends.Send(Packet(A4, B4, seed: 2));

        Assert.Equal(Packet(A4, B4, seed: 2), Assert.Single(ends.ReceiveAll(1)));
        Assert.Equal(0, ends.Ring.Drops);
    }

    [SkippableFact]
    public void TheOrderHoldsOverTheRingsEnd()
    {
        // 512 frames.
        using var ends = new RingLab(frameSize: 16_384);
        var got = new List<byte[]>();
        for (int i = 0; i < 1300; i += 65)
        {
            ends.Send([.. Enumerable.Range(i, 65).Select(Numbered)]);
            got.AddRange(ends.ReceiveAll(65, batchSize: 7));
        }

        Assert.Equal(Enumerable.Range(0, 1300), got.Select(NumberOf));
        Assert.Equal(0, ends.Ring.Drops);
    }

    [SkippableFact]
    public void FramesAreHeldUntilReleasedAndWhatFindsNoneIsCounted()
    {
        using var ends = new RingLab(frameSize: 16_384);
        ends.Send([.. Enumerable.Range(0, 60).Select(Numbered)]);
        var held = new PacketBatch(64);
        Assert.True(NetnsThread.Eventually(() => ends.ReceiveMore(held) == 60));
        for (int i = 60; i < 600; i += 60)
        {
            ends.Send([.. Enumerable.Range(i, 60).Select(Numbered)]);
        }

        ends.AwaitByRaw(600);
        Assert.Equal(600 - 512, ends.Ring.Drops);
        Assert.Equal(Enumerable.Range(0, 60), Enumerable.Range(0, 60).Select(i => NumberOf(held.Bytes(i).ToArray())));

        ends.Ring.Release();
        Assert.Equal(Enumerable.Range(60, 452), ends.ReceiveAll(452).Select(NumberOf));
        ends.Send(Numbered(1000));
        Assert.Equal(1000, NumberOf(Assert.Single(ends.ReceiveAll(1))));
        Assert.Equal(600 - 512, ends.Ring.Drops);
    }

    [SkippableFact]
    public void WhatIsLargerThanAFrameComesByTheQueueInItsPlace()
    {
        using var ends = new RingLab();
        ends.Lab.A.Ip("link set eth0 mtu 9000");
        ends.Lab.B.Ip("link set eth0 mtu 9000");
        int[] lengths = [100, 5000, 200, 9000, 8999, 1500, 1900, 2048, 4096, 28];
        byte[][] packets = [.. lengths.Select((length, i) => Packet(A4, B4, length, (byte)i))];

        ends.Send(packets);

        Assert.Equal(packets, ends.ReceiveAll(lengths.Length, batchSize: 4));
        Assert.Equal(0, ends.Ring.Drops);
    }

    [SkippableTheory]
    [InlineData("172.17.51.2", "172.17.52.2", null)]
    [InlineData("172.17.51.2", "172.17.52.2", 42u)]
    [InlineData("fd17:51::2", "fd17:52::2", null)]
    public void CoalescedTcpComesWithItsSegmentSize(string source, string destination, uint? key)
    {
        using var ends = new RingLab();
        ends.Lab.MakeWireLike();
        int ipLength = source.Contains(':', StringComparison.Ordinal) ? 40 : 20;
        byte[] payload = Packets.Payload(1300);
        byte[] Segment(int number, int length) => Packets.Outer(A4, B4, Packets.GrePacket(
            Packets.TcpPacket(source, destination, payload[..length], sequence: (uint)(1 + (number * 1300)), flags: 0x10), key: key));
        byte[][] packets = [.. Enumerable.Range(0, 30).Select(i => Segment(i, 1300)), Segment(30, 700)];

        const int total = (30 * 1300) + 700;
        int header = 20 + 4 + (key is null ? 0 : 4);

        // What is not coalesced goes past what is, and takes frames between.
        var got = new List<(byte[] Bytes, Offload Offload)>();
        Assert.True(NetnsThread.Eventually(() =>
        {
            got.Clear();
            ends.Send([Numbered(1), .. packets, Numbered(2)]);
            ends.ReceiveUntil(got, () =>
                got.Count(packet => packet.Bytes.Length == 100) == 2 &&
                got.Where(packet => packet.Bytes.Length != 100).Sum(packet => packet.Bytes.Length - header - ipLength - 20) >= total);
            return got.Any(packet => packet.Offload.Gso != GsoType.None);
        }));

        int next = 0;
        foreach ((byte[] bytes, Offload offload) in got.Where(packet => packet.Bytes.Length != 100))
        {
            int transport = header + ipLength;
            uint sequence = BinaryPrimitives.ReadUInt32BigEndian(bytes.AsSpan(transport + 4));
            int length = bytes.Length - transport - 20;
            Assert.Equal((uint)(1 + next), sequence);
            for (int i = 0; i < length; i++)
            {
                Assert.Equal(payload[(next + i) % 1300], bytes[transport + 20 + i]);
            }

            next += length;
            if (length > 1300)
            {
                Assert.Equal(ipLength == 20 ? GsoType.TcpV4 : GsoType.TcpV6, offload.Gso);
                Assert.Equal((1300, true, transport, 16), (offload.SegmentSize, offload.NeedsChecksum, offload.ChecksumStart, offload.ChecksumOffset));
                Assert.Equal(bytes.Length, BinaryPrimitives.ReadUInt16BigEndian(bytes.AsSpan(2)));
            }
        }

        Assert.Equal(total, next);
        Assert.Contains(got, packet => packet.Bytes.Length > FrameSize);
        Assert.Equal(0, ends.Ring.Drops);
    }

    [SkippableFact]
    public void CoalescedUdpComesWithItsSegmentSize()
    {
        using var ends = new RingLab();
        ends.Lab.MakeWireLike();
        byte[] datagram = Packets.Outer(A4, B4, Packets.GrePacket(Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(64))));
        var got = new List<(byte[] Bytes, Offload Offload)>();
        Assert.True(NetnsThread.Eventually(() =>
        {
            got.Clear();
            ends.Send([.. Enumerable.Repeat(datagram, 20), Numbered(2)]);
            ends.ReceiveUntil(got, () => got.Where(packet => packet.Bytes.Length != 100).Sum(packet => packet.Bytes.Length - 52) >= 20 * 64);
            return got.Any(packet => packet.Offload.Gso != GsoType.None);
        }));

        Assert.Equal(20 * 64, got.Where(packet => packet.Bytes.Length != 100).Sum(packet => packet.Bytes.Length - 52));
        (byte[] bytes, Offload offload) = got.First(packet => packet.Offload.Gso != GsoType.None);
        Assert.Equal((GsoType.UdpL4, 64, true, 44, 6), (offload.Gso, offload.SegmentSize, offload.NeedsChecksum, offload.ChecksumStart, offload.ChecksumOffset));

        // Several small datagrams fit in a frame.
        Assert.InRange(bytes.Length, 52 + 128, FrameSize);
    }

    [SkippableFact]
    public void OnlyGreToThisHostIsTaken()
    {
        using var ends = new RingLab();
        ulong link = LinkAddress(ends.Lab.B);
        int device = Index(ends.Lab.A);
        ends.Lab.A.Exec("ping -c 1 -W 1 -I eth0 10.77.1.2");
        ends.SendTo(new LinkNeighbor(device, link ^ 1), Packet(A4, B4, seed: 1));
        ends.SendTo(new LinkNeighbor(device, 0xffff_ffff_ffff), Packet(A4, B4, seed: 2));
        ends.SendTo(new LinkNeighbor(device, 0x0100_5e00_0001), Packet(A4, B4, seed: 3));
        byte[] udp = Packets.Ipv4(A4, B4, Packets.Udp, new byte[20]);
        ends.SendTo(new LinkNeighbor(device, link), udp);

        ends.SendTo(new LinkNeighbor(device, link), Packet(A4, B4, seed: 4));

        Assert.Equal(Packet(A4, B4, seed: 4), Assert.Single(ends.ReceiveAll(1)));
    }

    [SkippableTheory]
    [InlineData(1)]
    [InlineData(2)]
    public void FragmentsArrivePutTogether(int workers)
    {
        using var ends = new RingLab(workers: workers);
        byte[] whole = Packet(A4, B4, length: 20 + 3700, dontFragment: false);
        byte[][] fragments = [Fragment(whole, 0, 1480, more: true), Fragment(whole, 1480, 1480, more: true), Fragment(whole, 2960, 740, more: false)];

        ends.Send(Packet(A4, B4, seed: 9));
        ends.Send(fragments);
        ends.Send(fragments[2], fragments[0], fragments[1]);
        ends.Send(Packet(A4, B4, seed: 10));

        List<byte[]> received = ends.ReceiveAll(4);
        Assert.Equal(2, received.Count(packet => packet.Length == whole.Length));
        Assert.All(received.Where(packet => packet.Length == whole.Length), packet =>
        {
            Assert.Equal(whole[Ipv4Header.Length..], packet[Ipv4Header.Length..]);
            Assert.True(Ipv4View.TryParse(packet, out Ipv4View view) && !view.IsFragment && view.IsChecksumValid);
        });
    }

    [SkippableFact]
    public void APacketWithAVlanTagIsNotTaken()
    {
        using var ends = new RingLab();
        string link = LinkAddress(ends.Lab.B).ToString("x12", null);
        string tagged = link + "020000000001" + "81000005" + "0800" + Convert.ToHexString(Packet(A4, B4, seed: 1));
        string untagged = link + "020000000001" + "0800" + Convert.ToHexString(Packet(A4, B4, seed: 2));
        ends.Lab.A.Shell(
            "/usr/bin/python3 -c \"import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0)); " +
            $"[s.send(bytes.fromhex(frame)) for frame in ('{tagged}', '{untagged}')]\"");

        Assert.Equal(Packet(A4, B4, seed: 2), Assert.Single(ends.ReceiveAll(1)));
    }

    [SkippableFact]
    public void ReceivingDoesNotAllocate()
    {
        using var ends = new RingLab();
        byte[][] packets = [.. Enumerable.Range(0, 64).Select(Numbered)];
        GatherBatch sends = BatchOf(packets);
        var batch = new PacketBatch(64);
        int received = 0;

        long allocated = Allocations.InSteadyState(() =>
        {
            for (int i = 0; i < 20; i++)
            {
                ends.From.Send(sends);
                batch.Clear();
                ends.Ring.Release();
                ends.Ring.Receive(batch);
                received += batch.Count;
            }
        });

        Assert.Equal(0, allocated);
        Assert.True(received > 64);
    }

    private static byte[] Numbered(int number)
    {
        byte[] packet = Packet(A4, B4, 100);
        BinaryPrimitives.WriteInt32BigEndian(packet.AsSpan(24), number);
        return packet;
    }

    private static int NumberOf(byte[] packet) => BinaryPrimitives.ReadInt32BigEndian(packet.AsSpan(24));

    private static byte[] Fragment(byte[] whole, int offset, int length, bool more)
    {
        byte[] fragment = [.. whole[..Ipv4Header.Length], .. whole[(Ipv4Header.Length + offset)..(Ipv4Header.Length + offset + length)]];
        BinaryPrimitives.WriteUInt16BigEndian(fragment.AsSpan(4), 4711);
        BinaryPrimitives.WriteUInt16BigEndian(fragment.AsSpan(6), (ushort)((offset / 8) | (more ? 0x2000 : 0)));
        return fragment;
    }

    /// <summary>A ring that takes packets, and a raw socket beside it that tells what has arrived.</summary>
    private sealed class RingLab : IDisposable
    {
        private readonly WorkerUnderlay _raw;
        private readonly PacketSender _packets;
        private readonly PacketRing[] _rings;
        private int _arrived;

        public RingLab(int frameSize = FrameSize, int workers = 1)
        {
            Lab = Direct();
            From = Lab.Open(Lab.A);
            _raw = Lab.Open(Lab.B);
            _packets = Lab.A.Run(() => new PacketSender());
            _rings = new PacketRing[workers];
            for (int i = 0; i < workers; i++)
            {
                int group = i == 0 ? -1 : _rings[0].Group;
                _rings[i] = Lab.B.Run(() => new PacketRing(frameSize, group, workers));
            }

            WarmUp(From, _raw, Packet(A4, B4));
            Array.ForEach(_rings, ring => ring.Take(true));
        }

        public RawGreLab Lab { get; }

        public WorkerUnderlay From { get; }

        public PacketRing Ring => _rings[0];

        public void Send(params byte[][] packets)
        {
            GatherBatch batch = BatchOf(packets);
            From.Send(batch);
            Assert.All(Results(batch), result => Assert.Equal(TransmitResult.Sent, result));
        }

        public void SendTo(LinkNeighbor neighbor, byte[] packet)
        {
            GatherBatch batch = BatchOf(packet);
            var patience = new SendPatience();
            _packets.Send(batch, 0, 1, neighbor, ref patience);
            Assert.Equal([TransmitResult.Sent], Results(batch));
        }

        /// <summary>Adds what is there to a batch; returns how many it holds.</summary>
        public int ReceiveMore(PacketBatch batch)
        {
            Array.ForEach(_rings, ring => ring.Receive(batch));
            return batch.Count;
        }

        /// <summary>What is there, released.</summary>
        public List<byte[]> Receive(int batchSize = 64)
        {
            var batch = new PacketBatch(batchSize);
            ReceiveMore(batch);
            List<byte[]> packets = [.. Enumerable.Range(0, batch.Count).Select(i => batch.Bytes(i).ToArray())];
            Array.ForEach(_rings, ring => ring.Release());
            return packets;
        }

        /// <summary>Receives this many packets, and fails where more or fewer come.</summary>
        public List<byte[]> ReceiveAll(int count, int batchSize = 64)
        {
            var packets = new List<byte[]>();
            NetnsThread.Eventually(() =>
            {
                packets.AddRange(Receive(batchSize));
                return packets.Count >= count;
            });
            packets.AddRange(Receive());
            Assert.Equal(count, packets.Count);
            return packets;
        }

        public void ReceiveUntil(List<(byte[] Bytes, Offload Offload)> got, Func<bool> isComplete)
        {
            var batch = new PacketBatch(64);
            Assert.True(NetnsThread.Eventually(() =>
            {
                batch.Clear();
                ReceiveMore(batch);
                for (int i = 0; i < batch.Count; i++)
                {
                    got.Add((batch.Bytes(i).ToArray(), batch[i].Offload));
                }

                Ring.Release();
                return isComplete();
            }));
        }

        /// <summary>Waits until the raw socket beside the ring has got this many packets more.</summary>
        public void AwaitByRaw(int count)
        {
            var batch = new PacketBatch(64);
            _arrived = 0;
            Assert.True(NetnsThread.Eventually(() => (_arrived += _raw.ReceiveNow(batch)) >= count));
        }

        public void Dispose()
        {
            Array.ForEach(_rings, ring => ring.Dispose());
            _packets.Dispose();
            Lab.Dispose();
        }
    }
}
