namespace Tunnel.Dataplane;

/// <summary>What the outer ECN field is made from (RFC 6040 section 4.1).</summary>
public enum EcnMode
{
    /// <summary>Normal for a peer that is known to be this program, else compatible.</summary>
    Auto,

    /// <summary>The inner field is copied. The decapsulator must carry congestion marks inside.</summary>
    Normal,

    /// <summary>Not-ECT: for a decapsulator that would lose the marks.</summary>
    Compatible,
}

/// <summary>What a peer's outer IP headers say beside addresses and protocol. Compares by value.</summary>
public sealed record OuterHeaderOptions
{
    /// <summary>What a peer without options gets.</summary>
    public static OuterHeaderOptions Default { get; } = new();

    /// <summary>The outer DSCP, 0 to 63; null copies the inner.</summary>
    public byte? Dscp { get; init; } = 0;

    /// <summary>What the outer ECN field is made from.</summary>
    public EcnMode Ecn { get; init; }

    /// <summary>The outer TTL or hop limit, 1 to 255; null copies the inner.</summary>
    public byte? TimeToLive { get; init; } = 64;

    /// <summary>
    /// Whether outer IPv4 headers always have DF. If not, they have it where the inner IPv4 header has it (RFC 2003 section 3.1), and what the path's
    /// routers say of their MTU is not heeded. Nothing of it concerns an IPv6 underlay, where no router fragments.
    /// </summary>
    public bool DiscoversPathMtu { get; init; } = true;
}
