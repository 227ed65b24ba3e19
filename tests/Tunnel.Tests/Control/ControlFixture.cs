using System.Text.Json;
using Microsoft.Extensions.Logging;
using Tunnel.Control;
using Tunnel.Control.Configuration;
using Tunnel.Control.Monitoring;
using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Control;

/// <summary>A network's control plane on a host in memory, with its files in a directory of its own.</summary>
internal sealed class ControlFixture : IAsyncDisposable
{
    private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(10);
    private readonly string _directory = Directory.CreateTempSubdirectory("tunnel-control-").FullName;

    private ControlFixture(string yaml, FakeHostNetwork? host, FakeClaims? claims, int workers, Action<ControlFixture>? prepare)
    {
        Host = host ?? new FakeHostNetwork();
        Claims = claims ?? new FakeClaims();
        ConfigPath = Path.Combine(_directory, "tun0.yaml");
        File.WriteAllText(ConfigPath, yaml);
        NetworkConfig config = ConfigReader.Load(ConfigPath).Value ?? throw new FormatException(yaml);
        var parts = new NetworkParts(
            ConfigPath,
            Host.FindLink("tun0")!,
            new PeerStore(ConfigPath, _ => OnSync()),
            Host,
            Firewall,
            Claims,
            Routing,
            [.. Enumerable.Range(0, workers).Select(_ => new PeerCounters())],
            Queues,
            Reception,
            Paths,
            () => PathReasons,
            Offloads,
            [],
            Events,
            TimeProvider.System,
            Probes,
            () => { });
        prepare?.Invoke(this);
        Network = new NetworkController(config, parts, Log);
    }

    public FakeHostNetwork Host { get; }

    public FakeHostFirewall Firewall { get; } = new();

    public FakeClaims Claims { get; }

    public FakeQueues Queues { get; } = new();

    public FakeUnderlayReception Reception { get; } = new();

    public FakeUnderlayPaths Paths { get; } = new();

    public IReadOnlyList<string> PathReasons { get; set; } = [];

    public OffloadState Offloads { get; } = new(Tunnel.Dataplane.Offloads.TunTcp | Tunnel.Dataplane.Offloads.TunUdp | Tunnel.Dataplane.Offloads.UdpGro);

    public ProbeExchange Probes { get; } = new(workers: 1);

    public LinesLog Log { get; } = new();

    public RoutingHolder Routing { get; } = new();

    public EventStream Events { get; } = new(TimeProvider.System);

    public string ConfigPath { get; }

    public NetworkController Network { get; }

    /// <summary>What happens when the store writes its directory: a test makes it fail.</summary>
    public Action OnSync { get; set; } = () => { };

    public string[] StoredPeers => Directory.Exists(Path.Combine(_directory, "tun0.d"))
        ? [.. Directory.GetFiles(Path.Combine(_directory, "tun0.d")).Select(file => Path.GetFileName(file)!).Order(StringComparer.Ordinal)]
        : [];

    public static async Task<ControlFixture> StartAsync(
        string yaml, FakeHostNetwork? host = null, FakeClaims? claims = null, int workers = 1, Action<ControlFixture>? prepare = null)
    {
        var fixture = new ControlFixture(yaml, host, claims, workers, prepare);
        try
        {
            await fixture.Network.StartAsync();
            return fixture;
        }
        catch
        {
            await fixture.DisposeAsync();
            throw;
        }
    }

    public static JsonElement Json(string text) => JsonDocument.Parse(text).RootElement;

    public async Task<bool> PutAsync(string name, string body, bool createOnly = true) =>
        (await Network.PutPeerAsync(name, Json(body), createOnly)).IsNew;

    /// <summary>Rewrites the network's file and reads it again.</summary>
    public async Task<ReloadResult> ReloadAsync(string yaml)
    {
        await File.WriteAllTextAsync(ConfigPath, yaml);
        return await Network.ReloadAsync();
    }

    public bool HasRoute(string prefix) =>
        Host.GetRoutes().Any(route => route.Destination == FakeHostNetwork.Prefix(prefix) && route is { LinkIndex: 7, Protocol: 147 });

    public Peer? Receiver(string address) => Routing.Current.Routes.Lookup(FakeHostNetwork.Address(address));

    /// <summary>What the monitor knows of a peer; null where it does not watch it yet.</summary>
    public PeerHealth? HealthOf(string name) =>
        Network.Monitor.HealthOf(Routing.Current.Peers.Single(peer => peer.Settings.Name == name));

    /// <summary>Waits for something that the control plane does on its own.</summary>
    public static async Task EventuallyAsync(Func<bool> condition)
    {
        using var deadline = new CancellationTokenSource(Deadline);
        while (!condition())
        {
            await Task.Delay(5, deadline.Token);
        }
    }

    public async ValueTask DisposeAsync()
    {
        await Network.DisposeAsync();
        Directory.Delete(_directory, recursive: true);
    }
}

/// <summary>Queues in which so much waits.</summary>
internal sealed class FakeQueues : IUnderlayQueues
{
    public long ReceiveQueueDrops { get; set; }

    public IReadOnlyList<QueueDepth> QueueDepths { get; set; } = [default];
}

/// <summary>Claims in memory; a test can let somebody else have one.</summary>
internal sealed class FakeClaims : IEndpointClaims
{
    public HashSet<EndpointClaim> Held { get; } = [];

    public HashSet<UdpPortClaim> Ports { get; } = [];

    public HashSet<EndpointClaim> Foreign { get; } = [];

    public HashSet<UdpPortClaim> ForeignPorts { get; } = [];

    public void Claim(EndpointClaim claim)
    {
        if (Foreign.Contains(claim))
        {
            throw new ClaimConflictException(claim, "network tun9 (tunneld, pid 9)");
        }

        Held.Add(claim);
    }

    public void Release(EndpointClaim claim) => Held.Remove(claim);

    public void Claim(UdpPortClaim claim)
    {
        if (ForeignPorts.Any(claim.Overlaps))
        {
            throw new ClaimConflictException(claim, "network tun9 (tunneld, pid 9)");
        }

        Ports.Add(claim);
    }

    public void Release(UdpPortClaim claim) => Ports.Remove(claim);

    public bool IsShared(InetAddress local, InetAddress endpoint) => Foreign.Any(claim => claim.Local == local && claim.Endpoint == endpoint);

    public void Dispose()
    {
    }
}

/// <summary>Keeps the lines of the log. Thread-safe.</summary>
internal sealed class LinesLog : ILogger
{
    private readonly System.Collections.Concurrent.ConcurrentQueue<(LogLevel Level, string Line)> _lines = new();

    public IReadOnlyCollection<(LogLevel Level, string Line)> Lines => _lines;

    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => true;

    public void Log<TState>(
        LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) =>
        _lines.Enqueue((logLevel, formatter(state, exception)));
}
