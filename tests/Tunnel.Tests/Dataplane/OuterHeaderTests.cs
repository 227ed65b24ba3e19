using System.Buffers.Binary;
using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

/// <summary>
/// What a peer's options make of the outer header's traffic class, TTL and DF, for each encapsulation and both families. For GRE-in-UDP the kernel
/// writes that header; there it is what the underlay is told.
/// </summary>
public sealed class OuterHeaderTests
{
    private static readonly OuterHeaderOptions Default = OuterHeaderOptions.Default;
    private static readonly OuterHeaderOptions Everything =
        new() { Dscp = null, Ecn = EcnMode.Normal, TimeToLive = null, DiscoversPathMtu = false };

    private readonly MemoryHost _host = new(Offloads.TunTcp | Offloads.TunUdp | Offloads.UdpSegment);

    /// <summary>Outer over IPv4 or not, in UDP or not, inner IPv4 or not.</summary>
    public static TheoryData<bool, bool, bool> Ways
    {
        get
        {
            var data = new TheoryData<bool, bool, bool>();
            for (int i = 0; i < 8; i++)
            {
                data.Add((i & 4) != 0, (i & 2) != 0, (i & 1) != 0);
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public void Without_options_nothing_of_the_inner_header_is_copied(bool outer4, bool udp, bool inner4)
    {
        Serve(Default, outer4, udp);
        Assert.Equal((0, 64, true), Send(inner4, trafficClass: 0xff, ttl: 200, df: false));
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public void The_DSCP_is_fixed_or_copied_and_the_ECN_field_never_with_it(bool outer4, bool udp, bool inner4)
    {
        Serve(Default with { Dscp = 46, Ecn = EcnMode.Compatible }, outer4, udp);
        Assert.Equal(46 << 2, Send(inner4, trafficClass: 0x2b).TrafficClass);

        Serve(Default with { Dscp = null, Ecn = EcnMode.Compatible }, outer4, udp);
        Assert.Equal(0x28, Send(inner4, trafficClass: 0x2b).TrafficClass);
        Assert.Equal(0xfc, Send(inner4, trafficClass: 0xff).TrafficClass);
        Assert.Equal(0, Send(inner4, trafficClass: 0x03).TrafficClass);
    }

    // RFC 6040 section 4.1.
    [Theory]
    [MemberData(nameof(Ways))]
    public void In_normal_mode_the_ECN_field_is_copied_and_the_DSCP_never_with_it(bool outer4, bool udp, bool inner4)
    {
        for (byte ecn = 0; ecn < 4; ecn++)
        {
            Serve(Default with { Ecn = EcnMode.Normal }, outer4, udp);
            Assert.Equal(ecn, Send(inner4, (byte)(0xb8 | ecn)).TrafficClass);

            Serve(Default with { Ecn = EcnMode.Normal, Dscp = 10 }, outer4, udp);
            Assert.Equal(40 | ecn, Send(inner4, (byte)(0xb8 | ecn)).TrafficClass);

            Serve(Default with { Ecn = EcnMode.Compatible }, outer4, udp).Target.Abilities.Hear(Abilities.None, now: 0);
            Assert.Equal(0, Send(inner4, (byte)(0xb8 | ecn)).TrafficClass);
        }
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public void The_ECN_mode_of_a_peer_is_compatible_until_it_is_known(bool outer4, bool udp, bool inner4)
    {
        Peer peer = Serve(Default, outer4, udp);
        Assert.Equal(0, Send(inner4, trafficClass: 0xbb).TrafficClass);

        peer.Target.Abilities.Hear(Abilities.None, now: 0);
        Assert.Equal(3, Send(inner4, trafficClass: 0xbb).TrafficClass);

        // Another target is another host, which nothing is known of.
        Serve(Default, outer4, udp);
        Assert.Equal(0, Send(inner4, trafficClass: 0xbb).TrafficClass);
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public void The_TTL_is_fixed_or_inherited(bool outer4, bool udp, bool inner4)
    {
        Serve(Default with { TimeToLive = 255 }, outer4, udp);
        Assert.Equal(255, Send(inner4, ttl: 7).TimeToLive);

        Serve(Default with { TimeToLive = null }, outer4, udp);
        Assert.Equal(7, Send(inner4, ttl: 7).TimeToLive);
        Assert.Equal(1, Send(inner4, ttl: 1).TimeToLive);
        Assert.Equal(255, Send(inner4, ttl: 255).TimeToLive);
    }

    // IPv6 has no DF and nobody on the way fragments: over it, and from it, there is nothing to copy.
    [Theory]
    [MemberData(nameof(Ways))]
    public void F3_F5_the_outer_DF_is_set_or_copied(bool outer4, bool udp, bool inner4)
    {
        Serve(Default, outer4, udp);
        Assert.True(Send(inner4, df: false).DontFragment);

        Serve(Default with { DiscoversPathMtu = false }, outer4, udp);
        Assert.Equal(!outer4 || inner4, Send(inner4, df: true).DontFragment);
        Assert.Equal(!outer4, Send(inner4, df: false).DontFragment);
    }

    [Fact]
    public void The_outer_checksum_is_right_whatever_is_copied()
    {
        foreach (OuterHeaderOptions options in (OuterHeaderOptions[])[Everything, Everything with { Dscp = 63 }, Everything with { TimeToLive = 255 }])
        {
            Serve(options, outer4: true, udp: false);
            var random = new Random(11);
            for (int i = 0; i < 3000; i++)
            {
                _host.Tun.Enqueue(Inner(inner4: i % 3 != 0, (byte)random.Next(256), (byte)random.Next(1, 256), random.Next(2) == 0, random.Next(64)));
            }

            _host.RunOutbound();
        }

        Assert.Equal(9000, _host.Underlay.Sent.Count);
        Assert.All(_host.Underlay.Sent, sent => Assert.True(Ipv4View.TryParse(sent.Bytes, out Ipv4View outer) && outer.IsChecksumValid));
    }

    // RFC 6864 section 4.3: not while another of this source, destination and protocol may be under way.
    [Fact]
    public void Without_DF_no_identification_is_used_twice()
    {
        Peer one = Overlay.Peer("one", keyOut: 1, outer: Everything);
        Peer two = Overlay.Peer("two", keyOut: 2, keyIn: 2, outer: Everything);
        _host.With([(one, ["172.17.52.0/24"]), (two, ["172.17.53.0/24", "fd00:52::/64"])]);
        for (int i = 0; i < 20_000; i++)
        {
            _host.Tun.Enqueue(Packets.Ipv4("172.17.51.2", i % 2 == 0 ? "172.17.52.2" : "172.17.53.2", Packets.Udp, [], df: false));
            _host.Tun.Enqueue(Packets.Ipv6("fd00:51::2", "fd00:52::2", Packets.Udp, []));
        }

        _host.Tun.Enqueue(Segmented(df: false), SuperOffload);
        _host.RunOutbound();
        ushort[] used = [.. _host.Underlay.Sent.Select(sent => Identification(sent.Bytes))];
        Assert.Equal(40_000 + 10, used.Length);
        Assert.Equal(used.Length, used.Distinct().Count());
    }

    [Fact]
    public void With_DF_the_identification_stays_0()
    {
        Serve(Everything, outer4: true, udp: false);
        Assert.True(Send(inner4: true, trafficClass: 1, df: true).DontFragment);
        Assert.Equal(0, Identification(_host.Underlay.Sent[^1].Bytes));
    }

    [Theory]
    [InlineData(true, false)]
    [InlineData(false, false)]
    [InlineData(true, true)]
    [InlineData(false, true)]
    public void Each_segment_of_a_super_packet_says_the_same(bool outer4, bool udp)
    {
        Serve(Everything, outer4, udp);
        _host.Send(Segmented(df: true), SuperOffload);
        Assert.Equal(10, _host.Underlay.Packets.Sum(packet => packet.Segments));
        Assert.All(_host.Underlay.Packets, packet => Assert.Equal((0xba, 17, true), Fields(packet)));
    }

    [Theory]
    [InlineData(true, false)]
    [InlineData(false, false)]
    [InlineData(true, true)]
    [InlineData(false, true)]
    public void A_super_packet_that_the_kernel_cuts_says_it_in_its_own_header(bool df, bool udp)
    {
        // Nobody else counts for it.
        Peer peer = Serve(Everything, outer4: true, udp, endpoint: "198.51.103.199");
        _host.Underlay.CutsAll = true;
        peer.Target.Abilities.Hear(Abilities.TcpSuperPackets, Environment.TickCount64);
        _host.Send(Segmented(df), SuperOffload);
        _host.Send(Segmented(df), SuperOffload);

        byte[][] sent = [.. _host.Underlay.Packets.Where(packet => packet.Segments == 10).Select(packet => packet.Bytes)];
        Assert.Equal(2, sent.Length);
        Assert.All(sent, bytes =>
        {
            Assert.True(Ipv4View.TryParse(bytes, out Ipv4View outer) && outer.IsChecksumValid && outer.TotalLength == bytes.Length);
            Assert.Equal((0xba, 17, df), (outer.TrafficClass, outer.TimeToLive, outer.DontFragment));
        });

        // The kernel counts up from there for each segment.
        Assert.Equal(df ? 0 : 10, (ushort)(Identification(sent[1]) - Identification(sent[0])));
    }

    // One call has one outer header.
    [Fact]
    public void Only_datagrams_with_equal_outer_fields_leave_in_one_call()
    {
        (byte TrafficClass, byte Ttl, bool Df)[] sent =
        [
            (0, 64, true), (0, 64, true), (4, 64, true), (4, 64, true), (4, 63, true), (7, 63, true), (7, 63, false), (7, 63, false), (7, 63, true), (7, 63, true),
        ];
        Assert.Equal([(10, 10)], Calls(Default));
        Assert.Equal([(2, 2), (8, 8)], Calls(Default with { Dscp = null }));
        Assert.Equal([(4, 4), (6, 6)], Calls(Default with { TimeToLive = null }));

        // The kernel does not cut for a path on which it may have to fragment.
        Assert.Equal([(2, 2), (2, 2), (1, 0), (1, 0), (1, 0), (1, 0), (2, 2)], Calls(Everything));

        IEnumerable<(int Segments, int Gathered)> Calls(OuterHeaderOptions options)
        {
            Serve(options, outer4: true, udp: true);
            _host.Underlay.Packets.Clear();
            foreach ((byte trafficClass, byte ttl, bool df) in sent)
            {
                _host.Tun.Enqueue(Inner(inner4: true, trafficClass, ttl, df));
            }

            _host.RunOutbound();
            return _host.Underlay.Packets.Select(packet => (packet.Segments, packet.SegmentSize == 0 ? 0 : packet.Bytes.Length / packet.SegmentSize));
        }
    }

    [Theory]
    [InlineData(true, false)]
    [InlineData(false, false)]
    [InlineData(true, true)]
    [InlineData(false, true)]
    public void A_message_between_daemons_has_nothing_to_copy_and_is_never_fragmented(bool outer4, bool udp)
    {
        Peer peer = Serve(Everything with { Dscp = 8 }, outer4, udp);
        _host.Underlay.CutsAll = true;
        _host.Send(Segmented(df: false), SuperOffload);
        SentPacket question = Assert.Single(_host.Underlay.Packets, packet => packet.Segments == 0);
        Assert.Equal((32, 64, true), Fields(question));

        // And its answer.
        byte[] gre = Packets.GrePacket([1, 1, 1, 0], protocolType: EtherType.Experimental);
        _host.Underlay.Packets.Clear();
        _host.Receive(udp
            ? new ReceivedPacket(gre) { Reception = Reception.UdpSocket, Source = peer.Settings.Endpoint }
            : new ReceivedPacket(Packets.Outer(peer.Settings.Endpoint.ToString(), peer.Settings.Local.ToString(), gre)));
        Assert.Equal((32, 64, true), Fields(Assert.Single(_host.Underlay.Packets)));
    }

    [Fact]
    public void The_usual_fields_are_the_default_value()
    {
        Assert.Equal(default, new OuterFields(0, 64, dontFragment: true));
        for (int bits = 0; bits < 1 << 17; bits++)
        {
            var fields = new OuterFields((byte)bits, (byte)(bits >> 8), bits >> 16 != 0);
            Assert.True((fields.TrafficClass, fields.TimeToLive, fields.DontFragment) == ((byte)bits, (byte)(bits >> 8), bits >> 16 != 0));
        }
    }

    private static Offload SuperOffload => new(GsoType.TcpV4, 1000, 40, NeedsChecksum: true, 20, 16);

    private static byte[] Segmented(bool df) => new FlowPacket
    {
        Source = "172.17.51.2",
        Destination = "172.17.52.2",
        Payload = Packets.Payload(10_000),
        IsPartial = true,
        TrafficClass = 0xba,
        Ttl = 17,
        DontFragment = df,
    }.Build();

    private static byte[] Inner(bool inner4, byte trafficClass, byte ttl, bool df, int payload = 9) => new FlowPacket
    {
        Source = inner4 ? "172.17.51.2" : "fd00:51::2",
        Destination = inner4 ? "172.17.52.2" : "fd00:52::2",
        IsUdp = true,
        Payload = Packets.Payload(payload),
        TrafficClass = trafficClass,
        Ttl = ttl,
        DontFragment = df,
        FlowLabel = 0xfffff,
    }.Build();

    private static ushort Identification(byte[] packet) => BinaryPrimitives.ReadUInt16BigEndian(packet.AsSpan(4));

    private static (int TrafficClass, int TimeToLive, bool DontFragment) Fields(SentPacket sent)
    {
        byte[] bytes = sent.Bytes;
        return sent.Target.UdpPort != 0 ? (sent.Outer.TrafficClass, sent.Outer.TimeToLive, sent.Outer.DontFragment)
            : bytes[0] >> 4 == 4 ? (bytes[1], bytes[8], (bytes[6] & 0x40) != 0)
            : ((BinaryPrimitives.ReadUInt16BigEndian(bytes) >> 4) & 0xff, bytes[7], true);
    }

    private Peer Serve(OuterHeaderOptions options, bool outer4, bool udp, string? endpoint = null)
    {
        Peer peer = Overlay.Peer(
            endpoint: endpoint ?? (outer4 ? "192.168.40.12" : "fd00:40::12"),
            local: outer4 ? "192.168.40.11" : "fd00:40::11",
            udpPort: udp ? (ushort)4754 : (ushort)0,
            outer: options);
        _host.With([(peer, ["172.17.52.0/24", "fd00:52::/64"])]);
        return peer;
    }

    private (int TrafficClass, int TimeToLive, bool DontFragment) Send(bool inner4, byte trafficClass = 0, byte ttl = 63, bool df = true)
    {
        byte[] inner = Inner(inner4, trafficClass, ttl, df);
        _host.Send(inner);
        SentPacket sent = _host.Underlay.Packets[^1];

        // Nothing of it touches what is inside, nor the rest of the outer header.
        Assert.EndsWith(Convert.ToHexString(inner), Convert.ToHexString(sent.Bytes), StringComparison.Ordinal);
        if (sent.Target.UdpPort == 0 && Ipv4View.TryParse(sent.Bytes, out Ipv4View outer))
        {
            Assert.True(outer.IsChecksumValid && outer.TotalLength == sent.Bytes.Length && !outer.IsFragment && outer.Protocol == IpProtocol.Gre);
        }
        else if (sent.Target.UdpPort == 0)
        {
            Assert.True(Ipv6View.TryParse(sent.Bytes, out Ipv6View outer6) && outer6.TotalLength == sent.Bytes.Length && outer6.FlowLabel == 0);
        }

        return Fields(sent);
    }
}
