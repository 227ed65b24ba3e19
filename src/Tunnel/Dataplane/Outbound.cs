using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// The way of a packet from the TUN device to the wire:
/// <code>
/// 1  read a batch from the TUN queue, each packet with headroom
/// 2  validate the inner header
/// 3  look its destination up in the route table: the longest prefix wins; lower the segment size that a TCP SYN asks for to what fits
/// 4  check its size against the peer's GMTU: cut a super-packet, fragment what may be, or answer Fragmentation Needed / Packet Too Big
/// 5  write the outer headers in the headroom, or before each segment
/// 6  send the batch
/// </code>
/// Thread rule: one worker runs it. It neither blocks nor allocates nor takes a lock.
/// </summary>
public sealed class Outbound
{
    private const int BatchSize = 64;

    private readonly ITunDevice _tun;
    private readonly RoutingHolder _routing;
    private readonly PeerCounters _network;
    private readonly int _worker;

    private readonly PacketBatch _packets = new(BatchSize);
    private readonly SendQueue _sends;
    private readonly TooBigAnswers _answers;
    private readonly PeerMessages _messages;
    private readonly CaptureTap? _tap;

    // Where copies go, and what became of each packet of the batch, while somebody watches.
    private CaptureRing? _capture;
    private readonly (Peer? Peer, DropReason? Reason)[] _outcomes = new (Peer?, DropReason?)[BatchSize];
    private int _index;

    /// <summary>Wires one worker's outbound half.</summary>
    /// <param name="tun">The worker's TUN queue.</param>
    /// <param name="underlay">The worker's underlay.</param>
    /// <param name="routing">Where the routing snapshot is found.</param>
    /// <param name="network">This worker's counters for packets of no peer.</param>
    /// <param name="offloads">Which offloads are in use.</param>
    /// <param name="worker">The worker's number: which of a peer's counters are its own.</param>
    /// <param name="questions">Questions for peers that this worker is to send; null where another worker does.</param>
    /// <param name="tap">Where it is seen whether somebody watches; null where nobody can.</param>
    public Outbound(
        ITunDevice tun,
        IUnderlay underlay,
        RoutingHolder routing,
        PeerCounters network,
        OffloadState offloads,
        int worker,
        HandoverRing<ProbeRequest>? questions = null,
        CaptureTap? tap = null)
    {
        _tap = tap;
        _messages = new PeerMessages(underlay, questions);
        _tun = tun;
        _sends = new SendQueue(underlay, offloads, worker);
        _routing = routing;
        _network = network;
        _worker = worker;
        _answers = new TooBigAnswers(tun);
    }

    /// <summary>Handles one batch.</summary>
    /// <returns>How many packets the TUN queue had; 0 where it was empty.</returns>
    public int Run()
    {
        // Beside the packets' way: what the control plane wants to know of peers.
        _messages.Ask();
        int count = _tun.Read(_packets);
        if (count == 0)
        {
            return 0;
        }

        RoutingSnapshot routing = _routing.Current;
        _capture = _tap?.RingOf(_worker);
        _sends.ForgetRefusals();
        for (int i = 0; i < count; i++)
        {
            _index = i;
            Admit(i, routing);
        }

        Send();
        if (_capture is not null)
        {
            Capture(_capture, count);
        }

        _answers.Flush();
        return count;
    }

    // 2: the inner header.
    private void Admit(int index, RoutingSnapshot routing)
    {
        Span<byte> bytes = _packets.Bytes(index);
        int version = bytes.Length == 0 ? 0 : bytes[0] >> 4;
        if (version == 4)
        {
            AdmitIpv4(index, bytes, routing);
        }
        else if (version == 6)
        {
            AdmitIpv6(index, bytes, routing);
        }
        else
        {
            Drop(null, DropReason.InnerNotIp);
        }
    }

