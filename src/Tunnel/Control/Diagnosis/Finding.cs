namespace Tunnel.Control.Diagnosis;

/// <summary>How bad a finding is. The words are part of the control API.</summary>
internal enum Severity
{
    /// <summary>Packets are lost, or not what they should be.</summary>
    Error,

    /// <summary>Worth knowing; packets flow.</summary>
    Warning,
}

/// <summary>Something that is wrong.</summary>
/// <param name="Check">What was looked at; docs/troubleshooting.md lists the words.</param>
/// <param name="Severity">How bad it is.</param>
/// <param name="Peer">Whose packets it concerns; null for all.</param>
/// <param name="Text">What is wrong and what is known of the cause: one line.</param>
/// <param name="Cure">The command that mends it, or "edit FILE: ..."; null where none can be named.</param>
internal sealed record Finding(string Check, Severity Severity, string? Peer, string Text, string? Cure = null);

/// <summary>Looks for one kind of trouble. Decides by the facts alone.</summary>
internal interface ICheck
{
    /// <summary>Looks.</summary>
    /// <param name="facts">What is known.</param>
    /// <param name="soFar">What the checks before this one have found.</param>
    IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar);
}
