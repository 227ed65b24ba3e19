using System.Diagnostics;
using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// The way of a packet from the wire to the TUN device:
/// <code>
/// 1  receive a batch
/// 2  parse the outer and the GRE header
/// 3  find the peer by endpoint and key
/// 4  check checksum and sequence number where used
/// 5  check that the inner source belongs to that peer
/// 6  apply RFC 6040; lower the segment size that a TCP SYN asks for to what fits; put consecutive segments of a flow together
/// 7  write the batch to the TUN queue
/// </code>
/// Thread rule: one worker runs it. It neither blocks nor allocates nor takes a lock.
/// </summary>
public sealed class Inbound
{
    private const int BatchSize = 64;

    // A router's keepalive: IP and GRE header, and what the router likes to put behind them.
    private const int LongestReturned = 128;
    private const int StrangerPause = 1000;

    // The source of what we ourselves write to the device to be encapsulated (docs/decisions/0017), and never a peer's.
    private static readonly InetAddress Nobody = InetAddress.FromIpv4(0);

    private readonly IUnderlay _underlay;
    private readonly RoutingHolder _routing;
    private readonly PeerCounters _network;
    private readonly int _worker;

    private readonly PacketBatch _packets = new(BatchSize);
    private readonly DeliveryQueue _deliveries;
    private readonly PeerMessages _answers;
    private readonly ProbeExchange? _probes;
    private readonly CaptureTap? _tap;

    // Where copies go, and what is being looked at, while somebody watches: the inner packet, or where there is none yet the outer one.
    private CaptureRing? _capture;
    private Piece _current;

    // The sender found last: packets come in runs.
    private RoutingSnapshot? _lastRouting;
    private InetAddress _lastSource;
    private bool _lastHasKey;
    private uint _lastKey;
    private Peer? _lastSender;
    private readonly long[] _nextStranger = new long[3];

    /// <summary>Wires one worker's inbound half.</summary>
    /// <param name="underlay">The worker's underlay.</param>
    /// <param name="tun">The worker's TUN queue.</param>
    /// <param name="routing">Where the routing snapshot is found.</param>
    /// <param name="network">This worker's counters for packets of no peer.</param>
    /// <param name="offloads">Which offloads are in use.</param>
    /// <param name="worker">The worker's number: which of a peer's counters are its own.</param>
    /// <param name="probes">Where answers of peers go; null where nobody asks.</param>
    /// <param name="tap">Where it is seen whether somebody watches; null where nobody can.</param>
    public Inbound(
        IUnderlay underlay,
        ITunDevice tun,
        RoutingHolder routing,
        PeerCounters network,
        OffloadState offloads,
        int worker,
        ProbeExchange? probes = null,
        CaptureTap? tap = null)
    {
        _tap = tap;
        _underlay = underlay;
        _routing = routing;
        _network = network;
        _worker = worker;
        _deliveries = new DeliveryQueue(tun, offloads, worker);
        _answers = new PeerMessages(underlay);
        _probes = probes;
    }

    /// <summary>Handles one batch.</summary>
    /// <returns>How many packets the underlay had; 0 where it had none.</returns>
    public int Run()
    {
        int count = _underlay.Receive(_packets);
        if (count == 0)
        {
            return 0;
        }

        RoutingSnapshot routing = _routing.Current;
        _capture = _tap?.RingOf(_worker);
        _deliveries.Capture = _capture;
        for (int i = 0; i < count; i++)
        {
            Watch(_packets[i].Memory, _packets[i].Start, _packets[i].Length);
            Admit(_packets[i], routing);
        }

        Write();
        return count;
    }

    // 2: the outer header, or what the kernel says in its stead.
    private void Admit(in Packet packet, RoutingSnapshot routing)
    {
        if (packet.Reception == Reception.UdpSocket)
        {
            AdmitDatagrams(packet, routing);
        }
        else
        {
            AdmitIp(packet, routing);
        }
    }

    // 2: several datagrams that follow one another, or one, which may be empty.
    private void AdmitDatagrams(in Packet packet, RoutingSnapshot routing)
    {
        int size = packet.SegmentSize == 0 ? packet.Length : packet.SegmentSize;
        int offset = 0;
        do
        {
            int length = Math.Min(size, packet.Length - offset);
            Watch(packet.Memory, packet.Start + offset, length: 0);
            var gre = new Arrival(packet.Memory, packet.Start + offset, length, packet.OuterEcn, IsCoalescingKnown: packet.SegmentSize != 0, default);
            AdmitGre(gre, packet.Source, InetAddress.None, routing);
            offset += size;
        }
        while (offset < packet.Length);
    }

