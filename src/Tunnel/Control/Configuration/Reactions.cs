namespace Tunnel.Control.Configuration;

/// <summary>What becomes of a peer's routes while it is down.</summary>
internal enum OnDown
{
    /// <summary>They stay, and packets go on being sent.</summary>
    Keep,

    /// <summary>They are withdrawn: another peer with the same subnet takes over, or another route of the host.</summary>
    Withdraw,
}

/// <summary>What to do where a peer's host answers GRE-in-UDP with Port Unreachable (RFC 8086 section 9).</summary>
internal enum OnRefused
{
    /// <summary>Send nothing until something comes from the peer, or a person changes it or reloads.</summary>
    Stop,

    /// <summary>Go on.</summary>
    Retry,
}

/// <summary>How these are written in YAML and JSON.</summary>
internal static class ReactionWords
{
    /// <summary>The words of <see cref="Configuration.OnDown"/>, in its order.</summary>
    public static IReadOnlyList<string> OnDown { get; } = ["keep", "withdraw"];

    /// <summary>The words of <see cref="Configuration.OnRefused"/>, in its order.</summary>
    public static IReadOnlyList<string> OnRefused { get; } = ["stop", "retry"];

    /// <summary>The word.</summary>
    public static string ToWord(this OnDown value) => OnDown[(int)value];

    /// <summary>The word.</summary>
    public static string ToWord(this OnRefused value) => OnRefused[(int)value];
}
