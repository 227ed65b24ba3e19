namespace Tunnel.Linux;

/// <summary>Which CPU a thread runs on: sched_setaffinity(2).</summary>
internal static unsafe class CpuAffinity
{
    // Bits for 1,024 CPUs, as in the C library's cpu_set_t.
    private const int SetSize = 128;

    /// <summary>Prepares to keep a thread on one CPU.</summary>
    /// <param name="index">Which of the CPUs that the process may use, counted round.</param>
    /// <returns>What the thread itself is to call. Where the kernel refuses, the thread runs anywhere.</returns>
    public static Action PinTo(int index) => () =>
    {
        byte* allowed = stackalloc byte[SetSize];
        if (Uapi.sched_getaffinity(0, SetSize, allowed) < 0)
        {
            return;
        }

        var cpus = new List<int>();
        for (int cpu = 0; cpu < SetSize * 8; cpu++)
        {
            if ((allowed[cpu / 8] >> (cpu % 8) & 1) != 0)
            {
                cpus.Add(cpu);
            }
        }

        int chosen = cpus[index % cpus.Count];
        new Span<byte>(allowed, SetSize).Clear();
        allowed[chosen / 8] = (byte)(1 << (chosen % 8));
        _ = Uapi.sched_setaffinity(0, SetSize, allowed);
    };
}
