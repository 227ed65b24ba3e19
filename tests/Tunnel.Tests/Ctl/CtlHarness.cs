using System.Collections.Concurrent;
using System.Globalization;
using System.Net.Sockets;
using System.Text;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Tunnel.Ctl;

namespace Tunnel.Tests.Ctl;

/// <summary>What a run of tunnelctl left.</summary>
internal sealed record CtlResult(int ExitCode, string Output, string Error);

/// <summary>A run directory of its own, and tunnelctl in this process with it.</summary>
internal sealed class CtlHarness : IDisposable
{
    private readonly Dictionary<string, string> _variables = new(StringComparer.Ordinal);

    public CtlHarness()
    {
        // Short: the path of a unix socket has at most 107 bytes.
        RunDirectory = Directory.CreateTempSubdirectory("ctl").FullName;
        _variables["TUNNEL_RUN_DIR"] = RunDirectory;
    }

    public string RunDirectory { get; }

    public TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(10);

    public int? TerminalWidth { get; init; }

    public FakeHost Host { get; } = new();

    /// <summary>What was written to files, by path.</summary>
    public Dictionary<string, MemoryStream> Written { get; } = new(StringComparer.Ordinal);

    /// <summary>The host's files, by path.</summary>
    public Dictionary<string, string> Files { get; } = new(StringComparer.Ordinal);

    public string this[string variable]
    {
        set => _variables[variable] = value;
    }

    public string SocketPath(string network = "tun0") => Path.Combine(RunDirectory, network + ".sock");

    public CtlResult Run(params string[] args)
    {
        using StringWriter output = new(CultureInfo.InvariantCulture);
        using StringWriter error = new(CultureInfo.InvariantCulture);
        int exitCode = Tunnel.Ctl.Program.Run(args, new Surroundings(output, error, name => _variables.GetValueOrDefault(name))
        {
            Timeout = Timeout,
            Pause = _ => { },
            Host = Host,
            Wait = (_, _) => { },
            OpenFile = path => Written[path] = new MemoryStream(),
            ReadFile = Files.GetValueOrDefault,
            TerminalWidth = TerminalWidth is { } width ? () => width : null,
        });
        return new CtlResult(exitCode, output.ToString(), error.ToString());
    }

    public void Dispose() => Directory.Delete(RunDirectory, recursive: true);
}

/// <summary>A request as the fake daemon got it.</summary>
/// <param name="Line">Method and path, the path as it came over the wire.</param>
/// <param name="IfNoneMatch">The header, or "".</param>
/// <param name="ContentType">The header, or "".</param>
/// <param name="Body">The body.</param>
internal sealed record SeenRequest(string Line, string IfNoneMatch, string ContentType, string Body);

/// <summary>The control API as the real daemon serves it (ASP.NET Core on a unix socket), with canned answers.</summary>
internal sealed class FakeDaemon : IDisposable
{
    private readonly WebApplication _app;
    private readonly ConcurrentQueue<SeenRequest> _requests = new();

    /// <summary>Starts listening; it answers with <see cref="CannedAnswers"/> until told otherwise.</summary>
    public FakeDaemon(string socketPath)
    {
        WebApplicationBuilder builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.ConfigureKestrel(kestrel => kestrel.ListenUnixSocket(socketPath));
        _app = builder.Build();
        _app.Run(Answer);
        _app.Start();
    }

    /// <summary>What to answer, by "METHOD PATH".</summary>
    public Dictionary<string, (int Status, string Body)> Answers { get; } = new(CannedAnswers.All, StringComparer.Ordinal);

    /// <summary>Answers that are no text, by "METHOD PATH".</summary>
    public Dictionary<string, byte[]> Streams { get; } = new(StringComparer.Ordinal) { ["GET /v1/capture"] = CannedAnswers.Capture() };

    public IReadOnlyList<SeenRequest> Requests => [.. _requests];

    public void Dispose() => ((IDisposable)_app).Dispose();

    private async Task Answer(HttpContext context)
    {
        using StreamReader reader = new(context.Request.Body);
        string line = $"{context.Request.Method} {context.Features.GetRequiredFeature<IHttpRequestFeature>().RawTarget}";
        _requests.Enqueue(new SeenRequest(
            line, context.Request.Headers.IfNoneMatch.ToString(), context.Request.ContentType ?? "", await reader.ReadToEndAsync()));
        if (Streams.TryGetValue(line, out byte[]? stream))
        {
            await context.Response.Body.WriteAsync(stream);
            return;
        }

        (int status, string body) = Answers.GetValueOrDefault(line, (404, """{"error":"no such path","hint":null,"field":null}"""));
        context.Response.StatusCode = status;
        if (body.Length > 0)
        {
            context.Response.ContentType = "application/json";
            await context.Response.WriteAsync(body);
        }
    }
}

/// <summary>Something on the socket that is no proper daemon: it reads a request and does what it was made for, as often as asked.</summary>
internal sealed class OddDaemon : IDisposable
{
    private readonly Socket _listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly TaskCompletionSource _end = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Task _serving;

    /// <summary>Starts listening.</summary>
    /// <param name="socketPath">Where.</param>
    /// <param name="answer">What to send, if anything.</param>
    /// <param name="thenHang">Whether to keep the connection open then.</param>
    public OddDaemon(string socketPath, string? answer, bool thenHang = false)
    {
        _listener.Bind(new UnixDomainSocketEndPoint(socketPath));
        _listener.Listen();
        _serving = Serve(answer, thenHang);
    }

    public void Dispose()
    {
        _listener.Dispose();
        _end.SetResult();
        _serving.Wait(TimeSpan.FromSeconds(10));
    }

    private async Task Serve(string? answer, bool thenHang)
    {
        try
        {
            // The client may try again on a new connection.
            while (true)
            {
                using Socket connection = await _listener.AcceptAsync();
                await connection.ReceiveAsync(new byte[4096]);
                if (answer is not null)
                    await connection.SendAsync(Encoding.UTF8.GetBytes(answer));

                if (thenHang)
                    await _end.Task;
            }
        }
        catch (Exception exception) when (exception is SocketException or ObjectDisposedException)
        {
            // The listener was closed, or tunnelctl went away first.
        }
    }
}