    // 2: an IPv4-mapped source has no place on the wire, and here it would pass for the IPv4 endpoint. The kernel checks the checksum of
    // IPv4 headers for raw sockets only.
    private void AdmitIp(in Packet packet, RoutingSnapshot routing)
    {
        bool isExact = packet.Reception == Reception.PacketSocket;
        ReadOnlySpan<byte> bytes = packet.Bytes;
        if (Ipv4View.TryParse(bytes, out Ipv4View ipv4) && ipv4.Protocol == IpProtocol.Gre && !ipv4.IsFragment &&
            (!isExact || ipv4.IsChecksumValid))
        {
            Arrival gre = Behind(packet, ipv4.HeaderLength, ipv4.TotalLength, ipv4.TrafficClass & Ecn.Mask, isExact);
            AdmitGre(gre, ipv4.Source, isExact ? ipv4.Destination : InetAddress.None, routing);
        }
        else if (Ipv6View.TryParse(bytes, out Ipv6View ipv6) && ipv6.NextHeader == IpProtocol.Gre && !ipv6.Source.IsIpv4)
        {
            Arrival gre = Behind(packet, Ipv6Header.Length, ipv6.TotalLength, ipv6.TrafficClass & Ecn.Mask, isExact);
            AdmitGre(gre, ipv6.Source, isExact ? ipv6.Destination : InetAddress.None, routing);
        }
        else
        {
            CountDrop(null, DropReason.OuterMalformed);
        }
    }

    private static Arrival Behind(in Packet packet, int headerLength, int totalLength, int ecn, bool isExact) =>
        new(packet.Memory, packet.Start + headerLength, totalLength - headerLength, ecn, isExact, Shift(packet.Offload, headerLength));

    // 2: the GRE header. 3: the peer.
    private void AdmitGre(in Arrival packet, InetAddress source, InetAddress destination, RoutingSnapshot routing)
    {
        GreParseResult result = GreView.TryParse(packet.Bytes, out GreView gre);
        if (result != GreParseResult.Ok)
        {
            routing.IsEndpoint(source, out Peer? from);
            if (IsForThisHost(destination, from, routing))
            {
                CountDrop(from, ReasonOf(result));
            }

            return;
        }

        Watch(packet.Memory, packet.Start + gre.HeaderLength, packet.Length - gre.HeaderLength);
        Peer? peer = FindSender(source, gre, routing);
        if (peer is null)
        {
            bool isEndpoint = routing.IsEndpoint(source, out Peer? from);
            if (IsForThisHost(destination, from, routing))
            {
                DropReason reason = isEndpoint ? DropReason.KeyMismatch : DropReason.UnknownPeer;
                CountDrop(from, reason);
                from?.Target.NoteWrongKey(Environment.TickCount64);
                NoteStranger(source, gre, reason);
            }

            return;
        }

        if (!IsForThisHost(destination, peer, routing))
        {
            return;
        }

        switch (gre.ProtocolType)
        {
            case EtherType.Ipv4:
                AdmitIpv4(packet, gre, peer, routing);
                break;
            case EtherType.Ipv6:
                AdmitIpv6(packet, gre, peer, routing);
                break;
            case EtherType.Experimental:
                AdmitMessage(packet, gre, peer);
                break;
            case EtherType.Keepalive:
                AdmitReturned(gre, peer);
                break;
            default:
                CountDrop(peer, DropReason.GreProtocolUnknown);
                break;
        }
    }

    // Unlike a raw socket, a packet socket also gets what this host merely forwards: GRE between others, PPTP. That is nobody's drop.
    private static bool IsForThisHost(InetAddress destination, Peer? from, RoutingSnapshot routing) =>
        destination.IsNone || destination == from?.Settings.Local || routing.IsOwn(destination);

    private Peer? FindSender(InetAddress source, in GreView gre, RoutingSnapshot routing)
    {
        bool hasKey = gre.HasKey;
        uint key = gre.Key;
        if (!ReferenceEquals(routing, _lastRouting) || source != _lastSource || hasKey != _lastHasKey || key != _lastKey)
        {
            _lastSender = routing.FindSender(source, hasKey, key);
            (_lastRouting, _lastSource, _lastHasKey, _lastKey) = (routing, source, hasKey, key);
        }

        return _lastSender;
    }

