using System.Buffers.Binary;
using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.TestSupport;
using Tunnel.Wire;
using static Tunnel.NetworkTests.Linux.RawGreLab;

namespace Tunnel.NetworkTests.Linux;

/// <summary>Plain GRE among several workers, and the change from one way to the other.</summary>
public sealed class SharingTests
{
    private const string A4 = "10.77.1.1";
    private const string B4 = "10.77.1.2";
    private const string A6 = "fd77:1::1";
    private const string B6 = "fd77:1::2";

    [SkippableTheory]
    [InlineData(A4, B4, false)]
    [InlineData(A4, B4, true)]
    [InlineData(A6, B6, false)]
    public void EveryPacketComesToOneWorkerAndAFlowAlwaysToTheSame(string source, string destination, bool packet)
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay a = lab.Open(lab.A);
        HostUnderlay b = lab.OpenHost(lab.B, new UnderlaySettings(InetAddress.None, InetAddress.None, Workers: 3));
        if (packet)
        {
            lab.B.Run(() => b.UsePaths(UnderlayPath.Packet, UnderlayPath.Raw));
        }

        // Each packet's last bytes: the flow and a number.
        var sent = new List<byte[]>();
        foreach ((bool checksum, uint? key, uint? sequence) in new (bool, uint?, uint?)[]
        {
            (false, null, null), (false, 7, null), (true, null, null), (false, null, 3), (true, 7, 3), (false, 7, 3),
        })
        {
            for (byte flow = 0; flow < 40; flow++)
            {
                for (byte number = 0; number < 2; number++)
                {
                    byte[] inner = Flow(flow, [flow, number]);
                    sent.Add(Packets.Outer(source, destination, Packets.GrePacket(inner, checksum, key, sequence)));
                }
            }
        }

        WarmUp(a, lab.Open(lab.B), Packet(source, destination));
        Drain(b);
        foreach (byte[][] chunk in sent.Chunk(60))
        {
            a.Send(BatchOf(chunk));
        }

        List<(byte[] Bytes, int Worker)> received = Receive(b, sent.Count);
        Assert.Equal(sent.Count, received.Count);

