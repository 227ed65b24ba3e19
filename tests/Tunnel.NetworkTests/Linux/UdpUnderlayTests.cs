using System.Net;
using System.Net.Sockets;
using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.TestSupport;
using Tunnel.Wire;
using static Tunnel.NetworkTests.Linux.RawGreLab;

namespace Tunnel.NetworkTests.Linux;

/// <summary>GRE-in-UDP between two underlays over a veth pair.</summary>
public sealed class UdpUnderlayTests
{
    private const string A4 = "10.77.1.1";
    private const string B4 = "10.77.1.2";
    private const string A6 = "fd77:1::1";
    private const string B6 = "fd77:1::2";
    private const ushort Port = 4754;

    private static readonly UnderlaySettings Everywhere = new(InetAddress.None, InetAddress.None);

    [SkippableTheory]
    [InlineData(A4, B4)]
    [InlineData(A6, B6)]
    public void ADatagramArrivesWithItsSource(string source, string destination)
    {
        using RawGreLab lab = Direct();
        (HostUnderlay a, HostUnderlay b) = OpenBoth(lab);
        byte[] gre = Packets.Payload(1400);

        Assert.Equal([TransmitResult.Sent], Send(lab, a, destination, [gre]));

        (byte[] bytes, Packet packet) = Assert.Single(Receive(b.Workers[0], 1));
        Assert.Equal(gre, bytes);
        Assert.Equal((Reception.UdpSocket, Address(source), (byte)0, (ushort)0), (packet.Reception, packet.Source, packet.OuterEcn, packet.SegmentSize));
    }

    [SkippableTheory]
    [InlineData(A4, B4, false)]
    [InlineData(A6, B6, false)]
    [InlineData(A4, B4, true)]
    [InlineData(A6, B6, true)]
    public void SeveralDatagramsLeaveAndArriveTogetherWithTheirSize(string source, string destination, bool wire)
    {
        using RawGreLab lab = Direct();
        if (wire)
        {
            lab.MakeWireLike();
        }

        (HostUnderlay a, HostUnderlay b) = OpenBoth(lab);
        byte[] gre = Packets.Payload((40 * 500) + 200);

        Assert.Equal([TransmitResult.Sent], Send(lab, a, destination, [gre], segmentSize: 500));

        List<(byte[] Bytes, Packet Packet)> received = ReceiveBytes(b.Workers[0], gre.Length);
        Assert.Equal(gre, received.SelectMany(packet => packet.Bytes));
        Assert.All(received, packet => Assert.Equal(packet.Bytes.Length > 500 ? 500 : 0, packet.Packet.SegmentSize));
        Assert.Contains(received, packet => packet.Bytes.Length > 5000 && packet.Packet.Source == Address(source));
    }

    // The device would hold each back for an hour here, in case that more of its flow come.
    [SkippableTheory]
    [InlineData(B4)]
    [InlineData(B6)]
    public void DatagramsThatComeSinglyAreNotHeldBackForMore(string destination)
    {
        using RawGreLab lab = Direct();
        lab.MakeWireLike();
        (HostUnderlay a, HostUnderlay b) = OpenBoth(lab);
        UdpReceiver receiver = ReceiverOf(b, destination);
        Assert.True(receiver.IsCoalescing);
        for (int i = 0; i < 64; i++)
        {
            Send(lab, a, destination, [[1, 2, 3]]);
            Receive(b.Workers[0], 1);
        }

        Assert.False(receiver.IsCoalescing);
        lab.B.Shell("mount -t sysfs none /sys && echo 3600000000000 >/sys/class/net/eth0/gro_flush_timeout");
        Send(lab, a, destination, [[1, 2, 3]]);
        Receive(b.Workers[0], 1);
    }

