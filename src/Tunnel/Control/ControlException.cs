namespace Tunnel.Control;

/// <summary>What kind of refusal a <see cref="ControlException"/> is; each has its HTTP status.</summary>
internal enum ControlErrorKind
{
    /// <summary>A value that can't be (400).</summary>
    Invalid,

    /// <summary>No such peer (404).</summary>
    NotFound,

    /// <summary>Good in itself, but at odds with what is there (409).</summary>
    Conflict,

    /// <summary>The host refused: disk, kernel (500).</summary>
    Failed,
}

/// <summary>A change or a question that is refused. Nothing has changed where it is thrown.</summary>
internal sealed class ControlException : Exception
{
    /// <summary>Describes a refusal.</summary>
    /// <param name="kind">Its kind.</param>
    /// <param name="message">What is wrong, one line.</param>
    /// <param name="hint">The cure, one line; null where there is none to tell.</param>
    /// <param name="field">The offending key, as in the YAML; null where it is none.</param>
    /// <param name="inner">What caused it.</param>
    public ControlException(ControlErrorKind kind, string message, string? hint = null, string? field = null, Exception? inner = null)
        : base(message, inner)
    {
        Kind = kind;
        Hint = hint;
        Field = field;
    }

    /// <summary>Its kind.</summary>
    public ControlErrorKind Kind { get; }

    /// <summary>The cure, one line.</summary>
    public string? Hint { get; }

    /// <summary>The offending key, as in the YAML.</summary>
    public string? Field { get; }
}
