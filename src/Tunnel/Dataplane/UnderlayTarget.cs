using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// Where packets to a peer go on the underlay. Kept over changes of configuration that leave endpoint and port as they are.
/// Thread rule: immutable but for <see cref="Neighbor"/>, which the control plane publishes with one reference write, and
/// <see cref="Abilities"/>, which the workers keep.
/// </summary>
/// <param name="endpoint">The peer's underlay address.</param>
/// <param name="udpPort">Its UDP port for GRE-in-UDP; 0 for plain GRE.</param>
public sealed class UnderlayTarget(InetAddress endpoint, ushort udpPort = 0)
{
    private LinkNeighbor? _neighbor;

    /// <summary>The peer's underlay address.</summary>
    public InetAddress Endpoint { get; } = endpoint;

    /// <summary>Its UDP port for GRE-in-UDP (RFC 8086); 0 for plain GRE.</summary>
    public ushort UdpPort { get; } = udpPort;

    /// <summary>What the peer's daemon can receive.</summary>
    public PeerAbilities Abilities { get; } = new();

    /// <summary>
    /// The next hop towards it as the kernel has resolved it: for plain GRE through a packet socket, and for super-packets that are encapsulated
    /// without a socket. Null where it is not known at this moment, or where the kernel must do the sending (another kind of link, an IPsec
    /// policy, a firewall rule). With <see cref="UdpPort"/> null too where the link would not carry such a super-packet uncut.
    /// </summary>
    public LinkNeighbor? Neighbor
    {
        get => Volatile.Read(ref _neighbor);
        set => Volatile.Write(ref _neighbor, value);
    }
}

/// <summary>A neighbour on an Ethernet link. Another object says that something about neighbour or link may have changed.</summary>
/// <param name="LinkIndex">The device that packets leave by (ifindex).</param>
/// <param name="Address">Its link-layer address: 48 bits, the first byte on the wire highest.</param>
/// <param name="CarriesGre">Whether the device takes super-packets inside plain GRE uncut; else the kernel cuts them before.</param>
public sealed record LinkNeighbor(int LinkIndex, ulong Address, bool CarriesGre = false);
