using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>Asks addresses behind a neighbour without a tunnel, whatever the host's routes say. Any thread.</summary>
public interface IDirectProbe
{
    /// <summary>Sends an ICMP echo request to a neighbour, for an address behind it. The answer may come by any way.</summary>
    /// <param name="way">The neighbour, and the source, to which the answer comes.</param>
    /// <param name="destination">Whom to ask, of the same family.</param>
    /// <param name="timeToLive">TTL or hop limit: with 1 nobody can answer but the neighbour itself.</param>
    /// <param name="patience">How long to wait.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <returns>Whether an answer came in time; false too where this host can't ask.</returns>
    Task<bool> AnswersAsync(DirectWay way, InetAddress destination, byte timeToLive, TimeSpan patience, CancellationToken cancellationToken);
}
