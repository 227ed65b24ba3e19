namespace Tunnel.Control.Configuration;

/// <summary>How packets reach a peer.</summary>
internal enum Encapsulation
{
    /// <summary>GRE straight over IP, protocol 47 (RFC 2784).</summary>
    Gre,

    /// <summary>GRE in UDP (RFC 8086).</summary>
    GreUdp,

    /// <summary>No tunnel: a plain route to the peer's host.</summary>
    Direct,

    /// <summary>Chosen by tunneld.</summary>
    Auto,
}

/// <summary>The words that name encapsulations in files, on the command line and in JSON.</summary>
internal static class EncapsulationWords
{
    /// <summary>Every word, in the order of <see cref="Encapsulation"/>.</summary>
    public static IReadOnlyList<string> All { get; } = ["gre", "gre-udp", "direct", "auto"];

    /// <summary>Those that name something that can be received.</summary>
    public static IReadOnlyList<string> Receivable { get; } = ["gre", "gre-udp"];

    public static string ToWord(this Encapsulation encapsulation) => All[(int)encapsulation];
}
