namespace Tunnel.Control.Configuration;

/// <summary>
/// What the readers of one record share: where errors go, how its fields are called, and where each was found.
/// </summary>
/// <param name="Errors">Where errors go.</param>
/// <param name="Prefix">What stands before this record's fields in an error's field: "peers.vm2.", or nothing.</param>
/// <param name="Title">What messages call the record where it has no field's name: "the file".</param>
internal sealed record ConfigScope(ConfigErrorList Errors, string Prefix, string Title)
{
    /// <summary>The positions of the record's fields so far.</summary>
    public Dictionary<string, ConfigPlace> Places { get; } = new(StringComparer.Ordinal);

    /// <summary>The record's positions, for errors that are found later; none where the values came as JSON.</summary>
    public SourcePositions Positions => Places.Values.All(place => place.IsNone) ? SourcePositions.None : new SourcePositions(Places);

    /// <summary>Whether a value was refused, so that the record can't be made.</summary>
    public bool IsRefused { get; private set; }

    /// <summary>Refuses a value.</summary>
    public void Refuse(ConfigPlace place, string field, string message, string? hint)
    {
        IsRefused = true;
        Errors.Invalid(place, Name(field), message, hint);
    }

    /// <summary>Refuses a key that should not be there; the other settings still make a record, which can be checked further.</summary>
    public void RefuseKey(ConfigPlace place, string field, string message, string hint) =>
        Errors.Invalid(place, Name(field), message, hint);

    /// <summary>The field as errors name it; null for the record itself where it has no name.</summary>
    public string? Name(string field)
    {
        string name = (Prefix + field).TrimEnd('.');
        return name.Length == 0 ? null : name;
    }
}

/// <summary>
/// Reads the settings of one map. Its making refuses unknown and repeated keys; each read refuses a value of the wrong shape or
/// meaning. A setting that is absent or refused reads as "not there"; refusals are in the scope's errors.
/// </summary>
internal sealed class MapReader
{
    private readonly ConfigScope _scope;
    private readonly string _path;
    private readonly Dictionary<string, ConfigEntry> _entries = new(StringComparer.Ordinal);

    /// <param name="node">The value that should be a map.</param>
    /// <param name="scope">The record that the map belongs to.</param>
    /// <param name="path">The map's own path in the record; empty for the record itself.</param>
    /// <param name="allowed">The keys that it may have.</param>
    /// <param name="elsewhere">Keys that belong into other maps, with the map's name, for the hint.</param>
    public MapReader(
        ConfigNode node, ConfigScope scope, string path, string[] allowed, IReadOnlyDictionary<string, string>? elsewhere = null)
    {
        _scope = scope;
        _path = path;
        if (node.Kind != ConfigNodeKind.Map)
        {
            // "peers:" with nothing below it, or with all below it commented out, is an empty section.
            if (node.Kind != ConfigNodeKind.Nothing)
                _scope.Refuse(node.Place, path, $"{Title} must be a map, not {node.KindName}", $"keys: {string.Join(", ", allowed)}");

            return;
        }

        foreach (ConfigEntry entry in node.Entries)
        {
            string field = FieldOf(entry.Key);
            if (!allowed.Contains(entry.Key))
            {
                string hint = UnknownHint(entry.Key, allowed, elsewhere);
                scope.RefuseKey(entry.KeyPlace, field, $"unknown key {ConfigText.Quote(entry.Key)} in {Title}", hint);
            }
            else if (!_entries.TryAdd(entry.Key, entry))
            {
                scope.RefuseKey(entry.KeyPlace, field, RepeatedKey(entry.Key, _entries[entry.Key]), "keep one of them");
            }
            else
            {
                scope.Places[field] = PlaceOf(entry);
            }
        }
    }

    private string Title => _scope.Name(_path) ?? _scope.Title;

    /// <summary>The message for a key that stands twice.</summary>
    public static string RepeatedKey(string key, ConfigEntry first)
    {
        string where = first.KeyPlace.IsNone ? string.Empty : $", first at line {first.KeyPlace.Line}";
        return $"{ConfigText.Quote(key)} is there twice{where}";
    }

    /// <summary>Whether the key is there, be its value good or not.</summary>
    public bool Has(string key) => _entries.ContainsKey(key);

    /// <summary>Whether the key is there without a value.</summary>
    public bool IsNothing(string key) => _entries.TryGetValue(key, out ConfigEntry entry) && entry.Value.Kind == ConfigNodeKind.Nothing;

    /// <summary>Takes a key that is there without a value as if it were not there; false where it is otherwise.</summary>
    public bool DropNothing(string key) => IsNothing(key) && _entries.Remove(key);

    /// <summary>The map or list below a key, or nothing at all.</summary>
    public ConfigNode Section(string key) =>
        _entries.TryGetValue(key, out ConfigEntry entry) ? entry.Value : ConfigNode.OfNothing(default);

    /// <summary>Reads one scalar; false where it is absent or refused.</summary>
    public bool TryRead<T>(string key, Func<string, Parsed<T>> parse, out T value)
    {
        value = default!;
        return _entries.TryGetValue(key, out ConfigEntry entry) && TryRead(entry.Value, FieldOf(key), PlaceOf(entry), parse, out value);
    }

