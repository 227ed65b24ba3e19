using System.Diagnostics;

namespace Tunnel.NetworkTests;

/// <summary>Waits for what has no event to wait for.</summary>
internal static class Poll
{
    /// <summary>Asks again and again until the condition holds.</summary>
    /// <param name="what">What is waited for, for the failure message.</param>
    /// <param name="condition">The question.</param>
    /// <param name="state">What to show where it never holds; null for nothing.</param>
    /// <exception cref="LabException">It did not hold in time.</exception>
    public static async Task UntilAsync(string what, Func<Task<bool>> condition, Func<Task<string>>? state = null)
    {
        long start = Stopwatch.GetTimestamp();
        while (!await condition())
        {
            if (Stopwatch.GetElapsedTime(start) > Command.Deadline)
            {
                throw new LabException($"waited in vain: {what}\n{(state is null ? "" : await state())}");
            }

            await Task.Delay(20);
        }
    }
}
