using System.Text.Json;

namespace Tunnel.Control.Configuration;

/// <summary>Makes a <see cref="ConfigNode"/> tree from a parsed JSON document, whose depth JsonDocument has bounded.</summary>
internal static class JsonTree
{
    /// <summary>Converts one value with all below it; null, with an error, where a string is not valid Unicode ("\ud800").</summary>
    public static ConfigNode? Read(JsonElement element, ConfigErrorList errors)
    {
        try
        {
            return Convert(element);
        }
        catch (InvalidOperationException)
        {
            errors.Invalid(default, null, "a string is not valid Unicode", "surrogate escapes such as \\ud800 stand in pairs");
            return null;
        }
    }

    private static ConfigNode Convert(JsonElement element) => element.ValueKind switch
    {
        JsonValueKind.Object => ConfigNode.OfMap(
            default, [.. element.EnumerateObject().Select(property => new ConfigEntry(property.Name, default, Convert(property.Value)))]),
        JsonValueKind.Array => ConfigNode.OfList(default, [.. element.EnumerateArray().Select(Convert)]),
        JsonValueKind.String => ConfigNode.OfScalar(ConfigNodeKind.Text, default, element.GetString()!),
        JsonValueKind.Number => ConfigNode.OfScalar(ConfigNodeKind.Number, default, element.GetRawText()),
        JsonValueKind.True => ConfigNode.OfScalar(ConfigNodeKind.Boolean, default, "true"),
        JsonValueKind.False => ConfigNode.OfScalar(ConfigNodeKind.Boolean, default, "false"),
        _ => ConfigNode.OfNothing(default),
    };
}
