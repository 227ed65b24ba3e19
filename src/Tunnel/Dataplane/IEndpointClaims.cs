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

/// <summary>Where a network receives GRE-in-UDP. Workers share the port (SO_REUSEPORT), so the kernel does not keep another process of the same user out.</summary>
/// <param name="Local">This host's underlay address; <see cref="InetAddress.None"/> for every address, IPv4 and IPv6.</param>
/// <param name="Port">The UDP port.</param>
public readonly record struct UdpPortClaim(InetAddress Local, ushort Port)
{
    /// <summary>Whether a datagram could be meant for both: the same port, and the same address or all addresses.</summary>
    public bool Overlaps(UdpPortClaim other) => Port == other.Port && (Local == other.Local || Local.IsNone || other.Local.IsNone);

    /// <summary>"UDP port 4754 of 192.168.40.11".</summary>
    public override string ToString() => $"UDP port {Port} of {(Local.IsNone ? "every address" : Local.ToString())}";
}

/// <summary>Another network of this host has what must be unique: packets for the two could not be told apart.</summary>
public sealed class ClaimConflictException : Exception
{
    /// <summary>Another network has the same (local address, endpoint, key).</summary>
    /// <param name="claim">What was asked for.</param>
    /// <param name="holder">Who has it, as a person would say it: "network tun1 (tunneld, pid 123, --config /etc/tunnel/tun1.yaml)".</param>
    public ClaimConflictException(EndpointClaim claim, string holder)
        : this(claim.ToString(), holder, "give one of the two peers another key, or one of the networks another local address", "endpoint")
    {
    }

    /// <summary>Another network receives GRE-in-UDP at the same port.</summary>
    /// <param name="claim">What was asked for.</param>
    /// <param name="holder">Who has it.</param>
    public ClaimConflictException(UdpPortClaim claim, string holder)
        : this(claim.ToString(), holder, "give one of the networks another underlay.udp-port, or each its own underlay.local", "underlay.udp-port")
    {
    }

    private ClaimConflictException(string claim, string holder, string hint, string field)
        : base($"{claim} is already used by {holder} in this network namespace")
    {
        Hint = hint;
        Field = field;
    }

    /// <summary>The cure, one line.</summary>
    public string Hint { get; }

    /// <summary>The setting that decides the claim, as in the configuration.</summary>
    public string Field { get; }
}

/// <summary>
/// Keeps (local address, endpoint, key) and (local address, UDP port) unique among all networks of a network namespace. A claim is held
/// until it is released, the object is disposed or the process ends, however it ends. May be called from any thread.
/// </summary>
public interface IEndpointClaims : IDisposable
{
    /// <summary>Claims; asking again for what this object holds already changes nothing.</summary>
    /// <exception cref="ClaimConflictException">Another network holds it.</exception>
    /// <exception cref="IOException">The claim can't be made for lack of something (descriptors); the message names the cure.</exception>
    void Claim(EndpointClaim claim);

    /// <summary>Gives a claim back; what is not held is ignored.</summary>
    void Release(EndpointClaim claim);

    /// <summary>Claims a port; asking again for what this object holds already changes nothing.</summary>
    /// <exception cref="ClaimConflictException">Another network holds one that overlaps.</exception>
    /// <exception cref="IOException">The claim can't be made for lack of something (descriptors); the message names the cure.</exception>
    void Claim(UdpPortClaim claim);

    /// <summary>Whether another network receives something between two addresses, and so knows keys of its own there.</summary>
    /// <param name="local">This host's underlay address.</param>
    /// <param name="endpoint">The other host's.</param>
    bool IsShared(InetAddress local, InetAddress endpoint);

    /// <summary>Gives a port back; what is not held is ignored.</summary>
    void Release(UdpPortClaim claim);
}
