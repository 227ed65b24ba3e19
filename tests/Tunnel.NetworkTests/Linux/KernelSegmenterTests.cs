using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.TestSupport;
using Tunnel.Wire;
using static Tunnel.NetworkTests.Linux.RawGreLab;

namespace Tunnel.NetworkTests.Linux;

/// <summary>
/// Super-packets written to a TUN device leave the underlay's as GRE or GRE-in-UDP; a packet ring or a UDP socket at the other end of the link looks at
/// them.
/// </summary>
public sealed class KernelSegmenterTests
{
    private const string A4 = "10.77.1.1";
    private const string B4 = "10.77.1.2";
    private const int SegmentSize = 1300;
    private const int Segments = 10;
    private const int Last = 700;

    public static TheoryData<string, string, uint?, bool> Kinds => new()
    {
        { "172.17.51.2", "172.17.52.2", null, false },
        { "172.17.51.2", "172.17.52.2", 42u, false },
        { "fd17:51::2", "fd17:52::2", null, false },
        { "172.17.51.2", "172.17.52.2", null, true },
        { "172.17.51.2", "172.17.52.2", 42u, true },
        { "fd17:51::2", "fd17:52::2", 42u, true },
    };

    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    public void TcpCrossesAVirtualLinkWholeAndOthersInSegments(string source, string destination, uint? key, bool cut)
    {
        using var ends = new SegmenterLab();
        if (cut)
        {
            ends.Lab.A.Exec("ethtool -K eth0 tso off gso on tx-gre-segmentation off tx-gre-csum-segmentation off");
        }

        byte[] payload = Packets.Payload((Segments * SegmentSize) + Last);
        byte[] inner = Packets.TcpPacket(source, destination, payload, isPartial: true, sequence: 7, flags: 0x18);
        bool isIpv4 = source.Contains('.', StringComparison.Ordinal);
        int transport = isIpv4 ? 20 : 40;
        Peer peer = Overlay.Peer(endpoint: B4, local: A4, keyOut: key);
        var offload = new Offload(isIpv4 ? GsoType.TcpV4 : GsoType.TcpV6, SegmentSize, (ushort)(transport + 20), true, (ushort)transport, 16);
        List<(byte[] Bytes, Offload Offload)> got = ends.Send(peer, inner, offload, isIpv4, bytes => bytes - (20 + transport + 20 + peer.Overhead - 20), payload.Length);

        Assert.Equal(cut ? Segments + 1 : 1, got.Count);
        int next = 0;
        foreach ((byte[] bytes, Offload about) in got)
        {
            Assert.True(Ipv4View.TryParse(bytes, out Ipv4View outer) && outer.IsChecksumValid && outer.TotalLength == bytes.Length);
            Assert.Equal((A4, B4), (outer.Source.ToString(), outer.Destination.ToString()));
            Assert.Equal(GreParseResult.Ok, GreView.TryParse(outer.Payload, out GreView gre));
            Assert.Equal((key is not null, key ?? 0, isIpv4 ? EtherType.Ipv4 : EtherType.Ipv6), (gre.HasKey, gre.Key, gre.ProtocolType));
            ReadOnlySpan<byte> segment = gre.Payload[transport..];
            Assert.Equal((uint)(7 + next), BinaryPrimitives.ReadUInt32BigEndian(segment[4..]));
            Assert.True(payload.AsSpan(next, segment.Length - 20).SequenceEqual(segment[20..]), "other bytes arrived than were sent");
            next += segment.Length - 20;
            if (cut)
            {
                ushort pseudoHeader = Packets.PseudoHeader(source, destination, IpProtocol.Tcp, segment.Length);
                Assert.True(about.NeedsChecksum || Rfc1071.Sum(segment, pseudoHeader) == 0xffff, "wrong checksum");
            }
            else
            {
                Assert.Equal((offload.Gso, offload.SegmentSize, true), (about.Gso, about.SegmentSize, about.NeedsChecksum));
                Assert.Equal(peer.Overhead + transport, about.ChecksumStart);
            }
        }

        Assert.Equal(payload.Length, next);
    }

