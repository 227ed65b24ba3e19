using System.Diagnostics;

namespace Tunnel.NetworkTests;

/// <summary>What a command ended with.</summary>
/// <param name="Line">The command as one would type it.</param>
/// <param name="ExitCode">Its exit code; 128 + n where signal n ended it.</param>
/// <param name="Out">Its standard output.</param>
/// <param name="Error">Its standard error.</param>
internal sealed record CommandResult(string Line, int ExitCode, string Out, string Error)
{
    /// <summary>This result, where the command succeeded.</summary>
    /// <exception cref="LabException">It did not.</exception>
    public CommandResult Succeeded() =>
        ExitCode == 0 ? this : throw new LabException($"expected to succeed: {this}");

    /// <inheritdoc/>
    public override string ToString() => $"{Line}\nexit code {ExitCode}\n{Out}{Error}";
}

/// <summary>Runs programs to their end.</summary>
internal static class Command
{
    /// <summary>How long any single step of a test may take before it counts as hung.</summary>
    public static readonly TimeSpan Deadline = TimeSpan.FromSeconds(60);

    /// <summary>Runs a program; its first word is the program.</summary>
    /// <exception cref="LabException">It ran past the deadline.</exception>
    public static async Task<CommandResult> RunAsync(IReadOnlyList<string> words, string input = "", TimeSpan? deadline = null)
    {
        var start = new ProcessStartInfo(words[0], words.Skip(1))
        {
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        string line = string.Join(' ', words);
        using Process process = Process.Start(start) ?? throw new LabException($"cannot start: {line}");
        using var timer = new CancellationTokenSource(deadline ?? Deadline);
        Task<string> output = process.StandardOutput.ReadToEndAsync(CancellationToken.None);
        Task<string> error = process.StandardError.ReadToEndAsync(CancellationToken.None);
        try
        {
            await WriteAsync(process, input);
            await process.WaitForExitAsync(timer.Token);
            return new CommandResult(line, process.ExitCode, await output.WaitAsync(timer.Token), await error.WaitAsync(timer.Token));
        }
        catch (OperationCanceledException)
        {
            process.Kill();
            throw new LabException($"still running after {(deadline ?? Deadline).TotalSeconds:0} s: {line}");
        }
    }

    // A program that ends without reading its input is not at fault.
    private static async Task WriteAsync(Process process, string input)
    {
        try
        {
            await process.StandardInput.WriteAsync(input);
            process.StandardInput.Close();
        }
        catch (IOException)
        {
        }
    }
}
