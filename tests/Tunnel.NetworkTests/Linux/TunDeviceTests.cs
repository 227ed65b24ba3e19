using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.NetworkTests.Linux;

/// <summary>A real TUN device in a namespace of its own: 10.9.0.1/24 on this side, everything else "behind" it.</summary>
[Collection(nameof(LabCollection))]
public sealed class TunDeviceTests
{
    private static readonly InetAddress Here = Address("10.9.0.1");
    private static readonly InetAddress There = Address("10.9.0.2");

    [SkippableFact]
    public void PacketsAreReadWhereTheirSlotsBegin()
    {
        using var lab = new TunLab();
        var batch = new PacketBatch(64);
        byte[][] sent = [.. Enumerable.Range(0, 5).Select(i => Enumerable.Repeat((byte)i, 100 + i).ToArray())];

        lab.Netns.Run(() =>
        {
            using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
            foreach (byte[] payload in sent)
            {
                socket.SendTo(payload, new IPEndPoint(There.ToIPAddress(), 9));
            }
        });

        Assert.Equal(sent.Length, lab.Tun.Read(batch));
        Assert.Equal(0, lab.Tun.Read(new PacketBatch(1)));
        for (int i = 0; i < sent.Length; i++)
        {
            Assert.Equal(PacketBatch.SlotStart(i), batch[i].Start);
            Assert.Equal(default, batch[i].Offload);
            Assert.True(Ipv4View.TryParse(batch.Bytes(i), out Ipv4View packet));
            Assert.Equal(batch[i].Length, packet.TotalLength);
            Assert.Equal(There, packet.Destination);
            Assert.Equal(sent[i], packet.Payload[8..].ToArray());
            Assert.True(IsTransportChecksumValid(packet), "the checksum must be finished: offloads are off");
        }
    }

    [SkippableFact]
    public void ReadTakesNoMoreThanTheBatchHolds()
    {
        using var lab = new TunLab();
        lab.Netns.Run(() =>
        {
            using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
            for (int i = 0; i < 5; i++)
            {
                socket.SendTo(new byte[10], new IPEndPoint(There.ToIPAddress(), 9));
            }
        });

        var two = new PacketBatch(2);
        Assert.Equal([2, 2, 1, 0], new[] { lab.Tun.Read(two), lab.Tun.Read(two), lab.Tun.Read(two), lab.Tun.Read(two) });
    }

    [SkippableFact]
    public void WrittenPiecesArriveAsOnePacket()
    {
        using var lab = new TunLab();
        byte[] request = Echo(id: 7, data: [.. Enumerable.Range(0, 999).Select(i => (byte)i)]);
        var writes = new GatherBatch(2, 8);
        var memory = new PinnedPacketMemory(4096);
        request.CopyTo(memory.Array, 1000);
        writes.Add(new Piece(memory, 1000, 20));
        writes.Append(new Piece(memory, 1020, 1));
        writes.Append(new Piece(memory, 1021, request.Length - 21));

        lab.Tun.Write(writes);

        Assert.Equal(TransmitResult.Sent, writes[0].Result);
        var replies = new PacketBatch(4);
        Assert.True(NetnsThread.Eventually(() => lab.Tun.Read(replies) == 1));
        Assert.True(Ipv4View.TryParse(replies.Bytes(0), out Ipv4View reply));
        Assert.Equal(Here, reply.Source);
        Assert.Equal(request[28..], reply.Payload[8..].ToArray());
    }

    [SkippableFact]
    public void ARefusedPacketKeepsNoOtherBack()
    {
        using var lab = new TunLab();
        var writes = new GatherBatch(3, 3);
        writes.Add(PieceOf(Echo(1, [1])));
        writes.Add(PieceOf([0xf0, 1, 2, 3]));
        writes.Add(PieceOf(Echo(2, [2])));

        lab.Tun.Write(writes);

        Assert.Equal([TransmitResult.Sent, TransmitResult.Failed, TransmitResult.Sent], new[] { writes[0].Result, writes[1].Result, writes[2].Result });
        var replies = new PacketBatch(4);
        int count = 0;
        Assert.True(NetnsThread.Eventually(() => (count += lab.Tun.Read(replies)) == 2));
    }

