namespace Tunnel.Dataplane;

/// <summary>At most so many of something in each window of time, and the rest never. Not thread-safe; allocates nothing.</summary>
/// <param name="most">How many in a window.</param>
/// <param name="window">How long a window is, in milliseconds.</param>
internal struct RateLimit(int most, int window)
{
    private long _windowEnd;
    private int _taken;

    /// <summary>Takes one, if there is one left.</summary>
    /// <param name="now">The time, in milliseconds of any clock that only goes forward.</param>
    public bool TryTake(long now)
    {
        if (now >= _windowEnd)
        {
            _windowEnd = now + window;
            _taken = 0;
        }

        if (_taken == most)
        {
            return false;
        }

        _taken++;
        return true;
    }
}
