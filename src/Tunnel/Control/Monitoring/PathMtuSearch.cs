namespace Tunnel.Control.Monitoring;

/// <summary>
/// Finds the path MTU to a peer whose daemon answers, after the idea of RFC 8899: probes of chosen lengths, whose answers are small. It needs no
/// ICMP and believes it only downwards. Begins with the link's MTU; looks whether packets of the length in force still arrive while large ones
/// flow; where they don't, asks with several lengths at once and narrows down to the longest that is answered; and tries longer ones now and
/// then. A length comes into force only when it is found exactly: senders remember for minutes what they have been told, however short it held.
/// Lengths are those of whole outer packets in bytes, times milliseconds of any clock that only goes forward. Not thread-safe; does nothing by
/// itself.
/// </summary>
internal sealed class PathMtuSearch
{
    /// <summary>How soon a length is verified again while large packets flow.</summary>
    public const long VerifyWhileUsed = 500;

    /// <summary>The same without large packets.</summary>
    public const long VerifyWhileIdle = 60_000;

    /// <summary>The longest pause between tries of longer packets.</summary>
    public const long LongestGrowPause = 300_000;

    private const long FirstGrowPause = 5_000;

    // Anybody may claim to be a router: soon after, whether longer packets pass all the same; then not for long (RFC 1191 section 6.3).
    private const long DoubtPause = 1_000;

    // Lengths asked for at once: three rounds from 1,500 bytes to one.
    private const int Rungs = 24;

    // How often a round is asked again in which nothing was answered, not even what is known to pass.
    private const int MostVoidRounds = 2;

    // What is in force is asked for again more than once: a lost probe is likely just a lost packet.
    private const int Repeats = 3;

    private readonly int _floor;
    private int _ceiling;

    // The round: what was asked, until when answers count, and the longest answered.
    private readonly List<int> _asked = new(Rungs + Repeats);
    private Round _round;
    private long _deadline;
    private int _answered;

    // Over the rounds of a search: what is known to pass, and what is known, or taken, not to.
    private int _passes;
    private int _fails;
    private int _voidRounds;

    private long _verifiedAt = long.MinValue / 2;
    private long _verifyAt;
    private long _growAt;
    private long _growPause = FirstGrowPause;

    /// <summary>Begins.</summary>
    /// <param name="ceiling">The longest packet that the link takes.</param>
    /// <param name="floor">The length that is never gone below.</param>
    /// <param name="now">The time.</param>
    public PathMtuSearch(int ceiling, int floor, long now)
    {
        _ceiling = ceiling;
        _floor = Math.Min(floor, ceiling);
        Current = ceiling;
        _verifyAt = now;
    }

    private enum Round
    {
        None,
        Verify,
        Recover,
        Narrow,
    }

    /// <summary>The length in force.</summary>
    public int Current { get; private set; }

    /// <summary>Whether a packet of the length in force has been answered.</summary>
    public bool IsConfirmed { get; private set; }

    /// <summary>Whether answers are waited for.</summary>
    public bool IsBusy => _round != Round.None;

    /// <summary>The link's MTU has changed. A longer one is tried at once; until it is answered, nothing longer is sent.</summary>
    public void SetCeiling(int ceiling, long now)
    {
        if (ceiling == _ceiling)
        {
            return;
        }

        bool grows = ceiling > _ceiling;
        _ceiling = ceiling;
        if (Current > ceiling)
        {
            Settle(ceiling);
            _verifyAt = now;
        }

        // A search under way may be among lengths that the link does not take any more.
        if (_round != Round.None)
        {
            _round = Round.None;
            _verifyAt = now;
        }

        if (grows)
        {
            (_growAt, _growPause) = (now, FirstGrowPause);
        }
    }

    /// <summary>A router has said what it takes. Believed where it is less; whether it is true is found out.</summary>
    public void HearTooBig(int mtu, long now)
    {
        mtu = Math.Max(mtu, _floor);
        if (mtu >= Current)
        {
            return;
        }

        Settle(mtu);
        _round = Round.None;
        _verifyAt = now;
        _growPause = LongestGrowPause;
        _growAt = now + DoubtPause;
    }

    /// <summary>A probe of a length was answered.</summary>
    public void HearAnswer(int length)
    {
        if (_asked.Contains(length))
        {
            _answered = Math.Max(_answered, length);
        }
    }

    /// <summary>Looks at what came, and decides what to ask.</summary>
    /// <param name="now">The time.</param>
    /// <param name="patience">How long an answer may take.</param>
    /// <param name="isUsed">Whether large packets have been sent since the last call.</param>
    /// <param name="send">Is called for each probe to send, with its length.</param>
    public void Advance(long now, long patience, bool isUsed, Action<int> send)
    {
        if (_round != Round.None)
        {
            if (now < _deadline && _answered < _asked.Max())
            {
                return;
            }

            Conclude(now);
            if (_round != Round.None)
            {
                AskRungs();
                Send(send, now + patience);
            }

            return;
        }

        if (isUsed)
        {
            _verifyAt = Math.Min(_verifyAt, _verifiedAt + VerifyWhileUsed);
        }

        if (now >= _verifyAt)
        {
            _round = Round.Verify;
            _asked.Clear();
            _asked.Add(Current);
            Send(send, now + patience);
        }
        else if (Current < _ceiling && now >= _growAt && IsConfirmed)
        {
            (_passes, _fails, _voidRounds) = (Current, _ceiling + 1, 0);
            _growPause = Math.Min(_growPause * 2, LongestGrowPause);
            _growAt = now + _growPause;
            _round = Round.Narrow;
            AskRungs();
            Send(send, now + patience);
        }
    }

    private void Conclude(long now)
    {
        Round round = _round;
        _round = Round.None;
        _verifiedAt = now;
        _verifyAt = now + VerifyWhileIdle;
        if (round == Round.Verify)
        {
            IsConfirmed = _answered == Current;
            if (!IsConfirmed)
            {
                (_passes, _fails, _voidRounds) = (_floor - 1, Current + 1, 0);
                _round = Round.Recover;
            }

            return;
        }

        if (_answered > 0)
        {
            _passes = Math.Max(_passes, _answered);
            _fails = _asked.Where(length => length > _passes).Append(_fails).Min();
            _voidRounds = 0;
        }
        else if (round == Round.Recover || ++_voidRounds > MostVoidRounds)
        {
            // Not even short ones: this is not the packets' length.
            return;
        }

        if (_fails - _passes > 1)
        {
            _round = Round.Narrow;
            return;
        }

        if (_passes < Current)
        {
            (_growAt, _growPause) = (now + FirstGrowPause, FirstGrowPause);
        }

        Settle(_passes);
        IsConfirmed = true;
    }

    private void Settle(int length)
    {
        if (length != Current)
        {
            Current = length;
            IsConfirmed = false;
        }
    }

    // Lengths spread over what is not known yet, the longest first; and once more what will be answered if anything is.
    private void AskRungs()
    {
        int top = _fails - 1;
        int bottom = _passes + 1;
        _asked.Clear();
        for (int i = 0; i < Rungs; i++)
        {
            int length = top - (int)((long)(top - bottom) * i / (Rungs - 1));
            if (!_asked.Contains(length))
            {
                _asked.Add(length);
            }
        }

        if (_round == Round.Recover)
        {
            _asked.AddRange(Enumerable.Repeat(Current, Repeats - 1));
        }
        else
        {
            _asked.Add(_passes);
        }
    }

    private void Send(Action<int> send, long deadline)
    {
        _answered = 0;
        _deadline = deadline;
        _asked.ForEach(send);
    }
}
