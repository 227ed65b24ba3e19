using Tunnel.Control.Monitoring;
using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Control.Monitoring;

/// <summary>What routers say of our packets, and what becomes of it; the ids before some names are those of docs/conformance.md.</summary>
public sealed class ErrorRelayTests
{
    private const string Yaml = """
        interface: {addresses: [10.0.201.1/24, "fd00:201::1/64"]}
        peers:
          vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24, "fd00:52::/64"], key: 7}
          vm3: {endpoint: 192.168.40.13, subnets: [172.17.53.0/24], encapsulation: gre-udp}
          vm4: {endpoint: "fd00:40::14", subnets: [172.17.54.0/24, "fd00:54::/64"]}
          vm5: {endpoint: 192.168.40.15, subnets: [172.17.55.0/24], encapsulation: gre-udp, on-refused: retry}
        """;

    private static readonly byte[] Inner4 = Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(1600));
    private static readonly byte[] Inner6 = Packets.UdpPacket("fd00:51::2", "fd00:52::2", Packets.Payload(1600));

    private readonly Injected _tun = new();

    // RFC 2003 section 4.1 and 4.2: what each says to the inner sender; -1 for nothing. Then what the peer's problems say.
    [Theory]
    [InlineData(3, 0, 0, "network unreachable")]
    [InlineData(3, 1, 1, "host unreachable")]
    [InlineData(3, 2, 1, "protocol unreachable")]
    [InlineData(3, 3, -1, null)]
    [InlineData(3, 5, -1, null)]
    [InlineData(3, 13, 1, "host unreachable")]
    [InlineData(11, 0, 1, "TTL expired")]
    [InlineData(11, 1, -1, null)]
    [InlineData(5, 1, -1, null)]
    [InlineData(12, 0, -1, null)]
    public async Task I2_I3_I4_Errors_are_relayed_as_what_they_mean_inside(byte type, byte code, int relayed, string? problem)
    {
        await using ControlFixture fixture = await StartAsync();
        Handle(fixture, new UnderlayError(Overlay.Address("203.0.113.1"), IsIpv6: false, type, code, 0, Sent("192.168.40.12", Inner4, key: 7)));

        if (relayed < 0)
        {
            Assert.Empty(_tun.Packets);
        }
        else
        {
            AssertIpv4Error(Assert.Single(_tun.Packets), IcmpMessage.DestinationUnreachable, (byte)relayed, parameter: 0, Inner4);
        }

        string problems = string.Join(' ', fixture.Network.DescribePeer("vm2").Problems);
        Assert.Equal(problem is not null, problems.Contains("203.0.113.1 says: ", StringComparison.Ordinal));
        Assert.Contains(problem ?? "", problems, StringComparison.Ordinal);
    }

    [Fact]
    public async Task I1_Too_big_outside_is_too_big_inside_less_the_overhead()
    {
        await using ControlFixture fixture = await StartAsync();
        Handle(fixture, TooBig(1400, Sent("192.168.40.12", Inner4, key: 7)));
        AssertIpv4Error(_tun.Packets[0], IcmpMessage.DestinationUnreachable, IcmpMessage.FragmentationNeeded, 1400 - 28, Inner4);

        Handle(fixture, TooBig(1400, Sent("192.168.40.12", Inner6, key: 7)));
        AssertIpv6Error(_tun.Packets[1], IcmpMessage.PacketTooBig, 0, 1400 - 28, Inner6);

        // No less than every IPv6 link must carry.
        Handle(fixture, TooBig(1000, Sent("192.168.40.12", Inner6, key: 7)));
        AssertIpv6Error(_tun.Packets[2], IcmpMessage.PacketTooBig, 0, 1280, Inner6);
    }

    [Fact]
    public async Task I1_A_router_that_names_no_MTU_means_the_next_usual_one()
    {
        await using ControlFixture fixture = await StartAsync();
        byte[] inner = Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(1300));
        Handle(fixture, TooBig(0, Sent("192.168.40.12", inner, key: 7)));
        AssertIpv4Error(_tun.Packets[0], IcmpMessage.DestinationUnreachable, IcmpMessage.FragmentationNeeded, 1006 - 28, inner);
    }

    [Fact]
    public async Task I1_What_a_router_says_of_a_peer_that_answers_comes_into_force_and_is_told()
    {
        await using ControlFixture fixture = await StartAsync();
        await ControlFixture.EventuallyAsync(() =>
        {
            Answer(fixture, longest: 1500);
            return fixture.Network.DescribePeer("vm2").PathMtuConfirmed;
        });
        Handle(fixture, TooBig(1400, Sent("192.168.40.12", Inner4, key: 7)));
        await ControlFixture.EventuallyAsync(() =>
        {
            Answer(fixture, longest: 1400);
            return fixture.Log.Lines.Any(line => line.Line.Contains("path MTU to peer vm2: 1500 to 1400 bytes", StringComparison.Ordinal));
        });
        await ControlFixture.EventuallyAsync(() => fixture.Network.DescribePeer("vm2").Gmtu == 1400 - 28);
    }

    [Theory]
    [InlineData(IcmpMessage.PacketTooBig, 0, 1400u, 3, 4, 1400 - 44)]
    [InlineData(IcmpMessage.DestinationUnreachableIpv6, 0, 0u, 3, 0, 0)]
    [InlineData(IcmpMessage.DestinationUnreachableIpv6, 3, 0u, 3, 1, 0)]
    [InlineData(IcmpMessage.TimeExceededIpv6, 0, 0u, 3, 1, 0)]
    [InlineData(IcmpMessage.ParameterProblemIpv6, 1, 0u, 3, 1, 0)]
    [InlineData(IcmpMessage.DestinationUnreachableIpv6, 4, 0u, -1, 0, 0)]
    public async Task Errors_over_IPv6_are_relayed_too(byte type, byte code, uint parameter, int innerType, byte innerCode, int innerParameter)
    {
        await using ControlFixture fixture = await StartAsync();
        byte[] inner = Packets.UdpPacket("172.17.51.2", "172.17.54.2", Packets.Payload(1600));
        byte[] sent = Packets.Outer("fd00:40::11", "fd00:40::14", Packets.GrePacket(inner));
        Handle(fixture, new UnderlayError(Overlay.Address("2001:db8::1"), IsIpv6: true, type, code, parameter, sent));

        if (innerType < 0)
        {
            Assert.Empty(_tun.Packets);
        }
        else
        {
            AssertIpv4Error(Assert.Single(_tun.Packets), (byte)innerType, innerCode, innerParameter, inner);
        }
    }

    // I5: RFC 792's 8 bytes hold the GRE header and its key, and nothing of the inner packet.
    [Fact]
    public async Task I5_Eight_bytes_are_enough_to_find_the_peer()
    {
        await using ControlFixture fixture = await StartAsync();
        byte[] sent = Sent("192.168.40.12", Inner4, key: 7)[..28];
        Handle(fixture, new UnderlayError(Overlay.Address("203.0.113.1"), false, 3, 1, 0, sent));

        Assert.Empty(_tun.Packets);
        Assert.Contains("host unreachable", string.Join(' ', fixture.Network.DescribePeer("vm2").Problems), StringComparison.Ordinal);
    }

    [Fact]
    public async Task What_was_not_ours_is_ignored()
    {
        await using ControlFixture fixture = await StartAsync();
        byte[][] foreign =
        [
            Sent("192.168.40.12", Inner4, key: 8), // another key
            Sent("192.168.40.12", Inner4, key: null),
            Sent("192.168.40.99", Inner4, key: 7), // no peer
            Packets.Outer("192.168.40.99", "192.168.40.12", Packets.GrePacket(Inner4, key: 7)), // not from here
            Packets.UdpPacket("192.168.40.11", "192.168.40.12", Packets.GrePacket(Inner4, key: 7)), // not this encapsulation
            Packets.TcpPacket("192.168.40.11", "192.168.40.12", Packets.Payload(50)),
            [],
            new byte[60],
        ];
        foreach (byte[] quoted in foreign)
        {
            Handle(fixture, TooBig(600, quoted));
            Handle(fixture, new UnderlayError(Overlay.Address("203.0.113.1"), false, 3, 1, 0, quoted));
        }

        Assert.Empty(_tun.Packets);
        Assert.Empty(fixture.Network.DescribePeer("vm2").Problems);
    }

    [Fact]
    public async Task No_error_is_sent_because_of_an_error_nor_of_a_later_fragment_nor_to_many()
    {
        await using ControlFixture fixture = await StartAsync();
        byte[] error = Packets.IcmpPacket("172.17.51.2", "172.17.52.2", 3, 1, new byte[40]);
        byte[] fragment = Packets.Ipv4("172.17.51.2", "172.17.52.2", IpProtocol.Udp, new byte[64], df: false, fragmentOffset: 64);
        byte[] fromNobody = Packets.UdpPacket("0.0.0.0", "172.17.52.2", Packets.Payload(100));
        byte[] fromMany = Packets.UdpPacket("224.0.0.1", "172.17.52.2", Packets.Payload(100));
        foreach (byte[] inner in new[] { error, fragment, fromNobody, fromMany })
        {
            Handle(fixture, TooBig(70, Sent("192.168.40.12", inner, key: 7)));
        }

        Assert.Empty(_tun.Packets);
    }

    // RFC 5927 section 7.2: who forges errors without having seen a packet quotes one that no router would have found too long.
    [Fact]
    public async Task A_packet_that_would_have_fitted_was_not_too_big()
    {
        await using ControlFixture fixture = await StartAsync();
        byte[] sent = Sent("192.168.40.12", Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(1000)), key: 7);
        Handle(fixture, TooBig((uint)sent.Length, sent));
        Assert.Empty(_tun.Packets);

        Handle(fixture, TooBig((uint)sent.Length - 1, sent));
        Assert.Single(_tun.Packets);
    }

    [Fact]
    public async Task Every_cut_of_a_quoted_packet_is_survived()
    {
        await using ControlFixture fixture = await StartAsync();
        byte[] whole = Sent("192.168.40.12", Inner4, key: 7);
        for (int length = 0; length <= whole.Length; length++)
        {
            Handle(fixture, TooBig(1400, whole[..length]));
        }

        // From the inner header and 8 bytes more on.
        Assert.Equal(whole.Length - (20 + 8 + 20 + 8) + 1, _tun.Packets.Count);
    }

    [Fact]
    public async Task Relayed_errors_are_limited()
    {
        await using ControlFixture fixture = await StartAsync();
        ErrorRelay relay = Relay(fixture, new StoppedClock());
        for (int i = 0; i < 1000; i++)
        {
            relay.Handle(TooBig(1400, Sent("192.168.40.12", Inner4, key: 7)));
        }

        Assert.Equal(200, _tun.Packets.Count);
    }

    [Theory]
    [InlineData("vm3", "192.168.40.13", true)]
    [InlineData("vm5", "192.168.40.15", false)]
    public async Task U7_A_closed_port_stops_what_goes_there_until_somebody_decides(string name, string endpoint, bool stops)
    {
        await using ControlFixture fixture = await StartAsync();
        Peer peer = fixture.Routing.Current.Peers.Single(one => one.Settings.Name == name);
        await ControlFixture.EventuallyAsync(() => fixture.HealthOf(name) is not null);
        byte[] datagram = [0xc0, 0x00, 0x12, 0x92, 0, 0, 0, 0, .. Packets.GrePacket(Inner4)];
        byte[] sent = Packets.Ipv4("192.168.40.11", endpoint, IpProtocol.Udp, datagram);

        Handle(fixture, new UnderlayError(Overlay.Address(endpoint), false, 3, 3, 0, sent));

        Assert.Empty(_tun.Packets);
        Assert.Equal(stops, peer.Target.Refuses);
        Assert.Contains("nobody listens at UDP port 4754", string.Join(' ', fixture.Network.DescribePeer(name).Problems), StringComparison.Ordinal);

        // Somebody has looked at it.
        await fixture.ReloadAsync(Yaml);
        await ControlFixture.EventuallyAsync(() => !peer.Target.Refuses);
    }

    // Both ends of a network may start at the same time, and the first to ask finds nobody.
    [Fact]
    public async Task U7_A_question_that_finds_nobody_stops_nothing()
    {
        await using ControlFixture fixture = await StartAsync();
        byte[] datagram = [0xc0, 0x00, 0x12, 0x92, 0, 0, 0, 0, .. Packets.GrePacket(new byte[EchoMessage.Length], protocolType: EtherType.Experimental)];
        Handle(fixture, new UnderlayError(Overlay.Address("192.168.40.13"), false, 3, 3, 0, Packets.Ipv4("192.168.40.11", "192.168.40.13", IpProtocol.Udp, datagram)));

        Assert.False(fixture.Routing.Current.Peers.Single(one => one.Settings.Name == "vm3").Target.Refuses);
        Assert.Contains("nobody listens at UDP port 4754", string.Join(' ', fixture.Network.DescribePeer("vm3").Problems), StringComparison.Ordinal);
    }

    // I8: the kernel's own gre module complains of packets that we have received all the same (docs/interop-kernel.md).
    [Fact]
    public async Task I8_Port_unreachable_for_plain_GRE_means_nothing()
    {
        await using ControlFixture fixture = await StartAsync();
        Handle(fixture, new UnderlayError(Overlay.Address("192.168.40.12"), false, 3, 3, 0, Sent("192.168.40.12", Inner4, key: 7)));

        Assert.Empty(_tun.Packets);
        Assert.Empty(fixture.Network.DescribePeer("vm2").Problems);
        Assert.All(fixture.Routing.Current.Peers, peer => Assert.False(peer.Target.Refuses));
    }

    private static async Task<ControlFixture> StartAsync()
    {
        var host = new FakeHostNetwork
        {
            Paths = to => new HostPath(FakeHostNetwork.Address(to.IsIpv4 ? "192.168.40.11" : "fd00:40::11"), 2, 1500),
        };
        ControlFixture fixture = await ControlFixture.StartAsync(Yaml, host);
        await ControlFixture.EventuallyAsync(() => fixture.HealthOf("vm2") is not null);
        return fixture;
    }

    // The peers' daemons, over a path that carries so much.
    private static void Answer(ControlFixture fixture, int longest)
    {
        while (fixture.Probes.Requests.TryTake(out ProbeRequest question))
        {
            int length = Math.Max(question.Length, EchoMessage.Length);
            if (length + question.Peer.Settings.Overhead <= longest)
            {
                fixture.Probes.Replies[0].TryAdd(new ProbeReply(question.Peer.Target, question.Token, length, RoundTrip: 1));
            }
        }
    }

    private static byte[] Sent(string endpoint, byte[] inner, uint? key) => Packets.Outer("192.168.40.11", endpoint, Packets.GrePacket(inner, key: key));

    private static UnderlayError TooBig(uint mtu, byte[] quoted) =>
        new(Overlay.Address("203.0.113.1"), IsIpv6: false, IcmpMessage.DestinationUnreachable, IcmpMessage.FragmentationNeeded, mtu, quoted);

    private static void AssertIpv4Error(byte[] bytes, byte type, byte code, int parameter, byte[] inner)
    {
        Assert.True(Ipv4View.TryParse(bytes, out Ipv4View packet));
        Assert.True(packet.IsChecksumValid);
        Assert.Equal((InetAddress.Read(inner.AsSpan(16, 4)), "172.17.51.2"), (packet.Source, packet.Destination.ToString()));
        Assert.Equal(0, Rfc1071.Checksum(packet.Payload.ToArray()));
        Assert.True(IcmpView.TryParse(packet.Payload, out IcmpView icmp));
        Assert.Equal((type, code, (uint)parameter), (icmp.Type, icmp.Code, icmp.RestOfHeader));
        Assert.Equal(inner[..icmp.Body.Length], icmp.Body.ToArray());
    }

    private static void AssertIpv6Error(byte[] bytes, byte type, byte code, int parameter, byte[] inner)
    {
        Assert.True(Ipv6View.TryParse(bytes, out Ipv6View packet));
        Assert.Equal(("fd00:201::1", "fd00:51::2"), (packet.Source.ToString(), packet.Destination.ToString()));
        Assert.True(IcmpView.TryParse(packet.Payload, out IcmpView icmp));
        Assert.Equal((type, code, (uint)parameter), (icmp.Type, icmp.Code, icmp.RestOfHeader));
        Assert.Equal(inner[..icmp.Body.Length], icmp.Body.ToArray());
    }

    private void Handle(ControlFixture fixture, UnderlayError error) => Relay(fixture, TimeProvider.System).Handle(error);

    private ErrorRelay Relay(ControlFixture fixture, TimeProvider time) =>
        new(new NoErrors(), fixture.Routing, fixture.Network.Monitor, _tun, time, fixture.Log);

    private sealed class Injected : ITunInjector
    {
        public List<byte[]> Packets { get; } = [];

        public bool Inject(ReadOnlySpan<byte> packet)
        {
            Packets.Add(packet.ToArray());
            return true;
        }
    }

    private sealed class NoErrors : IUnderlayErrors
    {
        public ValueTask<UnderlayError> ReadAsync(CancellationToken cancellationToken) => throw new NotSupportedException();

        public void Dispose()
        {
        }
    }

    private sealed class StoppedClock : TimeProvider
    {
        public override DateTimeOffset GetUtcNow() => DateTimeOffset.UnixEpoch;
    }
}
