using Tunnel.Dataplane;

namespace Tunnel.Control.Configuration;

/// <summary>How a peer is asked whether it is there.</summary>
/// <param name="Milliseconds">How often, in milliseconds; 0 for never.</param>
/// <param name="Kind">What with.</param>
/// <param name="IsDemanded">Whether a peer that has never answered counts as down.</param>
internal sealed record Keepalive(int Milliseconds, ProbeKind Kind = ProbeKind.Echo, bool IsDemanded = true)
{
    /// <summary>The usual: a peer that doesn't know the questions is none the worse for it.</summary>
    public static readonly Keepalive Auto = new(5_000, IsDemanded: false);

    /// <summary>Never.</summary>
    public static readonly Keepalive Off = new(0, IsDemanded: false);

    /// <summary>The shortest interval in milliseconds.</summary>
    public const int Shortest = 100;

    /// <summary>The longest interval in milliseconds.</summary>
    public const int Longest = 600_000;

    /// <summary>What makes it a router's: <see cref="ProbeKind.ReturnPacket"/>.</summary>
    public const string ReturnPrefix = "gre:";

    /// <summary>Whether nobody is asked.</summary>
    public bool IsOff => Milliseconds == 0;

    /// <summary>As it is written: "auto", "off", "5s", "500ms", "gre:10s".</summary>
    public override string ToString() => this == Auto ? "auto" : this == Off ? "off"
        : (Kind == ProbeKind.ReturnPacket ? ReturnPrefix : "") + (Milliseconds % 1000 == 0 ? $"{Milliseconds / 1000}s" : $"{Milliseconds}ms");
}
