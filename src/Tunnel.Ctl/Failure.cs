namespace Tunnel.Ctl;

/// <summary>The exit codes; part of the stable interface.</summary>
internal static class ExitCode
{
    /// <summary>Done.</summary>
    public const int Done = 0;

    /// <summary>The daemon refused, or the command failed.</summary>
    public const int Failed = 1;

    /// <summary>The command line is wrong, or leaves open which network is meant.</summary>
    public const int Usage = 2;

    /// <summary>No daemon can be reached, or it does not answer.</summary>
    public const int NotReachable = 3;

    /// <summary>doctor has found something.</summary>
    public const int Found = 4;
}

/// <summary>Ends the run with one line for the user. Its shape is the control API's: error, hint, field.</summary>
internal sealed class Failure : Exception
{
    /// <summary>Describes what went wrong.</summary>
    /// <param name="exitCode">What the process exits with.</param>
    /// <param name="error">What is wrong, in one line.</param>
    /// <param name="hint">The cure, where there is one.</param>
    /// <param name="field">The property of the peer that the daemon refused, where it named one.</param>
    public Failure(int exitCode, string error, string? hint = null, string? field = null)
        : base(error)
    {
        ExitCode = exitCode;
        Hint = hint;
        Field = field;
    }

    /// <summary>What the process exits with.</summary>
    public int ExitCode { get; }

    /// <summary>The cure, or null.</summary>
    public string? Hint { get; }

    /// <summary>The refused property, or null.</summary>
    public string? Field { get; }

    /// <summary>"ERROR (HINT)", in one line whatever the texts hold.</summary>
    public string ToLine() => Json.OneLine(string.IsNullOrEmpty(Hint) ? Message : $"{Message} ({Hint})");

    /// <summary>The JSON object {"error","hint","field"} in one line.</summary>
    public string ToJson() => Json.Write(writer =>
    {
        writer.WriteStartObject();
        writer.WriteString("error", Message);
        writer.WriteString("hint", Hint);
        writer.WriteString("field", Field);
        writer.WriteEndObject();
    });
}
