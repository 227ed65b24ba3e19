namespace Tunnel.Control.Encapsulations;

/// <summary>
/// Decides by which encapsulation one peer is reached: plain GRE, or, where it is silent and that is allowed, GRE-in-UDP. Times are milliseconds of any clock
/// that only goes forward. Not thread-safe; does nothing by itself.
/// </summary>
/// <param name="now">The time.</param>
internal sealed class TunnelChoice(long now)
{
    // How long silence may last; longer in each round that was in vain. Two hosts that try both in turn meet at GRE-in-UDP, because that is tried for more
    // than half of the time.
    private const long GrePatience = 10_000;
    private const long LongestGrePatience = 60_000;
    private const int UdpShare = 3;

    // How often plain GRE is tried beside GRE-in-UDP.
    private const long PlainAgain = 60_000;

    private long _patience = GrePatience;
    private long _heardAt = now;
    private long _plainAt;

    /// <summary>Whether it is GRE-in-UDP.</summary>
    public bool IsUdp { get; private set; }

    /// <summary>Judges what is in use.</summary>
    /// <param name="isHeard">Whether the peer answers.</param>
    /// <param name="allowsUdp">Whether GRE-in-UDP may be used.</param>
    /// <param name="now">The time.</param>
    public void Look(bool isHeard, bool allowsUdp, long now)
    {
        if (isHeard || !allowsUdp)
        {
            IsUdp &= allowsUdp;
            _heardAt = now;
            _patience = GrePatience;
        }
        else if (now - _heardAt >= (IsUdp ? _patience * UdpShare : _patience))
        {
            _patience = IsUdp ? Math.Min(_patience * 2, LongestGrePatience) : _patience;
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
