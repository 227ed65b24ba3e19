using System.ComponentModel;
using System.Diagnostics;

namespace Tunnel.Linux;

/// <summary>What a program said when it ended.</summary>
/// <param name="Output">Its standard output; null where it failed.</param>
/// <param name="Failure">Why it failed: "did not finish in 20 s", or the first line that it wrote to standard error; null where it did not.</param>
internal readonly record struct ProgramResult(string? Output, string? Failure);

/// <summary>Runs programs of the system, which may be missing, fail or hang.</summary>
internal static class HostProgram
{
    private static readonly string[] AdministrationDirectories = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

    /// <summary>
    /// Finds a program; null where there is none. Services and shells of unprivileged users often lack the directories of administration, so those are
    /// looked in as well.
    /// </summary>
    public static string? Find(string name) =>
        (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':', StringSplitOptions.RemoveEmptyEntries)
            .Concat(AdministrationDirectories)
            .Select(directory => Path.Combine(directory, name))
            .FirstOrDefault(File.Exists);

    /// <summary>Runs a program to its end, or until the deadline passes; then it is killed.</summary>
    /// <param name="words">Its path and arguments.</param>
    /// <param name="input">Its standard input.</param>
    /// <param name="deadline">How long it may take.</param>
    public static ProgramResult Run(string[] words, string input, TimeSpan deadline)
    {
        var start = new ProcessStartInfo(words[0], words[1..])
        {
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        try
        {
            using Process process = Process.Start(start)!;
            Task<string> output = process.StandardOutput.ReadToEndAsync();
            Task<string> errors = process.StandardError.ReadToEndAsync();
            Task written = WriteAsync(process.StandardInput, input);
            if (!Task.WaitAll([output, errors, written], deadline) || !process.WaitForExit(deadline))
            {
                process.Kill();
                return new ProgramResult(null, $"did not finish in {deadline.TotalSeconds:0} s");
            }

            return process.ExitCode == 0 ? new ProgramResult(output.Result, null) : new ProgramResult(null, $"failed: {errors.Result.Trim().Split('\n')[0]}");
        }
        catch (Exception failure) when (failure is Win32Exception or InvalidOperationException or IOException or AggregateException)
        {
            return new ProgramResult(null, $"can't be run: {(failure as AggregateException)?.GetBaseException().Message ?? failure.Message}");
        }
    }

    // A program that ends without reading its input says why itself.
    private static async Task WriteAsync(StreamWriter standardInput, string input)
    {
        try
        {
            await standardInput.WriteAsync(input).ConfigureAwait(false);
            standardInput.Close();
        }
        catch (IOException)
        {
        }
    }
}
