using System.Buffers.Binary;
using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// What is larger than the peer's GMTU and may be fragmented (docs/decisions/0020): IPv4 inside, before it is encapsulated, so that each fragment is
/// a packet of its own; IPv6 outside, since the packet itself must not be. As with segments, headers are written anew and payload is gathered.
/// </summary>
internal sealed partial class SendQueue
{
    // Of outer IPv6 packets. The same source and destination may have several peers and workers, and theirs must not be mistaken for one another's.
    // The beginning is random, because nobody should be able to guess (RFC 7739).
    private static int _lastIdentification = Random.Shared.Next();

    /// <summary>Adds a packet that is larger than the GMTU, as fragments. Its checksum is finished.</summary>
    /// <param name="packet">The inner packet: IPv4 without DF, or IPv6 of at most <see cref="Peer.LargestIpv6"/> bytes.</param>
    /// <param name="protocolType">Its EtherType.</param>
    /// <param name="peer">Who gets it.</param>
    /// <param name="flowHash">The hash of its flow.</param>
    /// <returns>False where the GMTU is too small to fragment anything; nothing is added then.</returns>
    public bool TryAddFragments(in Piece packet, ushort protocolType, Peer peer, uint flowHash)
    {
        EndRun();
        if (protocolType == EtherType.Ipv6)
        {
            if (FragmentsOutside(peer))
            {
                return TryAddOuterFragments([], packet, innerSum: NeedsSum(peer) ? InternetChecksum.Sum(packet.Span) : (ushort)0, peer, flowHash);
            }

            _isOpen = false;
            AddWhole(packet, protocolType, peer, flowHash);
            LetKernelFragment();
            return true;
        }

        int headerLength = (packet.Span[0] & 0x0f) * 4;
        var payload = new Piece(packet.Memory, packet.Offset + headerLength, packet.Length - headerLength);
        return TryAddInnerFragments(packet.Span[..headerLength], payload, peer, flowHash);
    }

    /// <summary>Adds all segments of a super-packet; those that are larger than the GMTU as fragments.</summary>
    /// <param name="segmentation">How it is cut.</param>
    /// <param name="packet">Where it lies: IPv4 without DF, or IPv6 with segments of at most <see cref="Peer.LargestIpv6"/> bytes.</param>
    /// <param name="protocolType">Its EtherType.</param>
    /// <param name="peer">Who gets it.</param>
    /// <param name="flowHash">The hash of its flow.</param>
    /// <returns>False where the GMTU is too small to fragment anything; nothing is added then.</returns>
    public bool TryAddFragments(in Segmentation segmentation, in Piece packet, ushort protocolType, Peer peer, uint flowHash)
    {
        EndRun();
        Span<byte> buffer = stackalloc byte[Segmentation.MaxHeader];
        Span<byte> head = buffer[..segmentation.HeaderLength];
        for (int i = 0; i < segmentation.Count; i++)
        {
            (int offset, int length) = segmentation.WriteHeaders(i, head, out ushort payloadSum);
            OuterFields outer = peer.OuterFieldsOf(head);
            var payload = new Piece(packet.Memory, packet.Offset + offset, length);
            if (head.Length + length <= peer.Gmtu)
            {
                AddSegment(segmentation, i, packet, protocolType, peer, flowHash, outer);
            }
            else if (protocolType == EtherType.Ipv4)
            {
                // Whether it can be done is the same for all.
                if (!TryAddInnerFragments(head, payload, peer, flowHash))
                {
                    return false;
                }
            }
            else if (!FragmentsOutside(peer))
            {
                _isOpen = false;
                AddSegment(segmentation, i, packet, protocolType, peer, flowHash, outer);
                LetKernelFragment();
            }
            else if (!TryAddOuterFragments(head, payload, innerSum: NeedsSum(peer) ? InternetChecksum.Sum(head, payloadSum) : (ushort)0, peer, flowHash))
            {
                return false;
            }
        }

        return true;
    }

    private static bool UsesChecksum(Peer peer) => peer.Settings.UsesChecksum;

    // Else a UDP socket does it, which goes by what the kernel knows of the path.
    private static bool FragmentsOutside(Peer peer) => peer.Target.UdpPort == 0 || peer.Target.TakesRawFragments;

    // A UDP checksum covers the inner packet as a GRE checksum does.
    private static bool NeedsSum(Peer peer) => UsesChecksum(peer) || peer.Target.UdpPort != 0;

    // The IP header and, of a segment, the transport header are in the head; the rest is the payload.
    private bool TryAddInnerFragments(ReadOnlySpan<byte> head, in Piece payload, Peer peer, uint flowHash)
    {
        int headerLength = (head[0] & 0x0f) * 4;
        var cut = new FragmentCut(peer.Gmtu - headerLength, head.Length - headerLength, payload);
        if (!cut.IsPossible)
        {
            return false;
        }

        OuterFields outer = peer.OuterFieldsOf(head);
        for (int i = 0; i < cut.Count; i++)
        {
            MakeRoom(pieces: 2);
            ReadOnlySpan<byte> carried = head.Slice(headerLength, cut.CarriedBy(i));
            int length = cut.LengthOf(i);
            var header = new Piece(_headers, _headersUsed++ * HeaderSlot, peer.Overhead + headerLength + carried.Length);
            Span<byte> inner = header.Span[peer.Overhead..];
            Ipv4Fragment.WriteHeader(inner, head, cut.OffsetOf(i), length, isLast: i == cut.Count - 1);
            carried.CopyTo(inner[headerLength..]);

            Piece piece = cut.PieceOf(i);
            ushort innerSum = UsesChecksum(peer) ? InternetChecksum.Sum(inner, InternetChecksum.Sum(piece.Span)) : (ushort)0;
            peer.WriteOuterHeaders(header.Span[..peer.Overhead], headerLength + length, EtherType.Ipv4, innerSum, outer);
            if (Begin(header, header.Length + piece.Length, peer, flowHash, outer))
            {
                _sends.Append(header);
            }

            AppendUnlessEmpty(piece);
        }

        return true;
    }

