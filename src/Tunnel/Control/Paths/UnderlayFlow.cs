using Tunnel.Wire;

namespace Tunnel.Control.Paths;

/// <summary>
/// The outer packets between this host and one peer: of plain GRE both directions, of GRE-in-UDP those that are sent. GRE-in-UDP is received
/// by UDP sockets in any case.
/// </summary>
/// <param name="Local">This host's underlay address.</param>
/// <param name="Endpoint">The peer's.</param>
/// <param name="LinkName">The underlay device.</param>
/// <param name="UdpPort">The peer's port for GRE-in-UDP; 0 for plain GRE.</param>
/// <param name="SourcePorts">The ports that GRE-in-UDP may be sent from.</param>
internal readonly record struct UnderlayFlow(
    InetAddress Local, InetAddress Endpoint, string LinkName, ushort UdpPort = 0, PortRange SourcePorts = default)
{
    /// <summary>The outer packets' protocol (<see cref="IpProtocol"/>): GRE or UDP.</summary>
    public byte Protocol => UdpPort == 0 ? IpProtocol.Gre : IpProtocol.Udp;
}
