using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Console;
using Tunnel.Control;
using Tunnel.Control.Api;
using Tunnel.Control.Configuration;
using Tunnel.Control.Diagnosis;
using Tunnel.Control.Monitoring;
using Tunnel.Control.Paths;
using Tunnel.Dataplane;
using Tunnel.Linux;

namespace Tunnel;

/// <summary>
/// One network's process from the first lock to the last: what Program wires together, in the order in which it must come up, and
/// taken down the other way round. The second half of the composition root.
/// </summary>
internal static partial class Daemon
{
    // sizeof(sun_path) less the final zero: unix(7).
    private const int LongestSocketPath = 107;

    // For what is on its way to peers, and from them: they may send what a raw socket can't receive until they hear of it.
    private static readonly TimeSpan TellTime = TimeSpan.FromMilliseconds(50);
    private static readonly TimeSpan SettleTime = TimeSpan.FromSeconds(2);

    /// <summary>Serves a network until SIGTERM or SIGINT; SIGHUP reloads.</summary>
    /// <param name="config">The configuration, checked.</param>
    /// <param name="warnings">What the configuration's reader warned of.</param>
    /// <param name="runDirectory">Where the control socket goes.</param>
    /// <param name="takesOver">Whether to take the network over from the process that serves it, if there is one.</param>
    /// <returns>The exit code.</returns>
    public static async Task<int> RunAsync(NetworkConfig config, IReadOnlyList<string> warnings, string runDirectory, bool takesOver)
    {
        using ILoggerFactory logs = LoggerFactory.Create(ConfigureLog);
        ILogger log = logs.CreateLogger("tunneld");
        try
        {
            // Whoever takes over waits until everything here is closed.
            using Handover? handover = await ServeAsync(config, warnings, runDirectory, takesOver, log);
            return ExitCodes.Done;
        }
        catch (Exception failure)
        {
            await Console.Error.WriteLineAsync($"tunneld: {Explain(failure)}");
            return ExitCodes.Failed;
        }
    }

