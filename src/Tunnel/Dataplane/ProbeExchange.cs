using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>What a peer is asked with.</summary>
public enum ProbeKind
{
    /// <summary>An <see cref="EchoMessage"/>, which a peer that runs this program answers.</summary>
    Echo,

    /// <summary>
    /// A packet that carries its own way back, as routers send it: GRE around an IP packet from the peer to this host, which is GRE again, with
    /// protocol type 0 and nothing the peer would have to understand. Plain GRE over IPv4 only.
    /// </summary>
    ReturnPacket,

    /// <summary>No question: an <see cref="AbilitiesMessage"/> that says what a raw socket can receive.</summary>
    RawAbilities,
}

/// <summary>A question that the control plane wants sent.</summary>
/// <param name="Peer">Whom to ask.</param>
/// <param name="Kind">What with.</param>
/// <param name="Token">What the answer returns.</param>
/// <param name="Length">How many bytes an <see cref="EchoMessage"/> takes with its padding: like an inner packet of this length.</param>
public readonly record struct ProbeRequest(Peer Peer, ProbeKind Kind, ulong Token, int Length);

/// <summary>An answer that came.</summary>
/// <param name="Target">Who has answered.</param>
/// <param name="Token">What the question said.</param>
/// <param name="Length">The question's length as it arrived, in bytes.</param>
/// <param name="RoundTrip">From the question's leaving to the answer's coming, in units of <see cref="System.Diagnostics.Stopwatch"/>; as true as the peer is.</param>
public readonly record struct ProbeReply(UnderlayTarget Target, ulong Token, int Length, long RoundTrip);

/// <summary>
/// A packet that was dropped, of which people should hear: nobody's, whose sender may be a peer with another address; a peer's with another key; a
/// peer's with a source that is not its own.
/// </summary>
/// <param name="Source">Its outer source.</param>
/// <param name="HasKey">Whether it has a GRE key.</param>
/// <param name="Key">The key.</param>
/// <param name="InnerSource">Its inner source; none where it is no IP packet.</param>
/// <param name="Reason">Why it was dropped: UnknownPeer, KeyMismatch or SourceNotInPeerSubnets.</param>
/// <param name="IsMessage">Whether it is a message between daemons.</param>
public readonly record struct Stranger(
    InetAddress Source, bool HasKey, uint Key, InetAddress InnerSource, DropReason Reason = DropReason.UnknownPeer, bool IsMessage = false);

/// <summary>
/// Between the packet threads and whoever watches over the peers: questions to send, answers that came. Thread rule: the control plane, one
/// thread at a time, adds questions and takes what came; worker 0 sends; each worker adds to rings of its own.
/// </summary>
public sealed class ProbeExchange
{
    private const int Questions = 1024;
    private const int Answers = 1024;
    private const int Strangers = 8;

    /// <summary>Makes the rings.</summary>
    /// <param name="workers">How many workers there are.</param>
    public ProbeExchange(int workers)
    {
        Replies = [.. Enumerable.Range(0, workers).Select(_ => new HandoverRing<ProbeReply>(Answers))];
        Unknown = [.. Enumerable.Range(0, workers).Select(_ => new HandoverRing<Stranger>(Strangers))];
    }

    /// <summary>Questions for worker 0 to send.</summary>
    public HandoverRing<ProbeRequest> Requests { get; } = new(Questions);

    /// <summary>Answers, by worker.</summary>
    public HandoverRing<ProbeReply>[] Replies { get; }

    /// <summary>Some of the packets that were dropped and that people should hear of, by worker. A flood leaves most of them out.</summary>
    public HandoverRing<Stranger>[] Unknown { get; }
}
