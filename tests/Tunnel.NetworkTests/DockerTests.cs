using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>
/// Real Docker engines, one a host, with their containers on their own bridges; the settings are those that `tunnelctl docker-config` prints.
/// </summary>
public sealed class DockerTests(DockerTests.Engines engines, ITestOutputHelper output) : IClassFixture<DockerTests.Engines>, IAsyncLifetime
{
    private const string Outside = "192.168.40.99";

    [SkippableFact]
    public async Task TheSettingsAreTheNetworks()
    {
        CommandResult link = (await engines.One.ExecAsync("caller", "ip", "address", "show", "dev", "eth0")).Succeeded();

        Assert.Contains("172.17.51.", link.Out, StringComparison.Ordinal);
        Assert.Contains("mtu 1476 ", link.Out, StringComparison.Ordinal);
        Assert.Empty((await engines.Daemon1.GetAsync("/v1/network"))["problems"]!.AsArray());
    }

    // The articles' first case: nc -l 3333 here, nc there.
    [SkippableFact]
    public async Task ContainersReachOneAnotherByTheirOwnAddresses()
    {
        string own = await engines.AddressOfAsync(engines.One, "caller");

        Assert.Equal(own, await CallAsync(engines.One, $"{engines.Callers2}"));
        Assert.Equal(await engines.AddressOfAsync(engines.Two, "caller"), await CallAsync(engines.Two, $"{engines.Callers1}"));
    }

    [SkippableFact]
    public async Task RedisIsUsedFromTheOtherHost()
    {
        CommandResult set = await engines.One.ExecAsync("redis", "redis-cli", "-h", engines.Redis2, "set", "key", "from vm1");
        CommandResult get = await engines.Two.ExecAsync("redis", "redis-cli", "get", "key");
        CommandResult clients = await engines.One.ExecAsync("redis", "redis-cli", "-h", engines.Redis2, "client", "list");

        Assert.Equal(("OK", "from vm1"), (set.Succeeded().Out.Trim(), get.Succeeded().Out.Trim()));
        Assert.Contains($" addr={engines.Redis1}:", clients.Succeeded().Out, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task AContainerInTheHostsNetworkIsOneOfTheOverlay()
    {
        // It is reached at the host's overlay address, and has it as its source.
        await engines.Two.StartContainerAsync("host-server", "--net=host", "redis", "redis-server", "--protected-mode", "no", "--save", "", "--port", "6390");
        await engines.Two.StartContainerAsync("host-client", "--net=host", "redis", "sleep", "600");
        await PongAsync(engines.One, "redis", "10.0.201.2", "6390");
        await PongAsync(engines.Two, "host-client", engines.Redis1, "6379");
        CommandResult clients = await engines.Two.ExecAsync("host-client", "redis-cli", "-h", engines.Redis1, "client", "list");

        Assert.Contains(" addr=10.0.201.2:", clients.Succeeded().Out, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task PublishedPortsGoOnWorking()
    {
        // From outside the overlay, with the source that it had; from a container on the other host; from one beside it.
        Assert.Equal(Outside, await engines.CallFromOutsideAsync());
        Assert.Equal(await engines.AddressOfAsync(engines.Two, "caller"), await CallAsync(engines.Two, "10.0.201.1", 8080));
        Assert.NotEmpty(await CallAsync(engines.One, "192.168.40.11", 8080));
    }

    [SkippableFact]
    public async Task DockerMayStartAnewWhileContainersTalk()
    {
        const string Rule = "-A DOCKER-USER -i tun0 -m comment --comment tunnel_tun0 -j ACCEPT";
        await engines.One.RestartAsync();
        await Poll.UntilAsync(
            "the rule is there",
            async () => (await engines.One.Host.ShellAsync("iptables -S DOCKER-USER")).Out.Contains(Rule, StringComparison.Ordinal));

        Assert.Equal(await engines.AddressOfAsync(engines.Two, "caller"), await CallAsync(engines.Two, engines.Callers1));
        Assert.Equal(await engines.AddressOfAsync(engines.One, "caller"), await CallAsync(engines.One, engines.Callers2));

        // The worst that can befall both: Docker's rules come back with Docker.
        (await engines.One.Host.ShellAsync("nft flush ruleset")).Succeeded();
        await engines.One.RestartAsync();
        await Poll.UntilAsync("a container is reached again", async () => await TryCallAsync(engines.Two, engines.Callers1, 3333) is { Length: > 0 });

        // Docker's own rules may be back a moment before ours.
        string caller = await engines.AddressOfAsync(engines.One, "caller");
        await Poll.UntilAsync("sources are kept again", async () => await TryCallAsync(engines.One, engines.Callers2, 3333) == caller);
        Assert.Equal(Outside, await engines.CallFromOutsideAsync());
    }

    // The commands of docs/docker.md for such a host, on one whose Docker has its own defaults.
    [SkippableFact]
    public async Task AHostJoinsWhileItsContainersRun()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await lab.Switch.IpAsync($"addr add {Outside}/24 dev br0");
        await DockerEngine.MakeImagesAsync(lab.Directory);
        await using DockerEngine docker = await DockerEngine.StartAsync(vm1, "{}", lab.Directory);
        string old = await docker.StartContainerAsync("web", "--publish", "8080:3333", "nc", "nc", "-ll", "-p", "3333", "-e", "caller");
        string started = (await docker.RunAsync("inspect", "--format", "{{.State.StartedAt}} {{.State.Pid}}", "web")).Succeeded().Out;
        Assert.StartsWith("172.17.0.", old, StringComparison.Ordinal);

        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()) + "subnets: [10.64.51.0/24]\nnat: {forward: true}\n");
        Daemon daemon2 = await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()).Replace(vm1.Subnet(4), "10.64.51.0/24", StringComparison.Ordinal));
        string[] blocks = await DockerPage.BlocksAsync("A host with containers that must go on running");
        Assert.Equal(2, blocks.Length);
        foreach (string block in blocks)
        {
            (await DockerPage.RunAsync(block, docker, daemon)).Succeeded();
        }

