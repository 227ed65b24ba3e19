using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// What a peer's daemon has said that it can receive. A peer that says nothing is not this program, or an older one, and gets ordinary packets only:
/// on a link that carries super-packets uncut, many a receiver would take one for damage. What was said holds for
/// <see cref="Lifetime"/>; while there is use for it, it is asked for again before.
/// Times are those of <see cref="Environment.TickCount64"/>: milliseconds. Thread rule: any worker may call anything; allocates nothing.
/// </summary>
public sealed class PeerAbilities
{
    /// <summary>How long an answer holds, in milliseconds.</summary>
    public const int Lifetime = 30_000;

    private const int Refresh = 10_000;
    private const int FirstPause = 1_000;
    private const int LongestPause = 64_000;
    private const int TellPause = 100;
    private const long Never = long.MinValue / 2;

    private bool _isHeard;
    private long _heardAt = Never;
    private int _abilities;
    private long _askAt = Never;
    private long _tellAt = Never;
    private int _pause = FirstPause;

    /// <summary>Whether the peer can receive something.</summary>
    public bool Has(Abilities ability, long now) =>
        ((Abilities)Volatile.Read(ref _abilities) & ability) != 0 && now - Volatile.Read(ref _heardAt) < Lifetime;

    /// <summary>Whether the peer has ever said anything: then it is this program.</summary>
    public bool IsHeard => Volatile.Read(ref _isHeard);

    /// <summary>Notes that the peer has said something, whatever it was.</summary>
    public void NoteHeard()
    {
        if (!Volatile.Read(ref _isHeard))
        {
            Volatile.Write(ref _isHeard, true);
        }
    }

    /// <summary>Notes what the peer has said.</summary>
    public void Hear(Abilities abilities, long now)
    {
        NoteHeard();
        Volatile.Write(ref _abilities, (int)abilities);
        Volatile.Write(ref _heardAt, now);
        Volatile.Write(ref _pause, FirstPause);
    }

    /// <summary>Whether to ask the peer now; who gets true does. Peers that never answer are asked ever less often.</summary>
    public bool TryAsk(long now)
    {
        long askAt = Volatile.Read(ref _askAt);
        int pause = Volatile.Read(ref _pause);
        if (now < askAt || now - Volatile.Read(ref _heardAt) < Refresh ||
            Interlocked.CompareExchange(ref _askAt, now + pause, askAt) != askAt)
        {
            return false;
        }

        Volatile.Write(ref _pause, Math.Min(pause * 2, LongestPause));
        return true;
    }

    /// <summary>Whether to tell the peer of this host's abilities now; who gets true does. A limit for what a flood of questions costs.</summary>
    public bool TryTell(long now)
    {
        long tellAt = Volatile.Read(ref _tellAt);
        return now >= tellAt && Interlocked.CompareExchange(ref _tellAt, now + TellPause, tellAt) == tellAt;
    }
}
