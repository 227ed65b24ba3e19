using System.Diagnostics.CodeAnalysis;
using System.Numerics;
using Tunnel.Control.Configuration;
using Tunnel.Dataplane;

namespace Tunnel.Control.Monitoring;

/// <summary>
/// Watches over one peer: asks whether it is there, how long that takes, and how long packets may be. Times are milliseconds of any clock that
/// only goes forward. Not thread-safe; does nothing by itself.
/// </summary>
internal sealed class PeerMonitor
{
    // How many of the last questions the loss is of.
    private const int Window = 20;

    // More than this lost, and the peer is not simply up.
    private const double Tolerable = 0.2;

    // Questions in a row without an answer.
    private const int LostForDegraded = 2;
    private const int LostForDown = 3;

    private const long LongestPatience = 1_000;
    private const long ShortestPatience = 150;

    // A peer that has never answered is asked ever less often.
    private const long LongestPause = 60_000;

    // How long traffic of a peer that is not asked, or never answered, says that it is there; and how long a router's complaint is shown.
    private const long Memory = 30_000;

    // For how long after its last packet a peer that does not answer is still there: three of the usual questions of its own.
    private const long Silence = 15_000;

    // How exactly a peer's daemon says when it has heard this host last.
    private const long AccountUnit = 1_000;

    private readonly Dictionary<ulong, (long SentAt, int Length, ProbeKind Kind)> _asked = [];
    private readonly Func<ProbeKind, ulong, int, bool> _send;
    private readonly Action<int> _probe;
    private Keepalive _keepalive;
    private long _now;
    private ulong _nextToken;

    private ulong _echo;
    private long _echoAt;
    private long _echoDeadline;
    private long _pause;
    private uint _lost;
    private int _count;
    private int _lostInARow;
    private long _firstLostAt;
    private long _lastLostAt;
    private long _lossKnownAt;
    private long _heardAgainAt;
    private double? _roundTrip;
    private double _deviation;
    private long _discoverAt;
    private long _lastHeard = -1;
    private bool _hearsNothing;
    private string? _complaint;
    private long _complaintUntil;

    /// <summary>Begins to watch.</summary>
    /// <param name="keepalive">How the peer is asked.</param>
    /// <param name="path">The search for its path MTU; null where there is to be none.</param>
    /// <param name="firstToken">What the first question says; an attacker should not guess it.</param>
    /// <param name="now">The time.</param>
    /// <param name="send">
    /// Is called for each question: what with, its token, and its length in bytes (of the outer packet, for a path MTU; else 0). Says whether there was
    /// room for it.
    /// </param>
    public PeerMonitor(Keepalive keepalive, PathMtuSearch? path, ulong firstToken, long now, Func<ProbeKind, ulong, int, bool> send)
    {
        _send = send;
        _probe = length => Ask(ProbeKind.Echo, length, _now);
        _nextToken = firstToken;
        Path = path;
        Since = now;
        Use(keepalive, now);
    }

    /// <summary>The search for the path MTU; null where there is none.</summary>
    public PathMtuSearch? Path { get; }

    /// <summary>Whether the peer is there.</summary>
    public PeerState State { get; private set; }

    /// <summary>Since when.</summary>
    public long Since { get; private set; }

    /// <summary>Whether it has answered ever.</summary>
    public bool HasAnswered { get; private set; }

    /// <summary>Whether it runs this program, so that it can be asked how long packets may be. A router returns packets that carry their own way back only.</summary>
    public bool HasEchoed { get; private set; }

    /// <summary>Whether an answer is waited for, so that it is worth looking soon.</summary>
    public bool IsBusy => _echo != 0 || (IsSearched && (Path?.IsBusy ?? false));

    /// <summary>What is known now.</summary>
    public PeerHealth Health(long now) => new(
        State,
        (now - Since) / 1000.0,
        _roundTrip is double milliseconds ? TimeSpan.FromMilliseconds(milliseconds) : null,
        _count == 0 ? null : Loss,
        Path is { IsConfirmed: true },
        _complaint is not null && now < _complaintUntil ? [_complaint] : [])
    {
        HearsNothing = _hearsNothing && Sends(now),
    };

