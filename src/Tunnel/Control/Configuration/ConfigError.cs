using System.Diagnostics.CodeAnalysis;

namespace Tunnel.Control.Configuration;

/// <summary>A position in a file; the default value is no position at all (a value that came over the control API).</summary>
/// <param name="File">The path as the operator gave it, or below it.</param>
/// <param name="Line">The line, from 1; 0 where the whole file is meant.</param>
/// <param name="Column">The column in UTF-16 code units, from 1; 0 where the whole file is meant.</param>
internal readonly record struct ConfigPlace(string? File, int Line = 0, int Column = 0)
{
    /// <summary>Whether there is no position.</summary>
    public bool IsNone => File is null;

    /// <summary>"FILE:LINE:COLUMN", or "FILE".</summary>
    public override string ToString() => Line == 0 ? File ?? string.Empty : $"{File}:{Line}:{Column}";
}

/// <summary>What kind of refusal an error is.</summary>
internal enum ConfigErrorKind
{
    /// <summary>The value is wrong in itself (HTTP 400).</summary>
    Invalid,

    /// <summary>The value clashes with something else that is configured (HTTP 409).</summary>
    Conflict,

    /// <summary>Nothing is refused, but the operator should know.</summary>
    Warning,
}

/// <summary>One finding about a configuration.</summary>
/// <param name="Kind">What kind of finding it is.</param>
/// <param name="Place">Where it was found.</param>
/// <param name="Field">The path of the key, as peers.vm2.subnets[0]; below one peer where only that was checked; null where no key is meant.</param>
/// <param name="Message">What is wrong, in one line.</param>
/// <param name="Hint">The cure, or what is allowed, in one line; null where the message says it all.</param>
internal sealed record ConfigError(ConfigErrorKind Kind, ConfigPlace Place, string? Field, string Message, string? Hint)
{
    /// <summary>The field's first key, as "subnets" of "subnets[0]".</summary>
    public string? Key => Field?.Split('.', '[')[0];

    /// <summary>"FILE:LINE:COLUMN: MESSAGE (HINT)" in one line; what there isn't is left out.</summary>
    public override string ToString()
    {
        string hint = Hint is null ? string.Empty : $" ({Hint})";
        return ConfigText.OneLine(Place.IsNone ? $"{Message}{hint}" : $"{Place}: {Message}{hint}");
    }
}

/// <summary>What reading or changing a configuration came to: a value, or errors.</summary>
internal sealed class ConfigResult<T>
    where T : class
{
    internal ConfigResult(T? value, IReadOnlyList<ConfigError> errors, IReadOnlyList<ConfigError> warnings)
    {
        Value = errors.Count == 0 ? value : null;
        Errors = errors;
        Warnings = warnings;
    }

    /// <summary>Whether there is a value, and so no error.</summary>
    [MemberNotNullWhen(true, nameof(Value))]
    public bool IsValid => Value is not null;

    /// <summary>The value; null where there are errors.</summary>
    public T? Value { get; }

    /// <summary>Every error found, in the order of the files.</summary>
    public IReadOnlyList<ConfigError> Errors { get; }

    /// <summary>What the operator should know although it is no error.</summary>
    public IReadOnlyList<ConfigError> Warnings { get; }
}

/// <summary>Collects the findings of one reading.</summary>
internal sealed class ConfigErrorList
{
    /// <summary>How many errors are kept; of more, only their number is told.</summary>
    public const int Most = 100;

    private readonly List<ConfigError> _errors = [];
    private readonly List<ConfigError> _warnings = [];
    private int _more;

    /// <summary>Whether an error was added.</summary>
    public bool Any => _errors.Count > 0;

    public void Invalid(ConfigPlace place, string? field, string message, string? hint = null) =>
        Add(new ConfigError(ConfigErrorKind.Invalid, place, field, message, hint));

    public void Conflict(ConfigPlace place, string? field, string message, string? hint = null) =>
        Add(new ConfigError(ConfigErrorKind.Conflict, place, field, message, hint));

    public void Warn(ConfigPlace place, string? field, string message, string? hint = null) =>
        _warnings.Add(new ConfigError(ConfigErrorKind.Warning, place, field, message, hint));

    /// <summary>Ends the reading: the value if there was no error.</summary>
    public ConfigResult<T> ToResult<T>(T? value)
        where T : class => new(value, Sorted(), _warnings);

    private void Add(ConfigError error)
    {
        if (_errors.Count < Most)
            _errors.Add(error);
        else
            _more++;
    }

    // Files stay in the order in which they were read; inside a file, errors go by position.
    private List<ConfigError> Sorted()
    {
        var files = new List<string?>();
        foreach (ConfigError error in _errors)
        {
            if (!files.Contains(error.Place.File))
                files.Add(error.Place.File);
        }

        List<ConfigError> sorted = [.. _errors.OrderBy(error => files.IndexOf(error.Place.File))
            .ThenBy(error => error.Place.Line).ThenBy(error => error.Place.Column)];
        if (_more > 0)
            sorted.Add(new ConfigError(ConfigErrorKind.Invalid, default, null, $"{_more} more errors are not shown", null));

        return sorted;
    }
}

/// <summary>
/// Where the settings of a record stand. All instances are equal to one another: a peer that moved down a line has not changed.
/// </summary>
internal sealed class SourcePositions : IEquatable<SourcePositions>
{
    private readonly Dictionary<string, ConfigPlace> _places;

    /// <summary>Takes the dictionary over; the caller must not change it afterwards.</summary>
    public SourcePositions(Dictionary<string, ConfigPlace> places)
    {
        _places = places;
    }

    /// <summary>No positions: the settings came over the control API.</summary>
    public static SourcePositions None { get; } = new([]);

    /// <summary>Where a field stands, or else what it stands in; the default value where neither is known.</summary>
    public ConfigPlace Find(string field)
    {
        ConfigPlace place;
        while (!_places.TryGetValue(field, out place) && field.Length > 0)
            field = field[..Math.Max(0, field.LastIndexOfAny(['.', '[']))];

        return place;
    }

    public bool Equals(SourcePositions? other) => other is not null;

    public override bool Equals(object? obj) => obj is SourcePositions;

    public override int GetHashCode() => 0;
}
