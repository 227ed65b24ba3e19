using Tunnel.Control.Configuration;

namespace Tunnel.Control;

/// <summary>Decides how many packet threads a network starts with. The number stays for the life of the process.</summary>
internal static class WorkerCount
{
    // More workers than this cost memory and wake-ups before they carry more.
    private const int MostByDefault = 4;

    /// <summary>The number of workers to start.</summary>
    /// <param name="config">The configuration to start with, checked.</param>
    /// <param name="cpus">The CPUs that the process may use, at least 1.</param>
    /// <returns>
    /// What is configured; else 1 where a peer has sequence numbers, which one thread must take and check in the packets' order; else one
    /// for each CPU, and 4 at most.
    /// </returns>
    public static int Choose(NetworkConfig config, int cpus) =>
        config.Datapath.Workers ?? (config.Peers.Any(peer => peer.Sequence) ? 1 : Math.Min(cpus, MostByDefault));
}