    // Whether packets of its come, or are to be expected.
    private bool Sends(long now) => _lastHeard >= 0 && now - _lastHeard < Math.Max(Silence, 3L * _keepalive.Milliseconds);

    // Nobody answers, else.
    private bool IsSearched => HasEchoed && State != PeerState.Down;

    private double Loss => (double)BitOperations.PopCount(_lost) / Math.Max(_count, 1);

    // As TCP waits (RFC 6298 section 2): answers on a loaded host take their time; a wait too long delays the recovery from a path that has shrunk.
    private long Patience => _roundTrip is double usual
        ? Math.Clamp((long)(usual + (4 * _deviation)), ShortestPatience, LongestPatience)
        : LongestPatience;

    /// <summary>An answer came.</summary>
    /// <param name="token">What its question said.</param>
    /// <param name="length">The question's length as it arrived, in bytes.</param>
    /// <param name="roundTrip">How long it took, in milliseconds.</param>
    /// <param name="now">The time.</param>
    public void HearAnswer(ulong token, int length, double roundTrip, long now)
    {
        if (!_asked.Remove(token, out (long SentAt, int Length, ProbeKind Kind) question))
        {
            // Too late, twice, or never asked.
            return;
        }

        if (roundTrip >= 0 && roundTrip <= now - question.SentAt + 1)
        {
            (_roundTrip, _deviation) = _roundTrip is double usual
                ? (usual + ((roundTrip - usual) / 8), _deviation + ((Math.Abs(roundTrip - usual) - _deviation) / 4))
                : (roundTrip, roundTrip / 2);
        }

        HasAnswered = true;
        _hearsNothing = false;
        HasEchoed |= question.Kind == ProbeKind.Echo;
        _lostInARow = 0;
        if (token == _echo)
        {
            _echo = 0;
            Record(isLost: false);
            _pause = _keepalive.Milliseconds;
            _echoAt = question.SentAt + _pause;
        }

        if (question.Length > 0 && length > 0)
        {
            Path?.HearAnswer(question.Length);
        }
    }

    /// <summary>From now on the peer is asked in another way; what is known of it stays.</summary>
    /// <param name="keepalive">How it is asked.</param>
    /// <param name="now">The time.</param>
    [MemberNotNull(nameof(_keepalive))]
    public void Use(Keepalive keepalive, long now)
    {
        _keepalive = keepalive;
        _pause = keepalive.Milliseconds;
        _echoAt = now;
    }

    /// <summary>A router, or the peer's host, has said that packets don't arrive.</summary>
    /// <param name="complaint">What it said, for people.</param>
    /// <param name="now">The time.</param>
    public void HearUnreachable(string complaint, long now)
    {
        (_complaint, _complaintUntil) = (complaint, now + Memory);

        // Where it is clear already that nobody answers, the question itself would be complained of next.
        if (!_keepalive.IsOff && _echo == 0 && _lostInARow < LostForDown)
        {
            _echoAt = now;
        }
    }

    /// <summary>Looks at the time, asks what is to be asked, and judges.</summary>
    /// <param name="now">The time.</param>
    /// <param name="lastHeard">When the last packet or message of the peer came; negative for never.</param>
    /// <param name="isUsed">Whether large packets have been sent to it since the last call.</param>
    /// <param name="account">
    /// What its daemon has said last: when, and when it had heard this host last, which may be up to a second too late; null where it never has.
    /// </param>
    public void Advance(long now, long lastHeard, bool isUsed, (long SaidAt, long HeardAt)? account = null)
    {
        bool wasSilent = _lastHeard < 0 || (_lostInARow > 0 && _lastHeard < _firstLostAt) || (!HasAnswered && lastHeard - _lastHeard > Memory);
        bool isHeardAgain = wasSilent && lastHeard > _lastHeard;
        _heardAgainAt = isHeardAgain ? now : _heardAgainAt;
        _lastHeard = lastHeard;
        HearAccount(account);
        AdvanceEcho(now);
        Discover(now);
        if (isHeardAgain)
        {
            // It has begun to send: perhaps it is there now to answer.
            _pause = _keepalive.Milliseconds;
            _echoAt = Math.Min(_echoAt, now);
        }

        if (IsSearched)
        {
            _now = now;
            Path?.Advance(now, Patience, isUsed, _probe);
        }

        ForgetOld(now);
        Judge(now);
    }

