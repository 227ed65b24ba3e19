using System.Buffers.Binary;
using System.Diagnostics;
using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.TestSupport;
using Tunnel.Wire;
using static Tunnel.NetworkTests.Linux.RawGreLab;

namespace Tunnel.NetworkTests.Linux;

/// <summary>Two raw GRE underlays over a veth pair, IPv4 and IPv6.</summary>
public sealed class RawGreUnderlayTests
{
    private const string A4 = "10.77.1.1";
    private const string B4 = "10.77.1.2";
    private const string A6 = "fd77:1::1";
    private const string B6 = "fd77:1::2";

    [SkippableTheory]
    [InlineData(A4, B4)]
    [InlineData(A6, B6)]
    public void APacketArrivesWithItsOuterHeader(string source, string destination)
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay a = lab.Open(lab.A);
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(a, b, Packet(source, destination));
        byte[] packet = Packet(source, destination, length: 1234, trafficClass: 0xb9, timeToLive: 37);
        GatherBatch batch = BatchOf(packet);

        a.Send(batch);

        Assert.Equal([TransmitResult.Sent], Results(batch));
        Assert.Equal(packet, Assert.Single(ReceiveAll(b, 1)));
    }

    [SkippableTheory]
    [InlineData(A4, B4, 0)]
    [InlineData(A6, B6, Ipv6Header.Length)]
    public void ThePacketBeginsAtTheSlotOrWithItsHeaderInTheHeadroom(string source, string destination, int before)
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay a = lab.Open(lab.A);
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(a, b, Packet(source, destination));
        a.Send(BatchOf(Packet(source, destination), Packet(source, destination)));
        var batch = new PacketBatch(8);

        Assert.True(NetnsThread.Eventually(() => b.ReceiveNow(batch) > 0));

        Assert.Equal(2, batch.Count);
        Assert.Equal(PacketBatch.SlotStart(0) - before, batch[0].Start);
        Assert.Equal(PacketBatch.SlotStart(1) - before, batch[1].Start);
    }

    [SkippableTheory]
    [InlineData(A4, B4)]
    [InlineData(A6, B6)]
    public void PiecesArePutTogether(string source, string destination)
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay a = lab.Open(lab.A);
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(a, b, Packet(source, destination));
        byte[] packet = Packet(source, destination, 1000);
        var header = new PinnedPacketMemory(200);
        var payload = new PinnedPacketMemory(2000);
        packet.AsSpan(0, 44).CopyTo(header.Array.AsSpan(100));
        packet.AsSpan(44).CopyTo(payload.Array.AsSpan(500));
        var batch = new GatherBatch(2, 6);
        for (int i = 0; i < 2; i++)
        {
            batch.Add(new Piece(header, 100, 44), target: new UnderlayTarget(Address(destination)));
            batch.Append(new Piece(payload, 500, 1));
            batch.Append(new Piece(payload, 501, packet.Length - 45));
        }

        a.Send(batch);

        Assert.All(ReceiveAll(b, 2), received => Assert.Equal(packet, received));
    }

    [SkippableFact]
    public void BothFamiliesTravelInOneBatchAndARefusedPacketKeepsNoOtherBack()
    {
        using RawGreLab lab = Direct();
        lab.A.Ip("route add prohibit 10.99.0.1");
        lab.A.Ip("route add unreachable 10.99.0.2");
        WorkerUnderlay a = lab.Open(lab.A);
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(a, b, Packet(A4, B4), Packet(A6, B6));
        byte[][] packets =
        [
            Packet(A4, B4, seed: 1),
            Packet(A4, B4, length: 1501),
            Packet(A4, B4, seed: 2),
            Packet(A6, B6, seed: 3),
            Packet(A4, "10.99.0.1"),
            Packet(A4, "203.0.113.1"),
            Packet(A4, "10.99.0.2"),
            Packet(A4, B4, seed: 4),
            Packet(A6, B6, length: 1501),
            Packet(A6, "2001:db8::1"),
            Packet(A6, B6, seed: 5),
        ];
        GatherBatch batch = BatchOf(packets);

        a.Send(batch);

        Assert.Equal(
            [
                TransmitResult.Sent, TransmitResult.TooLong, TransmitResult.Sent, TransmitResult.Sent, TransmitResult.Denied, TransmitResult.Unreachable,
                TransmitResult.Unreachable, TransmitResult.Sent, TransmitResult.TooLong, TransmitResult.Unreachable, TransmitResult.Sent,
            ],
            Results(batch));
        List<byte[]> received = ReceiveAll(b, 5);
        Assert.Equal([packets[0], packets[2], packets[7]], received.Where(packet => packet[0] >> 4 == 4));
        Assert.Equal([packets[3], packets[10]], received.Where(packet => packet[0] >> 4 == 6));
    }

    [SkippableFact]
    public void AFamilyThatIsNotOpenIsUnreachable()
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay a = lab.Open(lab.A, ipv6: null);
        GatherBatch batch = BatchOf(Packet(A6, B6), Packet(A4, B4));

        a.Send(batch);

        Assert.Equal([TransmitResult.Unreachable, TransmitResult.Sent], Results(batch));
    }

    [SkippableTheory]
    [InlineData(A4, B4)]
    [InlineData(A6, B6)]
    public void BatchesBeyondOneSystemCallKeepTheirOrder(string source, string destination)
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay a = lab.Open(lab.A);
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(a, b, Packet(source, destination));
        byte[][] packets = [.. Enumerable.Range(0, 150).Select(i => Packet(source, destination, seed: (byte)i))];

        a.Send(BatchOf(packets));

        var all = new PacketBatch(200);
        Assert.True(NetnsThread.Eventually(() => b.ReceiveNow(all) > 0));
        Assert.Equal(packets, Enumerable.Range(0, all.Count).Select(i => all.Bytes(i).ToArray()));
    }

    [SkippableTheory]
    [InlineData(A4, B4)]
    [InlineData(A6, B6)]
    public void ThePacketsMayBe64KiB(string source, string destination)
    {
        using RawGreLab lab = Direct();
        lab.A.Ip("link set eth0 mtu 65535");
        lab.B.Ip("link set eth0 mtu 65535");
        WorkerUnderlay a = lab.Open(lab.A);
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(a, b, Packet(source, destination));
        byte[] packet = Packet(source, destination, length: 65_535);
        GatherBatch batch = BatchOf(packet, packet);

        a.Send(batch);

        Assert.Equal([TransmitResult.Sent, TransmitResult.Sent], Results(batch));
        Assert.All(ReceiveAll(b, 2), received => Assert.Equal(packet, received));
    }

    [SkippableFact]
    public void FragmentsArriveReassembled()
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay a = lab.Open(lab.A);
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(a, b, Packet(A4, B4));
        byte[] whole = Packet(A4, B4, length: 2020, dontFragment: false);

        a.Send(BatchOf(Fragment(whole, 0, 1000, more: true), Fragment(whole, 1000, 1000, more: false)));

        byte[] received = Assert.Single(ReceiveAll(b, 1));
        Assert.Equal(whole[Ipv4Header.Length..], received[Ipv4Header.Length..]);
    }

    [SkippableTheory]
    [InlineData(A4, B4, true)]
    [InlineData(A4, B4, false)]
    [InlineData(A6, B6, true)]
    [InlineData(A6, B6, false)]
    public void TheKernelLearnsThePathMtuAndALongerPacketLeavesAllTheSame(string source, string destination, bool bound)
    {
        using RawGreLab lab = Routed();
        string far = destination == B4 ? "10.77.2.2" : "fd77:2::2";
        WorkerUnderlay a = bound ? lab.Open(lab.A, A4, A6) : lab.Open(lab.A);
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(a, b, Packet(source, far));
        GatherBatch batch = BatchOf(Packet(source, far, length: 1401), Packet(source, far, length: 1400));

        // The router's answer teaches the kernel, which keeps nothing back: who sends may be finding out whether it still holds.
        Assert.True(NetnsThread.Eventually(() =>
        {
            a.Send(batch);
            return lab.A.Ip($"route get {far}").Contains("mtu 1400", StringComparison.Ordinal);
        }));

        a.Send(batch);
        Assert.Equal([TransmitResult.Sent, TransmitResult.Sent], Results(batch));
    }

    [SkippableFact]
    public void WithoutDontFragmentTheRouterFragments()
    {
        using RawGreLab lab = Routed();
        WorkerUnderlay a = lab.Open(lab.A);
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(a, b, Packet(A4, "10.77.2.2"));
        byte[] packet = Packet(A4, "10.77.2.2", length: 1500, dontFragment: false);

        a.Send(BatchOf(packet));

        byte[] received = Assert.Single(ReceiveAll(b, 1));
        Assert.Equal(packet[Ipv4Header.Length..], received[Ipv4Header.Length..]);
        Assert.NotEqual(0, BinaryPrimitives.ReadUInt16BigEndian(received.AsSpan(4)));
    }

    [SkippableTheory]
    [InlineData(A4, B4)]
    [InlineData(A6, B6)]
    public void AFullSendBufferHoldsTheWorkerUpNoLongerThanItSays(string source, string destination)
    {
        using RawGreLab lab = Direct();
        lab.A.Exec("tc qdisc add dev eth0 root tbf rate 64kbit burst 10kb limit 100mb");
        WorkerUnderlay a = lab.Open(lab.A);
        GatherBatch batch = BatchOf([.. Enumerable.Repeat(Packet(source, destination, length: 1400), 64)]);
        TimeSpan longest = TimeSpan.Zero;

        Assert.True(NetnsThread.Eventually(() =>
        {
            var time = Stopwatch.StartNew();
            a.Send(batch);
            longest = time.Elapsed;
            return Results(batch).Contains(TransmitResult.QueueFull);
        }));

        Assert.True(longest > TimeSpan.FromMilliseconds(9), $"did not wait for room: {longest}");
        Assert.True(longest < TimeSpan.FromMilliseconds(200), $"waited too long: {longest}");
        Assert.Equal(Results(batch), Results(batch).Order());
    }

    [SkippableTheory]
    [InlineData(A4, B4, "Icmp/OutDestUnreachs")]
    [InlineData(A6, B6, "Icmp6OutParmProblems")]
    public void AFullReceiveQueueIsCountedAndProvokesNoIcmpError(string source, string destination, string counter)
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay a = lab.Open(lab.A);
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(a, b, Packet(source, destination));
        Assert.Equal(0, b.ReceiveQueueDrops);
        GatherBatch batch = BatchOf([.. Enumerable.Repeat(Packet(source, destination, length: 1500), 64)]);

        Assert.True(NetnsThread.Eventually(() =>
        {
            a.Send(batch);
            return b.ReceiveQueueDrops > 500;
        }));

        Assert.Equal(0, Counter(lab.B, counter));
        Assert.Equal(0, a.ReceiveQueueDrops);
    }

    [SkippableFact]
    public void WithoutAnUnderlayTheKernelAnswersWithAnIcmpError()
    {
        // What the guard prevents must be there to be prevented, else the test above shows nothing.
        using RawGreLab lab = Direct();
        WorkerUnderlay a = lab.Open(lab.A);
        GatherBatch batch = BatchOf(Packet(A4, B4), Packet(A6, B6));

        Assert.True(NetnsThread.Eventually(() =>
        {
            a.Send(batch);
            return Counter(lab.B, "Icmp/OutDestUnreachs") > 0 && Counter(lab.B, "Icmp6OutParmProblems") > 0;
        }));
    }

    [SkippableFact]
    public void TheFamiliesTakeTurns()
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay a = lab.Open(lab.A);
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(a, b, Packet(A4, B4), Packet(A6, B6));
        a.Send(BatchOf([.. Enumerable.Repeat(Packet(A4, B4), 8), .. Enumerable.Repeat(Packet(A6, B6), 8)]));
        var whole = new PacketBatch(64);
        var small = new PacketBatch(4);

        // A batch that the one family could fill four times over.
        var versions = new List<int>();
        Assert.True(NetnsThread.Eventually(() =>
        {
            b.ReceiveNow(small);
            versions.AddRange(Enumerable.Range(0, small.Count).Select(i => small.Bytes(i)[0] >> 4));
            return versions.Count == 16;
        }));

        Assert.Equal(0, b.ReceiveNow(whole));
        int[] firstOfEach = [.. versions.Chunk(4).Select(chunk => chunk[0])];
        Assert.All(versions.Chunk(4), chunk => Assert.Single(chunk.Distinct()));
        Assert.True(firstOfEach is [4, 6, 4, 6] or [6, 4, 6, 4], string.Join(' ', firstOfEach));
    }

    [SkippableFact]
    public void EachUnderlayOfAHostReceivesAtItsOwnAddress()
    {
        using RawGreLab lab = Direct();
        lab.B.Ip("addr add 10.77.1.3/24 dev eth0");
        lab.B.Ip("addr add fd77:1::3/64 dev eth0 nodad");
        WorkerUnderlay a = lab.Open(lab.A);
        WorkerUnderlay first = lab.Open(lab.B, B4, B6);
        WorkerUnderlay second = lab.Open(lab.B, "10.77.1.3", "fd77:1::3");
        WarmUp(a, first, Packet(A4, B4), Packet(A6, B6));
        WarmUp(a, second, Packet(A4, "10.77.1.3"), Packet(A6, "fd77:1::3"));

        a.Send(BatchOf(Packet(A4, B4), Packet(A4, "10.77.1.3"), Packet(A6, "fd77:1::3"), Packet(A6, B6)));

        Assert.Equal([Address(B4), Address(B6)], ReceiveAll(first, 2).Select(DestinationOf).Order());
        Assert.Equal([Address("10.77.1.3"), Address("fd77:1::3")], ReceiveAll(second, 2).Select(DestinationOf).Order());
    }

    [SkippableFact]
    public void SendAndReceiveDoNotAllocate()
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay a = lab.Open(lab.A);
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(a, b, Packet(A4, B4), Packet(A6, B6));
        GatherBatch sends = BatchOf(Packet(A4, B4), Packet(A6, B6), Packet(A4, B4, 1501), Packet(A6, B6));
        var batch = new PacketBatch(64);
        int received = 0;

        long allocated = Allocations.InSteadyState(() =>
        {
            for (int i = 0; i < 100; i++)
            {
                a.Send(sends);
                received += b.ReceiveNow(batch);
            }
        });

        Assert.Equal(0, allocated);
        Assert.True(received > 100, $"only {received} packets were received");
    }

    [SkippableTheory]
    [InlineData("10.77.9.9", null)]
    [InlineData(null, "fd77:9::9")]
    public void AnAddressOfAnotherHostIsRefusedWithTheCure(string? ipv4, string? ipv6)
    {
        using RawGreLab lab = Direct();

        DeviceOpenException refused = Assert.Throws<DeviceOpenException>(() => lab.Open(lab.A, ipv4, ipv6));

        Assert.Equal($"this host has no address {ipv4 ?? ipv6}", refused.Message);
        Assert.Contains("ip -br addr", refused.Hint, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void AMissingCapabilityIsNamed()
    {
        using RawGreLab lab = Direct();
        lab.A.DropCapabilities();

        DeviceOpenException refused = Assert.Throws<DeviceOpenException>(() => lab.Open(lab.A));

        Assert.Contains("CAP_NET_RAW", refused.Message, StringComparison.Ordinal);
        Assert.Contains("systemd unit", refused.Hint, StringComparison.Ordinal);
    }

    // Cuts a piece out of an IPv4 packet's payload; the offset in bytes, a multiple of 8.
    private static byte[] Fragment(byte[] whole, int offset, int length, bool more)
    {
        byte[] fragment = [.. whole[..Ipv4Header.Length], .. whole[(Ipv4Header.Length + offset)..(Ipv4Header.Length + offset + length)]];
        BinaryPrimitives.WriteUInt16BigEndian(fragment.AsSpan(4), 4711);
        BinaryPrimitives.WriteUInt16BigEndian(fragment.AsSpan(6), (ushort)((offset / 8) | (more ? 0x2000 : 0)));
        return fragment;
    }
}
