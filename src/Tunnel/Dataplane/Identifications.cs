using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// Identifications for outer IPv4 headers without DF, which must not repeat while packets of one source, destination and protocol may be under way
/// (RFC 6864 section 4.3). Peers of one endpoint count together. Thread-safe and wait-free; allocates nothing.
/// </summary>
internal static class Identifications
{
    // Endpoints that share a counter only use it up sooner.
    private const int Counters = 1024;

    // After a restart, fragments of the process before may still be under way.
    private static readonly int[] Next = [.. Enumerable.Range(0, Counters).Select(_ => Random.Shared.Next())];

    /// <summary>Takes identifications that follow one another.</summary>
    /// <param name="endpoint">Where the packets go.</param>
    /// <param name="count">How many packets there are.</param>
    /// <returns>The first.</returns>
    public static ushort Take(InetAddress endpoint, int count) =>
        (ushort)(Interlocked.Add(ref Next[endpoint.Ipv4 % Counters], count) - count);
}
