using Microsoft.Extensions.Logging;

namespace Tunnel.Control;

/// <summary>
/// Says what is put back on the host, and when, and what can't be as wanted: in the log and as events, a problem once as long as it lasts. Not thread-safe.
/// </summary>
/// <param name="backoff">When to put back what others delete.</param>
/// <param name="events">Where it is told.</param>
/// <param name="log">The log.</param>
internal sealed partial class RepairReport(RepairBackoff backoff, EventStream events, ILogger log)
{
    private readonly HashSet<string> _told = new(StringComparer.Ordinal);

    /// <summary>Whether a thing that somebody has taken away may be put back now; if so, that is told.</summary>
    /// <param name="thing">What is missing.</param>
    /// <param name="again">When to look again, where it may not; the sooner one stays.</param>
    /// <param name="place">Where it belongs, for people: " on tun0".</param>
    public bool MayRestore(string thing, ref TimeSpan? again, string place = "")
    {
        if (backoff.MayRepair(thing, out TimeSpan wait))
        {
            events.Publish("restored", detail: thing + place);
            LogRestored(thing + place, backoff.Repairs(thing));
            return true;
        }

        again = again is null || wait < again ? wait : again;
        return false;
    }

    /// <summary>Tells the problems that are new.</summary>
    /// <param name="now">All that there are.</param>
    public void TellNewProblems(IReadOnlyCollection<string> now)
    {
        foreach (string problem in now)
        {
            if (_told.Add(problem))
            {
                LogProblem(problem);
                events.Publish("problem", detail: problem);
            }
        }

        _told.IntersectWith(now);
    }

    [LoggerMessage(Level = LogLevel.Warning, Message = "put back what something else removed: {Thing} (time {Repairs})")]
    private partial void LogRestored(string thing, int repairs);

    [LoggerMessage(Level = LogLevel.Warning, Message = "{Problem}")]
    private partial void LogProblem(string problem);
}
