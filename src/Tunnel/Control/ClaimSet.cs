using Tunnel.Dataplane;

namespace Tunnel.Control;

/// <summary>The claims of all peers, changed together: either all of them are had or none is added. Not thread-safe.</summary>
internal sealed class ClaimSet(IEndpointClaims claims) : IDisposable
{
    private readonly HashSet<EndpointClaim> _held = [];

    /// <summary>Claims what the peers need beside what is held already.</summary>
    /// <exception cref="ClaimConflictException">One is taken; none of the new ones is held.</exception>
    public void Extend(IEnumerable<PeerEntry> peers)
    {
        var added = new List<EndpointClaim>();
        try
        {
            foreach (EndpointClaim claim in Needed(peers))
            {
                if (!_held.Contains(claim))
                {
                    claims.Claim(claim);
                    added.Add(claim);
                }
            }
        }
        catch
        {
            added.ForEach(claims.Release);
            throw;
        }

        _held.UnionWith(added);
    }

    /// <summary>Holds exactly what the peers need.</summary>
    /// <exception cref="ClaimConflictException">One is taken; what was held before is held still.</exception>
    public void Replace(IEnumerable<PeerEntry> peers)
    {
        HashSet<EndpointClaim> needed = [.. Needed(peers)];
        Extend(peers);
        foreach (EndpointClaim claim in _held.Except(needed).ToArray())
        {
            claims.Release(claim);
            _held.Remove(claim);
        }
    }

    /// <summary>Gives all of them back.</summary>
    public void Dispose()
    {
        foreach (EndpointClaim claim in _held)
        {
            claims.Release(claim);
        }

        _held.Clear();
    }

    private static IEnumerable<EndpointClaim> Needed(IEnumerable<PeerEntry> peers) =>
        peers.Select(entry => entry.Claim).OfType<EndpointClaim>();
}
