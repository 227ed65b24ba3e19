using Tunnel.Dataplane;

namespace Tunnel.Control;

/// <summary>
/// The claims of a network, changed together: either all of them are had or none is added. Not thread-safe.
/// <para>
/// Where plain GRE is received, it is (local address, endpoint, key) of every peer, whatever the peer is configured to use: each raw
/// socket of the host gets a copy of each packet of protocol 47, and a peer is known by endpoint and key alone. Where GRE-in-UDP is
/// received, it is the port, which alone decides whose socket gets a datagram.
/// </para>
/// </summary>
internal sealed class ClaimSet(IEndpointClaims claims) : IDisposable
{
    private readonly Held<EndpointClaim> _senders = new(claims.Claim, claims.Release);
    private readonly Held<UdpPortClaim> _ports = new(claims.Claim, claims.Release);

    /// <summary>Claims what a network needs beside what is held already.</summary>
    /// <exception cref="ClaimConflictException">One is taken; none of the new ones is held.</exception>
    public void Extend(NetworkState state)
    {
        List<EndpointClaim> added = _senders.Extend(state.SenderClaims);
        try
        {
            _ports.Extend(state.PortClaims);
        }
        catch
        {
            _senders.Release(added);
            throw;
        }
    }

    /// <summary>Holds exactly what a network needs.</summary>
    /// <exception cref="ClaimConflictException">One is taken; what was held before is held still.</exception>
    public void Replace(NetworkState state)
    {
        Extend(state);
        _senders.Keep(state.SenderClaims);
        _ports.Keep(state.PortClaims);
    }

    /// <summary>Gives all of them back.</summary>
    public void Dispose()
    {
        _senders.Keep([]);
        _ports.Keep([]);
    }

    private sealed class Held<T>(Action<T> claim, Action<T> release)
        where T : struct
    {
        private readonly HashSet<T> _held = [];

        public List<T> Extend(IEnumerable<T> needed)
        {
            var added = new List<T>();
            try
            {
                foreach (T one in needed)
                {
                    if (!_held.Contains(one))
                    {
                        claim(one);
                        _held.Add(one);
                        added.Add(one);
                    }
                }
            }
            catch
            {
                Release(added);
                throw;
            }

            return added;
        }

        public void Keep(IEnumerable<T> needed) => Release(_held.Except(needed).ToArray());

        public void Release(IReadOnlyList<T> given)
        {
            foreach (T one in given)
            {
                release(one);
                _held.Remove(one);
            }
        }
    }
}
