using System.Globalization;
using System.Net.Http.Headers;
using System.Net.Sockets;
using System.Text;
using System.Text.Json.Nodes;

namespace Tunnel.NetworkTests;

/// <summary>A tunneld in a host's namespace, with a configuration file and a run directory of its own.</summary>
internal sealed class Daemon : IAsyncDisposable
{
    private readonly HttpClient _http;
    private readonly IReadOnlyList<string> _wrapper;
    private readonly StringBuilder _earlierLogs = new();
    private Background? _process;

    /// <summary>Describes a daemon, and writes its configuration file.</summary>
    /// <param name="host">Where it runs.</param>
    /// <param name="network">Its network's name.</param>
    /// <param name="configuration">The configuration file's text.</param>
    /// <param name="wrapper">Words before the daemon's own, that end with running what follows: what restricts it.</param>
    public Daemon(Vm host, string network, string configuration, IReadOnlyList<string>? wrapper = null)
    {
        _wrapper = wrapper ?? [];
        Host = host;
        Network = network;
        Directory.CreateDirectory(host.Directory);
        ConfigFile = Path.Combine(host.Directory, network + ".yaml");
        RunDirectory = Path.Combine(host.Directory, "run");
        SocketFile = Path.Combine(RunDirectory, network + ".sock");
        Configure(configuration);

        // A unix socket with a path is found from any network namespace.
        _http = new HttpClient(new SocketsHttpHandler
        {
            ConnectCallback = async (_, cancel) =>
            {
                var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                await socket.ConnectAsync(new UnixDomainSocketEndPoint(SocketFile), cancel);
                return new NetworkStream(socket, ownsSocket: true);
            },
        })
        {
            BaseAddress = new Uri("http://tunneld"),
            Timeout = Command.Deadline,
        };
    }

    /// <summary>Where it runs.</summary>
    public Vm Host { get; }

    /// <summary>Its network's name.</summary>
    public string Network { get; }

    /// <summary>Its configuration file.</summary>
    public string ConfigFile { get; }

    /// <summary>Where the peers are kept that are added by command.</summary>
    public string StoreDirectory => Path.ChangeExtension(ConfigFile, ".d");

    /// <summary>Its run directory.</summary>
    public string RunDirectory { get; }

    /// <summary>Its control socket.</summary>
    public string SocketFile { get; }

    /// <summary>The process.</summary>
    public Background Process => _process ?? throw new LabException($"{Host}'s {Network} was never started");

    /// <summary>What it said since it was first started.</summary>
    public string Log => _earlierLogs + _process?.Log;

    /// <summary>Writes the configuration file anew; the daemon reads it at its next start or reload.</summary>
    public void Configure(string configuration) => File.WriteAllText(ConfigFile, configuration);

