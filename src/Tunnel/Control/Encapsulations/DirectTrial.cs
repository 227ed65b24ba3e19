using Tunnel.Wire;

namespace Tunnel.Control.Encapsulations;

/// <summary>
/// Decides whether one subnet of a peer is reached without a tunnel: by what those there answer who are asked without one. Times are milliseconds of any
/// clock that only goes forward. Not thread-safe; does nothing by itself.
/// </summary>
/// <param name="subnet">The subnet.</param>
internal sealed class DirectTrial(IpPrefix subnet)
{
    // In a row.
    private const int AnswersForDirect = 3;
    private const int MissesForTunnel = 3;

    // Between questions without a tunnel: to be sure, while that is the way, while it is not, and after it has failed.
    private const long Soon = 200;
    private const long Often = 2_000;
    private const long Seldom = 5_000;
    private const long AfterFailure = 30_000;

    // Those that packets went to last.
    private const int MostCandidates = 4;

    private readonly List<InetAddress> _candidates = [];
    private readonly HashSet<InetAddress> _hosts = [];
    private int _answers;
    private int _misses;
    private long _dueAt;

    /// <summary>The subnet.</summary>
    public IpPrefix Subnet { get; } = subnet;

    /// <summary>Whether packets go without a tunnel.</summary>
    public bool IsDirect { get; private set; }

    /// <summary>Whether those who were asked last did not answer.</summary>
    public bool HasMissed => _misses > 0;

    /// <summary>Who answered when the tunnel was left; none before.</summary>
    public InetAddress Answered { get; private set; }

    /// <summary>Whom to ask.</summary>
    public IReadOnlyList<InetAddress> Candidates => _candidates;

    /// <summary>Whether the peer's host itself is asked in vain: behind it are others, whose packets it forwards.</summary>
    public bool HasOthers => Subnet.Length < Subnet.MaxLength;

    /// <summary>Whether it is time to ask, and there is somebody to ask.</summary>
    public bool IsDue(long now) => _candidates.Count > 0 && now >= _dueAt;

    /// <summary>A packet goes to somebody in the subnet.</summary>
    public void Note(InetAddress destination)
    {
        if (!_hosts.Contains(destination))
        {
            _candidates.Remove(destination);
            _candidates.Insert(0, destination);
            if (_candidates.Count > MostCandidates)
            {
                _candidates.RemoveAt(MostCandidates);
            }
        }
    }

    /// <summary>An address is the peer's host itself.</summary>
    public void NoteHost(InetAddress address)
    {
        _hosts.Add(address);
        _candidates.Remove(address);
    }

    /// <summary>The candidates were asked.</summary>
    /// <param name="answering">One that answered; none where nobody did.</param>
    /// <param name="now">The time.</param>
    public void Hear(InetAddress answering, long now)
    {
        bool answered = !answering.IsNone;
        (_answers, _misses) = answered ? (_answers + 1, 0) : (0, _misses + 1);
        bool wasDirect = IsDirect;
        IsDirect = wasDirect ? _misses < MissesForTunnel : _answers >= AnswersForDirect;
        Answered = answered && !wasDirect ? answering : Answered;
        _dueAt = now + (IsDirect ? (answered ? Often : Soon) : wasDirect ? AfterFailure : answered ? Soon : Seldom);
    }

    /// <summary>There is no way without a tunnel.</summary>
    public void Leave() => (IsDirect, _answers, _misses) = (false, 0, 0);
}