    private void AdmitIpv4(in Arrival packet, in GreView gre, Peer peer, RoutingSnapshot routing)
    {
        if (!Ipv4View.TryParse(gre.Payload, out Ipv4View inner) || !inner.IsChecksumValid)
        {
            CountDrop(peer, ReasonOfMalformed(gre));
            return;
        }

        if (inner.Protocol == IpProtocol.Gre && IsToReturn(inner, peer))
        {
            ReturnToSender(packet, gre, inner.TotalLength, peer);
            return;
        }

        CoalescingVerdict verdict = packet.IsCoalescingKnown
            ? Known(packet, gre, out Offload offload)
            : KernelCoalescing.Judge(inner, peer.Gmtu, routing.DropsPartialUdp, out offload);
        if (Passes(gre, peer, verdict) &&
            IsSourceAllowed(peer, routing.Routes.LookupIpv4(inner.Source.Ipv4), inner.Source, inner.Destination, routing))
        {
            Span<byte> bytes = packet.Memory.Slice(packet.Start + gre.HeaderLength, inner.TotalLength);
            if (TryMergeEcn(packet, peer, bytes, inner.TrafficClass & Ecn.Mask, isIpv4: true))
            {
                MssClamp.Apply(inner, bytes, peer, offload.NeedsChecksum);
                Deliver(packet, gre, bytes.Length, offload, peer);
            }
        }
    }

    private void AdmitIpv6(in Arrival packet, in GreView gre, Peer peer, RoutingSnapshot routing)
    {
        if (!Ipv6View.TryParse(gre.Payload, out Ipv6View inner))
        {
            CountDrop(peer, ReasonOfMalformed(gre));
            return;
        }

        CoalescingVerdict verdict = packet.IsCoalescingKnown
            ? Known(packet, gre, out Offload offload)
            : KernelCoalescing.Judge(inner, peer.LargestIpv6, routing.DropsPartialUdp, out offload);
        if (Passes(gre, peer, verdict) &&
            IsSourceAllowed(peer, routing.Routes.LookupIpv6(inner.Source.Bits), inner.Source, inner.Destination, routing))
        {
            Span<byte> bytes = packet.Memory.Slice(packet.Start + gre.HeaderLength, inner.TotalLength);
            if (TryMergeEcn(packet, peer, bytes, inner.TrafficClass & Ecn.Mask, isIpv4: false))
            {
                MssClamp.Apply(inner, bytes, peer, offload.NeedsChecksum);
                Deliver(packet, gre, bytes.Length, offload, peer);
            }
        }
    }

    // A message of the peer's daemon, no packet.
    private void AdmitMessage(in Arrival packet, in GreView gre, Peer peer)
    {
        bool isEcho = EchoMessage.TryParse(gre.Payload, out EchoMessage echo);
        AbilitiesMessage abilities = default;
        if (!isEcho && !AbilitiesMessage.TryParse(gre.Payload, out abilities))
        {
            CountDrop(peer, DropReason.ControlMessageUnknown);
            return;
        }

        if (!PassesAsMessage(gre, peer))
        {
            return;
        }

        peer.Target.Refuses = false;
        if (isEcho)
        {
            HandleEcho(echo, gre.Payload.Length, peer);
        }
        else if (abilities.IsQuestion)
        {
            // Where only packet sockets tell the boundaries of datagrams, what came by one is answered for all.
            bool keepsBoundaries = packet.IsCoalescingKnown && peer.Target.UdpPort == 0;
            _answers.Tell(peer, Abilities.TcpSuperPackets | (keepsBoundaries ? Abilities.UdpSuperPackets : Abilities.None));
        }
        else
        {
            peer.Target.Abilities.Hear(abilities.Abilities, Environment.TickCount64);
        }
    }

    private bool PassesAsMessage(in GreView gre, Peer peer)
    {
        bool passes = Passes(gre, peer, CoalescingVerdict.Ordinary);
        if (passes)
        {
            peer.Counters[_worker].CountMessage(Environment.TickCount64);
        }

        return passes;
    }

    private void HandleEcho(EchoMessage echo, int length, Peer peer)
    {
        peer.Target.Abilities.NoteHeard();
        if (echo.IsReply)
        {
            Report(peer, echo, echo.ReceivedLength);
        }
        else
        {
            if (echo.Hearing is Hearing hearing)
            {
                peer.Target.NoteHearing(hearing, Environment.TickCount64);
            }

            _answers.Answer(peer, echo, length);
        }
    }

