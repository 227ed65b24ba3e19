using System.Buffers.Binary;
using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Dataplane;

/// <summary>F6: the segment size of TCP is clamped in SYN and SYN-ACK, both directions, without a firewall rule.</summary>
public sealed class MssClampTests
{
    private const byte Syn = FlowPacket.Syn;
    private const byte SynAck = FlowPacket.Syn | FlowPacket.Ack;

    private static readonly byte[] Options = [2, 4, 0x23, 0x28, 4, 2, 1, 1];

    private readonly MemoryHost _host = new();

    [Theory]
    [InlineData(Syn, true, 1476, 1436)]
    [InlineData(SynAck, true, 1476, 1436)]
    [InlineData(Syn, false, 1476, 1416)]
    [InlineData(SynAck, false, 1476, 1416)]

    // Below 1280 as well, so that no segment needs outer fragments.
    [InlineData(Syn, true, 876, 836)]
    [InlineData(Syn, false, 876, 816)]
    [InlineData(Syn, true, 60, 28)]
    [InlineData(Syn, true, 9040, 9000)]
    [InlineData(Syn, true, 9041, 9000)]
    [InlineData(Syn, true, 70_000, 9000)]
    public void Both_directions_are_clamped(byte flags, bool isIpv4, int gmtu, int expected)
    {
        Serve(gmtu);
        byte[] expectedOut = Packet(isIpv4, flags, isOutbound: true, expected).Build();
        _host.Send(Packet(isIpv4, flags, isOutbound: true, 9000).Build());
        Assert.Equal(Convert.ToHexString(expectedOut), Convert.ToHexString(_host.Underlay.Sent.Single().Bytes.AsSpan(24)));

        byte[] expectedIn = Packet(isIpv4, flags, isOutbound: false, expected).Build();
        _host.Receive(Outer(Packet(isIpv4, flags, isOutbound: false, 9000).Build()));
        Assert.Equal(Convert.ToHexString(expectedIn), Convert.ToHexString(_host.Tun.Written.Single().Bytes));
        Assert.Empty(_host.Drops());
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void An_unfinished_checksum_is_finished_right(bool isIpv4)
    {
        Serve(1476);
        FlowPacket syn = Packet(isIpv4, Syn, isOutbound: true, 9000);
        _host.Send((syn with { IsPartial = true }).Build(), PartialOf(syn));
        byte[] sent = _host.Underlay.Sent.Single().Bytes[24..];
        Assert.Equal(Packet(isIpv4, Syn, isOutbound: true, isIpv4 ? 1436 : 1416).Build(), sent);

        // From a raw socket and from a packet socket: it stays unfinished, for the TUN device to finish.
        FlowPacket answer = Packet(isIpv4, SynAck, isOutbound: false, 9000) with { IsPartial = true };
        byte[] expected = (Packet(isIpv4, SynAck, isOutbound: false, isIpv4 ? 1436 : 1416) with { IsPartial = true }).Build();
        _host.Receive(Outer(answer.Build()));
        Offload beside = PartialOf(answer) with { ChecksumStart = (ushort)(answer.TransportStart + 24) };
        _host.Receive(new ReceivedPacket(Outer(answer.Build())) { Reception = Reception.PacketSocket, Offload = beside });
        Assert.Equal(2, _host.Tun.Written.Count);
        Assert.All(_host.Tun.Written, written => Assert.True(written.Offload.NeedsChecksum));
        Assert.All(_host.Tun.Written, written => Assert.Equal(expected, written.Bytes));
    }

    public static TheoryData<string, FlowPacket> Untouched
    {
        get
        {
            FlowPacket syn4 = Packet(isIpv4: true, Syn, isOutbound: true, 9000);
            FlowPacket syn6 = Packet(isIpv4: false, Syn, isOutbound: true, 9000);
            return new TheoryData<string, FlowPacket>
            {
                { "no SYN", syn4 with { Flags = FlowPacket.Ack } },
                { "no SYN", syn6 with { Flags = FlowPacket.Ack | FlowPacket.Psh } },
                { "no option", syn4 with { Options = [] } },
                { "small already", Packet(isIpv4: true, Syn, isOutbound: true, 536) },
                { "just fits", Packet(isIpv4: false, Syn, isOutbound: true, 1416) },
                { "malformed", syn4 with { Options = [4, 1, 2, 4, 0x23, 0x28, 1, 1] } },
                { "UDP", syn4 with { IsUdp = true, Payload = new byte[40] } },
                { "a later fragment", syn4 with { DontFragment = false, FragmentOffset = 8 } },
            };
        }
    }

    [Theory]
    [MemberData(nameof(Untouched))]
    public void Other_packets_stay_as_they_are(string what, FlowPacket packet)
    {
        Serve(1476);
        byte[] bytes = packet.Build();
        _host.Send(bytes);
        Assert.True(bytes.AsSpan().SequenceEqual(_host.Underlay.Sent.Single().Bytes.AsSpan(24)), what);

        FlowPacket back = packet with { Source = packet.Destination, Destination = packet.Source };
        _host.Receive(Outer(back.Build()));
        Assert.True(back.Build().AsSpan().SequenceEqual(_host.Tun.Written.Single().Bytes), what);
    }

    [Fact]
    public void The_first_fragment_and_a_packet_with_IP_options_are_clamped()
    {
        Serve(1476);
        FlowPacket packet = Packet(isIpv4: true, Syn, isOutbound: true, 9000) with
        {
            DontFragment = false,
            MoreFragments = true,
            IpOptions = [1, 1, 1, 0],
            Payload = new byte[64],
        };
        _host.Send(packet.Build());
        byte[] sent = _host.Underlay.Sent.Single().Bytes;
        Assert.Equal(1436, BinaryPrimitives.ReadUInt16BigEndian(sent.AsSpan(24 + 24 + 22)));
        Assert.Equal((packet with { Options = [2, 4, 0x05, 0x9c, 4, 2, 1, 1] }).Build(), sent[24..]);
    }

    [Fact]
    public void The_GRE_checksum_covers_the_lowered_value()
    {
        Peer peer = Overlay.Peer(checksum: true);
        _host.With([(peer, ["172.17.52.0/24"])]);
        _host.Send(Packet(isIpv4: true, Syn, isOutbound: true, 9000).Build());
        byte[] expected = Packets.GrePacket(Packet(isIpv4: true, Syn, isOutbound: true, 1436).Build(), checksum: true);
        Assert.Equal(Packets.Outer("192.168.40.11", "192.168.40.12", expected), _host.Underlay.Sent.Single().Bytes);
    }

    private static FlowPacket Packet(bool isIpv4, byte flags, bool isOutbound, int mss)
    {
        (string here, string there) = isIpv4 ? ("172.17.51.2", "172.17.52.2") : ("fd00:51::2", "fd00:52::2");
        byte[] options = [.. Options];
        Packets.Put16(options, 2, mss);
        return new FlowPacket
        {
            Source = isOutbound ? here : there,
            Destination = isOutbound ? there : here,
            Flags = flags,
            Options = options,
        };
    }

    private static Offload PartialOf(FlowPacket packet) =>
        new(GsoType.None, 0, 0, NeedsChecksum: true, (ushort)packet.TransportStart, ChecksumOffset: 16);

    private static byte[] Outer(byte[] inner) => Packets.Outer("192.168.40.12", "192.168.40.11", Packets.GrePacket(inner));

    private void Serve(int gmtu) =>
        _host.With(
            [(Overlay.Peer(gmtu: gmtu), ["172.17.52.0/24", "fd00:52::/64"])],
            ["10.0.201.1", "fd00:201::1"],
            ownAddresses: ["192.168.40.11"]);
}