    // Bursts come at any time: also while the kernel is told to end coalescing, when their size no longer comes beside them.
    [SkippableTheory]
    [InlineData(A4, B4)]
    [InlineData(A6, B6)]
    public void DatagramsKeepTheirSizesWhileTheyComeSinglyAndInBurstsInTurn(string source, string destination)
    {
        using RawGreLab lab = Direct();
        (HostUnderlay a, HostUnderlay b) = OpenBoth(lab);
        WorkerUnderlay receiver = b.Workers[0];
        UdpReceiver socket = ReceiverOf(b, destination);
        var random = new Random(20261122);
        var sent = new List<byte[]>();
        var received = new List<byte[]>();
        var batch = new PacketBatch(64);
        var states = new HashSet<bool>();
        int taken = 0;
        for (int round = 0; round < 50; round++)
        {
            byte[][] singles = [.. Enumerable.Range(0, 70).Select(_ => GreOf(source, destination, random.Next(1, 1000)))];
            byte[][] burst = [.. Enumerable.Repeat(GreOf(source, destination, random.Next(400, 1000)), 20)];
            Task sender = Task.Run(() =>
            {
                // So many one by one, however busy the machine is, end coalescing.
                int before = Volatile.Read(ref taken);
                for (int i = 0; i < singles.Length; i++)
                {
                    Send(lab, a, destination, [singles[i]]);
                    Assert.True(i >= 64 || SpinWait.SpinUntil(() => Volatile.Read(ref taken) > before + i, TimeSpan.FromSeconds(10)));
                }

                Send(lab, a, destination, [[.. burst.SelectMany(one => one)]], segmentSize: burst[0].Length);
                Send(lab, a, destination, burst);
            });
            sent.AddRange([.. singles, .. burst, .. burst]);
            NetnsThread.Eventually(() =>
            {
                receiver.ReceiveNow(batch);
                received.AddRange(Enumerable.Range(0, batch.Count).SelectMany(i => DatagramsOf(batch, i)));
                Volatile.Write(ref taken, received.Count);
                states.Add(socket.IsCoalescing);
                return received.Count >= sent.Count;
            });
            sender.GetAwaiter().GetResult();
        }

        Assert.Equal(sent, received);
        Assert.Equal(2, states.Count);
    }

    [SkippableTheory]
    [InlineData(A4, B4)]
    [InlineData(A6, B6)]
    public void WhatWasCoalescedBeforeTheLastSingleDatagramWasReadIsCutAllTheSame(string source, string destination)
    {
        using RawGreLab lab = Direct();
        (HostUnderlay a, HostUnderlay b) = OpenBoth(lab);
        byte[] one = GreOf(source, destination, 700);
        byte[][] burst = [.. Enumerable.Repeat(one, 19), GreOf(source, destination, 300)];
        var batch = new PacketBatch(1);
        for (int i = 0; i < 64; i++)
        {
            Send(lab, a, destination, [one]);
            if (i == 63)
            {
                Send(lab, a, destination, [[.. burst.SelectMany(datagram => datagram)]], segmentSize: one.Length);
            }

            Assert.True(NetnsThread.Eventually(() => b.Workers[0].ReceiveNow(batch) == 1));
            Assert.Equal([one], DatagramsOf(batch, 0));
        }

        Assert.False(ReceiverOf(b, destination).IsCoalescing);
        Assert.True(NetnsThread.Eventually(() => b.Workers[0].ReceiveNow(batch) == 1));
        Assert.Equal(burst, DatagramsOf(batch, 0));
    }

    // GRE ends where its datagram does, not where the packet inside does.
    [SkippableTheory]
    [InlineData(A4, B4)]
    [InlineData(A6, B6)]
    public void WhatIsBehindThePacketInsideIsNoDatagramOfItsOwn(string source, string destination)
    {
        using RawGreLab lab = Direct();
        (HostUnderlay a, HostUnderlay b) = OpenBoth(lab);
        byte[] padded = [.. GreOf(source, destination, 40), .. new byte[8]];
        for (int i = 0; i < 65; i++)
        {
            Send(lab, a, destination, [padded]);
            (byte[] bytes, Packet packet) = Assert.Single(Receive(b.Workers[0], 1));
            Assert.Equal(padded, bytes);
            Assert.Equal(0, packet.SegmentSize);
        }

        Assert.False(ReceiverOf(b, destination).IsCoalescing);
    }