    [SkippableTheory]
    [InlineData(2500, GsoType.TcpV4, 3)]
    [InlineData(500, GsoType.None, 1)]
    public void ASuperPacketIsCutByTheKernelAndAnUnfinishedChecksumFinished(int length, GsoType gso, int count)
    {
        // The packet goes in as received for a network that is reached through the device itself, so the kernel forwards it back out.
        // The device takes no offloads, so the kernel cuts it.
        using var lab = new TunLab();
        lab.Netns.Exec("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.tun0.send_redirects=0");
        lab.Netns.Ip("route add 10.9.1.0/24 dev tun0");
        byte[] data = [.. Enumerable.Range(0, length).Select(i => (byte)(i * 7))];
        byte[] packet = SuperTcp(There, Address("10.9.1.1"), data);
        var offload = new Offload(gso, (ushort)(gso == GsoType.None ? 0 : 1000), 40, NeedsChecksum: true, ChecksumStart: 20, ChecksumOffset: 16);
        var writes = new GatherBatch(1, 1);
        writes.Add(PieceOf(packet), offload);

        lab.Tun.Write(writes);

        Assert.Equal(TransmitResult.Sent, writes[0].Result);
        var segments = new PacketBatch(8);
        Assert.True(NetnsThread.Eventually(() => lab.Tun.Read(segments) > 0));
        Assert.Equal(count, segments.Count);
        var got = new List<byte>();
        for (int i = 0; i < count; i++)
        {
            Assert.True(Ipv4View.TryParse(segments.Bytes(i), out Ipv4View segment));
            Assert.True(IsTransportChecksumValid(segment));
            Assert.Equal(default, segments[i].Offload);
            Assert.True(TcpView.TryParse(segment.Payload, out TcpView tcp));
            Assert.Equal(1000u + (uint)got.Count, tcp.Sequence);
            got.AddRange(tcp.Payload);
        }

        Assert.Equal(data, got);
    }

    [SkippableFact]
    public void AFurtherWriteDoesNotInheritTheOffload()
    {
        using var lab = new TunLab();
        var writes = new GatherBatch(2, 2);
        writes.Add(PieceOf(SuperTcp(There, Here, new byte[3000])), new Offload(GsoType.TcpV4, 1000, 40, true, 20, 16));
        writes.Add(PieceOf(Echo(3, [3])));

        lab.Tun.Write(writes);

        // With the first packet's header the second, which is no TCP, would be refused.
        Assert.Equal([TransmitResult.Sent, TransmitResult.Sent], new[] { writes[0].Result, writes[1].Result });
    }

    [SkippableFact]
    public void ReadAndWriteDoNotAllocate()
    {
        using var lab = new TunLab();
        var writes = new GatherBatch(8, 8);
        byte[] request = Echo(1, new byte[100]);
        for (int i = 0; i < writes.Capacity; i++)
        {
            writes.Add(PieceOf(request));
        }

        var replies = new PacketBatch(16);
        int read = 0;

        long allocated = Allocations.InSteadyState(() =>
        {
            for (int i = 0; i < 100; i++)
            {
                lab.Tun.Write(writes);
                read += lab.Tun.Read(replies);
            }
        });

        Assert.Equal(0, allocated);
        Assert.True(read > 100, $"only {read} packets were read");
    }

    [SkippableFact]
    public void TheDeviceVanishesWithItsOwner()
    {
        using var lab = new TunLab();
        Assert.Contains("tun0", lab.Netns.Ip("-o link"), StringComparison.Ordinal);

        lab.Tun.Dispose();

        Assert.DoesNotContain("tun0", lab.Netns.Ip("-o link"), StringComparison.Ordinal);
    }

    [SkippableFact]
    public void APersistentDeviceIsAttachedToAndStays()
    {
        using NetnsThread netns = TunLab.NewNetns();
        netns.Ip("tuntap add tun7 mode tun");
        netns.Ip("addr add 10.9.0.1/24 dev tun7");
        netns.Ip("link set tun7 up");

        using (TunDevice tun = netns.Run(() => new TunDevice("tun7")))
        {
            var writes = new GatherBatch(1, 1);
            writes.Add(PieceOf(Echo(1, [1, 2, 3])));
            var replies = new PacketBatch(1);

            // The kernel notices the carrier a moment after the device got a reader, and drops what goes out before.
            Assert.True(NetnsThread.Eventually(() =>
            {
                tun.Write(writes);
                return tun.Read(replies) == 1;
            }));
            Assert.Equal(TransmitResult.Sent, writes[0].Result);
            Assert.Equal(31, replies[0].Length);
        }

        Assert.Contains("tun7", netns.Ip("-o link"), StringComparison.Ordinal);
    }

    [SkippableFact]
    public void ADeviceThatIsDownReadsNothingAndRefusesWrites()
    {
        using var lab = new TunLab();
        lab.Netns.Ip("link set tun0 down");
        var writes = new GatherBatch(1, 1);
        writes.Add(PieceOf(Echo(1, [1])));

        lab.Tun.Write(writes);

        Assert.Equal(TransmitResult.Unreachable, writes[0].Result);
        Assert.Equal(0, lab.Tun.Read(new PacketBatch(1)));
    }

    [SkippableFact]
    public void ADeletedDeviceReadsNothingAndRefusesWrites()
    {
        using var lab = new TunLab();
        lab.Netns.Ip("link del tun0");
        var writes = new GatherBatch(1, 1);
        writes.Add(PieceOf(Echo(1, [1])));

        lab.Tun.Write(writes);

        Assert.Equal(TransmitResult.Unreachable, writes[0].Result);
        Assert.Equal(0, lab.Tun.Read(new PacketBatch(1)));
    }