    // The receiver's kernel verifies the outer checksums of segments; without transmit checksums in "hardware" they are really computed.
    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    public void InUdpTcpCrossesAVirtualLinkWholeAndOthersInSegments(string source, string destination, uint? key, bool cut)
    {
        using var ends = new SegmenterLab();
        Skip.IfNot(ends.TakesUdpTunnels, "this kernel's TUN devices take no super-packets inside UDP tunnels");
        if (cut)
        {
            ends.Lab.A.Exec("ethtool -K eth0 tx off tso off gso on tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off");
        }

        HostUnderlay receiver = ends.Lab.OpenHost(ends.Lab.B);
        ends.Lab.B.Run(() => receiver.Accept(gre: true, greUdp: true));
        byte[] payload = Packets.Payload((Segments * SegmentSize) + Last);
        byte[] inner = Packets.TcpPacket(source, destination, payload, isPartial: true, sequence: 7, flags: 0x18);
        bool isIpv4 = source.Contains('.', StringComparison.Ordinal);
        int transport = isIpv4 ? 20 : 40;
        Peer peer = Overlay.Peer(endpoint: B4, local: A4, keyOut: key, udpPort: 4754);
        var offload = new Offload(isIpv4 ? GsoType.TcpV4 : GsoType.TcpV6, SegmentSize, (ushort)(transport + 20), true, (ushort)transport, 16);
        Assert.Equal(TransmitResult.Sent, ends.Write(peer, inner, offload, isIpv4, Neighbor(ends.Lab.A, ends.Lab.B)));
        List<byte[]> got = Receive(receiver.Workers[0], cut ? Segments + 1 : 1);

        int next = 0;
        foreach (byte[] bytes in got)
        {
            Assert.Equal(GreParseResult.Ok, GreView.TryParse(bytes, out GreView gre));
            Assert.Equal((key is not null, key ?? 0, isIpv4 ? EtherType.Ipv4 : EtherType.Ipv6), (gre.HasKey, gre.Key, gre.ProtocolType));
            ReadOnlySpan<byte> segment = gre.Payload[transport..];
            Assert.Equal((uint)(7 + next), BinaryPrimitives.ReadUInt32BigEndian(segment[4..]));
            Assert.True(payload.AsSpan(next, segment.Length - 20).SequenceEqual(segment[20..]), "other bytes arrived than were sent");
            next += segment.Length - 20;
            ushort pseudoHeader = Packets.PseudoHeader(source, destination, IpProtocol.Tcp, segment.Length);
            Assert.Equal(cut, Rfc1071.Sum(segment, pseudoHeader) == 0xffff);
        }

        Assert.Equal(payload.Length, next);
        Assert.Equal(0, Counter(ends.Lab.B, "Udp/InCsumErrors"));
    }

