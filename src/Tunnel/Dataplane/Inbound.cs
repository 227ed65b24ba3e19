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
/// 6  apply RFC 6040; see what the kernel has coalesced
/// 7  write the batch to the TUN queue
/// </code>
/// Thread rule: one worker runs it. It neither blocks nor allocates nor takes a lock.
/// </summary>
public sealed class Inbound
{
    private const int BatchSize = 64;

    private readonly ITunDevice _tun;
    private readonly IUnderlay _underlay;
    private readonly RoutingHolder _routing;
    private readonly PeerCounters _network;
    private readonly int _worker;

    private readonly PacketBatch _packets = new(BatchSize);
    private readonly GatherBatch _writes = new(BatchSize, BatchSize);
    private readonly Peer[] _senders = new Peer[BatchSize];

    /// <summary>Wires one worker's inbound half.</summary>
    /// <param name="underlay">The worker's underlay.</param>
    /// <param name="tun">The worker's TUN queue.</param>
    /// <param name="routing">Where the routing snapshot is found.</param>
    /// <param name="network">This worker's counters for packets of no peer.</param>
    /// <param name="worker">The worker's number: which of a peer's counters are its own.</param>
    public Inbound(IUnderlay underlay, ITunDevice tun, RoutingHolder routing, PeerCounters network, int worker)
    {
        _underlay = underlay;
        _tun = tun;
        _routing = routing;
        _network = network;
        _worker = worker;
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
        _writes.Clear();
        for (int i = 0; i < count; i++)
        {
            Admit(i, routing);
        }

        Write();
        return count;
    }

    // 2: the outer header. An IPv4-mapped source has no place on the wire, and here it would pass for the IPv4 endpoint.
    private void Admit(int index, RoutingSnapshot routing)
    {
        ReadOnlySpan<byte> bytes = _packets.Bytes(index);
        if (Ipv4View.TryParse(bytes, out Ipv4View ipv4) && ipv4.Protocol == IpProtocol.Gre && !ipv4.IsFragment)
        {
            AdmitGre(index, ipv4.Payload, ipv4.HeaderLength, ipv4.Source, ipv4.TrafficClass & Ecn.Mask, routing);
        }
        else if (Ipv6View.TryParse(bytes, out Ipv6View ipv6) && ipv6.NextHeader == IpProtocol.Gre && !ipv6.Source.IsIpv4)
        {
            AdmitGre(index, ipv6.Payload, Ipv6Header.Length, ipv6.Source, ipv6.TrafficClass & Ecn.Mask, routing);
        }
        else
        {
            _network.CountDrop(DropReason.OuterMalformed);
        }
    }

    // 2: the GRE header. 3: the peer.
    private void AdmitGre(int index, ReadOnlySpan<byte> grePacket, int outerLength, InetAddress source, int outerEcn, RoutingSnapshot routing)
    {
        GreParseResult result = GreView.TryParse(grePacket, out GreView gre);
        if (result != GreParseResult.Ok)
        {
            routing.IsEndpoint(source, out Peer? from);
            CountDrop(from, ReasonOf(result));
            return;
        }

        Peer? peer = routing.FindSender(source, gre.HasKey, gre.Key);
        if (peer is null)
        {
            bool isEndpoint = routing.IsEndpoint(source, out Peer? from);
            CountDrop(from, isEndpoint ? DropReason.KeyMismatch : DropReason.UnknownPeer);
            return;
        }

        var packet = new Arrival(index, _packets[index].Start + outerLength + gre.HeaderLength, outerEcn, peer);
        switch (gre.ProtocolType)
        {
            case EtherType.Ipv4:
                AdmitIpv4(packet, gre, routing);
                break;
            case EtherType.Ipv6:
                AdmitIpv6(packet, gre, routing);
                break;
            case EtherType.Experimental:
                CountDrop(peer, DropReason.ControlMessageUnknown);
                break;
            default:
                CountDrop(peer, DropReason.GreProtocolUnknown);
                break;
        }
    }

    private void AdmitIpv4(in Arrival packet, in GreView gre, RoutingSnapshot routing)
    {
        if (!Ipv4View.TryParse(gre.Payload, out Ipv4View inner) || !inner.IsChecksumValid)
        {
            CountDrop(packet.Peer, ReasonOfMalformed(gre));
            return;
        }

        CoalescingVerdict verdict = KernelCoalescing.Judge(inner, packet.Peer.Gmtu, routing.DropsPartialUdp, out Offload offload);
        if (Passes(packet, gre, verdict) &&
            IsSourceAllowed(packet, routing.Routes.LookupIpv4(inner.Source.Ipv4), inner.Destination) &&
            TryMergeEcn(packet, inner.TrafficClass & Ecn.Mask, isIpv4: true))
        {
            Deliver(packet, inner.TotalLength, offload);
        }
    }

