using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

/// <summary>Questions and answers between two hosts in memory.</summary>
public sealed class PeerMessagesTests
{
    private readonly MemoryHost _one = new();
    private readonly MemoryHost _two = new();

    public static TheoryData<string, string, bool, bool, ushort> Ways => new()
    {
        { "192.168.40.11", "192.168.40.12", false, false, 0 },
        { "192.168.40.11", "192.168.40.12", true, true, 0 },
        { "fd00:40::11", "fd00:40::12", false, false, 0 },
        { "192.168.40.11", "192.168.40.12", true, false, 4754 },
        { "fd00:40::11", "fd00:40::12", false, true, 4754 },
    };

    [Theory]
    [MemberData(nameof(Ways))]
    public void A_question_is_answered_with_what_it_said_and_how_long_it_was(string here, string there, bool checksum, bool sequence, ushort port)
    {
        Peer peer = Join(here, there, checksum, sequence, port);
        foreach (int length in new[] { EchoMessage.Length, 1000, 1400 })
        {
            ProbeReply reply = Assert.Single(Ask(new ProbeRequest(peer, ProbeKind.Echo, 42, length)));

            Assert.Equal((peer.Target, 42UL, length), (reply.Target, reply.Token, reply.Length));
            Assert.True(reply.RoundTrip >= 0);
            Assert.Equal(length + peer.Overhead, _one.Underlay.Sent[^1].Bytes.Length);
            Assert.Equal(EchoMessage.Length + peer.Overhead, _two.Underlay.Sent[^1].Bytes.Length);
        }

        Assert.Empty(_one.Drops());
        Assert.Empty(_two.Drops());
        Assert.Empty(_two.Tun.Written);
        Assert.Equal(3, peer.Counters[0].ReceivedMessages);
        Assert.True(peer.Target.Abilities.IsHeard);
        Assert.Equal((0, 0), (peer.Counters[0].SentPackets, peer.Counters[0].ReceivedPackets));
    }

    [Theory]
    [InlineData(null, null)]
    [InlineData(1u, 2u)]
    public void A_routers_keepalive_comes_back(uint? keyIn, uint? keyOut)
    {
        Peer peer = Join("192.168.40.11", "192.168.40.12", keyIn: keyIn, keyOut: keyOut);

        ProbeReply reply = Assert.Single(Ask(new ProbeRequest(peer, ProbeKind.ReturnPacket, 42, 0)));

        Assert.Equal(42UL, reply.Token);
        Assert.Empty(_two.Drops());
        Assert.Empty(_two.Tun.Written);
    }

    // What is sent back is what was inside, byte for byte, whoever made it.
    [Fact]
    public void A_keepalive_of_another_make_is_returned_as_it_was()
    {
        Peer peer = Overlay.Peer();
        _one.With([(peer, ["172.17.52.0/24"])]);
        byte[] gre = new byte[4];
        byte[] back = Packets.Ipv4("192.168.40.11", "192.168.40.12", IpProtocol.Gre, gre);
        _one.Receive(Packets.Outer("192.168.40.12", "192.168.40.11", Packets.GrePacket(back)));

        Assert.Equal(back, Assert.Single(_one.Underlay.Sent).Bytes);
        Assert.Empty(_one.Drops());
    }

    // Anything else would make this host send what others want, to where they want.
    [Theory]
    [InlineData("192.168.40.11", "192.168.40.13", 0x0000)] // to somebody else
    [InlineData("192.168.40.99", "192.168.40.12", 0x0000)] // from somebody else
    [InlineData("192.168.40.11", "192.168.40.12", 0x0800)] // not a keepalive
    public void Nothing_else_is_sent_back(string source, string destination, ushort protocolType)
    {
        _one.With([(Overlay.Peer(), ["172.17.52.0/24"])]);
        byte[] gre = [0, 0, (byte)(protocolType >> 8), (byte)protocolType, .. new byte[30]];
        _one.Receive(Packets.Outer("192.168.40.12", "192.168.40.11", Packets.GrePacket(Packets.Ipv4(source, destination, IpProtocol.Gre, gre))));

        Assert.Empty(_one.Underlay.Sent);
        Assert.NotEmpty(_one.Drops());
    }

    [Fact]
    public void A_flood_of_questions_is_answered_in_part()
    {
        Peer peer = Join("192.168.40.11", "192.168.40.12");
        for (int i = 0; i < 1000; i++)
        {
            _one.Probes.Requests.TryAdd(new ProbeRequest(peer, ProbeKind.Echo, (ulong)i, EchoMessage.Length));
        }

        _one.RunOutbound();
        _two.RunInbound();
        Assert.InRange(_two.Underlay.Sent.Count, 256, 999);
    }

    [Fact]
    [Provokes(DropReason.EndpointRefuses)]
    public void Where_nobody_listens_nothing_is_sent()
    {
        Peer peer = Join("192.168.40.11", "192.168.40.12", port: 4754);
        peer.Target.Refuses = true;
        _one.Send(Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(10)));

