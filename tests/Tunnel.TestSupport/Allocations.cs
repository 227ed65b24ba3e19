namespace Tunnel.TestSupport;

/// <summary>Measures what a piece of code allocates.</summary>
public static class Allocations
{
    private const int Rounds = 10;

    /// <summary>
    /// Bytes that the action allocates on this thread in a steady state: the least of several rounds after one for warming up. What is
    /// allocated each time shows in every round; the runtime's own bookkeeping (a collection that another thread's garbage starts, a
    /// method compiled anew) shows in some.
    /// </summary>
    public static long InSteadyState(Action action)
    {
        action();
        long least = long.MaxValue;
        for (int i = 0; i < Rounds && least > 0; i++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            action();
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }

        return least;
    }
}
