using System.Buffers.Binary;
using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Dataplane;

/// <summary>Segmentation against a plain twin; each checksum is also verified by RFC 1071's loop.</summary>
public sealed class SegmentationTests
{
    private static readonly byte[] Timestamps = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];

    private static readonly FlowPacket Tcp4 = new() { Flags = 0x10, Id = 0xfffe, Sequence = 0xffff_ff00 };
    private static readonly FlowPacket Tcp6 = new() { Source = "fd00:52::2", Destination = "fd00:51::2", FlowLabel = 0xabcde, TrafficClass = 0xb9 };

    public static TheoryData<FlowPacket, int, int> Packets4And6
    {
        get
        {
            var data = new TheoryData<FlowPacket, int, int>();
            FlowPacket[] heads =
            [
                Tcp4,
                Tcp4 with { Options = Timestamps, TrafficClass = 0xb8, DontFragment = false },
                Tcp4 with { IpOptions = [1, 1, 1, 0], Options = [.. Timestamps, .. Timestamps, .. Timestamps, 1, 1, 1, 0] },
                Tcp4 with { Flags = 0xff },
                Tcp6,
                Tcp6 with { Options = Timestamps, Flags = 0xff },
                Tcp4 with { IsUdp = true },
                Tcp4 with { IsUdp = true, IpOptions = [1, 1, 1, 1, 1, 1, 1, 0] },
                Tcp6 with { IsUdp = true },
            ];
            foreach (FlowPacket head in heads)
            {
                foreach ((int payload, int segment) in ((int, int)[])[
                    (2800, 1400), (2801, 1400), (1, 1), (3, 1), (1400, 1400), (1399, 1400), (7777, 111), (100, 65_535), (65_000, 1448), (64_001, 999)])
                {
                    data.Add(head, payload, segment);
                }
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Packets4And6))]
    public void Cuts_as_the_kernel_does(FlowPacket head, int payload, int segmentSize)
    {
        byte[] packet = (head with { Payload = Random(payload), IsPartial = true }).Build();
        Offload offload = OffloadOf(head, segmentSize);
        IReadOnlyList<byte[]> expected = ReferenceSegmenter.Cut(packet, offload);
        List<byte[]> actual = Cut(packet, offload);

        Assert.Equal(expected.Count, actual.Count);
        for (int i = 0; i < expected.Count; i++)
        {
            Assert.Equal(Convert.ToHexString(expected[i]), Convert.ToHexString(actual[i]));
            Assert.Null(ReferenceSegmenter.Fault(actual[i]));
        }
    }

    [Fact]
    public void Numbers_and_flags_of_TCP_segments_are_where_they_belong()
    {
        byte[] packet = (Tcp4 with { Flags = 0xff, Payload = Random(4001), IsPartial = true }).Build();
        List<byte[]> segments = Cut(packet, OffloadOf(Tcp4, 1000));
        Assert.Equal([1040, 1040, 1040, 1040, 41], segments.Select(s => s.Length));
        Assert.Equal([0xfffe, 0xffff, 0, 1, 2], segments.Select(s => (int)BinaryPrimitives.ReadUInt16BigEndian(s.AsSpan(4))));
        Assert.Equal(
            [0xffff_ff00u, 0x2e8u, 0x6d0u, 0xab8u, 0xea0u], segments.Select(s => BinaryPrimitives.ReadUInt32BigEndian(s.AsSpan(24))));

        // CWR only on the first, FIN and PSH only on the last; the others everywhere.
        Assert.Equal([0xf6, 0x76, 0x76, 0x76, 0x7f], segments.Select(s => (int)s[33]));
    }

    [Fact]
    public void Lengths_of_UDP_datagrams_are_their_own()
    {
        byte[] packet = (Tcp6 with { IsUdp = true, Payload = Random(2501), IsPartial = true }).Build();
        List<byte[]> segments = Cut(packet, OffloadOf(Tcp6 with { IsUdp = true }, 1000));
        Assert.Equal([1008, 1008, 509], segments.Select(s => (int)BinaryPrimitives.ReadUInt16BigEndian(s.AsSpan(4))));
        Assert.Equal([1008, 1008, 509], segments.Select(s => (int)BinaryPrimitives.ReadUInt16BigEndian(s.AsSpan(44))));
    }

    // 0 would say that there is no checksum (RFC 768).
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_UDP_checksum_is_never_0(bool isIpv6)
    {
        FlowPacket head = (isIpv6 ? Tcp6 : Tcp4) with { IsUdp = true };
        byte[] plain = (head with { Payload = [0, 0] }).Build();
        ushort checksum = BinaryPrimitives.ReadUInt16BigEndian(plain.AsSpan(head.TransportStart + 6));

        // A payload that is the checksum itself makes the sum all ones.
        byte[] word = [(byte)(checksum >> 8), (byte)checksum];
        byte[] packet = (head with { Payload = [.. word, .. word, .. word], IsPartial = true }).Build();
        foreach (byte[] segment in Cut(packet, OffloadOf(head, 2)))
        {
            Assert.Equal(0xffff, BinaryPrimitives.ReadUInt16BigEndian(segment.AsSpan(head.TransportStart + 6)));
        }
    }

    [Theory]
    [InlineData(100, 1400, 140)]
    [InlineData(1400, 1400, 1440)]
    [InlineData(1401, 1400, 1440)]
    public void Knows_the_longest_segment(int payload, int segmentSize, int longest)
    {
        byte[] packet = (Tcp4 with { Payload = Random(payload), IsPartial = true }).Build();
        Assert.True(Segmentation.TryBegin(packet, OffloadOf(Tcp4, segmentSize), out Segmentation segmentation));
        Assert.Equal(longest, segmentation.LongestSegment);
    }

    [Fact]
    public void A_hint_is_not_trusted()
    {
        byte[] packet = (Tcp4 with { Payload = Random(3000), IsPartial = true }).Build();
        Offload offload = OffloadOf(Tcp4, 1000);
        Assert.Equal(Cut(packet, offload), Cut(packet, offload with { HeaderLength = 65_535 }));
        Assert.Equal(Cut(packet, offload), Cut(packet, offload with { HeaderLength = 1 }));
    }

    public static TheoryData<string, FlowPacket, Offload> Malformed => new()
    {
        { "no segment size", Tcp4, OffloadOf(Tcp4, 0) },
        { "IPv4 as IPv6", Tcp4, OffloadOf(Tcp4, 100) with { Gso = GsoType.TcpV6 } },
        { "IPv6 as IPv4", Tcp6, OffloadOf(Tcp6, 100) with { Gso = GsoType.TcpV4 } },
        { "start before the transport header", Tcp4, OffloadOf(Tcp4, 100) with { ChecksumStart = 16 } },
        { "start of 0", Tcp4, OffloadOf(Tcp4, 100) with { ChecksumStart = 0 } },
        { "start behind the transport header's beginning", Tcp4, OffloadOf(Tcp4, 100) with { ChecksumStart = 24 } },
        { "start in the IPv6 header", Tcp6, OffloadOf(Tcp6, 100) with { ChecksumStart = 39 } },
        { "start at the end", Tcp6, OffloadOf(Tcp6, 100) with { ChecksumStart = 260 } },
        { "start behind the end", Tcp6, OffloadOf(Tcp6, 100) with { ChecksumStart = 65_535 } },
        { "no room for a TCP header", Tcp6, OffloadOf(Tcp6, 100) with { ChecksumStart = 240 } },
        { "no room for a UDP header", Tcp6 with { IsUdp = true }, OffloadOf(Tcp6 with { IsUdp = true }, 100) with { ChecksumStart = 240 } },
        { "headers longer than any", Tcp6 with { Payload = new byte[400] }, OffloadOf(Tcp6 with { IsUdp = true }, 100) with { ChecksumStart = 160 } },
        { "odd start", Tcp6 with { IsUdp = true }, OffloadOf(Tcp6 with { IsUdp = true }, 100) with { ChecksumStart = 41 } },
        { "start inside an extension header", Tcp6 with { IsUdp = true }, OffloadOf(Tcp6 with { IsUdp = true }, 100) with { ChecksumStart = 44 } },
        { "no payload of TCP", Tcp4 with { Payload = [] }, OffloadOf(Tcp4, 100) },
        { "no payload of UDP", Tcp4 with { IsUdp = true, Payload = [] }, OffloadOf(Tcp4 with { IsUdp = true }, 100) },
    };

    [Theory]
    [MemberData(nameof(Malformed))]
    public void What_can_not_be_cut_is_refused(string what, FlowPacket head, Offload offload)
    {
        byte[] packet = (head with { Payload = head.Payload.Length == 0 && !what.StartsWith("no payload", StringComparison.Ordinal) ? new byte[200] : head.Payload }).Build();
        Assert.False(Segmentation.TryBegin(packet, offload, out _), what);
    }

    [Theory]
    [InlineData(0x00)]
    [InlineData(0x40)]
    [InlineData(0xf0)]
    public void A_TCP_header_length_that_is_wrong_is_refused(byte dataOffset)
    {
        byte[] packet = (Tcp4 with { Payload = new byte[40] }).Build();
        packet[32] = dataOffset;
        Assert.False(Segmentation.TryBegin(packet, OffloadOf(Tcp4, 10), out _));

        // One byte more of payload, and the longest header is inside.
        byte[] longer = (Tcp4 with { Payload = new byte[41] }).Build();
        longer[32] = 0xf0;
        Assert.True(Segmentation.TryBegin(longer, OffloadOf(Tcp4, 10), out Segmentation segmentation));
        Assert.Equal((80, 1), (segmentation.HeaderLength, segmentation.Count));
    }

    internal static Offload OffloadOf(FlowPacket head, int segmentSize) => new(
        head.IsUdp ? GsoType.UdpL4 : head.IsIpv4 ? GsoType.TcpV4 : GsoType.TcpV6,
        (ushort)segmentSize,
        (ushort)head.HeaderLength,
        NeedsChecksum: true,
        (ushort)head.TransportStart,
        (ushort)(head.IsUdp ? 6 : 16));

    private static List<byte[]> Cut(byte[] packet, Offload offload)
    {
        Assert.True(Segmentation.TryBegin(packet, offload, out Segmentation segmentation));
        var segments = new List<byte[]>();
        for (int i = 0; i < segmentation.Count; i++)
        {
            var headers = new byte[segmentation.HeaderLength];
            headers.AsSpan().Fill(0xa5);
            (int offset, int length) = segmentation.WriteHeaders(i, headers, out ushort payloadSum);
            Assert.Equal(Rfc1071.Sum(packet.AsSpan(offset, length)), payloadSum);
            segments.Add([.. headers, .. packet.AsSpan(offset, length)]);
        }

        return segments;
    }

    private static byte[] Random(int length)
    {
        var bytes = new byte[length];
        new Random(length).NextBytes(bytes);
        return bytes;
    }
}
