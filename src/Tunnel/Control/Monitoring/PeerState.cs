namespace Tunnel.Control.Monitoring;

/// <summary>Whether a peer is there. The words are part of the control API.</summary>
internal enum PeerState
{
    /// <summary>It has never answered, and need not: it may not run this program.</summary>
    Unknown,

    /// <summary>It answers, or, where it can't be asked, its packets arrive.</summary>
    Up,

    /// <summary>It answers now and then only; or its packets arrive, but no answers.</summary>
    Degraded,

    /// <summary>It neither answers nor sends anything; or it sends, and says that nothing of this host arrives there.</summary>
    Down,
}

/// <summary>The words of <see cref="PeerState"/>.</summary>
internal static class PeerStateWords
{
    /// <summary>The state's word, as the control API has it.</summary>
    public static string ToWord(this PeerState state) => state switch
    {
        PeerState.Up => "up",
        PeerState.Degraded => "degraded",
        PeerState.Down => "down",
        _ => "unknown",
    };
}

/// <summary>What is known of a peer at one moment.</summary>
/// <param name="State">Whether it is there.</param>
/// <param name="SinceSeconds">For how long it has been so.</param>
/// <param name="RoundTrip">The smoothed round trip; null where there is none.</param>
/// <param name="Loss">How many of the last questions were not answered: 0 to 1; null where none was asked.</param>
/// <param name="IsPathMtuConfirmed">Whether a packet as long as the path MTU in force has been answered.</param>
/// <param name="Complaints">What routers, or its host, say of packets to it, for people; empty where they say nothing.</param>
internal sealed record PeerHealth(
    PeerState State, double SinceSeconds, TimeSpan? RoundTrip, double? Loss, bool IsPathMtuConfirmed, IReadOnlyList<string> Complaints)
{
    /// <summary>Whether it is down because its daemon gets nothing from this host, as that has said in a packet that arrived here.</summary>
    public bool HearsNothing { get; init; }

    /// <summary>What is wrong, for people; empty where nothing is.</summary>
    public IEnumerable<string> Problems => HearsNothing ? [.. Complaints, "its daemon says that it gets nothing from this host"] : Complaints;
}