    [SkippableTheory]
    [InlineData("", "0 bytes", "15 characters")]
    [InlineData("tun4567890123456", "16 bytes", "15 characters")]
    [InlineData("lo", "not a TUN device", "ip -d link show lo")]
    [InlineData("a/b", "name is not allowed", "choose another name")]
    [InlineData("tun%d", "instead of 'tun%d'", "letters")]
    [InlineData("taken", "in use by another process", "stop that process")]
    [InlineData("queues", "not a TUN device with one queue", "ip -d link show queues")]
    public void AnUnusableNameIsRefusedWithTheCure(string name, string reason, string hint)
    {
        using NetnsThread netns = TunLab.NewNetns();
        using TunDevice taken = netns.Run(() => new TunDevice("taken"));
        netns.Ip("tuntap add queues mode tun multi_queue");

        DeviceOpenException refused = netns.Run(() => Assert.Throws<DeviceOpenException>(() => new TunDevice(name)));

        Assert.Contains(reason, refused.Message, StringComparison.Ordinal);
        Assert.Contains(hint, refused.Hint, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', refused.Message + refused.Hint);
    }

    [SkippableFact]
    public void AMissingCapabilityIsNamed()
    {
        using NetnsThread netns = TunLab.NewNetns();
        netns.DropCapabilities();

        DeviceOpenException refused = netns.Run(() => Assert.Throws<DeviceOpenException>(() => new TunDevice("tun0")));

        Assert.Contains("CAP_NET_ADMIN", refused.Message, StringComparison.Ordinal);
        Assert.Contains("systemd unit", refused.Hint, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void AMissingControlDeviceIsNamed()
    {
        using NetnsThread netns = TunLab.NewNetns();
        netns.HideDirectory("/dev/net");

        DeviceOpenException refused = netns.Run(() => Assert.Throws<DeviceOpenException>(() => new TunDevice("tun0")));

        Assert.Contains("/dev/net/tun is missing", refused.Message, StringComparison.Ordinal);
        Assert.Contains("modprobe tun", refused.Hint, StringComparison.Ordinal);
        Assert.Contains("--device /dev/net/tun", refused.Hint, StringComparison.Ordinal);
    }

    private static InetAddress Address(string text) => InetAddress.TryParse(text, out InetAddress address) ? address : throw new FormatException(text);

    private static Piece PieceOf(byte[] packet)
    {
        var memory = new PinnedPacketMemory(packet.Length);
        packet.CopyTo(memory.Array, 0);
        return new Piece(memory, 0, packet.Length);
    }

    // An ICMP echo request from the other side to this host, which answers it.
    private static byte[] Echo(ushort id, byte[] data)
    {
        byte[] packet = new byte[Ipv4Header.Length + 8 + data.Length];
        new Ipv4Header(There, Here, IpProtocol.Icmp, 8 + data.Length).Write(packet);
        Span<byte> message = packet.AsSpan(Ipv4Header.Length);
        message[0] = 8;
        BinaryPrimitives.WriteUInt16BigEndian(message[4..], id);
        data.CopyTo(message[8..]);
        BinaryPrimitives.WriteUInt16BigEndian(message[2..], InternetChecksum.Compute(message));
        return packet;
    }

    // A TCP packet with ACK set and a checksum field that holds the sum of the pseudo-header only.
    private static byte[] SuperTcp(InetAddress source, InetAddress destination, byte[] data)
    {
        byte[] packet = new byte[Ipv4Header.Length + 20 + data.Length];
        new Ipv4Header(source, destination, IpProtocol.Tcp, 20 + data.Length).Write(packet);
        Span<byte> tcp = packet.AsSpan(Ipv4Header.Length);
        BinaryPrimitives.WriteUInt32BigEndian(tcp[4..], 1000);
        tcp[12] = 5 << 4;
        tcp[13] = 0x10;
        data.CopyTo(tcp[20..]);
        ushort sum = InternetChecksum.PseudoHeader(packet.AsSpan(12, 8), IpProtocol.Tcp, tcp.Length);
        BinaryPrimitives.WriteUInt16BigEndian(tcp[16..], sum);
        return packet;
    }

    private static bool IsTransportChecksumValid(in Ipv4View packet) =>
        InternetChecksum.IsValid(packet.Payload, InternetChecksum.PseudoHeader(packet.Packet.Slice(12, 8), packet.Protocol, packet.Payload.Length));

    private sealed class TunLab : IDisposable
    {
        public TunLab()
        {
            Netns = NewNetns();
            Tun = Netns.Run(() => new TunDevice("tun0"));
            Netns.Ip("addr add 10.9.0.1/24 dev tun0");
            Netns.Ip("link set tun0 up");
        }

        public NetnsThread Netns { get; }

        public TunDevice Tun { get; }

        public static NetnsThread NewNetns()
        {
            Skip.IfNot(NetnsThread.IsRoot, "needs root");
            var netns = new NetnsThread("tun");

            // Else the kernel's own multicast reports come out of the device.
            netns.Exec("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
            return netns;
        }

        public void Dispose()
        {
            Tun.Dispose();
            Netns.Dispose();
        }
    }
}
