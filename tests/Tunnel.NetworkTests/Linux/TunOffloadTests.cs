using System.Net;
using System.Net.Sockets;
using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.TestSupport;

namespace Tunnel.NetworkTests.Linux;

/// <summary>
/// Two namespaces with a TUN device each, and threads that carry what is read from one to the other, offloads and all:
/// <code>
///   A  tun0 10.9.0.1, fd09::1  ---- this process ----  tun0 10.9.0.2, fd09::2  B
/// </code>
/// </summary>
public sealed class TunOffloadTests
{
    private const int SOL_UDP = 17;
    private const int UDP_SEGMENT = 103;

    [SkippableTheory]
    [InlineData("10.9.0.2", GsoType.TcpV4)]
    [InlineData("fd09::2", GsoType.TcpV6)]
    public void TcpSuperPacketsAreReadAndWritten(string address, GsoType gso)
    {
        using var lab = new TwoTuns(enableOffloads: true);
        (byte[] sent, byte[] received) = lab.TransferTcp(address, 8 << 20);

        Assert.True(sent.AsSpan().SequenceEqual(received), "other bytes arrived than were sent");
        Assert.Contains(lab.Seen, offload => offload.Gso == gso && offload.SegmentSize is > 1000 and < 1500 && offload.NeedsChecksum && offload.ChecksumOffset == 16);
    }

    [SkippableFact]
    public void WithoutOffloadsEveryPacketIsFinished()
    {
        using var lab = new TwoTuns(enableOffloads: false);
        (byte[] sent, byte[] received) = lab.TransferTcp("10.9.0.2", 1 << 20);

        Assert.True(sent.AsSpan().SequenceEqual(received), "other bytes arrived than were sent");
        Assert.All(lab.Seen, offload => Assert.Equal(default, offload));
    }

    [SkippableTheory]
    [InlineData("10.9.0.2")]
    [InlineData("fd09::2")]
    public void UdpSuperPacketsAreReadAndWritten(string address)
    {
        using var lab = new TwoTuns(enableOffloads: true);
        Skip.IfNot(lab.Agreed.HasFlag(Offloads.TunUdp), "this kernel has no USO");
        var to = new IPEndPoint(IPAddress.Parse(address), 5000);
        using Socket receiver = lab.B.Run(() => new Socket(to.AddressFamily, SocketType.Dgram, ProtocolType.Udp) { ReceiveTimeout = 10_000 });
        receiver.Bind(to);
        using Socket sender = lab.A.Run(() => new Socket(to.AddressFamily, SocketType.Dgram, ProtocolType.Udp));
        sender.SetRawSocketOption(SOL_UDP, UDP_SEGMENT, BitConverter.GetBytes(1000));
        var payload = new byte[20_300];
        new Random(1).NextBytes(payload);
        sender.SendTo(payload, to);

        var got = new List<byte>();
        var buffer = new byte[2000];
        for (int i = 0; i < 21; i++)
        {
            int length = receiver.Receive(buffer);
            Assert.Equal(i < 20 ? 1000 : 300, length);
            got.AddRange(buffer[..length]);
        }

        Assert.Equal(payload, got);
        Assert.Contains(lab.Seen, offload => offload is { Gso: GsoType.UdpL4, SegmentSize: 1000, NeedsChecksum: true, ChecksumOffset: 6 });
    }

    [SkippableFact]
    public void AnswersAreReadFromTheQueueThatWroteTheFlow()
    {
        Skip.IfNot(NetnsThread.IsRoot, "needs root");
        using var netns = new NetnsThread("queues");
        netns.Exec("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        TunDevice[] queues = netns.Run(() => TunDevice.OpenQueues("tun0", 2, InheritedDescriptors.None));
        try
        {
            netns.Ip("addr add 10.9.0.1/24 dev tun0");
            netns.Ip("link set tun0 up");
            using Socket echo = netns.Run(() => new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp) { ReceiveTimeout = 10_000 });
            echo.Bind(new IPEndPoint(IPAddress.Parse("10.9.0.1"), 40002));
            var batch = new PacketBatch(8);
            for (ushort flow = 0; flow < 32; flow++)
            {
                byte[] packet = Packets.UdpPacket("10.9.0.2", "10.9.0.1", [(byte)flow], sourcePort: (ushort)(2000 + flow));
                queues[flow % 2].Write(RawGreLab.BatchOf(packet));
                EndPoint from = new IPEndPoint(IPAddress.Any, 0);
                echo.ReceiveFrom(new byte[10], ref from);
                Assert.Equal(2000 + flow, ((IPEndPoint)from).Port);
                echo.SendTo([(byte)flow], from);

                Assert.True(NetnsThread.Eventually(() => queues[flow % 2].Read(batch) == 1), $"flow {flow} was not answered at its queue");
                Assert.Equal((byte)flow, batch.Bytes(0)[^1]);
                Assert.Equal(0, queues[1 - (flow % 2)].Read(batch));
            }
        }
        finally
        {
            Array.ForEach(queues, queue => queue.Dispose());
        }
    }