    /// <summary>Reads true or false; false where it is absent or refused.</summary>
    public bool TryReadBoolean(string key, out bool value)
    {
        value = false;
        if (!_entries.TryGetValue(key, out ConfigEntry entry))
            return false;

        ConfigNode node = entry.Value;
        if (node.Kind is ConfigNodeKind.Plain or ConfigNodeKind.Boolean && node.Scalar is "true" or "false")
        {
            value = node.Scalar == "true";
            return true;
        }

        string found = node.Kind switch
        {
            ConfigNodeKind.Text => $"the text {ConfigText.Quote(node.Scalar)}",
            ConfigNodeKind.Plain or ConfigNodeKind.Number => ConfigText.Quote(node.Scalar),
            _ => node.KindName,
        };
        _scope.Refuse(PlaceOf(entry), FieldOf(key), $"{key} must be true or false, not {found}", "without quotes");
        return false;
    }

    /// <summary>
    /// Reads a list of scalars, each once; false where it is absent or any item is refused, so that positions in a list that was
    /// read are those in the file.
    /// </summary>
    /// <param name="key">The key.</param>
    /// <param name="parse">What an item means.</param>
    /// <param name="mayBeOne">Whether one scalar may stand for a list of one.</param>
    /// <param name="list">The items.</param>
    public bool TryReadList<T>(string key, Func<string, Parsed<T>> parse, bool mayBeOne, out EquatableList<T> list)
        where T : notnull
    {
        list = [];
        if (!_entries.TryGetValue(key, out ConfigEntry entry))
            return false;

        string field = FieldOf(key);
        ConfigNode node = entry.Value;
        if (node.Kind != ConfigNodeKind.List)
        {
            if (mayBeOne)
            {
                bool good = TryRead(node, field, PlaceOf(entry), parse, out T single);
                list = good ? [single] : [];
                return good;
            }

            bool scalar = node.Kind is ConfigNodeKind.Plain or ConfigNodeKind.Text;
            string hint = scalar ? $"write [{node.Scalar}]" : "write [ITEM, ITEM]";
            _scope.Refuse(PlaceOf(entry), field, $"{key} must be a list, not {node.KindName}", hint);
            return false;
        }

        var items = new List<T>(node.Items.Count);
        var seen = new HashSet<T>();
        bool allGood = true;
        for (int i = 0; i < node.Items.Count; i++)
        {
            string itemField = $"{field}[{i}]";
            _scope.Places[itemField] = node.Items[i].Place;
            if (!TryRead(node.Items[i], itemField, node.Items[i].Place, parse, out T item))
            {
                allGood = false;
            }
            else if (!seen.Add(item))
            {
                _scope.Refuse(
                    node.Items[i].Place, itemField, $"{node.Items[i].Scalar} is in {key} twice", "keep one of them");
                allGood = false;
            }

            items.Add(item);
        }

        list = allGood ? [.. items] : [];
        return allGood;
    }

    private static string UnknownHint(string key, string[] allowed, IReadOnlyDictionary<string, string>? elsewhere)
    {
        string keys = $"allowed: {string.Join(", ", allowed)}";
        if (elsewhere is not null && elsewhere.TryGetValue(key, out string? home))
            return $"it belongs under {home}; {keys}";

        int colon = key.IndexOf(':', StringComparison.Ordinal);
        if (colon > 0 && allowed.Contains(key[..colon]))
            return $"write a space after the colon of {key[..(colon + 1)]}";

        return ConfigText.Closest(key, allowed) is { } closest ? $"did you mean {closest}? {keys}" : keys;
    }

    // An empty value has its place after the colon, where there is nothing to see.
    private static ConfigPlace PlaceOf(ConfigEntry entry) =>
        entry.Value.Kind == ConfigNodeKind.Nothing ? entry.KeyPlace : entry.Value.Place;

    private bool TryRead<T>(ConfigNode node, string field, ConfigPlace place, Func<string, Parsed<T>> parse, out T value)
    {
        value = default!;
        string last = field[(field.LastIndexOf('.') + 1)..];
        switch (node.Kind)
        {
            case ConfigNodeKind.Nothing:
                _scope.Refuse(place, field, $"{last} has no value", "give one, or remove it");
                return false;

            case ConfigNodeKind.List or ConfigNodeKind.Map or ConfigNodeKind.Boolean:
                string hint = node.Kind == ConfigNodeKind.Map ? "text that ends in a colon stands in quotes" : "write the value alone";
                _scope.Refuse(place, field, $"{last} must be one value, not {node.KindName}", hint);
                return false;

            default:
                Parsed<T> parsed = parse(node.Scalar);
                if (parsed.Fault is { } fault)
                {
                    _scope.Refuse(place, field, $"{last}: {fault.Message}", fault.Hint);
                    return false;
                }

                value = parsed.Value!;
                return true;
        }
    }

    private string FieldOf(string key) => _path.Length == 0 ? key : $"{_path}.{key}";
}