    [SkippableTheory]
    [InlineData(A4, B4)]
    [InlineData(A6, B6)]
    public void TheOuterEcnFieldComesBesideThePacket(string source, string destination)
    {
        using RawGreLab lab = Direct();
        (HostUnderlay _, HostUnderlay b) = OpenBoth(lab);
        for (byte ecn = 0; ecn < 4; ecn++)
        {
            // A DSCP beside it must not show.
            lab.A.Shell(
                $"/usr/bin/python3 -c \"import socket; s = socket.socket(socket.AF_INET{(source == A6 ? "6" : "")}, socket.SOCK_DGRAM); " +
                $"s.setsockopt(*{(source == A6 ? "(socket.IPPROTO_IPV6, socket.IPV6_TCLASS" : "(socket.IPPROTO_IP, socket.IP_TOS")}, {0xb8 | ecn})); " +
                $"s.sendto(b'12345', ('{destination}', {Port}))\"");
            Assert.Equal(ecn, Assert.Single(Receive(b.Workers[0], 1)).Packet.OuterEcn);
        }
    }

    // The kernel looks at it, and has to be told to take packets without one over IPv6: RFC 8086 section 6, RFC 6936.
    [SkippableTheory]
    [InlineData(A4, B4, 2)]
    [InlineData(A6, B6, 1)]
    public void U3_WhatIsDamagedIsRefusedAndWhatHasNoChecksumIsTakenOverIpv4Only(string source, string destination, int count)
    {
        using RawGreLab lab = Direct();
        (HostUnderlay _, HostUnderlay b) = OpenBoth(lab);
        int header = source == A4 ? Ipv4Header.Length : Ipv6Header.Length;
        byte[] right = Packets.UdpPacket(source, destination, Packets.Payload(100), destinationPort: Port)[header..];
        byte[] damaged = [.. right];
        damaged[^1] ^= 1;
        byte[] without = [.. right];
        Packets.Put16(without, 6, 0);
        lab.A.Run(() =>
        {
            var there = new IPEndPoint(IPAddress.Parse(destination), 0);
            using var socket = new Socket(there.AddressFamily, SocketType.Raw, ProtocolType.Udp);
            foreach (byte[] datagram in new[] { damaged, without, right })
            {
                socket.SendTo(datagram, there);
            }
        });

        // They come in the order in which they were sent, and perhaps together.
        byte[] expected = [.. Enumerable.Repeat(right[8..], count).SelectMany(payload => payload)];
        Assert.Equal(expected, ReceiveBytes(b.Workers[0], expected.Length).SelectMany(packet => packet.Bytes));
    }

    [SkippableTheory]
    [InlineData(B4)]
    [InlineData(B6)]
    public void AFlowKeepsItsSourcePortAndFlowsDiffer(string destination)
    {
        using RawGreLab lab = Direct();
        (HostUnderlay a, HostUnderlay _) = OpenBoth(lab, receiver: false);
        using Socket receiver = OpenSocket(lab.B, destination);
        var ports = new Dictionary<uint, int>();
        for (int round = 0; round < 3; round++)
        {
            for (uint flow = 0; flow < 64; flow++)
            {
                Assert.Equal([TransmitResult.Sent], Send(lab, a, destination, [[1, 2, 3]], flow: flow * 0x0101_0101));
                int port = PortOfNext(receiver);
                Assert.InRange(port, 49_152, 65_535);
                Assert.Equal(port, ports.TryAdd(flow, port) ? port : ports[flow]);
            }
        }

        Assert.InRange(ports.Values.Distinct().Count(), 8, 64);
    }

    // Else worker and port would depend on each other at both ends, and might never come to rest.
    [SkippableTheory]
    [InlineData(B4)]
    [InlineData(B6)]
    public void AFlowKeepsItsSourcePortWhicheverWorkerSendsIt(string destination)
    {
        using RawGreLab lab = Direct();
        HostUnderlay a = lab.OpenHost(lab.A, Everywhere with { Workers = 3 });
        using Socket receiver = OpenSocket(lab.B, destination);
        for (uint flow = 0; flow < 32; flow++)
        {
            int[] ports = [.. Enumerable.Range(0, 3).Select(worker =>
            {
                Assert.Equal([TransmitResult.Sent], Send(lab, a, destination, [[1]], flow: flow, worker: worker));
                return PortOfNext(receiver);
            })];
            Assert.Single(ports.Distinct());
        }
    }

    [SkippableTheory]
    [InlineData(B4, 5555)]
    [InlineData(B6, 5555)]
    [InlineData(B4, Port)]
    public void AFixedSourcePortIsUsedForAllFlows(string destination, int sourcePort)
    {
        using RawGreLab lab = Direct();
        HostUnderlay a = lab.OpenHost(lab.A, Everywhere with { SourcePort = (ushort)sourcePort, Workers = 2 });
        lab.A.Run(() => a.Accept(gre: true, greUdp: true));
        using Socket receiver = OpenSocket(lab.B, destination);
        for (uint flow = 0; flow < 8; flow++)
        {
            Assert.Equal([TransmitResult.Sent], Send(lab, a, destination, [[1]], flow: flow, worker: (int)flow % 2));
            Assert.Equal(sourcePort, PortOfNext(receiver));
        }
    }

    [SkippableTheory]
    [InlineData(B4, 1)]
    [InlineData(B6, 1)]
    [InlineData(B4, 2)]
    [InlineData(B6, 2)]
    public void SendingFromThePortThatIsReceivedAtTakesNothingFromTheReceiver(string destination, int workers)
    {
        using RawGreLab lab = Direct();
        (HostUnderlay a, HostUnderlay _) = OpenBoth(lab, receiver: false);
        HostUnderlay b = lab.OpenHost(lab.B, Everywhere with { SourcePort = Port, Workers = workers });
        lab.B.Run(() => b.Accept(gre: true, greUdp: true));

        // Both workers' sending sockets exist from now on.
        for (int i = 0; i < workers; i++)
        {
            Send(lab.B, b, destination == B4 ? A4 : A6, [[1]], worker: i);
        }

        for (uint flow = 0; flow < 64; flow++)
        {
            Assert.Equal([TransmitResult.Sent], Send(lab, a, destination, [[1, 2, 3]], flow: flow));
        }

        int received = 0;
        var batch = new PacketBatch(64);
        NetnsThread.Eventually(() => (received += b.Workers.Sum(worker => worker.ReceiveNow(batch))) == 64);
        Assert.Equal(64, received);
    }

    [SkippableFact]
    public void WhereTheKernelRefusesToCutDatagramsTheyGoSinglyAndTheOffloadIsOff()
    {
        using RawGreLab lab = Direct();
        var offloads = new OffloadState(Offloads.UdpSegment);
        var refused = new List<Offloads>();
        offloads.OnRefused = (offload, _) => refused.Add(offload);
        HostUnderlay a = lab.OpenHost(lab.A, offloads: offloads);
        HostUnderlay b = lab.OpenHost(lab.B);
        lab.B.Run(() => b.Accept(gre: true, greUdp: true));

        // More than the kernel cuts at once (UDP_MAX_SEGMENTS), as it refuses with IPsec too.
        byte[] gre = Packets.Payload((140 * 100) + 70);

        Assert.Equal([TransmitResult.Sent], Send(lab, a, B4, [gre], segmentSize: 100));

        Assert.Equal(gre, ReceiveBytes(b.Workers[0], gre.Length).SelectMany(packet => packet.Bytes));
        Assert.Equal([Offloads.UdpSegment], refused);
        Assert.Equal(Offloads.None, offloads.Active);
    }

    // What refuses a datagram may have refused them together.
    [SkippableFact]
    public void WhereADatagramIsRefusedByItselfTooTheOffloadStays()
    {
        using RawGreLab lab = Direct();
        var offloads = new OffloadState(Offloads.UdpSegment);
        HostUnderlay a = lab.OpenHost(lab.A, offloads: offloads);
        lab.A.Exec("nft add table ip t");
        lab.A.Exec("nft add chain ip t o { type filter hook output priority 0; }");
        lab.A.Exec("nft add rule ip t o udp length 78 drop");

        Send(lab, a, B4, [Packets.Payload((140 * 100) + 70)], segmentSize: 100);

        Assert.True(offloads.Has(Offloads.UdpSegment));
    }

    [SkippableTheory]
    [InlineData(B4)]
    [InlineData(B6)]
    public void WhatThePathDoesNotTakeIsTooLongAndTheOffloadStays(string destination)
    {
        using RawGreLab lab = Direct();
        var offloads = new OffloadState(Offloads.UdpSegment);
        HostUnderlay a = lab.OpenHost(lab.A, offloads: offloads);
        HostUnderlay b = lab.OpenHost(lab.B);
        lab.B.Run(() => b.Accept(gre: true, greUdp: true));
        int largest = 1500 - 8 - (destination == B4 ? 20 : 40);

        Assert.Equal([TransmitResult.TooLong], Send(lab, a, destination, [Packets.Payload(4 * (largest + 1))], segmentSize: largest + 1));
        Assert.Equal([TransmitResult.TooLong], Send(lab, a, destination, [Packets.Payload(largest + 1)]));
        Assert.Equal([TransmitResult.Sent], Send(lab, a, destination, [Packets.Payload(4 * largest)], segmentSize: largest));

        Assert.Equal(4 * largest, ReceiveBytes(b.Workers[0], 4 * largest).Sum(packet => packet.Bytes.Length));
        Assert.True(offloads.Has(Offloads.UdpSegment));
    }

    [SkippableFact]
    public void APortInUseIsSaidWithTheCureAndChangesNothing()
    {
        using RawGreLab lab = Direct();
        HostUnderlay b = lab.OpenHost(lab.B);
        WorkerUnderlay a = lab.Open(lab.A);
        using (OpenSocket(lab.B, B4))
        {
            UnderlayException refused = lab.B.Run(() => Assert.Throws<UnderlayException>(() => b.Accept(gre: true, greUdp: true)));
            Assert.Contains("UDP port 4754 is in use", refused.Message, StringComparison.Ordinal);
            Assert.Contains("ss -ulpn", refused.Hint, StringComparison.Ordinal);
            Assert.DoesNotContain('\n', refused.Message + refused.Hint);
        }

        WarmUp(a, b.Workers[0], Packet(A4, B4));
        AssertFreed(() => lab.B.Run(() => Accepts(b)));
    }

    [SkippableFact]
    public void ASourcePortInUseCostsThePacketsOnly()
    {
        using RawGreLab lab = Direct();
        HostUnderlay a = lab.OpenHost(lab.A, Everywhere with { SourcePort = Port });
        using (OpenSocket(lab.A, A4))
        {
            Assert.Equal([TransmitResult.Failed], Send(lab, a, B4, [[1]]));
        }

        AssertFreed(() => Send(lab, a, B4, [[1]])[0] == TransmitResult.Sent);
    }

    [SkippableFact]
    public void WhatIsNotAcceptedIsNotReceived()
    {
        using RawGreLab lab = Direct();
        (HostUnderlay a, HostUnderlay b) = OpenBoth(lab);
        WorkerUnderlay plain = a.Workers[0];
        WarmUp(plain, b.Workers[0], Packet(A4, B4), Packet(A6, B6));

        lab.B.Run(() => b.Accept(gre: false, greUdp: true));
        plain.Send(BatchOf(Packet(A4, B4), Packet(A6, B6)));
        Send(lab, a, B4, [[1]]);
        Send(lab, a, B6, [[1]]);
        Assert.All(Receive(b.Workers[0], 2), packet => Assert.Equal(Reception.UdpSocket, packet.Packet.Reception));

        lab.B.Run(() => b.Accept(gre: true, greUdp: false));
        Send(lab, a, B4, [[1]]);
        Send(lab, a, B6, [[1]]);
        plain.Send(BatchOf(Packet(A4, B4), Packet(A6, B6)));
        Assert.All(Receive(b.Workers[0], 2), packet => Assert.Equal(Reception.RawSocket, packet.Packet.Reception));

        lab.B.Run(() => b.Accept(gre: true, greUdp: true));
        Send(lab, a, B4, [[1]]);
        Assert.Equal(Reception.UdpSocket, Assert.Single(Receive(b.Workers[0], 1)).Packet.Reception);
        Assert.Equal(0, Counter(lab.B, "Icmp/OutDestUnreachs"));
    }

    [SkippableTheory]
    [InlineData(B4)]
    [InlineData(B6)]
    public void WorkersShareThePortByFlow(string destination)
    {
        using RawGreLab lab = Direct();
        (HostUnderlay a, HostUnderlay _) = OpenBoth(lab, receiver: false);
        HostUnderlay b = lab.OpenHost(lab.B, Everywhere with { Workers = 3 });
        lab.B.Run(() => b.Accept(gre: true, greUdp: true));
        for (int round = 0; round < 4; round++)
        {
            for (byte flow = 0; flow < 48; flow++)
            {
                Send(lab, a, destination, [[flow, 9]], flow: flow);
            }
        }

        var flows = new List<(byte Flow, int Worker)>();
        var batch = new PacketBatch(64);
        NetnsThread.Eventually(() =>
        {
            for (int worker = 0; worker < 3; worker++)
            {
                b.Workers[worker].ReceiveNow(batch);
                for (int i = 0; i < batch.Count; i++)
                {
                    // Datagrams of one port may come together.
                    for (int j = 0; j < batch[i].Length; j += 2)
                    {
                        flows.Add((batch.Bytes(i)[j], worker));
                    }
                }
            }

            return flows.Count >= 4 * 48;
        });

        Assert.Equal(4 * 48, flows.Count);
        Assert.Equal(48, flows.Distinct().Count());
        Assert.True(flows.Select(flow => flow.Worker).Distinct().Count() > 1);
    }

    private static UdpReceiver ReceiverOf(HostUnderlay underlay, string destination) =>
        (destination == B4 ? underlay.Workers[0].Udp4 : underlay.Workers[0].Udp6)!;

    private static byte[] GreOf(string source, string destination, int payload) => Packets.GrePacket(Packets.UdpPacket(source, destination, Packets.Payload(payload)));

    private static IEnumerable<byte[]> DatagramsOf(PacketBatch batch, int index)
    {
        byte[] bytes = batch.Bytes(index).ToArray();
        return batch[index].SegmentSize == 0 ? [bytes] : bytes.Chunk(batch[index].SegmentSize);
    }

    private static (HostUnderlay A, HostUnderlay B) OpenBoth(RawGreLab lab, bool receiver = true)
    {
        HostUnderlay a = lab.OpenHost(lab.A);
        if (!receiver)
        {
            return (a, a);
        }

        HostUnderlay b = lab.OpenHost(lab.B);
        lab.B.Run(() => b.Accept(gre: true, greUdp: true));
        return (a, b);
    }

    private static Socket OpenSocket(NetnsThread host, string address) => host.Run(() =>
    {
        var endpoint = new IPEndPoint(IPAddress.Parse(address), Port);
        var socket = new Socket(endpoint.AddressFamily, SocketType.Dgram, ProtocolType.Udp) { ReceiveTimeout = 10_000 };
        socket.Bind(endpoint);
        return socket;
    });

    // A program that another test starts just now has this process's sockets, and thereby their ports, until it has become that program (execve(2)).
    private static void AssertFreed(Func<bool> use) => Assert.True(NetnsThread.Eventually(use), "the port is still in use");

    private static bool Accepts(HostUnderlay underlay)
    {
        try
        {
            underlay.Accept(gre: true, greUdp: true);
            return true;
        }
        catch (UnderlayException)
        {
            return false;
        }
    }

    private static int PortOfNext(Socket receiver)
    {
        EndPoint from = new IPEndPoint(receiver.AddressFamily == AddressFamily.InterNetwork ? IPAddress.Any : IPAddress.IPv6Any, 0);
        receiver.ReceiveFrom(new byte[2000], ref from);
        return ((IPEndPoint)from).Port;
    }

    private static TransmitResult[] Send(RawGreLab lab, HostUnderlay from, string to, byte[][] datagrams, int segmentSize = 0, uint flow = 0, int worker = 0) =>
        Send(lab.A, from, to, datagrams, segmentSize, flow, worker);

    // Ports to send from are opened when the first packet needs them, so that must be on the host's thread. A segment has a piece of its own.
    private static TransmitResult[] Send(NetnsThread host, HostUnderlay from, string to, byte[][] datagrams, int segmentSize = 0, uint flow = 0, int worker = 0)
    {
        var batch = new GatherBatch(datagrams.Length, 512);
        var target = new UnderlayTarget(Address(to), Port);
        foreach (byte[] datagram in datagrams)
        {
            var memory = new PinnedPacketMemory(datagram.Length);
            datagram.CopyTo(memory.Array, 0);
            int size = segmentSize == 0 ? datagram.Length : segmentSize;
            int index = batch.Add(new Piece(memory, 0, size), target: target);
            for (int offset = size; offset < datagram.Length; offset += size)
            {
                // Header and payload are often apart.
                int length = Math.Min(size, datagram.Length - offset);
                batch.Append(new Piece(memory, offset, 20));
                batch.Append(new Piece(memory, offset + 20, length - 20));
            }

            batch[index].SegmentSize = segmentSize;
            batch[index].FlowHash = flow;
        }

        host.Run(() => from.Workers[worker].Send(batch));
        return Results(batch);
    }

    private static List<(byte[] Bytes, Packet Packet)> Receive(WorkerUnderlay underlay, int count)
    {
        var got = new List<(byte[] Bytes, Packet Packet)>();
        ReceiveUntil(underlay, got, () => got.Count >= count);
        Assert.Equal(count, got.Count);
        return got;
    }

    private static List<(byte[] Bytes, Packet Packet)> ReceiveBytes(WorkerUnderlay underlay, int count)
    {
        var got = new List<(byte[] Bytes, Packet Packet)>();
        ReceiveUntil(underlay, got, () => got.Sum(packet => packet.Bytes.Length) >= count);
        Assert.Equal(count, got.Sum(packet => packet.Bytes.Length));
        return got;
    }

    private static void ReceiveUntil(WorkerUnderlay underlay, List<(byte[] Bytes, Packet Packet)> got, Func<bool> isComplete)
    {
        var batch = new PacketBatch(64);
        NetnsThread.Eventually(() =>
        {
            underlay.ReceiveNow(batch);
            for (int i = 0; i < batch.Count; i++)
            {
                got.Add((batch.Bytes(i).ToArray(), batch[i]));
            }

            return isComplete();
        });
    }
}