    private sealed class TwoTuns : IDisposable
    {
        private readonly TunDevice _tunA;
        private readonly TunDevice _tunB;
        private readonly PollReadiness _readyA;
        private readonly PollReadiness _readyB;
        private readonly Thread[] _pumps;
        private readonly HashSet<Offload> _seen = [];

        public TwoTuns(bool enableOffloads)
        {
            Skip.IfNot(NetnsThread.IsRoot, "needs root");
            A = new NetnsThread("a");
            B = new NetnsThread("b");
            _tunA = Open(A, 1);
            _tunB = Open(B, 2);
            if (enableOffloads)
            {
                var offloads = new OffloadState(OffloadState.All);
                _tunA.EnableOffloads(offloads);
                _tunB.EnableOffloads(offloads);
                Agreed = offloads.Active;
            }

            _readyA = new PollReadiness(_tunA, NoUnderlay());
            _readyB = new PollReadiness(_tunB, NoUnderlay());
            _pumps = [new Thread(() => Pump(_tunA, _readyA, _tunB)), new Thread(() => Pump(_tunB, _readyB, _tunA))];
            Array.ForEach(_pumps, pump => pump.Start());
        }

        public NetnsThread A { get; }

        public NetnsThread B { get; }

        public Offloads Agreed { get; }

        public IReadOnlyCollection<Offload> Seen
        {
            get
            {
                lock (_seen)
                {
                    return [.. _seen];
                }
            }
        }

        public (byte[] Sent, byte[] Received) TransferTcp(string address, int length)
        {
            var to = new IPEndPoint(IPAddress.Parse(address), 5000);
            using Socket listener = B.Run(() => new Socket(to.AddressFamily, SocketType.Stream, ProtocolType.Tcp));
            listener.Bind(to);
            listener.Listen();
            using Socket sender = A.Run(() => new Socket(to.AddressFamily, SocketType.Stream, ProtocolType.Tcp) { SendTimeout = 10_000 });
            sender.Connect(to);
            using Socket receiver = listener.Accept();
            receiver.ReceiveTimeout = 10_000;
            var sent = new byte[length];
            new Random(1).NextBytes(sent);
            var received = new byte[length];

            // On a thread of its own: the pool's may all be busy with other tests.
            Task send = Task.Factory.StartNew(
                () =>
                {
                    for (int done = 0; done < length;)
                    {
                        done += sender.Send(sent, done, length - done, SocketFlags.None);
                    }
                },
                CancellationToken.None,
                TaskCreationOptions.LongRunning,
                TaskScheduler.Default);
            for (int done = 0; done < length;)
            {
                done += receiver.Receive(received, done, length - done, SocketFlags.None);
            }

            send.GetAwaiter().GetResult();
            return (sent, received);
        }

        public void Dispose()
        {
            _readyA.Stop();
            _readyB.Stop();
            Array.ForEach(_pumps, pump => pump.Join());
            _readyA.Dispose();
            _readyB.Dispose();
            _tunA.Dispose();
            _tunB.Dispose();
            A.Dispose();
            B.Dispose();
        }

        private static TunDevice Open(NetnsThread host, int number)
        {
            TunDevice tun = host.Run(() => new TunDevice("tun0"));
            host.Ip($"addr add 10.9.0.{number}/24 dev tun0");
            host.Ip($"addr add fd09::{number}/64 dev tun0 nodad");
            host.Ip("link set tun0 up");

            // Even without duplicate address detection a worker of the kernel makes an IPv6 address known, and what comes before is lost.
            Assert.True(NetnsThread.Eventually(() => host.Ip("-6 route show table local").Contains($"local fd09::{number} ", StringComparison.Ordinal)), "the address is not there");
            return tun;
        }

        private static WorkerUnderlay NoUnderlay() =>
            new(raw4: null, raw6: null, number: 0, new OffloadState(Offloads.None), _ => throw new NotSupportedException());

        private void Pump(TunDevice from, PollReadiness ready, TunDevice to)
        {
            var packets = new PacketBatch(16);
            var writes = new GatherBatch(16, 16);
            while (!ready.Wait().HasFlag(Ready.Stopped))
            {
                writes.Clear();
                from.Read(packets);
                for (int i = 0; i < packets.Count; i++)
                {
                    lock (_seen)
                    {
                        _seen.Add(packets[i].Offload);
                    }

                    writes.Add(new Piece(packets[i].Memory, packets[i].Start, packets[i].Length), packets[i].Offload);
                }

                to.Write(writes);
            }
        }
    }
}
