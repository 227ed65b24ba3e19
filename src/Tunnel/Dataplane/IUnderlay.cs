namespace Tunnel.Dataplane;

/// <summary>
/// The hosts' own network as the tunnel sees it, for one worker: plain GRE as whole outer IP packets of protocol 47, IPv4 and IPv6, and
/// GRE-in-UDP as datagrams. Thread rule: one worker calls <see cref="Receive"/> and <see cref="Send"/>; no call blocks for longer
/// than a full socket buffer takes to drain, and that is bounded (see the implementation). The counters may be read from any thread.
/// </summary>
public interface IUnderlay : IDisposable
{
    /// <summary>
    /// Fills the batch with the packets that are waiting, at most its capacity. What a packet begins with, and what is known of it, is
    /// said by <see cref="Packet.Reception"/>. Packets of plain GRE are reassembled, and up to 64 KiB long: each may be several packets
    /// that the kernel has coalesced.
    /// </summary>
    /// <returns>How many there were; 0 where none is waiting.</returns>
    int Receive(PacketBatch batch);

    /// <summary>
    /// Sends every packet of the batch, in order, and writes each one's <see cref="GatherPacket.Result"/>. Towards a target without UDP
    /// port every packet begins with a complete outer IP header, and so does a <see cref="GatherPacket.IsFragment"/>; towards one with a UDP port
    /// it is what follows the UDP header, once or, where <see cref="GatherPacket.SegmentSize"/> is set, once for each datagram. A refused packet does not keep the others back.
    /// </summary>
    void Send(GatherBatch batch);

    /// <summary>
    /// Whether a super-packet to this target may be sent uncut: its outer headers as the first piece, with lengths that don't count, then the inner
    /// super-packet, and <see cref="GatherPacket.Offload"/> counted from that.
    /// </summary>
    bool Cuts(UnderlayTarget target);

    /// <summary>Packets that the kernel dropped because this end's receive queue was full, since the underlay was opened.</summary>
    long ReceiveQueueDrops { get; }
}

/// <summary>A way for packets of plain GRE between this process and the kernel.</summary>
public enum UnderlayPath
{
    /// <summary>
    /// A raw socket, raw(7). Everything that the kernel does for a packet of its own applies: routes, neighbours, netfilter, IPsec,
    /// reassembly. Always works.
    /// </summary>
    Raw,

    /// <summary>
    /// A packet socket, packet(7): around netfilter's INPUT and OUTPUT and around IPsec, straight to and from the link, at a fraction of
    /// the cost.
    /// </summary>
    Packet,
}

/// <summary>
/// Which ways the underlays of all workers use. Thread rule: the control plane calls; workers follow with their next batch. While the
/// ways change, a packet may be lost, but is never received twice.
/// </summary>
public interface IUnderlayPaths
{
    /// <summary>The ways in use.</summary>
    (UnderlayPath Receive, UnderlayPath Send) Paths { get; }

    /// <summary>Changes the ways for plain GRE over IPv4. Plain GRE over IPv6 is received by raw sockets in any case.</summary>
    /// <exception cref="UnderlayException">A packet socket can't be opened; nothing has changed. Raw sockets are never refused.</exception>
    void UsePaths(UnderlayPath receive, UnderlayPath send);
}
