namespace Tunnel.Control.Paths;

/// <summary>UDP ports that stand next to each other.</summary>
/// <param name="First">The lowest.</param>
/// <param name="Last">The highest.</param>
internal readonly record struct PortRange(ushort First, ushort Last)
{
    /// <summary>The ports that GRE-in-UDP is sent from where none is configured (RFC 8086 section 3.2.1).</summary>
    public static PortRange Ephemeral => new(49_152, ushort.MaxValue);

    /// <summary>Every port: for packets of which none is known.</summary>
    public static PortRange Any => new(0, ushort.MaxValue);

    /// <summary>One port.</summary>
    public static PortRange Of(ushort port) => new(port, port);

    /// <summary>Whether a port that is one of these, nobody knows which, is one of others.</summary>
    /// <param name="first">The lowest of the others; may be no port at all.</param>
    /// <param name="last">The highest of the others.</param>
    public Truth IsWithin(long first, long last) =>
        last < First || first > Last ? Truth.No : first <= First && last >= Last ? Truth.Yes : Truth.Maybe;
}