    // Of a segment the inner headers are in the head; the rest of the inner packet is the payload. The packet counts with its first fragment.
    private bool TryAddOuterFragments(ReadOnlySpan<byte> head, in Piece payload, ushort innerSum, Peer peer, uint flowHash)
    {
        int innerLength = head.Length + payload.Length;
        bool isIpv4 = peer.Target.Endpoint.IsIpv4;
        int ipLength = isIpv4 ? Ipv4Header.Length : Ipv6Header.Length;
        int headerLength = isIpv4 ? Ipv4Header.Length : Ipv6Fragment.HeaderLength;
        int overhead = peer.UncutOverhead;
        var cut = new FragmentCut(peer.Gmtu + overhead - headerLength, overhead - ipLength + head.Length, payload);
        if (!cut.IsPossible || cut.Count > MaxPackets)
        {
            return false;
        }

        Span<byte> buffer = stackalloc byte[HeaderSlot];
        Span<byte> outer = buffer[..(overhead + head.Length)];
        head.CopyTo(outer[overhead..]);
        OuterFields fields = MayBeFragmented(peer.OuterFieldsOf(head.Length > 0 ? head : payload.Span));
        peer.WriteAllHeaders(outer[..overhead], innerLength, EtherType.Ipv6, innerSum, fields);
        uint identification = isIpv4 ? 0 : (uint)Interlocked.Increment(ref _lastIdentification);
        if (isIpv4 && outer[Ipv4Header.IdentificationOffset] == 0 && outer[Ipv4Header.IdentificationOffset + 1] == 0)
        {
            // The kernel would put one of its own, another for each fragment.
            BinaryPrimitives.WriteUInt16BigEndian(outer[Ipv4Header.IdentificationOffset..], Identifications.Take(peer.Target.Endpoint, 1));
        }

        MakeRoom(pieces: 2 * cut.Count, packets: cut.Count);
        for (int i = 0; i < cut.Count; i++)
        {
            ReadOnlySpan<byte> carried = outer.Slice(ipLength, cut.CarriedBy(i));
            var header = new Piece(_headers, _headersUsed++ * HeaderSlot, headerLength + carried.Length);
            bool isLast = i == cut.Count - 1;
            if (isIpv4)
            {
                Ipv4Fragment.WriteHeader(header.Span, outer, cut.OffsetOf(i), cut.LengthOf(i), isLast);
            }
            else
            {
                Ipv6Fragment.WriteHeaders(header.Span, outer, identification, cut.OffsetOf(i), cut.LengthOf(i), isLast);
            }

            carried.CopyTo(header.Span[headerLength..]);
            int index = _sends.Add(header, target: peer.Target);
            AppendUnlessEmpty(cut.PieceOf(i));
            _receivers[index] = peer;
            _sends[index].Outer = fields;
            _sends[index].FlowHash = flowHash;
            _sends[index].IsFragment = true;
            _sends[index].Segments = i == 0 ? 1 : 0;
            _parts[index] = i == 0 ? cut.Count : 1;
            _repeated[index] = i == 0 ? innerLength + peer.Overhead - _sends[index].Length : 0;
        }

        _isOpen = false;
        return true;
    }

    // The packet added last. The socket is told for each call, so nothing else is to leave with it.
    private void LetKernelFragment()
    {
        ref GatherPacket last = ref _sends[_sends.Count - 1];
        last.Outer = MayBeFragmented(last.Outer);
        _isOpen = false;
    }

    private static OuterFields MayBeFragmented(OuterFields fields) =>
        fields.With(new OuterFields(trafficClass: 0, timeToLive: 0, dontFragment: false), OuterFields.Df);

    private void AppendUnlessEmpty(in Piece piece)
    {
        if (piece.Length > 0)
        {
            _sends.Append(piece);
        }
    }

    // A payload to be cut at multiples of 8 bytes, of which the first bytes lie elsewhere and go with the first fragment.
    private readonly struct FragmentCut
    {
        private readonly int _step;
        private readonly int _carried;
        private readonly Piece _payload;

        public FragmentCut(int room, int carried, in Piece payload)
        {
            _step = room & -Ipv4Fragment.Unit;
            _carried = carried;
            _payload = payload;
        }

        public bool IsPossible => _step > 0 && _step >= _carried;

        public int Count => (Total + _step - 1) / _step;

        private int Total => _carried + _payload.Length;

        public int OffsetOf(int index) => index * _step;

        public int LengthOf(int index) => Math.Min(_step, Total - OffsetOf(index));

        public int CarriedBy(int index) => index == 0 ? _carried : 0;

        public Piece PieceOf(int index) => new(
            _payload.Memory, _payload.Offset + OffsetOf(index) + CarriedBy(index) - _carried, LengthOf(index) - CarriedBy(index));
    }
}
