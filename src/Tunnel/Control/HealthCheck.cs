using Tunnel.Dataplane;

namespace Tunnel.Control;

/// <summary>Finds out whether the packet threads still go round, by making each of them do so. Thread-safe.</summary>
/// <param name="threads">The packet threads.</param>
/// <param name="time">The clock.</param>
internal sealed class HealthCheck(IReadOnlyList<IHeartbeat> threads, TimeProvider time)
{
    // A round takes milliseconds; the machine may be busy.
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan Pause = TimeSpan.FromMilliseconds(5);

    /// <summary>Looks now.</summary>
    /// <returns>What is wrong, a line for each thread; empty where nothing is.</returns>
    public async Task<IReadOnlyList<string>> CheckAsync(CancellationToken cancellationToken)
    {
        long[] before = [.. threads.Select(thread => thread.Beats)];
        foreach (IHeartbeat thread in threads)
        {
            thread.Nudge();
        }

        long start = time.GetTimestamp();
        while (true)
        {
            IHeartbeat[] silent = [.. threads.Where((thread, i) => thread.Beats == before[i])];
            if (silent.Length == 0 || time.GetElapsedTime(start) > Patience)
            {
                return [.. silent.Select(thread => $"packet thread {thread.Name} does not go round")];
            }

            await Task.Delay(Pause, time, cancellationToken);
        }
    }
}
