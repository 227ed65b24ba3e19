using Tunnel.Wire;

namespace Tunnel.Control;

/// <summary>
/// Decides when something that others keep deleting is put back: at once for the first few times, then after pauses that double.
/// A thing that has been left alone for a while is forgotten. Not thread-safe.
/// </summary>
internal sealed class RepairBackoff(TimeProvider time)
{
    private const int ImmediateRepairs = 3;
    private static readonly TimeSpan LongestPause = TimeSpan.FromMinutes(1);
    private static readonly TimeSpan Forgiveness = TimeSpan.FromMinutes(2);

    private readonly Dictionary<string, History> _histories = new(StringComparer.Ordinal);

    /// <summary>Whether a missing thing may be put back now; if so, that counts as a repair.</summary>
    /// <param name="thing">What is missing.</param>
    /// <param name="wait">How long to leave it, where it may not.</param>
    public bool MayRepair(string thing, out TimeSpan wait)
    {
        DateTimeOffset now = time.GetUtcNow();
        wait = TimeSpan.Zero;
        if (!_histories.TryGetValue(thing, out History? history) || now - history.Last > Forgiveness)
        {
            history = new History();
            _histories[thing] = history;
        }

        if (now < history.NotBefore)
        {
            wait = history.NotBefore - now;
            return false;
        }

        history.Repairs++;
        history.Last = now;
        history.NotBefore = now + PauseAfter(history.Repairs);
        return true;
    }

    /// <summary>How often it was put back since it was last left alone.</summary>
    public int Repairs(string thing) => _histories.TryGetValue(thing, out History? history) ? history.Repairs : 0;

    /// <summary>A thing's name here.</summary>
    public static string Route(IpPrefix prefix) => $"route {prefix}";

    /// <summary>A thing's name here.</summary>
    public static string Address(IpPrefix prefix) => $"address {prefix}";

    private static TimeSpan PauseAfter(int repairs)
    {
        if (repairs < ImmediateRepairs)
        {
            return TimeSpan.Zero;
        }

        TimeSpan pause = TimeSpan.FromSeconds(Math.Pow(2, Math.Min(repairs - ImmediateRepairs, 10)));
        return pause < LongestPause ? pause : LongestPause;
    }

    private sealed class History
    {
        public int Repairs { get; set; }

        public DateTimeOffset Last { get; set; }

        public DateTimeOffset NotBefore { get; set; }
    }
}
