namespace Tunnel.Tests.Architecture;

/// <summary>The rooms of the daemon and which of them each may know: Wire, then Dataplane, then Linux and Control side by side.</summary>
internal static class Rooms
{
    /// <summary>Each room with those that it may refer to.</summary>
    public static IReadOnlyDictionary<string, string[]> Allowed { get; } = new Dictionary<string, string[]>(StringComparer.Ordinal)
    {
        ["Wire"] = ["Wire"],
        ["Dataplane"] = ["Wire", "Dataplane"],
        ["Linux"] = ["Wire", "Dataplane", "Linux"],
        ["Control"] = ["Wire", "Dataplane", "Control"],
    };

    /// <summary>The room of a namespace; null outside the rooms. The libc binding has the namespace of the package that it stands in for.</summary>
    public static string? Of(string name)
    {
        string[] parts = name.Split('.');
        return name is "Tmds.Linux" ? "Linux"
            : parts.Length >= 2 && parts[0] == "Tunnel" && Allowed.ContainsKey(parts[1]) ? parts[1]
            : null;
    }
}