    private static async Task<Handover?> ServeAsync(
        NetworkConfig config, IReadOnlyList<string> warnings, string runDirectory, bool takesOver, ILogger log)
    {
        if (UnixFiles.CheckCapabilities() is string missing)
        {
            throw new StartException(missing);
        }

        string socketPath = Path.Combine(Path.GetFullPath(runDirectory), config.Name + ".sock");
        if (Encoding.UTF8.GetByteCount(socketPath) > LongestSocketPath)
        {
            throw new StartException($"{socketPath} is too long for a unix socket ({LongestSocketPath} bytes): name a shorter directory with --run-dir");
        }

        UnixFiles.EnsureRunDirectory(runDirectory);
        var notify = SdNotify.FromEnvironment();
        using InheritedDescriptors inherited = takesOver ? Handover.Ask(config.Name) : InheritedDescriptors.FromEnvironment(notify);
        using NamespaceLock networkLock = NamespaceLocks.AcquireNetwork(config.Name);
        RefuseUsedSocket(socketPath, config.Name);

        var events = new EventStream(TimeProvider.System);
        using var host = new HostNetwork();
        using var threads = new PacketThreads(config, host, inherited);
        using var claims = new NamespaceLocks();
        using var policies = new HostPolicies();
        using var neighbors = new HostNeighbors();
        using var firewall = new HostFirewall();
        DatapathConfig datapath = config.Datapath;
        await using var paths = new PathChooser(
            () => threads.Routing.Current.Peers,
            () => (datapath.Receive, datapath.Send),
            threads.Underlay,
            policies,
            neighbors,
            config.Underlay.SourcePort is null ? PortRange.Ephemeral : PortRange.Any,
            events,
            TimeProvider.System,
            log);
        HostLink device = host.FindLink(config.Name) ?? throw new StartException($"device {config.Name} was deleted while it was being set up");
        var parts = new NetworkParts(
            config.File,
            device,
            new PeerStore(config.File, UnixFiles.SyncDirectory),
            host,
            firewall,
            claims,
            threads.Routing,
            threads.NetworkCounters,
            threads.Underlay,
            threads.Underlay,
            threads.Underlay,
            () => paths.Reasons,
            threads.Offloads,
            warnings,
            events,
            TimeProvider.System,
            threads.Probes,
            threads.WakeProber,
            changed =>
            {
                datapath = changed.Datapath;
                paths.Changed();
            })
        {
            InheritsDevice = threads.IsInherited && threads.OwnsDevice,
            Examiners = new HostExaminers(new HostSettings(), neighbors, () => new HostPolicies()),
            DirectProbe = new DirectProbe(),
            Tap = threads.Tap,
        };
        await using var network = new NetworkController(config, parts, log);
        using var signals = new Signals();

        // By then the sockets that are wanted are open, and nobody else has taken what was left.
        await network.StartAsync(() =>
        {
            inherited.Dispose();
            threads.Start();
        });
        paths.Start();
        using var errors = new IcmpErrors();
        await using var relay = new ErrorRelay(errors, threads.Routing, network.Monitor, threads.Injector, TimeProvider.System, log);
        relay.Start();

        var health = new HealthCheck(threads.Heartbeats, TimeProvider.System);
        await using ControlApi api = await StartApiAsync(socketPath, config.Control.Metrics, network, threads.Underlay, health, events, log);
        if (UnixFiles.SetSocketAccess(socketPath) is string problem)
        {
            LogProblem(log, problem);
        }

        signals.OnReload(() => ReloadOnSignalAsync(network, notify, log));

        // Should this process be killed, the next one goes on all the same.
        Store(threads, notify);
        notify.Ready($"network {config.Name}, {config.Peers.Count} peers");
        LogReady(log, config.Name, device.Index, config.Peers.Count);

        using var stopping = new CancellationTokenSource();
        Task settling = SettleAsync(threads, stopping.Token);
        Task watchdog = ServeWatchdogAsync(notify, health, log, stopping.Token);
        Task<Handover> asked = Handover.WaitAsync(
            networkLock,
            pid => notify.HasManager && !SdNotify.SharesControlGroup(pid)
                ? $"a service manager runs it, and a restart loses nothing: systemctl restart tunneld@{config.Name}"
                : null,
            () => threads.Descriptors,
            stopping.Token);
        await await Task.WhenAny(signals.Stopped, threads.Ended, asked);
        Handover? handover = asked.IsCompletedSuccessfully ? await asked : null;
        _ = handover is null ? notify.Stopping() : notify.MainProcess(handover.Successor);
        await stopping.CancelAsync();
        await watchdog;
        await settling;
        LogStopping(log, config.Name, handover is null ? "" : $": pid {handover.Successor} goes on with it");

        // At a real end the manager closes what it has stored, and the device goes with its addresses and routes.
        if (handover is not null || (notify.HasManager && threads.OwnsDevice))
        {
            network.LeaveHost(hasSuccessor: handover is not null || SdNotify.IsRestarting());
            Store(threads, notify);
            await paths.StopAsync();
            threads.KeepPackets();
            network.Monitor.TellRawAbilities();
            await Task.Delay(TellTime, CancellationToken.None);
        }

        return handover;
    }

    // What waited for an earlier process's successor is read within milliseconds; until it is, there must be room for it.
    private static async Task SettleAsync(PacketThreads threads, CancellationToken cancellationToken)
    {
        await Task.Delay(SettleTime, cancellationToken).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        if (!cancellationToken.IsCancellationRequested)
        {
            threads.Settle();
        }
    }

    private static void Store(PacketThreads threads, SdNotify notify)
    {
        foreach ((string name, int descriptor) in notify.HasManager ? threads.Descriptors : [])
        {
            notify.Store(name, descriptor);
        }
    }

    private static async Task<ControlApi> StartApiAsync(
        string socketPath, IPEndPoint? metrics, NetworkController network, IUnderlayQueues queues, HealthCheck health, EventStream events, ILogger log)
    {
        try
        {
            return await ControlApi.StartAsync(socketPath, metrics, network, queues, health, events, log);
        }
        catch (Exception refused) when (metrics is not null && refused is IOException or SocketException)
        {
            throw new StartException($"cannot listen at {metrics} for metrics: {refused.Message}; choose another address in control.metrics");
        }
    }

    // The manager restarts a process whose packet threads hang. It hears of it twice in the time that it allows.
    private static async Task ServeWatchdogAsync(SdNotify notify, HealthCheck health, ILogger log, CancellationToken cancellationToken)
    {
        if (notify.WatchdogTime is not TimeSpan allowed)
        {
            return;
        }

        using var timer = new PeriodicTimer(allowed / 2);
        try
        {
            do
            {
                IReadOnlyList<string> problems = await health.CheckAsync(cancellationToken);
                if (problems.Count == 0)
                {
                    notify.Watchdog();
                }
                else
                {
                    LogUnhealthy(log, string.Join(", ", problems));
                }
            }
            while (await timer.WaitForNextTickAsync(cancellationToken));
        }
        catch (OperationCanceledException)
        {
            // The network stops.
        }
    }