        string address = (await docker.RunAsync("inspect", "--format", "{{.NetworkSettings.Networks.overlay.IPAddress}}", "web")).Succeeded().Out.Trim();
        Assert.Equal(started, (await docker.RunAsync("inspect", "--format", "{{.State.StartedAt}} {{.State.Pid}}", "web")).Succeeded().Out);
        Assert.StartsWith("10.64.51.", address, StringComparison.Ordinal);
        Assert.Contains("mtu 1476 ", (await docker.ExecAsync("web", "ip", "address")).Out, StringComparison.Ordinal);
        Assert.Equal(vm2.ContainerAddress(4), await AskAsync(vm2.Container, address, 3333, daemon, daemon2));
        Assert.Equal(Outside, await AskAsync(lab.Switch, "192.168.40.11", 8080, daemon, daemon2));

        // Docker's rule for docker0, 172.17.0.0/16, holds the other host's containers as well.
        Assert.Equal(vm2.ContainerAddress(4), await AskAsync(vm2.Container, "10.0.201.1", 8080, daemon, daemon2));
    }

    // The same page's for a new host. The engine here has been started with the defaults, too.
    [SkippableFact]
    public async Task ANewHostIsSetUpAsThePageSays()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await DockerEngine.MakeImagesAsync(lab.Directory);
        await using DockerEngine docker = await DockerEngine.StartAsync(vm1, "{}", lab.Directory);
        string configuration = Assert.Single(await DockerPage.BlocksAsync("A new host", "yaml"));
        Daemon daemon = await vm1.StartDaemonAsync(configuration);
        Daemon daemon2 = await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));

        CommandResult run = await DockerPage.RunAsync(Assert.Single(await DockerPage.BlocksAsync("A new host")), docker, daemon);
        await docker.AwaitAsync();

        Assert.Contains("\"bip\": \"172.17.51.1/24\"", run.Succeeded().Out, StringComparison.Ordinal);
        string address = await docker.StartContainerAsync("web", "nc", "nc", "-ll", "-p", "3333", "-e", "caller");
        Assert.StartsWith("172.17.51.", address, StringComparison.Ordinal);
        Assert.Equal(vm2.ContainerAddress(4), await AskAsync(vm2.Container, address, 3333, daemon, daemon2));
    }

    /// <inheritdoc/>
    public Task InitializeAsync()
    {
        Skip.IfNot(engines.Obstacle is null, engines.Obstacle ?? "");
        return Task.CompletedTask;
    }

    /// <inheritdoc/>
    public Task DisposeAsync()
    {
        output.WriteLine(engines.Report());
        return Task.CompletedTask;
    }

    // Asks the server at port 3333 who it is that asks.
    private static async Task<string> CallAsync(DockerEngine from, string address, int port = 3333)
    {
        string seen = "";
        await Poll.UntilAsync($"{address}:{port} answers {from.Host}", async () => (seen = await TryCallAsync(from, address, port)).Length > 0);
        return seen;
    }

    private static async Task<string> TryCallAsync(DockerEngine from, string address, int port) =>
        (await from.ExecAsync("caller", "sh", "-c", $"sleep 0.5 | nc -w 2 {address} {port}")).Out.Trim();

    private static async Task<string> AskAsync(Node from, string address, int port, params Daemon[] daemons)
    {
        string seen = "";
        await Poll.UntilAsync(
            $"{address}:{port} answers {from}",
            async () => (seen = (await from.ShellAsync("sleep 0.3 | busybox nc -w 2 $1 $2", address, $"{port}")).Out.Trim()).Length > 0,
            async () => string.Join('\n', await Task.WhenAll(daemons.Select(async daemon =>
                $"{await daemon.GetAsync("/v1/drops")}\n{(await daemon.Host.ShellAsync("nft list ruleset; ip route")).Out}"))));
        return seen;
    }

    private static Task PongAsync(DockerEngine from, string container, string address, string port) => Poll.UntilAsync(
        $"redis at {address} answers",
        async () => (await from.ExecAsync(container, "redis-cli", "-h", address, "-p", port, "ping")).Out.Trim() == "PONG");

    /// <summary>Two hosts with a daemon, an engine and some containers each, for all tests of the class.</summary>
    public sealed class Engines : IAsyncLifetime
    {
        private readonly Buffer _output = new();
        private Lab? _lab;
        private DockerEngine? _one;
        private DockerEngine? _two;
        private Daemon? _daemon1;

        /// <summary>Why there are none; null where there are.</summary>
        public string? Obstacle { get; private set; }

        internal DockerEngine One => _one!;

        internal DockerEngine Two => _two!;

        internal Daemon Daemon1 => _daemon1!;

        internal string Callers1 { get; private set; } = "";

        internal string Callers2 { get; private set; } = "";

        internal string Redis1 { get; private set; } = "";

        internal string Redis2 { get; private set; } = "";

        /// <inheritdoc/>
        public async Task InitializeAsync()
        {
            Obstacle = await DockerEngine.FindObstacleAsync();
            if (Obstacle is not null)
            {
                return;
            }

            _lab = await Lab.CreateAsync(_output);
            await _lab.Switch.IpAsync($"addr add {Outside}/24 dev br0");
            await DockerEngine.MakeImagesAsync(_lab.Directory);
            (Vm vm1, Vm vm2) = (_lab.Hosts[0], _lab.Hosts[1]);
            (Daemon, DockerEngine)[] both = await Task.WhenAll(StartAsync(vm1, vm2), StartAsync(vm2, vm1));
            (_daemon1, _one) = both[0];
            (_, _two) = both[1];
            Callers1 = await AddressOfAsync(One, "server");
            Callers2 = await AddressOfAsync(Two, "server");
            Redis1 = await AddressOfAsync(One, "redis");
            Redis2 = await AddressOfAsync(Two, "redis");
        }

        /// <inheritdoc/>
        public async Task DisposeAsync()
        {
            foreach (DockerEngine engine in ((DockerEngine?[])[_one, _two]).OfType<DockerEngine>())
            {
                await engine.DisposeAsync();
            }

            if (_lab is not null)
            {
                await _lab.DisposeAsync();
            }
        }

        internal string Report() => $"{_one}\n{_two}\n{_daemon1?.Log}";

        internal async Task<string> AddressOfAsync(DockerEngine engine, string container) =>
            (await engine.RunAsync("inspect", "--format", "{{.NetworkSettings.IPAddress}}", container)).Succeeded().Out.Trim();

        internal Task<string> CallFromOutsideAsync() => AskAsync(_lab!.Switch, "192.168.40.11", 8080, Daemon1);

        private async Task<(Daemon Daemon, DockerEngine Engine)> StartAsync(Vm host, Vm peer)
        {
            // Docker's bridge comes later; the daemon does not mind.
            Daemon daemon = await host.StartDaemonAsync(
                host.Configuration(peer.PeerEntry()) + $"subnets: [{host.Subnet(4)}]\nnat: {{forward: true}}\n");
            string settings = (await daemon.CtlAsync("docker-config")).Succeeded().Out;
            DockerEngine engine = await DockerEngine.StartAsync(host, settings, _lab!.Directory);
            await engine.StartContainerAsync("server", "--publish", "8080:3333", "nc", "nc", "-ll", "-p", "3333", "-e", "caller");
            await engine.StartContainerAsync("redis", "redis", "redis-server", "--protected-mode", "no", "--save", "");
            await engine.StartContainerAsync("caller", "nc", "sleep", "600");
            return (daemon, engine);
        }

        private sealed class Buffer : ITestOutputHelper
        {
            public void WriteLine(string message)
            {
            }

            public void WriteLine(string format, params object[] args)
            {
            }
        }
    }
}