        // A flow has one worker whatever the GRE header holds.
        Assert.Equal(40, received.Select(one => (one.Bytes[^2], one.Worker)).Distinct().Count());
        Assert.All(Enumerable.Range(0, 3), worker => Assert.InRange(received.Count(one => one.Worker == worker), 1, sent.Count - 2));
        Assert.Equal(sent.Select(Convert.ToHexString).Order(StringComparer.Ordinal), received.Select(one => Convert.ToHexString(one.Bytes)).Order(StringComparer.Ordinal));
    }

    [SkippableTheory]
    [InlineData(A4, B4, false)]
    [InlineData(A4, B4, true)]
    [InlineData(A6, B6, false)]
    public void MalformedPacketsComeOnce(string source, string destination, bool packet)
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay a = lab.Open(lab.A);
        HostUnderlay b = lab.OpenHost(lab.B, new UnderlaySettings(InetAddress.None, InetAddress.None, Workers: 3));
        if (packet)
        {
            lab.B.Run(() => b.UsePaths(UnderlayPath.Packet, UnderlayPath.Raw));
        }

        byte[] inner = Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(4));
        byte[][] sent =
        [
            .. Enumerable.Range(1, 24).Select(length => Packets.Outer(source, destination, new byte[length])),
            .. Enumerable.Range(1, inner.Length - 1).Select(length => Packets.Outer(source, destination, Packets.GrePacket(inner[..length]))),
            .. Enumerable.Range(0, 256).Select(version => Packets.Outer(source, destination, [(byte)version, 7, 8, 0, .. inner])),
        ];
        WarmUp(a, lab.Open(lab.B), Packet(source, destination));
        Drain(b);
        foreach (byte[][] chunk in sent.Chunk(60))
        {
            a.Send(BatchOf(chunk));
        }

        List<(byte[] Bytes, int Worker)> received = Receive(b, sent.Length);
        Assert.Equal(sent.Select(Convert.ToHexString).Order(StringComparer.Ordinal), received.Select(one => Convert.ToHexString(one.Bytes)).Order(StringComparer.Ordinal));
    }

    [SkippableTheory]
    [InlineData(1)]
    [InlineData(3)]
    public void WhileTheWayInChangesNothingIsReceivedTwice(int workers)
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay a = lab.Open(lab.A);
        HostUnderlay b = lab.OpenHost(lab.B, new UnderlaySettings(InetAddress.None, InetAddress.None, Workers: workers));
        WarmUp(a, b.Workers[0], Packet(A4, B4));
        int sent = 0;
        bool stop = false;
        var sender = new Thread(() =>
        {
            var memory = new PinnedPacketMemory(64 * 100);
            var batch = new GatherBatch(64, 64);
            var target = new UnderlayTarget(Address(B4));
            while (!Volatile.Read(ref stop))
            {
                batch.Clear();
                for (int i = 0; i < 64; i++)
                {
                    byte[] packet = Packets.Outer(A4, B4, Packets.GrePacket(Flow((byte)i, Packets.Payload(8))));
                    BinaryPrimitives.WriteInt32BigEndian(packet.AsSpan(packet.Length - 4), sent++);
                    packet.CopyTo(memory.Array, i * 100);
                    batch.Add(new Piece(memory, i * 100, packet.Length), target: target);
                }

                a.Send(batch);
            }
        });

        var seen = new HashSet<int>();
        var twice = new List<int>();
        var byPath = new int[3];
        var batch = new PacketBatch(64);
        void ReceiveSome()
        {
            for (int turn = 0; turn < 4; turn++)
            {
                foreach (WorkerUnderlay worker in b.Workers)
                {
                    worker.ReceiveNow(batch);
                    for (int i = 0; i < batch.Count; i++)
                    {
                        byPath[(int)batch[i].Reception]++;
                        int number = BinaryPrimitives.ReadInt32BigEndian(batch.Bytes(i)[^4..]);
                        if (!seen.Add(number))
                        {
                            twice.Add(number);
                        }
                    }
                }
            }
        }

        sender.Start();
        for (int change = 0; change < 200; change++)
        {
            lab.B.Run(() => b.UsePaths(change % 2 == 0 ? UnderlayPath.Packet : UnderlayPath.Raw, UnderlayPath.Raw));
            ReceiveSome();
            if (change % 20 == 19)
            {
                lab.B.Run(() => b.Accept(gre: false, greUdp: false));
                lab.B.Run(() => b.Accept(gre: true, greUdp: false));
            }
        }

        Volatile.Write(ref stop, true);
        sender.Join();
        NetnsThread.Eventually(() =>
        {
            int before = seen.Count;
            ReceiveSome();
            return seen.Count == before;
        });

        Assert.Empty(twice);
        Assert.True(byPath[(int)Reception.RawSocket] > 100 && byPath[(int)Reception.PacketSocket] > 100, string.Join(' ', byPath));
        foreach (UnderlayPath path in new[] { UnderlayPath.Packet, UnderlayPath.Raw, UnderlayPath.Packet })
        {
            lab.B.Run(() => b.UsePaths(path, UnderlayPath.Raw));
            a.Send(BatchOf(Packet(A4, B4, seed: 77)));
            List<(byte[] Bytes, int Worker)> last = Receive(b, 1);
            Assert.Equal(Packet(A4, B4, seed: 77), Assert.Single(last).Bytes);
        }

        Assert.Equal(0, Counter(lab.B, "Icmp/OutDestUnreachs"));
    }

    private static byte[] Flow(byte flow, byte[] payload) => (flow % 4) switch
    {
        // A datagram of two bytes is as small as they come.
        0 => Packets.UdpPacket("172.17.51.2", "172.17.52.2", payload, sourcePort: (ushort)(1000 + flow)),
        1 => Packets.TcpPacket("172.17.51.2", "172.17.52.2", payload, sourcePort: (ushort)(1000 + flow)),
        2 => Packets.UdpPacket("fd17:51::2", "fd17:52::2", payload, sourcePort: (ushort)(1000 + flow)),
        _ => Packets.Ipv4("172.17.51." + flow, "172.17.52.2", Packets.Icmp, [8, 0, 1, 2, 3, 4, .. payload]),
    };

    private static void Drain(HostUnderlay underlay)
    {
        var batch = new PacketBatch(64);
        foreach (WorkerUnderlay worker in underlay.Workers)
        {
            while (worker.ReceiveNow(batch) > 0)
            {
            }
        }
    }

    private static List<(byte[] Bytes, int Worker)> Receive(HostUnderlay underlay, int count)
    {
        var got = new List<(byte[] Bytes, int Worker)>();
        var batch = new PacketBatch(64);
        int quiet = 0;
        NetnsThread.Eventually(() =>
        {
            int before = got.Count;
            for (int worker = 0; worker < underlay.Workers.Count; worker++)
            {
                underlay.Workers[worker].ReceiveNow(batch);
                for (int i = 0; i < batch.Count; i++)
                {
                    got.Add((batch.Bytes(i).ToArray(), worker));
                }
            }

            // Nothing more may come.
            quiet = got.Count == before ? quiet + 1 : 0;
            return got.Count >= count && quiet > 20;
        });
        return got;
    }
}
