using System.Net;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using Tunnel.Control.Configuration;
using Tunnel.Control.Metrics;
using Tunnel.Dataplane;

namespace Tunnel.Control.Api;

/// <summary>
/// The control API: HTTP and JSON on a unix socket, see docs/api.md. Every answer, errors too, is JSON, but for the metrics. Over TCP, where
/// somebody wants that, there are metrics and health only.
/// </summary>
internal sealed partial class ControlApi : IAsyncDisposable
{
    private const int MostBodyBytes = 256 * 1024;
    private static readonly byte[] NewLine = [(byte)'\n'];

    private readonly WebApplication _app;
    private readonly NetworkController _network;
    private readonly IUnderlayQueues _queues;
    private readonly HealthCheck _health;
    private readonly EventStream _events;
    private readonly ILogger _log;

    private ControlApi(WebApplication app, NetworkController network, IUnderlayQueues queues, HealthCheck health, EventStream events, ILogger log)
    {
        _app = app;
        _network = network;
        _queues = queues;
        _health = health;
        _events = events;
        _log = log;
    }

    /// <summary>Starts to listen.</summary>
    /// <param name="socketPath">Where; the file must not exist.</param>
    /// <param name="metrics">Where metrics and health are told over TCP; null for nowhere.</param>
    /// <param name="network">Who answers.</param>
    /// <param name="queues">The queues that the metrics tell of.</param>
    /// <param name="health">Who knows whether packets can flow.</param>
    /// <param name="events">What /v1/events tells.</param>
    /// <param name="log">The log.</param>
    public static async Task<ControlApi> StartAsync(
        string socketPath, IPEndPoint? metrics, NetworkController network, IUnderlayQueues queues, HealthCheck health, EventStream events, ILogger log)
    {
        WebApplicationBuilder builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions());
        builder.WebHost.UseKestrelCore().ConfigureKestrel(kestrel =>
        {
            kestrel.AddServerHeader = false;
            kestrel.Limits.MaxRequestBodySize = MostBodyBytes;
            kestrel.ListenUnixSocket(socketPath, listen => listen.Protocols = HttpProtocols.Http1);
            if (metrics is not null)
            {
                kestrel.Listen(metrics, listen => listen.Protocols = HttpProtocols.Http1);
            }
        });
        builder.Services.AddRoutingCore();
        WebApplication app = builder.Build();
        var api = new ControlApi(app, network, queues, health, events, log);
        api.Map();
        await app.StartAsync();
        return api;
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        using var atMost = new CancellationTokenSource(TimeSpan.FromSeconds(2));
        await _app.StopAsync(atMost.Token);
        await _app.DisposeAsync();
    }

    private void Map()
    {
        _app.Use(AnswerErrorsAsync);
        _app.Use(HideFromTcpAsync);
        _app.UseRouting();
        _app.MapGet("/metrics", WriteMetricsAsync);
        _app.MapGet("/health", WriteHealthAsync);
        _app.MapGet("/v1/network", context => WriteAsync(context, _network.DescribeNetwork(), ApiJson.Default.NetworkModel));
        _app.MapGet("/v1/routes", context => WriteAsync(context, _network.DescribeRoutes(), ApiJson.Default.IReadOnlyListRouteModel));
        _app.MapGet("/v1/drops", context => WriteAsync(context, _network.DescribeDrops(), ApiJson.Default.DropsModel));
        _app.MapGet("/v1/events", StreamEventsAsync);
        _app.MapGet("/v1/peers", context => WriteAsync(context, _network.DescribePeers(), ApiJson.Default.IReadOnlyListPeerModel));
        _app.MapGet("/v1/peers/{name}", context => WriteAsync(context, _network.DescribePeer(NameOf(context)), ApiJson.Default.PeerModel));
        _app.MapPut("/v1/peers/{name}", PutPeerAsync);
        _app.MapPatch("/v1/peers/{name}", PatchPeerAsync);
        _app.MapDelete("/v1/peers/{name}", DeletePeerAsync);
        _app.MapPost("/v1/peers/{name}/ping", PingAsync);
        _app.MapGet("/v1/explain", ExplainAsync);
        _app.MapGet("/v1/doctor", DoctorAsync);
        _app.MapGet("/v1/capture", StreamCaptureAsync);
        _app.MapPost("/v1/reload", ReloadAsync);
    }

    // A unix socket has no IP address.
    private static Task HideFromTcpAsync(HttpContext context, RequestDelegate next)
    {
        if (context.Connection.LocalIpAddress is null || context.Request.Path.Value is "/metrics" or "/health")
        {
            return next(context);
        }

        context.Response.StatusCode = StatusCodes.Status404NotFound;
        return Task.CompletedTask;
    }

    private Task WriteMetricsAsync(HttpContext context)
    {
        byte[] text = Encoding.UTF8.GetBytes(NetworkMetrics.Write(_network, _queues));
        context.Response.ContentType = MetricsText.ContentType;
        context.Response.ContentLength = text.Length;
        return context.Response.Body.WriteAsync(text, context.RequestAborted).AsTask();
    }

    private async Task WriteHealthAsync(HttpContext context)
    {
        IReadOnlyList<string> problems = await _health.CheckAsync(context.RequestAborted);
        if (!_network.IsDeviceUp)
        {
            problems = [.. problems, "the TUN device is down"];
        }

        context.Response.StatusCode = problems.Count == 0 ? StatusCodes.Status200OK : StatusCodes.Status503ServiceUnavailable;
        await WriteAsync(context, new HealthModel(problems.Count == 0 ? "ok" : "failing", problems), ApiJson.Default.HealthModel);
    }

    private async Task PutPeerAsync(HttpContext context)
    {
        bool createOnly = context.Request.Headers.IfNoneMatch == "*";
        using JsonDocument body = await ReadAsync(context);
        (bool isNew, PeerModel peer) = await _network.PutPeerAsync(NameOf(context), body.RootElement, createOnly, context.RequestAborted);
        context.Response.StatusCode = isNew ? StatusCodes.Status201Created : StatusCodes.Status200OK;
        await WriteAsync(context, peer, ApiJson.Default.PeerModel);
    }

    private async Task PatchPeerAsync(HttpContext context)
    {
        using JsonDocument body = await ReadAsync(context);
        PeerModel peer = await _network.PatchPeerAsync(NameOf(context), body.RootElement, context.RequestAborted);
        await WriteAsync(context, peer, ApiJson.Default.PeerModel);
    }

    private async Task DeletePeerAsync(HttpContext context)
    {
        await _network.RemovePeerAsync(NameOf(context), context.RequestAborted);
        context.Response.StatusCode = StatusCodes.Status204NoContent;
    }

    private async Task PingAsync(HttpContext context)
    {
        PingModel answer = await _network.PingAsync(NameOf(context), context.Request.Query["length"], context.RequestAborted);
        await WriteAsync(context, answer, ApiJson.Default.PingModel);
    }

    private Task ExplainAsync(HttpContext context)
    {
        IQueryCollection query = context.Request.Query;
        return WriteAsync(context, _network.Explain(query["source"], query["destination"], query["length"]), ApiJson.Default.ExplanationModel);
    }

    private async Task StreamCaptureAsync(HttpContext context)
    {
        using var ends = CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, _app.Lifetime.ApplicationStopping);
        context.Response.ContentType = "application/x-pcapng";
        try
        {
            IQueryCollection query = context.Request.Query;
            await _network.CaptureAsync(
                query["peer"],
                query["snaplen"],
                async bytes =>
                {
                    await context.Response.Body.WriteAsync(bytes, ends.Token);
                    await context.Response.Body.FlushAsync(ends.Token);
                },
                ends.Token);
        }
        catch (OperationCanceledException)
        {
            // The watcher has gone, or we stop.
        }
    }

    private async Task DoctorAsync(HttpContext context)
    {
        IReadOnlyList<FindingModel> findings = await _network.DoctorAsync(context.Request.Query["peer"], context.RequestAborted);
        await WriteAsync(context, findings, ApiJson.Default.IReadOnlyListFindingModel);
    }

    private async Task ReloadAsync(HttpContext context)
    {
        ReloadResult result = await _network.ReloadAsync(context.RequestAborted);
        await WriteAsync(context, new ReloadModel(result.Added, result.Changed, result.Removed, result.Network), ApiJson.Default.ReloadModel);
    }

    private async Task StreamEventsAsync(HttpContext context)
    {
        using EventStream.Subscription subscription = _events.Subscribe();
        context.Response.ContentType = "application/x-ndjson";
        using var ends = CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, _app.Lifetime.ApplicationStopping);

        // So that who asks knows from when on.
        await context.Response.Body.FlushAsync(ends.Token);
        try
        {
            await foreach (NetworkEvent happened in subscription.Events.ReadAllAsync(ends.Token))
            {
                var model = new EventModel(happened.Time, happened.Event, happened.Peer, happened.Detail);
                await JsonSerializer.SerializeAsync(context.Response.Body, model, ApiJson.Default.EventModel, ends.Token);
                await context.Response.Body.WriteAsync(NewLine, ends.Token);
                await context.Response.Body.FlushAsync(ends.Token);
            }
        }
        catch (OperationCanceledException)
        {
            // The listener has gone, or we stop.
        }
    }

    private async Task AnswerErrorsAsync(HttpContext context, RequestDelegate next)
    {
        try
        {
            await next(context);
            if (context.Response is { StatusCode: StatusCodes.Status404NotFound, HasStarted: false })
            {
                var error = new ErrorModel($"no such path: {ConfigText.OneLine(context.Request.Path.Value ?? string.Empty)}", context.Connection.LocalIpAddress is null ? "see docs/api.md for the paths under /v1" : "here are /metrics and /health only", null);
                await WriteErrorAsync(context, StatusCodes.Status404NotFound, error);
            }
            else if (context.Response is { StatusCode: StatusCodes.Status405MethodNotAllowed, HasStarted: false })
            {
                var error = new ErrorModel($"{context.Request.Method} is not possible on {ConfigText.OneLine(context.Request.Path.Value ?? string.Empty)}", $"allowed: {context.Response.Headers.Allow}", null);
                await WriteErrorAsync(context, StatusCodes.Status405MethodNotAllowed, error);
            }
        }
        catch (ControlException refused)
        {
            await WriteErrorAsync(context, StatusOf(refused.Kind), new ErrorModel(refused.Message, refused.Hint, refused.Field));
        }
        catch (HostNetworkException refused)
        {
            await WriteErrorAsync(context, StatusCodes.Status500InternalServerError, new ErrorModel($"the kernel refused: {refused.Message}", null, null));
        }
        catch (JsonException)
        {
            await WriteErrorAsync(context, StatusCodes.Status400BadRequest, new ErrorModel("the body is not valid JSON", "send one JSON object", null));
        }
        catch (Microsoft.AspNetCore.Http.BadHttpRequestException bad)
        {
            await WriteErrorAsync(context, bad.StatusCode, new ErrorModel(bad.Message, null, null));
        }
        catch (OperationCanceledException) when (context.RequestAborted.IsCancellationRequested)
        {
            // The client has gone.
        }
#pragma warning disable CA1031 // A bug in one answer must neither end the daemon nor show a stack trace to a user; it goes to the log.
        catch (Exception bug)
#pragma warning restore CA1031
        {
            LogBug(bug, context.Request.Method, context.Request.Path);
            await WriteErrorAsync(
                context,
                StatusCodes.Status500InternalServerError,
                new ErrorModel("tunneld failed to answer; nothing is known to have changed", "see the daemon's log: journalctl -u 'tunneld@*'", null));
        }
    }

    private static string NameOf(HttpContext context) => (string)context.Request.RouteValues["name"]!;

    private static Task<JsonDocument> ReadAsync(HttpContext context) =>
        JsonDocument.ParseAsync(context.Request.Body, cancellationToken: context.RequestAborted);

    private static int StatusOf(ControlErrorKind kind) => kind switch
    {
        ControlErrorKind.Invalid => StatusCodes.Status400BadRequest,
        ControlErrorKind.NotFound => StatusCodes.Status404NotFound,
        ControlErrorKind.Conflict => StatusCodes.Status409Conflict,
        _ => StatusCodes.Status500InternalServerError,
    };

    private static Task WriteErrorAsync(HttpContext context, int status, ErrorModel error)
    {
        if (context.Response.HasStarted)
        {
            return Task.CompletedTask;
        }

        context.Response.StatusCode = status;
        return WriteAsync(context, error, ApiJson.Default.ErrorModel);
    }

    private static async Task WriteAsync<T>(HttpContext context, T value, JsonTypeInfo<T> type)
    {
        byte[] bytes = JsonSerializer.SerializeToUtf8Bytes(value, type);
        context.Response.ContentType = "application/json";
        context.Response.ContentLength = bytes.Length + NewLine.Length;
        await context.Response.Body.WriteAsync(bytes, context.RequestAborted);
        await context.Response.Body.WriteAsync(NewLine, context.RequestAborted);
    }

    [LoggerMessage(Level = LogLevel.Error, Message = "a bug in answering {Method} {Path}")]
    private partial void LogBug(Exception bug, string method, string path);
}
