namespace Tunnel.Linux;

/// <summary>The C library's heap, from which the runtime takes what it needs for itself.</summary>
internal static class NativeHeap
{
    // In bytes. What glibc begins with; it would raise this for itself as larger blocks are freed.
    private const int TrimThreshold = 128 << 10;

    /// <summary>
    /// Has all threads share the arenas that there are, and what is freed at an arena's end go back to the system: mallopt(3). Else glibc makes an arena for
    /// each thread that asks, up to eight for each processor, and keeps in each what its thread has needed once: for the just-in-time compiler that is
    /// most of a megabyte on whichever thread it happens to run, so that memory grows for as long as the process lives. A C library without arenas stays as
    /// it is.
    /// </summary>
    public static void KeepSmall()
    {
        try
        {
            _ = Uapi.mallopt(Uapi.M_ARENA_MAX, 1);
            _ = Uapi.mallopt(Uapi.M_TRIM_THRESHOLD, TrimThreshold);
        }
        catch (EntryPointNotFoundException)
        {
            // musl's has no such function.
        }
    }
}