    private void AdmitIpv4(int index, Span<byte> bytes, RoutingSnapshot routing)
    {
        if (!Ipv4View.TryParse(bytes, out Ipv4View packet))
        {
            Drop(null, DropReason.InnerHeaderMalformed);
            return;
        }

        uint destination = packet.Destination.Ipv4;
        Peer? peer = FindReceiver(routing.Routes.LookupIpv4(destination), isMulticast: destination >= 0xe000_0000, packet.TimeToLive, packet.Source);
        if (peer is null)
        {
            return;
        }

        TellDestination(peer.Target, packet.Destination);
        MssClamp.Apply(packet, bytes, peer, _packets[index].Offload.NeedsChecksum);
        if (!TrySend(index, packet.Packet, EtherType.Ipv4, peer, IsFlowLookedAt(peer) ? FlowHash.Of(packet) : 0))
        {
            _answers.Answer(packet.Packet, routing.ErrorSource(peer, packet.Destination), peer.Gmtu);
        }
    }

    private void AdmitIpv6(int index, Span<byte> bytes, RoutingSnapshot routing)
    {
        if (!Ipv6View.TryParse(bytes, out Ipv6View packet))
        {
            Drop(null, DropReason.InnerHeaderMalformed);
            return;
        }

        UInt128 destination = packet.Destination.Bits;
        Peer? peer = FindReceiver(routing.Routes.LookupIpv6(destination), isMulticast: destination >> 120 == 0xff, packet.HopLimit, packet.Source);
        if (peer is null)
        {
            return;
        }

        TellDestination(peer.Target, packet.Destination);
        MssClamp.Apply(packet, bytes, peer, _packets[index].Offload.NeedsChecksum);
        if (!TrySend(index, packet.Packet, EtherType.Ipv6, peer, IsFlowLookedAt(peer) ? FlowHash.Of(packet) : 0))
        {
            _answers.Answer(packet.Packet, routing.ErrorSource(peer, packet.Destination), peer.LargestIpv6);
        }
    }

    // Whoever wants to know where a peer's packets go is told.
    private static void TellDestination(UnderlayTarget target, InetAddress destination)
    {
        if (target.SeeksDestination)
        {
            target.NoteDestination(destination);
        }
    }

    // 3: the receiver, or the reason why there is none.
    private Peer? FindReceiver(Peer? found, bool isMulticast, byte timeToLive, InetAddress source)
    {
        if (isMulticast)
        {
            return DropWhole(null, DropReason.InnerMulticast);
        }

        if (found is null)
        {
            return DropWhole(null, DropReason.NoRoute);
        }

        if (timeToLive == 0)
        {
            return DropWhole(found, DropReason.InnerTtlExpired);
        }

        if (!found.IsReady)
        {
            return DropWhole(found, DropReason.PeerNotReady);
        }

        if (found.Target.Refuses)
        {
            return DropWhole(found, DropReason.EndpointRefuses);
        }

        if (source == found.Settings.Local || source == found.Settings.Endpoint)
        {
            return DropWhole(found, DropReason.InnerSourceIsEndpoint);
        }

        Note(found, null);
        return found;
    }

    private void Drop(Peer? peer, DropReason reason, int packets = 1)
    {
        (peer?.Counters[_worker] ?? _network).CountDrops(reason, packets);
        Note(peer, reason);
    }

    // The packet, whose IP header is checked, has no receiver. A super-packet counts as its segments.
    private Peer? DropWhole(Peer? peer, DropReason reason)
    {
        ref Packet packet = ref _packets[_index];
        int packets = packet.Offload.Gso != GsoType.None && Segmentation.TryBegin(packet.Bytes, packet.Offload, out Segmentation segments) ? segments.Count : 1;
        Drop(peer, reason, packets);
        return null;
    }

    private void Note(Peer? peer, DropReason? reason)
    {
        if (_capture is not null)
        {
            _outcomes[_index] = (peer, reason);
        }
    }

    // Of UDP the source port tells flows apart; of plain GRE those whose super-packets the kernel cuts stay together.
    private static bool IsFlowLookedAt(Peer peer) => peer.Target.UdpPort != 0 || peer.Target.Neighbor is not null;

