namespace Tunnel.Dataplane;

/// <summary>
/// The hosts' own network as the tunnel sees it: whole outer IP packets of protocol 47, IPv4 and IPv6.
/// Thread rule: one worker calls <see cref="Receive"/> and <see cref="Send"/>; no call blocks for longer than a full
/// socket buffer takes to drain, and that is bounded (see the implementation). The counters may be read from any thread.
/// </summary>
public interface IUnderlay : IDisposable
{
    /// <summary>
    /// Fills the batch with the packets that are waiting, at most its capacity. Every packet begins with its outer IPv4 or IPv6
    /// header, whichever way the kernel handed that over (a raw IPv6 socket gives it as ancillary data: the implementation puts
    /// it back in the headroom), is reassembled, and is up to 64 KiB long: it may be several packets that the kernel has coalesced.
    /// </summary>
    /// <returns>How many there were; 0 where none is waiting.</returns>
    int Receive(PacketBatch batch);

    /// <summary>
    /// Sends every packet of the batch, in order, and writes each one's <see cref="GatherPacket.Result"/>. Every packet begins with
    /// a complete outer IP header whose destination is <see cref="GatherPacket.Destination"/>. A refused packet does not keep the
    /// others back.
    /// </summary>
    void Send(GatherBatch batch);

    /// <summary>Packets that the kernel dropped because this end's receive queue was full, since the underlay was opened.</summary>
    long ReceiveQueueDrops { get; }
}