    private void AdmitIpv6(in Arrival packet, in GreView gre, RoutingSnapshot routing)
    {
        if (!Ipv6View.TryParse(gre.Payload, out Ipv6View inner))
        {
            CountDrop(packet.Peer, ReasonOfMalformed(gre));
            return;
        }

        CoalescingVerdict verdict = KernelCoalescing.Judge(inner, packet.Peer.Gmtu, routing.DropsPartialUdp, out Offload offload);
        if (Passes(packet, gre, verdict) &&
            IsSourceAllowed(packet, routing.Routes.LookupIpv6(inner.Source.Bits), inner.Destination) &&
            TryMergeEcn(packet, inner.TrafficClass & Ecn.Mask, isIpv4: false))
        {
            Deliver(packet, inner.TotalLength, offload);
        }
    }

    // 4: what the GRE checksum shows to be damage is no malformed packet of the sender's.
    private static DropReason ReasonOfMalformed(in GreView gre) =>
        gre.IsChecksumValid ? DropReason.InnerHeaderMalformed : DropReason.ChecksumMismatch;

    // 4: checksum, then sequence number, so that a damaged packet can't move the window. The GRE checksum of a coalesced packet is
    // that of its first segment and fits nothing; the kernel verified every segment's before it coalesced them. Coalesced UDP goes last,
    // since only an otherwise good packet says something about the host's settings.
    private bool Passes(in Arrival packet, in GreView gre, CoalescingVerdict verdict)
    {
        if (verdict == CoalescingVerdict.Ordinary && !gre.IsChecksumValid)
        {
            return Refuse(packet, DropReason.ChecksumMismatch);
        }

        if (gre.HasSequence && !packet.Peer.Sequences.Accept(gre.Sequence))
        {
            return Refuse(packet, DropReason.SequenceOld);
        }

        return verdict != CoalescingVerdict.CoalescedUdp || Refuse(packet, DropReason.CoalescedUdp);
    }

    // 5: the inner source must be this peer's by the same longest-prefix rule that sends packets to it.
    private bool IsSourceAllowed(in Arrival packet, Peer? owner, InetAddress innerDestination)
    {
        if (!ReferenceEquals(owner, packet.Peer))
        {
            return Refuse(packet, DropReason.SourceNotInPeerSubnets);
        }

        return innerDestination != packet.Peer.Settings.Endpoint || Refuse(packet, DropReason.InnerDestinationIsEndpoint);
    }

    // 6: what the underlay says about congestion goes on inside.
    private bool TryMergeEcn(in Arrival packet, int innerEcn, bool isIpv4)
    {
        int merged = Ecn.Decapsulate(innerEcn, packet.OuterEcn);
        if (merged < 0)
        {
            return Refuse(packet, DropReason.EcnCongestionLost);
        }

        if (merged != innerEcn)
        {
            Span<byte> header = _packets.Memory.Slice(packet.InnerStart, isIpv4 ? Ipv4Header.Length : Ipv6Header.Length);
            if (isIpv4)
            {
                Ecn.SetIpv4(header, merged);
            }
            else
            {
                Ecn.SetIpv6(header, merged);
            }
        }

        return true;
    }

    private void Deliver(in Arrival packet, int length, in Offload offload)
    {
        _senders[_writes.Count] = packet.Peer;
        _writes.Add(new Piece(_packets.Memory, packet.InnerStart, length), offload);
    }

    // 7: the batch goes to the kernel; what was refused is counted where it belongs.
    private void Write()
    {
        if (_writes.Count == 0)
        {
            return;
        }

        _tun.Write(_writes);
        long now = Environment.TickCount64;
        for (int i = 0; i < _writes.Count; i++)
        {
            PeerCounters counters = _senders[i].Counters[_worker];
            ref GatherPacket written = ref _writes[i];
            if (written.Result == TransmitResult.Sent)
            {
                counters.CountReceived(written.Length, now);
            }
            else
            {
                counters.CountDrop(DropReason.TunWriteFailed);
            }
        }
    }

    private bool Refuse(in Arrival packet, DropReason reason)
    {
        packet.Peer.Counters[_worker].CountDrop(reason);
        return false;
    }

    private void CountDrop(Peer? peer, DropReason reason) => (peer?.Counters[_worker] ?? _network).CountDrop(reason);

    private static DropReason ReasonOf(GreParseResult result) => result switch
    {
        GreParseResult.VersionUnsupported => DropReason.GreVersionUnsupported,
        GreParseResult.ReservedBits => DropReason.GreReservedBits,
        _ => DropReason.GreTruncated,
    };

    private readonly record struct Arrival(int Index, int InnerStart, int OuterEcn, Peer Peer);
}