    /// <summary>Starts it, for the first time or again, and waits for READY (sd_notify(3)).</summary>
    /// <param name="options">More of its options.</param>
    /// <exception cref="LabException">It ended instead, or was not ready in time.</exception>
    public async Task<Daemon> StartAsync(params string[] options)
    {
        string notifyPath = Path.Combine(Host.Directory, Network + ".notify");
        File.Delete(notifyPath);
        using var notify = new Socket(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        notify.Bind(new UnixDomainSocketEndPoint(notifyPath));

        _earlierLogs.Append(_process?.Log);
        // A killed process leaves the runtime's diagnostic socket, which lies in TMPDIR.
        _process = Host.Start(new Dictionary<string, string> { ["NOTIFY_SOCKET"] = notifyPath, ["TMPDIR"] = Host.Directory }, [.. Words(), .. options]);
        using var timer = new CancellationTokenSource(Command.Deadline);
        byte[] message = new byte[4096];
        while (true)
        {
            Task<int> received = notify.ReceiveAsync(message, timer.Token).AsTask();
            await Task.WhenAny(received, _process.Ended);
            if (received.IsCompletedSuccessfully)
            {
                if (Encoding.UTF8.GetString(message, 0, await received).Split('\n').Contains("READY=1"))
                {
                    return this;
                }

                continue;
            }

            await timer.CancelAsync();
            throw new LabException($"{Host}: tunneld did not get ready: {_process}");
        }
    }

    /// <summary>Runs it to its end, where it is expected not to come up.</summary>
    public Task<CommandResult> RunAsync() => Host.RunAsync(Words());

    /// <summary>Ends it with SIGTERM, as systemd does.</summary>
    /// <returns>Its exit code.</returns>
    public async Task<int> StopAsync()
    {
        await Process.SignalAsync("TERM");
        return await Process.WaitAsync();
    }

    /// <summary>Ends it with SIGKILL.</summary>
    public async Task KillAsync()
    {
        await Process.SignalAsync("KILL");
        await Process.WaitAsync();
    }

    /// <summary>Runs tunnelctl on the host against this daemon.</summary>
    public Task<CommandResult> CtlAsync(params string[] words) => Host.RunAsync([Programs.Tunnelctl, "--socket", SocketFile, .. words]);

    /// <summary>Runs tunnelctl with --json, and reads its answer.</summary>
    public async Task<JsonNode> CtlJsonAsync(params string[] words) =>
        JsonNode.Parse((await CtlAsync(["--json", .. words])).Succeeded().Out) ?? throw new LabException("tunnelctl answered null");

    /// <summary>Reads from the control API.</summary>
    /// <param name="path">For instance /v1/drops.</param>
    public async Task<JsonNode> GetAsync(string path) => JsonNode.Parse(await _http.GetStringAsync(path))!;

    /// <summary>Sends a request with a JSON body to the control API.</summary>
    /// <returns>The status, and the answer's body where there is one.</returns>
    public async Task<(int Status, JsonNode? Body)> SendAsync(string method, string path, string? body = null)
    {
        using var request = new HttpRequestMessage(new HttpMethod(method), path);
        if (body is not null)
        {
            request.Content = new StringContent(body, new MediaTypeHeaderValue("application/json"));
        }

        using HttpResponseMessage response = await _http.SendAsync(request);
        string answer = await response.Content.ReadAsStringAsync();
        return ((int)response.StatusCode, answer.Length == 0 ? null : JsonNode.Parse(answer));
    }

    /// <summary>How many packets were dropped for a reason, those of all peers and of none.</summary>
    /// <param name="reason">The reason's name in the control API.</param>
    /// <param name="peer">Only those of this peer.</param>
    public async Task<long> DropsAsync(string reason, string? peer = null)
    {
        JsonNode drops = await GetAsync("/v1/drops");
        if (peer is not null)
        {
            return drops["peers"]![peer]![reason]!.GetValue<long>();
        }

        return drops["network"]![reason]!.GetValue<long>() + drops["peers"]!.AsObject().Sum(one => one.Value![reason]!.GetValue<long>());
    }

    /// <summary>Waits until a drop is counted.</summary>
    public Task WaitForDropAsync(string reason, long atLeast = 1, string? peer = null) =>
        Poll.UntilAsync(
            $"{Host}: {atLeast} packets dropped as {reason}",
            async () => await DropsAsync(reason, peer) >= atLeast,
            async () => (await GetAsync("/v1/drops")).ToJsonString());

    /// <summary>Ends it, whatever it takes.</summary>
    public async ValueTask DisposeAsync()
    {
        _http.Dispose();
        if (_process is not null)
        {
            await _process.DisposeAsync();
        }
    }

    /// <summary>What happened here, for a test that failed.</summary>
    public string Report()
    {
        string state = _process is null ? "never started"
            : _process.Ended.IsCompleted ? $"ended with exit code {_process.ExitCode.ToString(CultureInfo.InvariantCulture)}"
            : $"running, pid {_process.Pid}";
        return $"{Host} {Network} ({state})\n{Log}";
    }

    private string[] Words() => [.. _wrapper, Programs.Tunneld, "--config", ConfigFile, "--run-dir", RunDirectory];
}
