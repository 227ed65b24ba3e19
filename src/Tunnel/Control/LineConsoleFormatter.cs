using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Extensions.Logging.Console;

namespace Tunnel.Control;

/// <summary>
/// One line for each message. Under systemd it begins with the priority that the journal understands (sd-daemon(3)), which adds time and
/// name itself; elsewhere with time and level.
/// </summary>
internal sealed class LineConsoleFormatter() : ConsoleFormatter(FormatterName)
{
    /// <summary>The formatter's name.</summary>
    public const string FormatterName = "line";

    private readonly bool _isJournal = Environment.GetEnvironmentVariable("JOURNAL_STREAM") is not null;

    /// <inheritdoc/>
    public override void Write<TState>(in LogEntry<TState> logEntry, IExternalScopeProvider? scopeProvider, TextWriter textWriter)
    {
        string message = logEntry.Formatter(logEntry.State, logEntry.Exception);
        string bug = logEntry.Exception is null ? "" : $": {logEntry.Exception.ToString().ReplaceLineEndings(" | ")}";
        textWriter.WriteLine(_isJournal
            ? $"<{Priority(logEntry.LogLevel)}>{message}{bug}"
            : $"{DateTime.Now:HH:mm:ss.fff} {Word(logEntry.LogLevel)}: {message}{bug}");
    }

    private static int Priority(LogLevel level) => level switch
    {
        LogLevel.Critical => 2,
        LogLevel.Error => 3,
        LogLevel.Warning => 4,
        LogLevel.Information => 6,
        _ => 7,
    };

    private static string Word(LogLevel level) => level switch
    {
        LogLevel.Critical or LogLevel.Error => "error",
        LogLevel.Warning => "warning",
        LogLevel.Information => "info",
        _ => "debug",
    };
}
