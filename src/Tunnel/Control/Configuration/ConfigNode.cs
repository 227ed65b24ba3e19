namespace Tunnel.Control.Configuration;

/// <summary>The shapes that a value can have in YAML or JSON.</summary>
internal enum ConfigNodeKind
{
    /// <summary>No value: JSON's null; in YAML null, ~ or nothing after the colon.</summary>
    Nothing,

    /// <summary>A plain YAML scalar, which the key that it stands under takes as text, number or truth value.</summary>
    Plain,

    /// <summary>A quoted or block scalar of YAML, a string of JSON.</summary>
    Text,

    /// <summary>A JSON number, as written.</summary>
    Number,

    /// <summary>A JSON truth value.</summary>
    Boolean,

    /// <summary>A list: YAML sequence, JSON array.</summary>
    List,

    /// <summary>A map: YAML mapping, JSON object.</summary>
    Map,
}

/// <summary>One key of a map, with its value. A key may stand twice; that is for the reader of the map to refuse.</summary>
internal readonly record struct ConfigEntry(string Key, ConfigPlace KeyPlace, ConfigNode Value);

/// <summary>A value with its position: what YAML files and JSON bodies have in common, so that one reader serves both.</summary>
internal sealed class ConfigNode
{
    private ConfigNode(ConfigNodeKind kind, ConfigPlace place)
    {
        Kind = kind;
        Place = place;
    }

    public ConfigNodeKind Kind { get; }

    /// <summary>Where it begins; no position in JSON.</summary>
    public ConfigPlace Place { get; }

    /// <summary>The text of a scalar; empty in other kinds.</summary>
    public string Scalar { get; private init; } = string.Empty;

    /// <summary>The items of a list; empty in other kinds.</summary>
    public IReadOnlyList<ConfigNode> Items { get; private init; } = [];

    /// <summary>The entries of a map, in order; empty in other kinds.</summary>
    public IReadOnlyList<ConfigEntry> Entries { get; private init; } = [];

    /// <summary>The kind as messages name it.</summary>
    public string KindName => Kind switch
    {
        ConfigNodeKind.Nothing => "nothing",
        ConfigNodeKind.Number => "a number",
        ConfigNodeKind.Boolean => "true or false",
        ConfigNodeKind.List => "a list",
        ConfigNodeKind.Map => "a map",
        _ => "text",
    };

    public static ConfigNode OfNothing(ConfigPlace place) => new(ConfigNodeKind.Nothing, place);

    public static ConfigNode OfScalar(ConfigNodeKind kind, ConfigPlace place, string scalar) => new(kind, place) { Scalar = scalar };

    public static ConfigNode OfList(ConfigPlace place, IReadOnlyList<ConfigNode> items) =>
        new(ConfigNodeKind.List, place) { Items = items };

    public static ConfigNode OfMap(ConfigPlace place, IReadOnlyList<ConfigEntry> entries) =>
        new(ConfigNodeKind.Map, place) { Entries = entries };
}
