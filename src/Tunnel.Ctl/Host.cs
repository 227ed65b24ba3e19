using System.ComponentModel;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;

namespace Tunnel.Ctl;

/// <summary>How a program of the system ended.</summary>
/// <param name="Output">Its standard output; null where it failed or is not installed.</param>
/// <param name="Error">The first line of what it wrote to standard error, or why it could not be run.</param>
internal readonly record struct ProgramEnd(string? Output, string Error);

/// <summary>The host that tunnelctl runs on, for the commands that change it themselves.</summary>
internal interface IHost
{
    /// <summary>Whether this is root.</summary>
    bool IsRoot { get; }

    /// <summary>Whether there is such a file.</summary>
    bool Exists(string path);

    /// <summary>Runs a program to its end.</summary>
    /// <param name="words">Its name, looked up in PATH, and its arguments.</param>
    /// <param name="input">Its standard input.</param>
    ProgramEnd Run(string[] words, string input = "");

    /// <summary>Has the kernel ask who has an address of a link of this host (ARP, neighbour discovery).</summary>
    void AskFor(IPAddress address);
}

/// <inheritdoc cref="IHost"/>
internal sealed class Host : IHost
{
    private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(20);

    /// <inheritdoc/>
    public bool IsRoot => Environment.IsPrivilegedProcess;

    /// <inheritdoc/>
    public bool Exists(string path) => File.Exists(path);

    /// <inheritdoc/>
    public ProgramEnd Run(string[] words, string input = "")
    {
        ProcessStartInfo start = new(words[0], words[1..])
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
            Task<string> error = process.StandardError.ReadToEndAsync();
            Write(process.StandardInput, input);
            if (!Task.WaitAll([output, error], Deadline) || !process.WaitForExit(Deadline))
            {
                process.Kill();
                return new ProgramEnd(null, $"{words[0]} did not finish in {Deadline.TotalSeconds:0} s");
            }

            string said = error.Result.Trim().Split('\n')[0];
            return process.ExitCode == 0
                ? new ProgramEnd(output.Result, said)
                : new ProgramEnd(null, said.Length > 0 ? said : $"{words[0]} failed with exit code {process.ExitCode}");
        }
        catch (Win32Exception)
        {
            return new ProgramEnd(null, $"{words[0]} is not installed");
        }
    }

    // A program that ends without reading its input says why itself.
    private static void Write(StreamWriter standardInput, string input)
    {
        try
        {
            standardInput.Write(input);
            standardInput.Close();
        }
        catch (IOException)
        {
        }
    }

    /// <inheritdoc/>
    public void AskFor(IPAddress address)
    {
        // Any packet makes the kernel ask. It goes to the discard port (RFC 863), and what becomes of it doesn't matter.
        using Socket socket = new(address.AddressFamily, SocketType.Dgram, ProtocolType.Udp);
        try
        {
            socket.SendTo([], new IPEndPoint(address, 9));
        }
        catch (SocketException)
        {
            // No route, or a firewall: then nobody is asked, and nobody is found.
        }
    }
}