    // What was sent to come back has come back.
    private void AdmitReturned(in GreView gre, Peer peer)
    {
        if (!EchoMessage.TryParse(gre.Payload, out EchoMessage echo))
        {
            CountDrop(peer, DropReason.GreProtocolUnknown);
        }
        else if (PassesAsMessage(gre, peer))
        {
            Report(peer, echo, gre.Payload.Length);
        }
    }

    private void Report(Peer peer, EchoMessage echo, int length) =>
        _probes?.Replies[_worker].TryAdd(new ProbeReply(peer.Target, echo.Token, length, Stopwatch.GetTimestamp() - echo.Time));

    // A router's keepalive: from this host to the peer, as if this host had sent it. Nothing else is sent on for anybody.
    private static bool IsToReturn(in Ipv4View inner, Peer peer) =>
        inner.Source == peer.Settings.Local && inner.Destination == peer.Settings.Endpoint && inner.TotalLength <= LongestReturned && !inner.IsFragment &&
        GreView.TryParse(inner.Payload, out GreView back) == GreParseResult.Ok && back.ProtocolType == EtherType.Keepalive;

    private void ReturnToSender(in Arrival packet, in GreView gre, int length, Peer peer)
    {
        if (PassesAsMessage(gre, peer))
        {
            _answers.Return(peer, new Piece(packet.Memory, packet.Start + gre.HeaderLength, length));
        }
    }

    // One in a while, for each reason, is enough to tell people.
    private void NoteStranger(InetAddress source, in GreView gre, DropReason reason)
    {
        if (IsTimeToTell(reason == DropReason.UnknownPeer ? 0 : 1))
        {
            InetAddress inner = Ipv4View.TryParse(gre.Payload, out Ipv4View ipv4) ? ipv4.Source
                : Ipv6View.TryParse(gre.Payload, out Ipv6View ipv6) ? ipv6.Source
                : InetAddress.None;
            _probes!.Unknown[_worker].TryAdd(new Stranger(source, gre.HasKey, gre.Key, inner, reason, gre.ProtocolType == EtherType.Experimental));
        }
    }

    private void NoteStraySource(Peer peer, InetAddress innerSource)
    {
        if (IsTimeToTell(2))
        {
            uint? key = peer.Settings.KeyIn;
            _probes!.Unknown[_worker].TryAdd(
                new Stranger(peer.Settings.Endpoint, key is not null, key.GetValueOrDefault(), innerSource, DropReason.SourceNotInPeerSubnets));
        }
    }

    private bool IsTimeToTell(int kind)
    {
        long now = Environment.TickCount64;
        bool isTime = _probes is not null && now >= _nextStranger[kind];
        if (isTime)
        {
            _nextStranger[kind] = now + StrangerPause;
        }

        return isTime;
    }

    // What the kernel has said beside the packet. The checksum that it left to a device may be the GRE header's own: the kernel's GRE does so,
    // and where no device had to finish it (a bridge to a virtual machine, veth) there is nothing to verify, and the inner packet is complete.
    private static CoalescingVerdict Known(in Arrival packet, in GreView gre, out Offload offload)
    {
        if (packet.Offload is { NeedsChecksum: true, ChecksumStart: 0, Gso: GsoType.None } && gre.HasChecksum)
        {
            offload = default;
            return CoalescingVerdict.Partial;
        }

        offload = Shift(packet.Offload, gre.HeaderLength);
        return offload.NeedsChecksum || offload.Gso != GsoType.None ? CoalescingVerdict.Partial : CoalescingVerdict.Ordinary;
    }

    // The same offload of a packet without so many bytes at its beginning.
    private static Offload Shift(in Offload offload, int bytes) =>
        offload.NeedsChecksum
            ? offload with { ChecksumStart = (ushort)(offload.ChecksumStart - bytes), HeaderLength = 0 }
            : offload with { HeaderLength = 0 };

    // 4: what the GRE checksum shows to be damage is no malformed packet of the sender's.
    private static DropReason ReasonOfMalformed(in GreView gre) =>
        gre.IsChecksumValid ? DropReason.InnerHeaderMalformed : DropReason.ChecksumMismatch;

