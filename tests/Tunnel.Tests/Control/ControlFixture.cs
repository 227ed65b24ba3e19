using System.Text.Json;
using Microsoft.Extensions.Logging.Abstractions;
using Tunnel.Control;
using Tunnel.Control.Configuration;
using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Control;

/// <summary>A network's control plane on a host in memory, with its files in a directory of its own.</summary>
internal sealed class ControlFixture : IAsyncDisposable
{
    private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(10);
    private readonly string _directory = Directory.CreateTempSubdirectory("tunnel-control-").FullName;

    private ControlFixture(string yaml, FakeHostNetwork? host, FakeClaims? claims)
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
            Claims,
            Routing,
            [new PeerCounters()],
            () => 0,
            [],
            Events,
            TimeProvider.System);
        Network = new NetworkController(config, parts, NullLogger.Instance);
    }

    public FakeHostNetwork Host { get; }

    public FakeClaims Claims { get; }

    public RoutingHolder Routing { get; } = new();

    public EventStream Events { get; } = new(TimeProvider.System);

    public string ConfigPath { get; }

    public NetworkController Network { get; }

    /// <summary>What happens when the store writes its directory: a test makes it fail.</summary>
    public Action OnSync { get; set; } = () => { };

    public string[] StoredPeers => Directory.Exists(Path.Combine(_directory, "tun0.d"))
        ? [.. Directory.GetFiles(Path.Combine(_directory, "tun0.d")).Select(file => Path.GetFileName(file)!).Order(StringComparer.Ordinal)]
        : [];

    public static async Task<ControlFixture> StartAsync(string yaml, FakeHostNetwork? host = null, FakeClaims? claims = null)
    {
        var fixture = new ControlFixture(yaml, host, claims);
        await fixture.Network.StartAsync();
        return fixture;
    }

    public static JsonElement Json(string text) => JsonDocument.Parse(text).RootElement;

    public async Task<bool> PutAsync(string name, string body, bool createOnly = true) =>
        (await Network.PutPeerAsync(name, Json(body), createOnly)).IsNew;

    public bool HasRoute(string prefix) =>
        Host.GetRoutes().Any(route => route.Destination == FakeHostNetwork.Prefix(prefix) && route is { LinkIndex: 7, Protocol: 147 });

    public Peer? Receiver(string address) => Routing.Current.Routes.Lookup(FakeHostNetwork.Address(address));

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

/// <summary>Claims in memory; a test can let somebody else have one.</summary>
internal sealed class FakeClaims : IEndpointClaims
{
    public HashSet<EndpointClaim> Held { get; } = [];

    public HashSet<EndpointClaim> Foreign { get; } = [];

    public void Claim(EndpointClaim claim)
    {
        if (Foreign.Contains(claim))
        {
            throw new ClaimConflictException(claim, "network tun9 (tunneld, pid 9)");
        }

        Held.Add(claim);
    }

    public void Release(EndpointClaim claim) => Held.Remove(claim);

    public void Dispose()
    {
    }
}
