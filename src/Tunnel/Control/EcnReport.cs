using Microsoft.Extensions.Logging;

namespace Tunnel.Control;

/// <summary>
/// Tells in the log that packets came whose ECN fields contradict each other, as RFC 6040 section 4.2 asks: at most one line a minute, whatever arrives.
/// One caller at a time.
/// </summary>
internal sealed partial class EcnReport(TimeProvider time, ILogger log)
{
    private const int MostNames = 5;
    private static readonly TimeSpan Pause = TimeSpan.FromMinutes(1);
    private Dictionary<string, long> _told = [];

    /// <summary>Looks every minute, until it is cancelled.</summary>
    public async Task RunAsync(Func<IReadOnlyList<PeerEntry>> peers, CancellationToken cancellationToken)
    {
        using var timer = new PeriodicTimer(Pause, time);
        try
        {
            while (await timer.WaitForNextTickAsync(cancellationToken))
            {
                Look(peers());
            }
        }
        catch (OperationCanceledException)
        {
            // The network stops.
        }
    }

    /// <summary>Tells of the peers that have had more such packets since the last look.</summary>
    public void Look(IReadOnlyList<PeerEntry> peers)
    {
        var counts = new Dictionary<string, long>(StringComparer.Ordinal);
        var news = new List<string>();
        foreach (PeerEntry peer in peers)
        {
            long count = peer.Sum(counters => counters.EcnAnomalies);
            counts[peer.Config.Name] = count;

            // A peer that was removed and added again counts from 0.
            long told = Math.Min(_told.GetValueOrDefault(peer.Config.Name), count);
            if (count > told)
            {
                news.Add($"{peer.Config.Name} ({count - told})");
            }
        }

        _told = counts;
        if (news.Count > 0)
        {
            string more = news.Count > MostNames ? $" and {news.Count - MostNames} more" : "";
            LogAnomalies(string.Join(", ", news.Take(MostNames)) + more);
        }
    }

    [LoggerMessage(Level = LogLevel.Warning, Message = "packets came whose outer ECN field nothing should have made of the inner one (RFC 6040 section 4.2), from {Peers}")]
    private partial void LogAnomalies(string peers);
}
