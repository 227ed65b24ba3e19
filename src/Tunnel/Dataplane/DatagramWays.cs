namespace Tunnel.Dataplane;

/// <summary>
/// Which flows of datagrams go the way of super-packets, where the kernel cuts plain GRE before the device gets it, and which go singly. A receiver that
/// coalesces on a virtual link passes those of the first way at once and may hold those of the second back for some milliseconds. So a flow may change from the
/// first to the second at any time, but back only after a pause. It begins with the first, and leaves it where too few lie together.
/// Thread rule: used by one worker; allocates nothing.
/// </summary>
internal sealed class DatagramWays
{
    /// <summary>How many datagrams must lie together to be worth it: fewer cost the receiver more than they save the sender.</summary>
    public const int WorthIt = 8;

    /// <summary>
    /// A datagram of a run shorter than <see cref="WorthIt"/> counts 1, one of a longer run takes 2 off; at this number the flow goes singly until it pauses.
    /// </summary>
    public const int Patience = 1024;

    /// <summary>How long a flow must pause before it begins anew, in milliseconds: more than a coalescing device waits.</summary>
    public const int Pause = 50;

    private const int Flows = 1024;

    // Flows whose hashes are equal modulo that share an entry, and so the way.
    private readonly (long LastSeen, int Misses)[] _flows = new (long, int)[Flows];

    /// <summary>Takes notice of a datagram, and says whether it goes the way of super-packets, be it alone.</summary>
    /// <param name="flowHash">The hash of its flow.</param>
    /// <param name="now">The time, in milliseconds.</param>
    public bool GoesUncut(uint flowHash, long now)
    {
        ref (long LastSeen, int Misses) flow = ref _flows[flowHash % Flows];
        if (now - flow.LastSeen >= Pause)
        {
            flow.Misses = 0;
        }

        flow.LastSeen = now;
        return flow.Misses < Patience;
    }

    /// <summary>Takes notice of how many datagrams of a flow lay together.</summary>
    /// <param name="flowHash">The hash of the flow.</param>
    /// <param name="count">How many, from 1 up.</param>
    public void Note(uint flowHash, int count)
    {
        ref int misses = ref _flows[flowHash % Flows].Misses;
        misses = count >= WorthIt ? Math.Max(misses - (2 * count), 0) : Math.Min(misses + count, Patience);
    }
}
