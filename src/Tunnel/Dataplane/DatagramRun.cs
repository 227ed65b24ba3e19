using System.Buffers.Binary;
using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// Datagrams of one UDP flow to one peer, as they follow one another in a batch of the TUN device. They can leave as one super-packet, of
/// which the kernel makes the same datagrams again, byte for byte: so beside what <see cref="DeliveryQueue"/> wants to be equal, the
/// identifications of IPv4 packets must count up, since that is what the kernel writes.
/// Thread rule: used by one worker; allocates nothing.
/// </summary>
internal sealed class DatagramRun
{
    /// <summary>The most datagrams of a run: more gain nothing, and UDP receivers of older kernels refuse them (UDP_MAX_SEGMENTS).</summary>
    public const int MaxDatagrams = 64;

    private readonly Piece[] _datagrams = new Piece[MaxDatagrams];
    private readonly Offload[] _offloads = new Offload[MaxDatagrams];
    private SegmentShape _shape;
    private Peer? _peer;
    private bool _isClosed;

    /// <summary>How many datagrams there are.</summary>
    public int Count { get; private set; }

    /// <summary>The length of the super-packet that they would make, in bytes: one header and all payloads.</summary>
    public int Length { get; private set; }

    /// <summary>Who gets them; only where there are any.</summary>
    public Peer Peer => _peer!;

    /// <summary>The shape of all but the last, which may be shorter.</summary>
    public SegmentShape Shape => _shape;

    /// <summary>Their EtherType.</summary>
    public ushort ProtocolType => _shape.IsIpv4 ? EtherType.Ipv4 : EtherType.Ipv6;

    /// <summary>A datagram.</summary>
    /// <param name="index">0 to <see cref="Count"/> - 1.</param>
    public ref readonly Piece this[int index] => ref _datagrams[index];

    /// <summary>The shape of a packet that can be part of a run; the default value where it can't.</summary>
    /// <param name="packet">The packet, its IP header checked, without bytes beyond its length.</param>
    /// <param name="offload">What the TUN device said of it.</param>
    public static SegmentShape ShapeOf(ReadOnlySpan<byte> packet, in Offload offload)
    {
        SegmentShape shape = offload.Gso == GsoType.None ? SegmentShape.Of(packet, offload) : default;
        bool isWhereExpected = !offload.NeedsChecksum ||
            (offload.ChecksumStart == shape.TransportStart && offload.ChecksumOffset == UdpView.ChecksumOffset);
        return shape.Protocol == IpProtocol.Udp && shape.MayJoin && isWhereExpected ? shape : default;
    }

    /// <summary>Adds a datagram; the first begins the run.</summary>
    /// <param name="packet">The datagram.</param>
    /// <param name="offload">What the TUN device said of it.</param>
    /// <param name="shape">Its shape: <see cref="ShapeOf"/>.</param>
    /// <param name="peer">Who gets it.</param>
    /// <returns>False where it can't follow those that are there; nothing has changed then.</returns>
    public bool TryAdd(in Piece packet, in Offload offload, in SegmentShape shape, Peer peer)
    {
        if (Count == 0)
        {
            (_peer, _shape, _isClosed, Length) = (peer, shape, false, packet.Length);
        }
        else if (Follows(packet, offload, shape, peer))
        {
            // A shorter datagram can only be the last.
            _isClosed = shape.Payload < _shape.Payload;
            Length += shape.Payload;
        }
        else
        {
            return false;
        }

        _datagrams[Count] = packet;
        _offloads[Count++] = offload;
        return true;
    }

    /// <summary>Finishes the checksum of a datagram that will leave by itself.</summary>
    /// <param name="index">Which: 0 to <see cref="Count"/> - 1.</param>
    public void FinishChecksum(int index)
    {
        if (_offloads[index].NeedsChecksum)
        {
            UnfinishedChecksum.TryFinish(_datagrams[index].Span, _offloads[index]);
        }
    }

    /// <summary>Forgets all datagrams.</summary>
    public void Clear() => Count = 0;

    private bool Follows(in Piece packet, in Offload offload, in SegmentShape shape, Peer peer)
    {
        if (_isClosed || Count == MaxDatagrams || !ReferenceEquals(peer, _peer) || shape.IsIpv4 != _shape.IsIpv4 ||
            shape.Payload > _shape.Payload || Length + shape.Payload + peer.Overhead > ushort.MaxValue)
        {
            return false;
        }

        ReadOnlySpan<byte> head = _datagrams[0].Span;
        ReadOnlySpan<byte> bytes = packet.Span;
        return _shape.IsSameFlow(head, bytes) &&
            (!shape.IsIpv4 || Identification(bytes) == (ushort)(Identification(head) + Count)) &&
            (Count > 1 || _shape.IsChecksumRight(head, _offloads[0])) &&
            shape.IsChecksumRight(bytes, offload);
    }

    private static ushort Identification(ReadOnlySpan<byte> packet) => BinaryPrimitives.ReadUInt16BigEndian(packet[Ipv4Header.IdentificationOffset..]);
}