    // A socket file that nobody answers is left from a process that was killed. The network's lock, held by now, keeps others of
    // this namespace out; what answers is of another namespace with the same run directory.
    private static void RefuseUsedSocket(string path, string network)
    {
        if (!File.Exists(path))
        {
            return;
        }

        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            socket.Connect(new UnixDomainSocketEndPoint(path));
        }
        catch (SocketException nobody) when (nobody.SocketErrorCode == SocketError.ConnectionRefused)
        {
            File.Delete(path);
            return;
        }
        catch (SocketException refused)
        {
            throw new StartException($"cannot use {path}: {refused.Message}; remove it, or name another run directory with --run-dir");
        }

        throw new StartException(
            $"network {network} is already served from {path}, in another network namespace: name another run directory with --run-dir");
    }

    private static async Task ReloadOnSignalAsync(NetworkController network, SdNotify notify, ILogger log)
    {
        notify.Reloading();
        try
        {
            await network.ReloadAsync();
        }
        catch (ControlException refused)
        {
            LogReloadRefused(log, refused.Message, refused.Hint ?? "nothing has changed");
        }

        notify.Ready("reloaded");
    }

    // One line, whatever happened. For what nobody foresaw it says where, so that a report of it is worth something.
    private static string Explain(Exception failure) => failure switch
    {
        StartException or HandoverException or DeviceGoneException or IOException or UnauthorizedAccessException => failure.Message,
        DeviceOpenException refused => $"{refused.Message} ({refused.Hint})",
        NamespaceLockException refused => $"{refused.Message} ({refused.Hint})",
        UnderlayException refused => $"{refused.Message} ({refused.Hint})",
        ClaimConflictException refused => $"{refused.Message} ({refused.Hint})",
        HostNetworkException refused => $"the kernel refused: {refused.Message}",
        _ => $"a bug: {failure.GetType().Name}: {failure.Message.ReplaceLineEndings(" ")} {failure.StackTrace?.Split('\n')[0].Trim()}",
    };

    private static void ConfigureLog(ILoggingBuilder logging)
    {
        logging.SetMinimumLevel(LogLevel.Information);
        logging.AddConsole(options => options.FormatterName = LineConsoleFormatter.FormatterName);
        logging.Services.AddSingleton<ConsoleFormatter, LineConsoleFormatter>();
    }

    [LoggerMessage(Level = LogLevel.Information, Message = "network {Network} is up: device index {Index}, {Peers} peers")]
    private static partial void LogReady(ILogger log, string network, int index, int peers);

    [LoggerMessage(Level = LogLevel.Information, Message = "network {Network} stops{Successor}")]
    private static partial void LogStopping(ILogger log, string network, string successor);

    [LoggerMessage(Level = LogLevel.Error, Message = "reload refused: {Problem} ({Hint})")]
    private static partial void LogReloadRefused(ILogger log, string problem, string hint);

    [LoggerMessage(Level = LogLevel.Warning, Message = "{Problem}")]
    private static partial void LogProblem(ILogger log, string problem);

    [LoggerMessage(Level = LogLevel.Error, Message = "not healthy: {Problems}")]
    private static partial void LogUnhealthy(ILogger log, string problems);

    /// <summary>The network can't be served; the message is one line with the cure.</summary>
    private sealed class StartException(string message) : Exception(message);

    private sealed class Signals : IDisposable
    {
        private readonly TaskCompletionSource _stopped = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private readonly PosixSignalRegistration[] _registrations;

        private Func<Task>? _reload;

        public Signals()
        {
            _registrations =
            [
                PosixSignalRegistration.Create(PosixSignal.SIGTERM, Stop),
                PosixSignalRegistration.Create(PosixSignal.SIGINT, Stop),
                PosixSignalRegistration.Create(PosixSignal.SIGHUP, Reload),
            ];
        }

        public Task Stopped => _stopped.Task;

        /// <summary>What SIGHUP does from now on; before, there is nothing to reload, and it is ignored.</summary>
        public void OnReload(Func<Task> reload) => Volatile.Write(ref _reload, reload);

        public void Dispose()
        {
            foreach (PosixSignalRegistration registration in _registrations)
            {
                registration.Dispose();
            }
        }

        private void Reload(PosixSignalContext signal)
        {
            signal.Cancel = true;
            _ = Volatile.Read(ref _reload)?.Invoke();
        }

        private void Stop(PosixSignalContext signal)
        {
            signal.Cancel = true;
            _stopped.TrySetResult();
        }
    }
}