        Assert.Empty(Ask(new ProbeRequest(peer, ProbeKind.Echo, 1, EchoMessage.Length)));
        Assert.Empty(_one.Underlay.Sent);
        Assert.Equal(1, peer.Counters[0].Drops(DropReason.EndpointRefuses));
    }

    [Fact]
    public void Large_packets_are_noted_and_small_ones_not()
    {
        Peer peer = Join("192.168.40.11", "192.168.40.12");
        _one.Send(Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(100)));
        Assert.False(peer.Target.TakeLarge());

        _one.Send(Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(1000)));
        Assert.True(peer.Target.TakeLarge());
        Assert.False(peer.Target.TakeLarge());
    }

    [Fact]
    public void A_stranger_is_reported_once_in_a_while()
    {
        Join("192.168.40.11", "192.168.40.12");
        for (int i = 0; i < 10; i++)
        {
            _one.Receive(Packets.Outer("192.168.40.77", "192.168.40.11", Packets.GrePacket(Packets.UdpPacket("172.17.52.2", "172.17.51.2", []))));
        }

        Assert.True(_one.Probes.Unknown[0].TryTake(out Stranger stranger));
        Assert.Equal(new Stranger(Overlay.Address("192.168.40.77"), false, 0, Overlay.Address("172.17.52.2")), stranger);
        Assert.False(_one.Probes.Unknown[0].TryTake(out _));
    }

    [Fact]
    public void What_was_dropped_for_its_key_or_its_source_is_reported_too()
    {
        Peer peer = Join("192.168.40.11", "192.168.40.12");
        byte[] stray = Packets.GrePacket(Packets.UdpPacket("172.17.99.9", "172.17.51.2", []));
        _one.Receive(Packets.Outer("192.168.40.12", "192.168.40.11", stray));
        Assert.True(_one.Probes.Unknown[0].TryTake(out Stranger stranger));
        Assert.Equal(new Stranger(Overlay.Address("192.168.40.12"), false, 0, Overlay.Address("172.17.99.9"), DropReason.SourceNotInPeerSubnets), stranger);

        long now = Environment.TickCount64;
        Assert.False(peer.Target.HasWrongKey(now));
        byte[] other = Packets.GrePacket(Packets.UdpPacket("172.17.52.2", "172.17.51.2", []), key: 9);
        _one.Receive(Packets.Outer("192.168.40.12", "192.168.40.11", other));
        Assert.True(_one.Probes.Unknown[0].TryTake(out stranger));
        Assert.Equal(new Stranger(Overlay.Address("192.168.40.12"), true, 9, Overlay.Address("172.17.52.2"), DropReason.KeyMismatch), stranger);
        Assert.True(peer.Target.HasWrongKey(Environment.TickCount64));
        Assert.False(peer.Target.HasWrongKey(Environment.TickCount64 + 90_000));
    }

    [Fact]
    public void A_question_tells_the_other_end_what_it_hears()
    {
        Peer peer = Join("192.168.40.11", "192.168.40.12");
        Peer other = _two.Routing.Current.Peers[0];
        Assert.False(other.Target.TryGetHearing(out _, out _));

        Ask(new ProbeRequest(peer, ProbeKind.Echo, 1, EchoMessage.Length));
        Assert.True(other.Target.TryGetHearing(out Hearing hearing, out _));
        Assert.Equal(new Hearing(Hearing.Never, false), hearing);

        // The answer was heard.
        peer.Target.NoteWrongKey(Environment.TickCount64);
        Ask(new ProbeRequest(peer, ProbeKind.Echo, 2, EchoMessage.Length));
        Assert.True(other.Target.TryGetHearing(out hearing, out long at));
        Assert.True(hearing is { Seconds: < 60, HasWrongKey: true });
        Assert.InRange(Environment.TickCount64 - at, 0, 60_000);
    }

    [Fact]
    public void Whoever_shares_the_subnet_may_send_from_it_but_not_from_a_longer_prefix_of_another()
    {
        Peer first = Overlay.Peer("first", endpoint: "192.168.40.12");
        Peer second = Overlay.Peer("second", endpoint: "192.168.40.13");
        var senders = new RouteTable<Peer[]>(
        [
            KeyValuePair.Create(Overlay.Prefix("172.17.0.0/16"), new[] { first, second }),
            KeyValuePair.Create(Overlay.Prefix("172.17.52.0/24"), new[] { first }),
        ]);
        var routes = new RouteTable<Peer>(
            [KeyValuePair.Create(Overlay.Prefix("172.17.0.0/16"), first), KeyValuePair.Create(Overlay.Prefix("172.17.52.0/24"), first)]);
        _one.Routing.Current = new RoutingSnapshot(routes, [first, second], [], senders: senders);

        _one.Receive(Packets.Outer("192.168.40.13", "192.168.40.11", Packets.GrePacket(Packets.UdpPacket("172.17.60.2", "172.17.51.2", []))));
        Assert.Empty(_one.Drops());
        Assert.Single(_one.Tun.Written);

        _one.Receive(Packets.Outer("192.168.40.13", "192.168.40.11", Packets.GrePacket(Packets.UdpPacket("172.17.52.2", "172.17.51.2", []))));
        Assert.Equal(1, second.Counters[0].Drops(DropReason.SourceNotInPeerSubnets));
    }

    private Peer Join(
        string here, string there, bool checksum = false, bool sequence = false, ushort port = 0, uint? keyIn = null, uint? keyOut = null)
    {
        Peer two = Overlay.Peer("two", there, here, keyIn, keyOut, checksum, sequence, udpPort: port);
        Peer one = Overlay.Peer("one", here, there, keyOut, keyIn, checksum, sequence, udpPort: port);
        _one.With([(two, ["172.17.52.0/24"])]);
        _two.With([(one, ["172.17.51.0/24"])]);
        (_one.Underlay.FarEnd, _two.Underlay.FarEnd) = (_two.Underlay, _one.Underlay);
        (_one.Underlay.Address, _two.Underlay.Address) = (Overlay.Address(here), Overlay.Address(there));
        return two;
    }

    private List<ProbeReply> Ask(ProbeRequest request)
    {
        Assert.True(_one.Probes.Requests.TryAdd(request));
        _one.RunOutbound();
        _two.RunInbound();
        _one.RunInbound();
        var replies = new List<ProbeReply>();
        while (_one.Probes.Replies[0].TryTake(out ProbeReply reply))
        {
            replies.Add(reply);
        }

        return replies;
    }
}