    // 4: checksum, then sequence number, so that a damaged packet can't move the window. The GRE checksum of a coalesced packet is
    // that of its first segment and fits nothing; the kernel verified every segment's before it coalesced them. Coalesced UDP goes last,
    // since only an otherwise good packet says something about the host's settings.
    private bool Passes(in GreView gre, Peer peer, CoalescingVerdict verdict)
    {
        PeerSettings settings = peer.Settings;

        // What has come back is as this host has made it, whatever the peer's own packets are like.
        bool isStrict = settings.IsStrict && gre.ProtocolType != EtherType.Keepalive;
        if (isStrict && gre.HasChecksum != settings.UsesChecksum)
        {
            return Refuse(peer, gre.HasChecksum ? DropReason.ChecksumUnexpected : DropReason.ChecksumAbsent);
        }

        if (verdict == CoalescingVerdict.Ordinary && !gre.IsChecksumValid)
        {
            return Refuse(peer, DropReason.ChecksumMismatch);
        }

        if (isStrict && gre.HasSequence != settings.UsesSequence)
        {
            return Refuse(peer, gre.HasSequence ? DropReason.SequenceUnexpected : DropReason.SequenceAbsent);
        }

        // Several workers receive a peer's packets in no common order.
        if (gre.HasSequence && peer.Counters.Length == 1 && !peer.Sequences.Accept(gre.Sequence))
        {
            return Refuse(peer, DropReason.SequenceOld);
        }

        if (verdict == CoalescingVerdict.CoalescedUdp)
        {
            // It may believe that they can be received, if they were a moment ago.
            _answers.Tell(peer, Abilities.TcpSuperPackets);
            return Refuse(peer, DropReason.CoalescedUdp);
        }

        return true;
    }

    // 5: the inner source must be this peer's by the same longest-prefix rule that sends packets to it.
    private bool IsSourceAllowed(Peer peer, Peer? owner, InetAddress innerSource, InetAddress innerDestination, RoutingSnapshot routing)
    {
        if (innerSource == Nobody || (!ReferenceEquals(owner, peer) && !routing.Shares(peer, innerSource)))
        {
            NoteStraySource(peer, innerSource);
            return Refuse(peer, DropReason.SourceNotInPeerSubnets);
        }

        return innerDestination != peer.Settings.Endpoint || Refuse(peer, DropReason.InnerDestinationIsEndpoint);
    }

    // 6: what the underlay says about congestion goes on inside.
    private bool TryMergeEcn(in Arrival packet, Peer peer, Span<byte> inner, int innerEcn, bool isIpv4)
    {
        int merged = Ecn.Decapsulate(innerEcn, packet.OuterEcn);
        if (Ecn.IsAnomalous(innerEcn, packet.OuterEcn))
        {
            peer.Counters[_worker].CountEcnAnomaly();
        }

        if (merged < 0)
        {
            return Refuse(peer, DropReason.EcnCongestionLost);
        }

        if (merged != innerEcn)
        {
            if (isIpv4)
            {
                Ecn.SetIpv4(inner, merged);
            }
            else
            {
                Ecn.SetIpv6(inner, merged);
            }
        }

        return true;
    }

    // 6: what the kernel said, or what was found out, goes on to where segments are put together.
    private void Deliver(in Arrival packet, in GreView gre, int length, in Offload offload, Peer peer)
    {
        var piece = new Piece(packet.Memory, packet.Start + gre.HeaderLength, length);
        bool isSegmentSizeKnown = packet.IsCoalescingKnown || offload.Gso == GsoType.None;
        _deliveries.Add(piece, offload, isSegmentSizeKnown, peer);
    }

    // 7: the batch goes to the kernel; what was refused is counted where it belongs.
    private void Write() => _deliveries.Flush();

    private void Watch(PacketMemory memory, int start, int length)
    {
        if (_capture is not null)
        {
            _current = new Piece(memory, start, length);
        }
    }

    private bool Refuse(Peer peer, DropReason reason)
    {
        CountDrop(peer, reason);
        return false;
    }

    private void CountDrop(Peer? peer, DropReason reason)
    {
        (peer?.Counters[_worker] ?? _network).CountDrop(reason);
        if (_capture is not null && _current.Length > 0 && _current.Span[0] >> 4 is 4 or 6)
        {
            _capture.Add(isReceived: true, peer, reason, _current.Span);
        }
    }

    private static DropReason ReasonOf(GreParseResult result) => result switch
    {
        GreParseResult.VersionUnsupported => DropReason.GreVersionUnsupported,
        GreParseResult.ReservedBits => DropReason.GreReservedBits,
        _ => DropReason.GreTruncated,
    };

    // A GRE packet as it lies in memory. The offload counts from the GRE header.
    private readonly record struct Arrival(PacketMemory Memory, int Start, int Length, int OuterEcn, bool IsCoalescingKnown, Offload Offload)
    {
        public ReadOnlySpan<byte> Bytes => Memory.Slice(Start, Length);
    }
}
