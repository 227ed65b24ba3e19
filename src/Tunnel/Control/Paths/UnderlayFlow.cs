using Tunnel.Wire;

namespace Tunnel.Control.Paths;

/// <summary>The outer packets of plain GRE between this host and one peer, both directions.</summary>
/// <param name="Local">This host's underlay address.</param>
/// <param name="Endpoint">The peer's.</param>
/// <param name="LinkName">The underlay device.</param>
internal readonly record struct UnderlayFlow(InetAddress Local, InetAddress Endpoint, string LinkName);
