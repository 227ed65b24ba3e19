using System.CommandLine;
using System.Runtime.InteropServices;
using System.Text;

namespace Tunnel.Ctl;

/// <summary>What a run takes from the process around it; tests put their own in its place.</summary>
/// <param name="Output">Where results go.</param>
/// <param name="Error">Where errors go.</param>
/// <param name="Variable">Reads an environment variable; null where it is not set.</param>
internal sealed record Surroundings(TextWriter Output, TextWriter Error, Func<string, string?> Variable)
{
    /// <summary>Tells the width in columns of the terminal that <see cref="Output"/> is; null where it is a file or a pipe.</summary>
    public Func<int>? TerminalWidth { get; init; }

    /// <summary>How long the daemon may take for all requests of one run together.</summary>
    public TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>How long a shell waits for the daemon before completion goes without the names of its peers.</summary>
    public TimeSpan CompletionTimeout { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>Reads a file of the host's; null where there is none, or it can't be read.</summary>
    public Func<string, string?> ReadFile { get; init; } = path =>
    {
        try
        {
            return File.ReadAllText(path);
        }
        catch (Exception refused) when (refused is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    };

    /// <summary>Opens a file to write to; "-" is stdout.</summary>
    public Func<string, Stream> OpenFile { get; init; } = path => path == "-" ? StandardOutput.Open() : File.Create(path);

    /// <summary>Tells when the person has had enough (SIGINT, SIGTERM), from the first call on; before, that ends the process.</summary>
    public Func<CancellationToken> Interrupted { get; init; } = () => CancellationToken.None;

    /// <summary>Waits between two looks, until somebody has had enough.</summary>
    public Action<TimeSpan, CancellationToken> Wait { get; init; } = (pause, interrupted) => interrupted.WaitHandle.WaitOne(pause);

    /// <summary>Waits between two requests.</summary>
    public Action<TimeSpan> Pause { get; init; } = pause => Task.Delay(pause).Wait();

    /// <summary>The host, which attach and detach change.</summary>
    public IHost Host { get; init; } = new Host();
}

/// <summary>Reads the command line, runs the command, and turns whatever goes wrong into one line and an exit code.</summary>
internal static class Program
{
    /// <summary>Runs tunnelctl.</summary>
    /// <param name="args">The words after the program's name.</param>
    /// <param name="surroundings">Streams, environment and limits.</param>
    /// <returns>The exit code: see <see cref="ExitCode"/>.</returns>
    internal static int Run(string[] args, Surroundings surroundings)
    {
        CommandTree tree = new(surroundings);

        // "@" is a character like any other here, not the beginning of a file with further arguments.
        ParseResult parsed = tree.Root.Parse(args, new ParserConfiguration { ResponseFileTokenReplacer = null });
        bool json = parsed.GetResult(tree.Json) is { Implicit: false };
        try
        {
            if (parsed.Errors.Count > 0)
                throw UsageErrors.Explain(parsed);

            int exitCode = parsed.Invoke(new InvocationConfiguration
            {
                Output = surroundings.Output,
                Error = surroundings.Error,
                EnableDefaultExceptionHandler = false,
            });
            surroundings.Output.Flush();
            return exitCode;
        }
        catch (Failure failure)
        {
            return Report(failure, json, surroundings.Error);
        }
        catch (IOException exception) when (StandardOutput.HasNoReader(exception))
        {
            // Whoever read has had enough, as head(1) does.
            return ExitCode.Done;
        }
        catch (IOException exception)
        {
            return Report(new Failure(ExitCode.Failed, $"cannot write the output: {exception.Message}"), json, surroundings.Error);
        }
        catch (UnauthorizedAccessException)
        {
            // How the framework reports EBADF and EACCES of a write.
            return Report(new Failure(ExitCode.Failed, "cannot write the output: it is closed"), json, surroundings.Error);
        }
        catch (Exception exception)
        {
            // A mistake of ours; still one line, since a stack trace would help nobody who reads it here.
            Failure failure = new(ExitCode.Failed, $"internal error: {exception.GetType().Name}: {exception.Message}", "please report it");
            return Report(failure, json, surroundings.Error);
        }
    }

    private static int Main(string[] args)
    {
        // The framework would read the terminal's description and put its keypad into application mode, for good. With the
        // variable gone from its view it does neither.
        string? terminal = Environment.GetEnvironmentVariable("TERM");
        Environment.SetEnvironmentVariable("TERM", null);

        using CancellationTokenSource interrupted = new();
        List<PosixSignalRegistration> signals = [];
        using StreamWriter output = Open(StandardOutput.Open());
        using StreamWriter error = Open(Console.OpenStandardError());
        return Run(args, new Surroundings(output, error, name => name == "TERM" ? terminal : Environment.GetEnvironmentVariable(name))
        {
            TerminalWidth = Console.IsOutputRedirected ? null : TerminalWidth,
            Interrupted = () =>
            {
                if (signals.Count == 0)
                    signals.AddRange(new[] { PosixSignal.SIGINT, PosixSignal.SIGTERM }.Select(signal => PosixSignalRegistration.Create(signal, End)));

                return interrupted.Token;
            },
        });

        void End(PosixSignalContext context)
        {
            context.Cancel = true;
            interrupted.Cancel();
        }
    }

    // A terminal that does not know its size reports 0.
    private static int TerminalWidth() => Console.WindowWidth is > 0 and int width ? width : 80;

    private static StreamWriter Open(Stream stream) => new(stream, new UTF8Encoding(encoderShouldEmitUTF8Identifier: false), bufferSize: 8192);

    private static int Report(Failure failure, bool json, TextWriter error)
    {
        try
        {
            error.WriteLine(json ? failure.ToJson() : $"tunnelctl: {failure.ToLine()}");
            error.Flush();
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // Nobody reads it; the exit code still tells.
        }

        return failure.ExitCode;
    }
}
