using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// Where packets to a peer go on the underlay. Kept over changes of configuration that leave endpoint and port as they are.
/// Thread rule: immutable but for <see cref="Neighbor"/>, <see cref="PathMtu"/>, <see cref="Refuses"/> and
/// <see cref="TakesRawFragments"/>, which are published with one write each, and <see cref="Abilities"/>, <see cref="NoteLarge"/>,
/// <see cref="NoteWrongKey"/>, <see cref="NoteHearing"/> and <see cref="NoteDestination"/>, which the workers keep.
/// </summary>
/// <param name="endpoint">The peer's underlay address.</param>
/// <param name="udpPort">Its UDP port for GRE-in-UDP; 0 for plain GRE.</param>
public sealed class UnderlayTarget(InetAddress endpoint, ushort udpPort = 0)
{
    /// <summary>A packet longer than this, in bytes, is one that a path may be too narrow for: the smallest MTU of IPv4 paths that matter.</summary>
    public const int LargePacket = 512;

    // In milliseconds. Longer than the longest pause between two questions.
    private const int WrongKeyMemory = 90_000;

    // Of a destination: nobody wants to know one; somebody does; a worker writes one; it is there.
    private const int Unwanted = 0;
    private const int Wanted = 1;
    private const int Writing = 2;
    private const int Found = 3;

    private LinkNeighbor? _neighbor;
    private int _pathMtu;
    private bool _sentLarge;
    private bool _refuses;
    private bool _takesRawFragments;
    private long _wrongKeyAt;
    private long _hearing;
    private int _seeking;
    private InetAddress _destination;

    /// <summary>The peer's underlay address.</summary>
    public InetAddress Endpoint { get; } = endpoint;

    /// <summary>Its UDP port for GRE-in-UDP (RFC 8086); 0 for plain GRE.</summary>
    public ushort UdpPort { get; } = udpPort;

    /// <summary>What the peer's daemon can receive.</summary>
    public PeerAbilities Abilities { get; } = new();

    /// <summary>The largest outer packet that is known to arrive, in bytes, outer IP header included; 0 while nothing is known beyond what the kernel knows.</summary>
    public int PathMtu
    {
        get => Volatile.Read(ref _pathMtu);
        set => Volatile.Write(ref _pathMtu, value);
    }

    /// <summary>
    /// Whether nobody listens there (Port Unreachable), so that nothing may be sent until that changes: RFC 8086 section 9. The control plane sets
    /// it; it ends there, or with the first message that a worker gets from the peer.
    /// </summary>
    public bool Refuses
    {
        get => Volatile.Read(ref _refuses);
        set => Volatile.Write(ref _refuses, value);
    }

    /// <summary>Whether the peer is down. The control plane's own: packet threads send all the same.</summary>
    public bool IsDown { get; set; }

    /// <summary>
    /// Whether outer fragments of GRE-in-UDP may be sent to it by a raw socket: not where an IPsec policy may apply, which could ask for ports. The
    /// control plane sets it once it knows; until then a UDP socket fragments by what the kernel knows of the path.
    /// </summary>
    public bool TakesRawFragments
    {
        get => Volatile.Read(ref _takesRawFragments);
        set => Volatile.Write(ref _takesRawFragments, value);
    }

    /// <summary>Notes that a packet came from there with a key that is not expected. Any worker.</summary>
    /// <param name="now">The time: <see cref="Environment.TickCount64"/>, here and below.</param>
    public void NoteWrongKey(long now) => Volatile.Write(ref _wrongKeyAt, now);

    /// <summary>When such a packet came last; 0 for never.</summary>
    public long WrongKeyAt => Volatile.Read(ref _wrongKeyAt);

    /// <summary>Whether such a packet has come lately.</summary>
    public bool HasWrongKey(long now) => WrongKeyAt is > 0 and long at && now - at < WrongKeyMemory;

    /// <summary>Notes what the peer's daemon says that it hears of this host. Any worker.</summary>
    /// <param name="hearing">What it says.</param>
    /// <param name="now">The time.</param>
    public void NoteHearing(Hearing hearing, long now) =>
        Volatile.Write(ref _hearing, (now << 16) | (hearing.HasWrongKey ? 1L << 8 : 0) | hearing.Seconds);

    /// <summary>What the peer's daemon said last that it hears of this host.</summary>
    /// <param name="hearing">What it said.</param>
    /// <param name="at">When it said so.</param>
    /// <returns>False where it never has.</returns>
    public bool TryGetHearing(out Hearing hearing, out long at)
    {
        long said = Volatile.Read(ref _hearing);
        at = said >> 16;
        hearing = new Hearing((byte)said, (said & (1 << 8)) != 0);
        return said != 0;
    }

    /// <summary>Notes that a packet longer than <see cref="LargePacket"/> goes there. Any worker.</summary>
    public void NoteLarge()
    {
        if (!Volatile.Read(ref _sentLarge))
        {
            Volatile.Write(ref _sentLarge, true);
        }
    }

    /// <summary>Whether such a packet has gone there since the last call.</summary>
    public bool TakeLarge()
    {
        bool sent = Volatile.Read(ref _sentLarge);
        if (sent)
        {
            Volatile.Write(ref _sentLarge, false);
        }

        return sent;
    }

    /// <summary>Whether the control plane wants to know whom the next packet is for.</summary>
    public bool SeeksDestination => Volatile.Read(ref _seeking) == Wanted;

    /// <summary>Asks whom the next packet to the peer is for. The control plane's.</summary>
    public void SeekDestination() => Interlocked.CompareExchange(ref _seeking, Wanted, Unwanted);

    /// <summary>Says whom a packet is for. Any worker, where <see cref="SeeksDestination"/>.</summary>
    /// <param name="destination">The inner destination.</param>
    public void NoteDestination(InetAddress destination)
    {
        if (Interlocked.CompareExchange(ref _seeking, Writing, Wanted) == Wanted)
        {
            _destination = destination;
            Volatile.Write(ref _seeking, Found);
        }
    }

    /// <summary>Takes what a worker has said since it was asked. The control plane's.</summary>
    /// <param name="destination">An inner destination.</param>
    /// <returns>False where no packet has gone there since.</returns>
    public bool TryTakeDestination(out InetAddress destination)
    {
        bool isFound = Volatile.Read(ref _seeking) == Found;
        destination = isFound ? _destination : InetAddress.None;
        if (isFound)
        {
            Volatile.Write(ref _seeking, Unwanted);
        }

        return isFound;
    }

    /// <summary>
    /// The next hop towards it as the kernel has resolved it: for plain GRE through a packet socket, and for super-packets that are encapsulated
    /// without a socket. Null where it is not known at this moment, or where the kernel must do the sending (another kind of link, an IPsec
    /// policy, a firewall rule). With <see cref="UdpPort"/> null too where the link would not carry such a super-packet uncut.
    /// </summary>
    public LinkNeighbor? Neighbor
    {
        get => Volatile.Read(ref _neighbor);
        set => Volatile.Write(ref _neighbor, value);
    }
}

/// <summary>A neighbour on an Ethernet link. Another object says that something about neighbour or link may have changed.</summary>
/// <param name="LinkIndex">The device that packets leave by (ifindex).</param>
/// <param name="Address">Its link-layer address: 48 bits, the first byte on the wire highest.</param>
/// <param name="CarriesGre">Whether the device takes super-packets inside plain GRE uncut; else the kernel cuts them before.</param>
public sealed record LinkNeighbor(int LinkIndex, ulong Address, bool CarriesGre = false);
