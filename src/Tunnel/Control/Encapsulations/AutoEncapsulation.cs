namespace Tunnel.Control.Encapsulations;

/// <summary>
/// Decides about one peer whose encapsulation is left to tunneld: no tunnel where that works, else plain GRE, else, where it is allowed, GRE-in-UDP.
/// Times are milliseconds of any clock that only goes forward. Not thread-safe; does nothing by itself.
/// </summary>
internal sealed class AutoEncapsulation
{
    // In a row.
    private const int AnswersForDirect = 3;
    private const int MissesForTunnel = 3;

    // Between questions without a tunnel: to be sure, while that is the way, while it is not, and after it has failed.
    private const long Soon = 200;
    private const long Often = 2_000;
    private const long Seldom = 5_000;
    private const long AfterFailure = 30_000;

    // How long silence may last. Two hosts that try both in turn meet at GRE-in-UDP, because that is tried for more than half of the time.
    private const long GrePatience = 10_000;
    private const long UdpPatience = 30_000;

    // How often plain GRE is tried beside GRE-in-UDP.
    private const long PlainAgain = 60_000;

    private int _answers;
    private int _misses;
    private long _directAt;
    private long _heardAt;
    private long _plainAt;

    /// <summary>Begins with plain GRE.</summary>
    /// <param name="now">The time.</param>
    public AutoEncapsulation(long now)
    {
        _directAt = now;
        _heardAt = now;
    }

    /// <summary>Whether packets go without a tunnel.</summary>
    public bool IsDirect { get; private set; }

    /// <summary>Whether what goes through the tunnel goes by GRE-in-UDP.</summary>
    public bool IsUdp { get; private set; }

    /// <summary>Whether the way without a tunnel was tried in vain last.</summary>
    public bool HasMissed => _misses > 0;

    /// <summary>Whether it is time to ask somebody behind the peer without a tunnel.</summary>
    public bool IsDirectDue(long now) => now >= _directAt;

    /// <summary>Somebody behind the peer was asked without a tunnel.</summary>
    /// <param name="answered">Whether anybody answered.</param>
    /// <param name="now">The time.</param>
    public void HearDirect(bool answered, long now)
    {
        (_answers, _misses) = answered ? (_answers + 1, 0) : (0, _misses + 1);
        bool wasDirect = IsDirect;
        IsDirect = wasDirect ? _misses < MissesForTunnel : _answers >= AnswersForDirect;
        _directAt = now + (IsDirect ? (answered ? Often : Soon) : wasDirect ? AfterFailure : answered ? Soon : Seldom);
    }

    /// <summary>There is no way without a tunnel.</summary>
    public void LeaveDirect() => (IsDirect, _answers, _misses) = (false, 0, 0);

    /// <summary>Judges what goes through the tunnel.</summary>
    /// <param name="isHeard">Whether the peer answers.</param>
    /// <param name="allowsUdp">Whether GRE-in-UDP may be used.</param>
    /// <param name="now">The time.</param>
    public void LookAtTunnel(bool isHeard, bool allowsUdp, long now)
    {
        if (isHeard || !allowsUdp)
        {
            IsUdp &= allowsUdp;
            _heardAt = now;
        }
        else if (now - _heardAt >= (IsUdp ? UdpPatience : GrePatience))
        {
            IsUdp = !IsUdp;
            _heardAt = now;
            _plainAt = now + PlainAgain;
        }
    }

    /// <summary>Whether it is time to ask the peer by plain GRE beside GRE-in-UDP.</summary>
    public bool IsPlainDue(long now) => IsUdp && now >= _plainAt;

    /// <summary>The peer was asked by plain GRE.</summary>
    /// <param name="answered">Whether it answered.</param>
    /// <param name="now">The time.</param>
    public void HearPlain(bool answered, long now)
    {
        IsUdp &= !answered;
        _heardAt = now;
        _plainAt = now + PlainAgain;
    }
}