    // Whether nothing arrives there. The account must be younger than the loss of a question, and that question younger than the peer's daemon, and younger than the
    // first that was lost by as much as the account may be wrong: else the same state of things looked now like this and now like that.
    private void HearAccount((long SaidAt, long HeardAt)? account)
    {
        if (_lostInARow >= LostForDown && account is (long saidAt, long heardAt) && saidAt >= _lossKnownAt && _lastLostAt >= _heardAgainAt &&
            _lastLostAt >= _firstLostAt + AccountUnit)
        {
            _hearsNothing = heardAt < _lastLostAt;
        }
    }

    private void AdvanceEcho(long now)
    {
        if (_keepalive.IsOff)
        {
            return;
        }

        if (_echo != 0 && now >= _echoDeadline)
        {
            _asked.Remove(_echo, out (long SentAt, int Length, ProbeKind Kind) lost);
            _echo = 0;
            Record(isLost: true);
            (_lastLostAt, _lossKnownAt) = (lost.SentAt, now);
            if (_lostInARow++ == 0)
            {
                _firstLostAt = lost.SentAt;
            }

            // Asked again at once until it is clear; then as usual, and whoever never answered less and less.
            bool isClear = _lostInARow >= LostForDown;
            if (isClear && !HasAnswered && !_keepalive.IsDemanded)
            {
                _pause = Math.Min(_pause * 2, LongestPause);
            }

            _echoAt = isClear ? now + _pause : now;
        }

        if (_echo == 0 && now >= _echoAt)
        {
            _echo = Ask(_keepalive.Kind, 0, now);
            _echoDeadline = now + Math.Min(LongestPatience, Math.Max(Patience, _keepalive.Milliseconds));
        }
    }

    // Who returns packets may run this program, or be a router: rarely asked, since routers drop the question.
    private void Discover(long now)
    {
        if (_keepalive.Kind == ProbeKind.ReturnPacket && HasAnswered && !HasEchoed && Path is not null && now >= _discoverAt)
        {
            Ask(ProbeKind.Echo, 0, now);
            _discoverAt = now + LongestPause;
        }
    }

    private void Judge(long now)
    {
        if (_hearsNothing)
        {
            Become(PeerState.Down, now);
        }
        else if (HasAnswered || _keepalive.IsDemanded)
        {
            bool hasSentSince = _lastHeard >= _firstLostAt && Sends(now);
            if (_lostInARow >= LostForDown)
            {
                Become(hasSentSince ? PeerState.Degraded : PeerState.Down, now);
            }
            else if (_lostInARow >= LostForDegraded && State != PeerState.Down)
            {
                Become(PeerState.Degraded, now);
            }
            else if (_lostInARow == 0 && HasAnswered)
            {
                Become(Loss > Tolerable && _count >= Window / 2 ? PeerState.Degraded : PeerState.Up, now);
            }
        }
        else
        {
            bool isHeard = _lastHeard >= 0 && now - _lastHeard < Memory;
            Become(isHeard ? PeerState.Up : PeerState.Unknown, now);
        }
    }

    private void Become(PeerState state, long now)
    {
        if (state != State)
        {
            (State, Since) = (state, now);
            if (state == PeerState.Up)
            {
                _complaint = null;
            }
        }
    }

    private void Record(bool isLost)
    {
        const uint mask = (1u << Window) - 1;
        _lost = ((_lost << 1) | (isLost ? 1u : 0u)) & mask;
        _count = Math.Min(_count + 1, Window);
    }

    private ulong Ask(ProbeKind kind, int length, long now)
    {
        ulong token = _nextToken++;
        if (!_send(kind, token, length))
        {
            // No token: the next turn tries again.
            return 0;
        }

        _asked[token] = (now, length, kind);
        return token;
    }

    // What comes later than this is no answer any more.
    private void ForgetOld(long now)
    {
        foreach ((ulong token, (long sentAt, _, _)) in _asked)
        {
            if (now - sentAt > 2 * LongestPatience)
            {
                _asked.Remove(token);
            }
        }
    }
}