    // 4: what fits goes on; for what does not fit the caller answers. 5: the outer headers.
    private bool TrySend(int index, ReadOnlySpan<byte> bytes, ushort protocolType, Peer peer, uint flowHash)
    {
        ref Packet packet = ref _packets[index];
        var piece = new Piece(packet.Memory, packet.Start, bytes.Length);
        if (packet.Offload.Gso != GsoType.None)
        {
            return TrySendSegments(bytes, piece, packet.Offload, protocolType, peer, flowHash);
        }

        NoteLength(bytes.Length, peer);
        if (bytes.Length > peer.Gmtu)
        {
            return TrySendFragments(bytes, piece, packet.Offload, protocolType, peer, flowHash);
        }

        if (_sends.TryAddDatagram(piece, packet.Offload, peer, flowHash))
        {
            return true;
        }

        if (packet.Offload.NeedsChecksum && !UnfinishedChecksum.TryFinish(piece.Span, packet.Offload))
        {
            Drop(peer, DropReason.InnerHeaderMalformed);
            return true;
        }

        _sends.Add(piece, protocolType, peer, flowHash);
        return true;
    }

    // IPv4 is fragmented inside unless DF forbids it. IPv6 never is; but what each of its links must carry goes in outer fragments.
    private static bool MayFragment(ReadOnlySpan<byte> bytes, int length, ushort protocolType, Peer peer) =>
        protocolType == EtherType.Ipv4 ? Ipv4Fragment.IsAllowed(bytes) : length <= peer.LargestIpv6;

    private bool TrySendFragments(
        ReadOnlySpan<byte> bytes, in Piece piece, in Offload offload, ushort protocolType, Peer peer, uint flowHash)
    {
        if (!MayFragment(bytes, bytes.Length, protocolType, peer))
        {
            Drop(peer, DropReason.ExceedsGmtu);
            return false;
        }

        if ((protocolType == EtherType.Ipv4 && Ipv4Fragment.EndOf(bytes) > ushort.MaxValue) ||
            (offload.NeedsChecksum && !UnfinishedChecksum.TryFinish(piece.Span, offload)))
        {
            Drop(peer, DropReason.InnerHeaderMalformed);
            return true;
        }

        if (!_sends.TryAddFragments(piece, protocolType, peer, flowHash))
        {
            // Nothing that the sender could learn from an answer.
            Drop(peer, DropReason.ExceedsGmtu);
        }

        return true;
    }

    private bool TrySendSegments(
        ReadOnlySpan<byte> bytes, in Piece piece, in Offload offload, ushort protocolType, Peer peer, uint flowHash)
    {
        if (!Segmentation.TryBegin(bytes, offload, out Segmentation segments))
        {
            Drop(peer, DropReason.InnerHeaderMalformed);
            return true;
        }

        NoteLength(segments.LongestSegment, peer);
        if (segments.LongestSegment <= peer.Gmtu)
        {
            _sends.Add(segments, piece, offload, protocolType, peer, flowHash);
            return true;
        }

        bool mayFragment = MayFragment(bytes, segments.LongestSegment, protocolType, peer);
        if (!mayFragment || !_sends.TryAddFragments(segments, piece, protocolType, peer, flowHash))
        {
            Drop(peer, DropReason.ExceedsGmtu, segments.Count);
        }

        return mayFragment;
    }

    // 4: while large packets flow, somebody must see to it that they arrive.
    private static void NoteLength(int length, Peer peer)
    {
        if (length > UnderlayTarget.LargePacket)
        {
            peer.Target.NoteLarge();
        }
    }

    // 6: the batch leaves; what was refused is counted where it belongs.
    private void Send() => _sends.Flush();

    // Beside the packets' way: for whoever watches. The packets are still where they were read to.
    private void Capture(CaptureRing capture, int count)
    {
        for (int i = 0; i < count; i++)
        {
            (Peer? peer, DropReason? reason) = _outcomes[i];
            capture.Add(isReceived: false, peer, reason ?? _sends.RefusalOf(_packets[i]), _packets.Bytes(i));
        }
    }
}
