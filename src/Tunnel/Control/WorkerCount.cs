using Tunnel.Control.Configuration;

namespace Tunnel.Control;

/// <summary>Decides how many packet threads a network starts with. The number stays for the life of the process.</summary>
internal static class WorkerCount
{
    // More workers than this cost memory and wake-ups before they carry more. Half of the CPUs are for those whose packets these are: on two
    // CPUs two workers carried less than one, and threads that are moved between busy CPUs let packets overtake each other.
    private const int MostByDefault = 4;

    /// <summary>The number of workers to start.</summary>
    /// <param name="config">The configuration to start with, checked.</param>
    /// <param name="cpus">The CPUs that the process may use, at least 1.</param>
    /// <returns>
    /// What is configured; else 1 where a peer has sequence numbers, which one thread must take and check in the packets' order; else one
    /// for every two CPUs, at least 1 and at most 4.
    /// </returns>
    public static int Choose(NetworkConfig config, int cpus) =>
        config.Datapath.Workers ?? (config.Peers.Any(peer => peer.Sequence) ? 1 : Math.Clamp(cpus / 2, 1, MostByDefault));
}
