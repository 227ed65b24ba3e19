namespace Tunnel.Linux;

/// <summary>The C library's heap, from which the runtime takes what it needs for itself.</summary>
internal static class NativeHeap
{
    /// <summary>
    /// Has all threads share the arenas that there are (mallopt(3), M_ARENA_MAX). Else glibc makes one for each thread that asks, up to eight for each
    /// processor, and keeps in each what its thread has needed once: for the just-in-time compiler that is most of a megabyte on whichever thread it
    /// happens to run, so that memory grows for as long as the process lives. A C library without arenas stays as it is.
    /// </summary>
    public static void ShareArenas()
    {
        try
        {
            _ = Uapi.mallopt(Uapi.M_ARENA_MAX, 1);
        }
        catch (EntryPointNotFoundException)
        {
            // musl's has no such function.
        }
    }
}
