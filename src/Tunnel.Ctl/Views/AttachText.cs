namespace Tunnel.Ctl.Views;

/// <summary>What attach and detach say.</summary>
internal static class AttachText
{
    /// <summary>attach, for people.</summary>
    public static string Line(string target, Attached done) =>
        $"{(done.WasThere ? $"{target} is attached already" : $"attached {target}")}: {done.Interface} {done.Address} on {done.Bridge}, {done.Routes.Length} routes by {done.Gateway}";

    /// <summary>detach, for people.</summary>
    public static string Line(string target, (string Interface, string[] Addresses)[] removed) => removed.Length == 0
        ? $"nothing is attached to {target}"
        : $"detached {target}: {string.Join("; ", removed.Select(one => $"{one.Interface} {string.Join(' ', one.Addresses)}".TrimEnd()))}";

    /// <summary>attach, for programs.</summary>
    public static string Json(string target, Attached done) => Ctl.Json.Write(writer =>
    {
        writer.WriteStartObject();
        writer.WriteString("target", target);
        writer.WriteString("interface", done.Interface);
        writer.WriteString("address", done.Address);
        writer.WriteString("bridge", done.Bridge);
        writer.WriteString("gateway", done.Gateway);
        writer.WriteStartArray("routes");
        foreach (string route in done.Routes)
            writer.WriteStringValue(route);

        writer.WriteEndArray();
        writer.WriteBoolean("was-attached", done.WasThere);
        writer.WriteEndObject();
    });

    /// <summary>detach, for programs.</summary>
    public static string Json(string target, (string Interface, string[] Addresses)[] removed) => Ctl.Json.Write(writer =>
    {
        writer.WriteStartObject();
        writer.WriteString("target", target);
        writer.WriteStartArray("removed");
        foreach ((string name, string[] addresses) in removed)
        {
            writer.WriteStartObject();
            writer.WriteString("interface", name);
            writer.WriteStartArray("addresses");
            foreach (string address in addresses)
                writer.WriteStringValue(address);

            writer.WriteEndArray();
            writer.WriteEndObject();
        }

        writer.WriteEndArray();
        writer.WriteEndObject();
    });
}
