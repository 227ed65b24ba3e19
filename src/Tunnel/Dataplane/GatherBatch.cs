namespace Tunnel.Dataplane;

/// <summary>What became of a packet handed to the kernel.</summary>
public enum TransmitResult : byte
{
    /// <summary>The kernel took it.</summary>
    Sent = 0,

    /// <summary>The socket's or the device's queue stayed full (EAGAIN, ENOBUFS).</summary>
    QueueFull,

    /// <summary>Larger than the link or the known path takes (EMSGSIZE).</summary>
    TooLong,

    /// <summary>No route or no neighbour (ENETUNREACH, EHOSTUNREACH, ENETDOWN).</summary>
    Unreachable,

    /// <summary>A local firewall rule refused it (EPERM, EACCES).</summary>
    Denied,

    /// <summary>Any other refusal.</summary>
    Failed,
}

/// <summary>One packet of a <see cref="GatherBatch"/>.</summary>
public struct GatherPacket
{
    /// <summary>Index of its first piece.</summary>
    public int FirstPiece;

    /// <summary>How many pieces make it up.</summary>
    public int PieceCount;

    /// <summary>Sum of their lengths, in bytes.</summary>
    public int Length;

    /// <summary>What the TUN device is to be told beside it; unused towards the underlay.</summary>
    public Offload Offload;

    /// <summary>Where on the underlay to send it; null towards the TUN device.</summary>
    public UnderlayTarget? Target;

    /// <summary>Bytes of each datagram but the last, where it is to be cut into UDP datagrams (UDP_SEGMENT); else 0.</summary>
    public int SegmentSize;

    /// <summary>
    /// Whether it is a fragment of an outer packet: then it begins with the outer IP header even if its target has a UDP port. Of the first, the UDP
    /// header lacks the source port, which is not in its checksum either (<see cref="Wire.UdpView.AddSourcePort"/>).
    /// </summary>
    public bool IsFragment;

    /// <summary>How many inner packets it carries; 0 for a message between daemons, and for a fragment of an outer packet but the first.</summary>
    public int Segments;

    /// <summary>What the outer header is to say, where the kernel writes it; for plain GRE it lies in the packet.</summary>
    public OuterFields Outer;

    /// <summary>Whether it goes the way of super-packets without being one, where the kernel can cut for its target, so that it keeps its place among its flow's.</summary>
    public bool FollowsUncut;

    /// <summary>A hash of the inner flow; 0 towards the TUN device, and for plain GRE that goes through raw sockets.</summary>
    public uint FlowHash;

    /// <summary>What became of it; written by the device.</summary>
    public TransmitResult Result;
}

/// <summary>
/// Packets to hand to the kernel together, each gathered from one or more pieces of memory, so that nothing is moved to make it
/// contiguous. Thread rule: owned by one worker. Lifetime: the pieces' memory must stay untouched until the call that takes the
/// batch has returned; after that the batch may be cleared and the memory used again.
/// </summary>
public sealed class GatherBatch
{
    private readonly GatherPacket[] _packets;
    private readonly Piece[] _pieces;

    /// <summary>Makes a batch.</summary>
    /// <param name="packets">The most packets it holds.</param>
    /// <param name="pieces">The most pieces they have together.</param>
    public GatherBatch(int packets, int pieces)
    {
        _packets = new GatherPacket[packets];
        _pieces = new Piece[pieces];
    }

    /// <summary>The most packets it holds.</summary>
    public int Capacity => _packets.Length;

    /// <summary>The most pieces all packets have together.</summary>
    public int PieceCapacity => _pieces.Length;

    /// <summary>How many packets it holds now.</summary>
    public int Count { get; private set; }

    /// <summary>How many pieces they have together.</summary>
    public int PieceCount { get; private set; }

    /// <summary>A packet.</summary>
    /// <param name="index">0 to <see cref="Count"/> - 1.</param>
    public ref GatherPacket this[int index] => ref _packets[index];

    /// <summary>The pieces of a packet, in order.</summary>
    public ReadOnlySpan<Piece> Pieces(int index) => _pieces.AsSpan(_packets[index].FirstPiece, _packets[index].PieceCount);

    /// <summary>Forgets all packets.</summary>
    public void Clear()
    {
        Count = 0;
        PieceCount = 0;
    }

    /// <summary>Begins a packet with its first piece and returns its index.</summary>
    public int Add(Piece piece, in Offload offload = default, UnderlayTarget? target = null)
    {
        _pieces[PieceCount] = piece;
        _packets[Count] = new GatherPacket
        {
            FirstPiece = PieceCount++,
            PieceCount = 1,
            Length = piece.Length,
            Offload = offload,
            Target = target,
            Segments = 1,
        };
        return Count++;
    }

    /// <summary>Adds a piece to the packet begun last.</summary>
    public void Append(Piece piece)
    {
        ref GatherPacket last = ref _packets[Count - 1];
        _pieces[PieceCount++] = piece;
        last.PieceCount++;
        last.Length += piece.Length;
    }
}
