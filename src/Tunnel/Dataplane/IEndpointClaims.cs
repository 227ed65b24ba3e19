using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>What tells a peer's packets from all others that arrive on this host.</summary>
/// <param name="Local">This host's underlay address; <see cref="InetAddress.None"/> where the kernel chooses.</param>
/// <param name="Endpoint">The peer's underlay address.</param>
/// <param name="Key">The GRE key of the packets that the peer sends, or null for none.</param>
public readonly record struct EndpointClaim(InetAddress Local, InetAddress Endpoint, uint? Key)
{
    /// <summary>"192.168.40.11 to 192.168.40.12 with key 42".</summary>
    public override string ToString()
    {
        string local = Local.IsNone ? "any address" : Local.ToString();
        return $"{local} to {Endpoint} {(Key is uint key ? $"with key {key}" : "without a key")}";
    }
}

/// <summary>Another network of this host has the same (local address, endpoint, key): its packets could not be told apart.</summary>
/// <param name="claim">What was asked for.</param>
/// <param name="holder">Who has it, as a person would say it: "network tun1 (tunneld, pid 123, --config /etc/tunnel/tun1.yaml)".</param>
public sealed class ClaimConflictException(EndpointClaim claim, string holder)
    : Exception($"{claim} is already used by {holder} in this network namespace")
{
    /// <summary>What was asked for.</summary>
    public EndpointClaim Claim { get; } = claim;

    /// <summary>Who has it.</summary>
    public string Holder { get; } = holder;

    /// <summary>The cure, one line.</summary>
    public string Hint { get; } = "give one of the two peers another key, or one of the networks another local address";
}

/// <summary>
/// Keeps (local address, endpoint, key) unique among all networks of a network namespace. A claim is held until it is released,
/// the object is disposed or the process ends, however it ends. May be called from any thread.
/// </summary>
public interface IEndpointClaims : IDisposable
{
    /// <summary>Claims; asking again for what this object holds already changes nothing.</summary>
    /// <exception cref="ClaimConflictException">Another network holds it.</exception>
    /// <exception cref="IOException">The claim can't be made for lack of something (descriptors); the message names the cure.</exception>
    void Claim(EndpointClaim claim);

    /// <summary>Gives a claim back; what is not held is ignored.</summary>
    void Release(EndpointClaim claim);
}