    [SkippableTheory]
    [InlineData(null)]
    [InlineData(4754)]
    [InlineData(50_000)]
    public void InUdpAFlowHasOneSourcePortCutOrNot(int? sourcePort)
    {
        using var ends = new SegmenterLab();
        Skip.IfNot(ends.TakesUdpTunnels, "this kernel's TUN devices take no super-packets inside UDP tunnels");
        var settings = new UnderlaySettings(InetAddress.None, InetAddress.None, SourcePort: (ushort?)sourcePort);
        HostUnderlay sender = ends.Lab.OpenHost(ends.Lab.A, settings, new OffloadState(Offloads.UdpSegment | Offloads.GreUdpSegment));
        sender.Workers[0].Segmenter = ends.Segmenter;
        using Socket receiver = ends.Lab.B.Run(() => new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp) { ReceiveTimeout = 10_000 });
        receiver.Bind(new IPEndPoint(IPAddress.Parse(B4), 4754));
        byte[] inner = Packets.TcpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(3000), isPartial: true, flags: 0x10);
        Peer peer = Overlay.Peer(endpoint: B4, local: A4, udpPort: 4754);
        var offload = new Offload(GsoType.TcpV4, 1000, 40, true, 20, 16);
        Assert.False(sender.Workers[0].Cuts(peer.Target));
        peer.Target.Neighbor = Neighbor(ends.Lab.A, ends.Lab.B);
        Assert.True(sender.Workers[0].Cuts(peer.Target));

        var ports = new HashSet<int>();
        for (uint flow = 0; flow < 8; flow++)
        {
            GatherBatch batch = SegmenterLab.BatchOf(peer, inner, offload, isIpv4: true);
            batch[0].FlowHash = flow;
            GatherBatch single = RawGreLab.BatchOf(Packets.Payload(100));
            single[0].Target = peer.Target;
            single[0].FlowHash = flow;
            ends.Lab.A.Run(() => sender.Workers[0].Send(batch));
            ends.Lab.A.Run(() => sender.Workers[0].Send(single));
            Assert.Equal((TransmitResult.Sent, TransmitResult.Sent), (batch[0].Result, single[0].Result));
            int[] both = [PortOfNext(receiver), PortOfNext(receiver)];
            Assert.Equal(both[0], both[1]);
            ports.Add(both[0]);
        }

        Assert.Equal(sourcePort is null ? 8 : 1, ports.Count);
        Assert.True(sourcePort is not int port || ports.Contains(port));
    }

    [SkippableFact]
    public void UdpIsCutIntoItsDatagrams()
    {
        using var ends = new SegmenterLab();
        ends.Lab.A.Exec("ethtool -K eth0 tso off gso on tx-gre-segmentation off tx-gre-csum-segmentation off tx-udp-segmentation off");
        byte[] payload = Packets.Payload(3000);
        byte[] inner = Packets.UdpPacket("172.17.51.2", "172.17.52.2", payload, isPartial: true);
        var offload = new Offload(GsoType.UdpL4, 1000, 28, true, 20, 6);
        List<(byte[] Bytes, Offload Offload)> got = ends.Send(
            Overlay.Peer(endpoint: B4, local: A4), inner, offload, isIpv4: true, bytes => bytes - 52, payload.Length);
        Assert.Equal([1052, 1052, 1052], got.Select(packet => packet.Bytes.Length));
        Assert.Equal(payload, got.SelectMany(packet => packet.Bytes[52..]));
    }

    // Each super-packet of a peer may say something else.
    [SkippableTheory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void EverySegmentHasTheOuterFieldsOfItsSuperPacket(bool udp, bool cut)
    {
        using var ends = new SegmenterLab();
        Skip.IfNot(!udp || ends.TakesUdpTunnels, "this kernel's TUN devices take no super-packets inside UDP tunnels");
        if (cut)
        {
            ends.Lab.A.Exec("ethtool -K eth0 tx off tso off gso on tx-gre-segmentation off tx-gre-csum-segmentation off tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off");
        }

        // The ring at the other end gets plain GRE only.
        using Socket ring = ends.Lab.B.Run(() => new Socket(AddressFamily.Packet, SocketType.Dgram, (ProtocolType)0x0008) { ReceiveTimeout = 10_000 });
        var options = new OuterHeaderOptions { Dscp = null, Ecn = EcnMode.Normal, TimeToLive = null, DiscoversPathMtu = false };
        Peer peer = Overlay.Peer(endpoint: B4, local: A4, keyOut: 42, udpPort: udp ? (ushort)4754 : (ushort)0, outer: options);
        int identification = -1;
        foreach ((byte tos, byte ttl, bool df) in new[] { ((byte)0xba, (byte)17, true), ((byte)0, (byte)255, false), ((byte)0xff, (byte)1, false) })
        {
            byte[] inner = Packets.TcpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(3000), isPartial: true, flags: 0x10);
            (inner[1], inner[6], inner[8]) = (tos, (byte)(df ? 0x40 : 0), ttl);
            Packets.FixIpv4Checksum(inner);
            Assert.Equal(TransmitResult.Sent, ends.Write(peer, inner, new Offload(GsoType.TcpV4, 1000, 40, true, 20, 16), isIpv4: true, Neighbor(ends.Lab.A, ends.Lab.B)));

            for (int left = 3000; left > 0;)
            {
                var packet = new byte[65_536];
                int length = ring.Receive(packet);
                if (!Ipv4View.TryParse(packet.AsSpan(0, length), out Ipv4View outer) || outer.Protocol != (udp ? IpProtocol.Udp : IpProtocol.Gre))
                {
                    continue;
                }

                Assert.True(outer.IsChecksumValid);
                Assert.Equal((tos, ttl, df), (outer.TrafficClass, outer.TimeToLive, outer.DontFragment));
                if (!df)
                {
                    Assert.True(identification < 0 || outer.Identification == (ushort)(identification + 1));
                    identification = cut ? outer.Identification : outer.Identification + 2;
                }

                left -= outer.Payload.Length - (udp ? 8 : 0) - 8 - 40;
            }
        }
    }

    // As many as a send queue puts together, each with a checksum that must come out as it was.
    [SkippableTheory]
    [InlineData(false)]
    [InlineData(true)]
    public void DatagramsThatWerePutTogetherComeOutByteForByte(bool cut)
    {
        using var ends = new SegmenterLab();
        if (cut)
        {
            ends.Lab.A.Exec("ethtool -K eth0 tso off gso on tx-gre-segmentation off tx-gre-csum-segmentation off tx-udp-segmentation off tx off");
        }

        FlowPacket head = new() { Source = "172.17.51.2", Destination = "172.17.52.2", IsUdp = true };
        byte[][] sent = [.. Enumerable.Range(0, DatagramRun.MaxDatagrams).Select(
            i => (head with { Id = (ushort)(0xfff0 + i), Payload = [.. Packets.Payload(40), (byte)i, (byte)(i * 7)] }).Build())];
        List<(byte[] Bytes, Offload Offload)> got = ends.SendTogether(Overlay.Peer(endpoint: B4, local: A4), sent);

        Assert.Equal(cut ? sent.Length : 1, got.Count);
        IEnumerable<byte[]> inner = got.SelectMany(packet => ReferenceSegmenter.Cut(
            packet.Bytes[24..], packet.Offload with { ChecksumStart = (ushort)(packet.Offload.ChecksumStart - 24) }));
        Assert.Equal(sent.Select(Convert.ToHexString), inner.Select(Convert.ToHexString));
    }

    // Whichever of them cuts, the same packets leave.
    [SkippableFact]
    public void TheKernelCutsRandomSuperPacketsAsTheyAreCutHere()
    {
        using var ends = new SegmenterLab();
        ends.Lab.A.Exec("ethtool -K eth0 tx off tso off gso on tx-gre-segmentation off tx-gre-csum-segmentation off tx-udp-segmentation off");
        Peer peer = Overlay.Peer(endpoint: B4, local: A4);
        var random = new Random(20261122);
        for (int i = 0; i < 200; i++)
        {
            (bool isIpv4, bool isUdp) = (random.Next(2) == 0, random.Next(3) == 0);
            int size = random.Next(1, 1380);
            int payload = random.Next(size + 1, Math.Min(60 * size, 60_000) + 1);
            byte[] timestamps = [1, 1, 8, 10, (byte)i, 2, 3, 4, 5, 6, 7, 8];
            var packet = new FlowPacket
            {
                Source = isIpv4 ? "172.17.51.2" : "fd17:51::2",
                Destination = isIpv4 ? "172.17.52.2" : "fd17:52::2",
                IsUdp = isUdp,
                IsPartial = true,
                Payload = Packets.Payload(payload),
                Sequence = (uint)random.NextInt64(1L << 32),
                Flags = (byte)(FlowPacket.Ack | (random.Next(2) * FlowPacket.Psh) | (random.Next(8) == 0 ? FlowPacket.Fin : 0)),
                Options = isUdp || random.Next(2) == 0 ? [] : timestamps,
                TrafficClass = (byte)random.Next(256),
                Ttl = (byte)random.Next(1, 256),
                Id = (ushort)random.Next(65_536),
                FlowLabel = (uint)random.Next(1 << 20),
            };
            var offload = new Offload(
                isUdp ? GsoType.UdpL4 : isIpv4 ? GsoType.TcpV4 : GsoType.TcpV6,
                (ushort)size,
                (ushort)packet.HeaderLength,
                NeedsChecksum: true,
                (ushort)packet.TransportStart,
                (ushort)(isUdp ? 6 : 16));
            byte[] inner = packet.Build();
            List<(byte[] Bytes, Offload Offload)> got = ends.Send(peer, inner, offload, isIpv4, bytes => bytes - peer.Overhead - packet.HeaderLength, payload);

            Assert.DoesNotContain(got, segment => segment.Offload.NeedsChecksum || segment.Offload.Gso != GsoType.None);
            Assert.Equal(ReferenceSegmenter.Cut(inner, offload).Select(Convert.ToHexString), got.Select(segment => Convert.ToHexString(segment.Bytes[peer.Overhead..])));
        }
    }

    [SkippableFact]
    public void BeyondItsRoomTargetsAreLeftToTheCaller()
    {
        using var ends = new SegmenterLab();
        UnderlayTarget[] targets = [.. Enumerable.Range(0, 4096).Select(_ => new UnderlayTarget(Address(B4)))];
        Assert.All(targets, target => Assert.True(ends.Segmenter.HasRoomFor(0, target)));
        Assert.False(ends.Segmenter.HasRoomFor(0, new UnderlayTarget(Address(B4))));
        Assert.True(ends.Segmenter.HasRoomFor(0, targets[0]));
    }

    [SkippableFact]
    public void WhereTheLinkIsGoneTheTargetIsUnreachableUntilItIsBack()
    {
        using var ends = new SegmenterLab();
        byte[] inner = Packets.TcpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(3000), isPartial: true, flags: 0x10);
        Peer peer = Overlay.Peer(endpoint: B4, local: A4);
        var offload = new Offload(GsoType.TcpV4, 1000, 40, true, 20, 16);
        Assert.Equal(TransmitResult.Unreachable, ends.Write(peer, inner, offload, isIpv4: true, new LinkNeighbor(9999, 1)));
        Assert.Single(ends.Send(peer, inner, offload, isIpv4: true, bytes => bytes - 64, 3000));
    }

    [SkippableFact]
    public void WhileTheDeviceIsDownNothingIsSentAndTheOffloadStays()
    {
        using var ends = new SegmenterLab();
        var offloads = new OffloadState(Offloads.GreSegment);
        HostUnderlay sender = ends.Lab.OpenHost(ends.Lab.A, offloads: offloads);
        ends.Lab.A.Run(() => sender.UsePaths(UnderlayPath.Raw, UnderlayPath.Packet));
        sender.Workers[0].Segmenter = ends.Segmenter;
        Peer peer = Overlay.Peer(endpoint: B4, local: A4);
        peer.Target.Neighbor = Neighbor(ends.Lab.A, ends.Lab.B);
        byte[] inner = Packets.TcpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(3000), isPartial: true, flags: 0x10);
        foreach ((string state, TransmitResult expected) in new[] { ("down", TransmitResult.Unreachable), ("up", TransmitResult.Sent) })
        {
            ends.Lab.A.Ip($"link set gretun0 {state}");
            GatherBatch super = SegmenterLab.BatchOf(peer, inner, new Offload(GsoType.TcpV4, 1000, 40, true, 20, 16), isIpv4: true);
            sender.Workers[0].Send(super);
            Assert.Equal(expected, super[0].Result);
            Assert.True(offloads.Has(Offloads.GreSegment));
        }
    }

    // The kernel can't encapsulate what is so long and not to be cut.
    [SkippableTheory]
    [InlineData(14_000, true)]
    [InlineData(20_000, false)]
    [InlineData(65_000, false)]
    public void ALongPacketThatIsNotCutArrivesWhicheverWayItGoes(int length, bool throughTun)
    {
        using var ends = new SegmenterLab();
        ends.Lab.A.Ip("link set eth0 mtu 65535");
        ends.Lab.B.Ip("link set eth0 mtu 65535");
        HostUnderlay sender = ends.Lab.OpenHost(ends.Lab.A, offloads: new OffloadState(Offloads.GreSegment));
        HostUnderlay receiver = ends.Lab.OpenHost(ends.Lab.B);
        ends.Lab.A.Run(() => sender.UsePaths(UnderlayPath.Raw, UnderlayPath.Packet));
        sender.Workers[0].Segmenter = ends.Segmenter;
        Peer peer = Overlay.Peer(endpoint: B4, local: A4);
        peer.Target.Neighbor = Neighbor(ends.Lab.A, ends.Lab.B);
        byte[] packet = Packets.Outer(A4, B4, Packets.GrePacket(Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(length))));
        GatherBatch batch = RawGreLab.BatchOf(packet);
        batch[0].Target = peer.Target;
        batch[0].FollowsUncut = true;

        sender.Workers[0].Send(batch);

        Assert.Equal((TransmitResult.Sent, throughTun ? 1 : 0), (batch[0].Result, ends.ReceivedByTun));
        Assert.Equal(packet, Assert.Single(Receive(receiver.Workers[0], 1)));
    }

    // Through the TUN device goes what the kernel cuts, and what must not overtake it.
    [SkippableTheory]
    [InlineData(null)]
    [InlineData(42u)]
    public void WhatFollowsASuperPacketInItsFlowGoesTheSameWay(uint? key)
    {
        using var ends = new SegmenterLab();
        HostUnderlay sender = ends.Lab.OpenHost(ends.Lab.A, offloads: new OffloadState(Offloads.GreSegment));
        ends.Lab.A.Run(() => sender.UsePaths(UnderlayPath.Raw, UnderlayPath.Packet));
        sender.Workers[0].Segmenter = ends.Segmenter;
        Peer peer = Overlay.Peer(endpoint: B4, local: A4, keyOut: key);
        peer.Target.Neighbor = Neighbor(ends.Lab.A, ends.Lab.B);
        byte[] inner = Packets.TcpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(3000), isPartial: true, flags: 0x10);
        byte[] single = Packets.Outer(A4, B4, Packets.GrePacket(Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(100)), key: key));

        Send(5, single);
        Assert.Equal(0, ends.ReceivedByTun);
        GatherBatch super = SegmenterLab.BatchOf(peer, inner, new Offload(GsoType.TcpV4, 1000, 40, true, 20, 16), isIpv4: true);
        super[0].FlowHash = 5;
        sender.Workers[0].Send(super);
        Assert.Equal((TransmitResult.Sent, 1), (super[0].Result, ends.ReceivedByTun));

        // Another flow, a message between daemons, and what the program can't encapsulate.
        byte[] message = Packets.Outer(A4, B4, Packets.GrePacket([1, 1, 1, 0], key: key, protocolType: EtherType.Experimental));
        byte[] numbered = Packets.Outer(A4, B4, Packets.GrePacket(inner, key: key, sequence: 7));
        byte[] summed = Packets.Outer(A4, B4, Packets.GrePacket(Packets.Payload(100), checksum: true, key: key, protocolType: EtherType.Ipv4));
        Send(6, single);
        Send(0, message);
        Send(5, numbered[..200]);
        Send(5, summed);
        Assert.Equal(1, ends.ReceivedByTun);
        Send(5, single);
        Assert.Equal(2, ends.ReceivedByTun);

        // Nor what can't: a fragment's first piece is its IP header and nothing else.
        var memory = new PinnedPacketMemory(single.Length);
        single.CopyTo(memory.Array, 0);
        var fragment = new GatherBatch(1, 2);
        fragment.Add(new Piece(memory, 0, 20), target: peer.Target);
        fragment.Append(new Piece(memory, 20, single.Length - 20));
        (fragment[0].IsFragment, fragment[0].FlowHash) = (true, 5);
        BinaryPrimitives.WriteUInt16BigEndian(memory.Array.AsSpan(6), 0x2000);
        sender.Workers[0].Send(fragment);
        Assert.Equal((TransmitResult.Sent, 2), (fragment[0].Result, ends.ReceivedByTun));

        byte[][] others = [single, message, numbered[..200], summed, single];
        List<(byte[] Bytes, Offload Offload)> got = ends.Receive(bytes => bytes, single.Length + peer.Overhead + inner.Length + others.Sum(packet => packet.Length));
        Assert.Equal(peer.Overhead + inner.Length, got[1].Bytes.Length);
        Assert.Equal([single, .. others], got.Where((_, i) => i != 1).Select(packet => packet.Bytes));

        void Send(uint flow, byte[] packet)
        {
            GatherBatch batch = RawGreLab.BatchOf(packet);
            batch[0].Target = peer.Target;
            batch[0].FlowHash = flow;
            sender.Workers[0].Send(batch);
            Assert.Equal(TransmitResult.Sent, batch[0].Result);
        }
    }

    [SkippableFact]
    public void OtherPacketsPass()
    {
        using var ends = new SegmenterLab();
        byte[] inner = Packets.UdpPacket("172.17.51.2", "10.88.0.1", Packets.Payload(100));
        ends.Lab.A.Ip("addr add 10.88.0.1/24 dev gretun0");
        long before = Counter(ends.Lab.A, "Udp/NoPorts");
        ends.Write(inner);
        Assert.True(NetnsThread.Eventually(() => Counter(ends.Lab.A, "Udp/NoPorts") == before + 1));
    }

    private static int PortOfNext(Socket receiver)
    {
        EndPoint from = new IPEndPoint(IPAddress.Any, 0);
        receiver.ReceiveFrom(new byte[65_536], ref from);
        return ((IPEndPoint)from).Port;
    }

    private static List<byte[]> Receive(WorkerUnderlay underlay, int count)
    {
        var got = new List<byte[]>();
        var batch = new PacketBatch(64);
        Assert.True(NetnsThread.Eventually(() =>
        {
            underlay.ReceiveNow(batch);
            for (int i = 0; i < batch.Count; i++)
            {
                // Several datagrams may come together.
                int size = batch[i].SegmentSize == 0 ? batch[i].Length : batch[i].SegmentSize;
                got.AddRange(batch.Bytes(i).ToArray().Chunk(size));
            }

            return got.Count >= count;
        }));
        Assert.Equal(count, got.Count);
        return got;
    }

    private sealed class SegmenterLab : IDisposable
    {
        private readonly TunDevice _tun;
        private readonly PacketRing _ring;
        private readonly WorkerUnderlay _guardA;
        private readonly WorkerUnderlay _guardB;

        public SegmenterLab()
        {
            Lab = Direct();
            _guardA = Lab.Open(Lab.A);
            _guardB = Lab.Open(Lab.B);
            WarmUp(_guardA, _guardB, Packet(A4, B4));
            _tun = Lab.A.Run(() => new TunDevice("gretun0"));
            var offloads = new OffloadState(OffloadState.All);
            _tun.EnableOffloads(offloads);
            TakesUdpTunnels = offloads.Has(Offloads.GreUdpSegment);
            Lab.A.Ip("link set gretun0 up");
            int index = Index(Lab.A, "gretun0");
            Segmenter = Lab.A.Run(() => new KernelSegmenter(index, [_tun]));
            _ring = Lab.B.Run(() => new PacketRing(2048, -1, 1));
            _ring.Take(true);
        }

        public RawGreLab Lab { get; }

        public KernelSegmenter Segmenter { get; }

        public bool TakesUdpTunnels { get; }

        /// <summary>How many packets were written to the TUN device.</summary>
        public int ReceivedByTun =>
            JsonNode.Parse(Lab.A.Ip("-j -s link show gretun0"))![0]!["stats64"]!["rx"]!["packets"]!.GetValue<int>();

        /// <summary>A super-packet as the data plane hands it to the underlay.</summary>
        public static GatherBatch BatchOf(Peer peer, byte[] inner, Offload offload, bool isIpv4)
        {
            var memory = new PinnedPacketMemory(peer.UncutOverhead + inner.Length);
            inner.CopyTo(memory.Array, peer.UncutOverhead);
            ushort protocolType = isIpv4 ? EtherType.Ipv4 : EtherType.Ipv6;
            int segments = (inner.Length - offload.HeaderLength + offload.SegmentSize - 1) / offload.SegmentSize;
            peer.WriteUncutHeaders(memory.Slice(0, peer.UncutOverhead), inner.Length, protocolType, peer.OuterFieldsOf(inner), segments);
            var batch = new GatherBatch(1, 2);
            batch.Add(new Piece(memory, 0, peer.UncutOverhead), offload, peer.Target);
            batch.Append(new Piece(memory, peer.UncutOverhead, inner.Length));
            return batch;
        }

        public void Write(byte[] packet)
        {
            var memory = new PinnedPacketMemory(packet.Length);
            packet.CopyTo(memory.Array, 0);
            var batch = new GatherBatch(1, 1);
            batch.Add(new Piece(memory, 0, packet.Length));
            _tun.Write(batch);
            Assert.Equal(TransmitResult.Sent, batch[0].Result);
        }

        /// <summary>Sends a super-packet.</summary>
        public TransmitResult Write(Peer peer, byte[] inner, Offload offload, bool isIpv4, LinkNeighbor neighbor)
        {
            GatherBatch batch = BatchOf(peer, inner, offload, isIpv4);
            Segmenter.Send(0, batch, 0, neighbor);
            return batch[0].Result;
        }

        /// <summary>Sends a super-packet and receives until as much payload has come.</summary>
        public List<(byte[] Bytes, Offload Offload)> Send(Peer peer, byte[] inner, Offload offload, bool isIpv4, Func<int, int> payloadOf, int total)
        {
            Assert.Equal(TransmitResult.Sent, Write(peer, inner, offload, isIpv4, Neighbor(Lab.A, Lab.B)));
            return Receive(payloadOf, total);
        }

        /// <summary>Sends IPv4 datagrams as a send queue puts them together, and receives them.</summary>
        public List<(byte[] Bytes, Offload Offload)> SendTogether(Peer peer, byte[][] datagrams)
        {
            const int InnerHeaders = 28;
            var run = new DatagramRun();
            var memory = new PinnedPacketMemory(65_536);
            int end = peer.Overhead + InnerHeaders;
            foreach (byte[] datagram in datagrams)
            {
                datagram.CopyTo(memory.Array, end);
                var piece = new Piece(memory, end, datagram.Length);
                Assert.True(run.TryAdd(piece, default, DatagramRun.ShapeOf(datagram, default), peer));
                end += datagram.Length;
            }

            peer.WriteOuterHeaders(memory.Slice(0, peer.Overhead), run.Length, run.ProtocolType, innerSum: 0, peer.OuterFieldsOf(datagrams[0]));
            Span<byte> headers = memory.Slice(peer.Overhead, InnerHeaders);
            datagrams[0].AsSpan(0, InnerHeaders).CopyTo(headers);
            run.Shape.WriteHeader(headers, run.Length, datagrams[^1]);
            var batch = new GatherBatch(1, 2 + run.Count);
            batch.Add(new Piece(memory, 0, peer.Overhead), run.Shape.SuperPacketOffload, peer.Target);
            batch.Append(new Piece(memory, peer.Overhead, InnerHeaders));
            for (int i = 0; i < run.Count; i++)
            {
                batch.Append(new Piece(memory, run[i].Offset + InnerHeaders, run[i].Length - InnerHeaders));
            }

            Segmenter.Send(0, batch, 0, Neighbor(Lab.A, Lab.B));
            Assert.Equal(TransmitResult.Sent, batch[0].Result);
            return Receive(bytes => bytes - peer.Overhead - InnerHeaders, datagrams.Sum(datagram => datagram.Length - InnerHeaders));
        }

        public List<(byte[] Bytes, Offload Offload)> Receive(Func<int, int> payloadOf, int total)
        {
            var got = new List<(byte[] Bytes, Offload Offload)>();
            var received = new PacketBatch(64);
            Assert.True(NetnsThread.Eventually(() =>
            {
                received.Clear();
                _ring.Receive(received);
                for (int i = 0; i < received.Count; i++)
                {
                    got.Add((received.Bytes(i).ToArray(), received[i].Offload));
                }

                _ring.Release();
                return got.Sum(packet => payloadOf(packet.Bytes.Length)) >= total;
            }));
            return got;
        }

        public void Dispose()
        {
            Segmenter.Dispose();
            _tun.Dispose();
            _ring.Dispose();
            Lab.Dispose();
        }
    }
}
