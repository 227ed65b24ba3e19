using System.Text.Json.Nodes;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>Which peers a daemon has after a restart or a reload, and what stands in NAME.d.</summary>
public sealed class PersistenceTests(ITestOutputHelper output)
{
    private const string FullDisk = """mkdir -p "$1" && mount -t tmpfs -o size=4k,mode=0750 tmpfs "$1" && head -c 65536 /dev/zero >"$1/.fill" 2>/dev/null; shift; exec "$@" """;

    [SkippableFact]
    public async Task PeersAreKeptOverARestartUnlessEphemeral()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 3);
        (Vm vm1, Vm vm2, Vm vm3) = (lab.Hosts[0], lab.Hosts[1], lab.Hosts[2]);
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration());
        await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry(options: "key: 5")));
        (await daemon.CtlAsync("add-peer", "vm2", "--endpoint", vm2.Underlay(4), "--subnet", vm2.Subnet(4), "--subnet", vm2.Subnet(6))).Succeeded();
        (await daemon.CtlAsync("set-peer", "vm2", "--key", "5")).Succeeded();
        (await daemon.CtlAsync("add-peer", "vm3", "--endpoint", vm3.Underlay(4), "--subnet", vm3.Subnet(4), "--ephemeral")).Succeeded();
        JsonNode before = await daemon.GetAsync("/v1/peers/vm2");

        // An ephemeral one survives a reload.
        (await daemon.CtlAsync("reload")).Succeeded();
        Assert.Equal(["ephemeral vm3", "stored vm2"], await OriginsAsync(daemon));

        await daemon.StopAsync();
        await daemon.StartAsync();

        Assert.Equal(["stored vm2"], await OriginsAsync(daemon));
        JsonNode after = await daemon.GetAsync("/v1/peers/vm2");
        foreach (string property in new[] { "endpoint", "subnets", "encapsulation", "key", "checksum", "sequence" })
        {
            Assert.Equal(before[property]!.ToJsonString(), after[property]!.ToJsonString());
        }

        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        (await daemon.CtlAsync("remove-peer", "vm2")).Succeeded();
        await daemon.KillAsync();
        await daemon.StartAsync();
        Assert.Empty(await OriginsAsync(daemon));
    }

    [SkippableFact]
    public async Task ReloadAddsChangesAndRemovesWithoutTouchingTheRest()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 3);
        (Vm vm1, Vm vm2, Vm vm3) = (lab.Hosts[0], lab.Hosts[1], lab.Hosts[2]);
        const string Gone = "  gone: {endpoint: 192.168.40.99, subnets: [172.17.99.0/24]}\n";
        const string Moved = "  moved: {endpoint: 192.168.40.98, subnets: [172.17.98.0/24]}\n";
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry() + Gone + Moved));
        Daemon daemon2 = await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));
        await vm3.StartDaemonAsync(vm3.Configuration(vm1.PeerEntry()));
        await using UdpFlow flow = await UdpFlow.StartAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(4));

        daemon.Configure(vm1.Configuration(vm2.PeerEntry() + Moved.Replace(".98.0/24", ".97.0/24", StringComparison.Ordinal) + vm3.PeerEntry()));
        JsonNode result = await daemon.CtlJsonAsync("reload");

        Assert.Equal("""{"added":["vm3"],"changed":["moved"],"removed":["gone"]}""", result.ToJsonString());
        Assert.Equal(["file moved", "file vm2", "file vm3"], await OriginsAsync(daemon));
        Assert.Equal(3, (await vm1.Container.PingAsync(vm3.ContainerAddress(4))).Received);
        FlowResult counted = await flow.StopAsync();
        Assert.True(counted is { Lost: 0, Corrupt: 0 }, $"{counted} {await daemon2.GetAsync("/v1/drops")}");

        // SIGHUP is the same.
        daemon.Configure(vm1.Configuration(vm2.PeerEntry()));
        await daemon.Process.SignalAsync("HUP");
        await Poll.UntilAsync("the peers are reloaded", async () => (await OriginsAsync(daemon)) is ["file vm2"]);
    }

    [SkippableTheory]
    [InlineData("peers: [", null)]
    [InlineData("  vm3: {endpoint: 192.168.40.13, subnets: [172.17.52.0/24]}\n", "172.17.52.0/24")]
    [InlineData("  vm3: {endpont: 192.168.40.13, subnets: [172.17.53.0/24]}\n", "endpoint")]
    public async Task ABadReloadChangesNothingAndSaysWhy(string bad, string? says)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync();
        string before = await vm1.SnapshotAsync();
        JsonNode peers = await daemons[0].GetAsync("/v1/peers");
        await using UdpFlow flow = await UdpFlow.StartAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4));

        daemons[0].Configure(bad.StartsWith("peers", StringComparison.Ordinal) ? vm1.Configuration() + bad : vm1.Configuration(vm2.PeerEntry() + bad));
        CommandResult refused = await daemons[0].CtlAsync("reload");
        (int status, JsonNode? answer) = await daemons[0].SendAsync("POST", "/v1/reload");

        Assert.Equal(1, refused.ExitCode);
        Assert.Contains("tun0.yaml", refused.Error, StringComparison.Ordinal);
        Assert.Contains(says ?? "", refused.Error, StringComparison.Ordinal);
        Assert.Contains(status, new[] { 400, 409 });
        Assert.NotNull(answer!["error"]);
        Assert.Equal(before, await vm1.SnapshotAsync());
        Assert.Equal(Names(peers), Names(await daemons[0].GetAsync("/v1/peers")));
        FlowResult counted = await flow.StopAsync();
        Assert.True(counted is { Lost: 0, Corrupt: 0 }, $"{counted}");
    }

    [SkippableFact]
    public async Task APeerOfTheFileIsNotChangedByCommand()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()));

        Assert.Equal(1, (await daemon.CtlAsync("add-peer", "vm2", "--endpoint", "192.0.2.1", "--subnet", "172.17.99.0/24")).ExitCode);
        foreach (string[] words in new string[][] { ["set-peer", "vm2", "--key", "1"], ["remove-peer", "vm2"] })
        {
            CommandResult refused = await daemon.CtlAsync(words);
            Assert.Equal(1, refused.ExitCode);
            Assert.Contains("tun0.yaml", refused.Error, StringComparison.Ordinal);
        }

        Assert.Equal(409, (await daemon.SendAsync("PATCH", "/v1/peers/vm2", """{"key": 1}""")).Status);
        Assert.Equal(409, (await daemon.SendAsync("DELETE", "/v1/peers/vm2")).Status);
        Assert.Equal(["file vm2"], await OriginsAsync(daemon));
    }

    [SkippableFact]
    public async Task TheSameNameInTheFileAndInTheStoreIsAnError()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration());
        (await daemon.CtlAsync("add-peer", "vm2", "--endpoint", vm2.Underlay(4), "--subnet", vm2.Subnet(4))).Succeeded();

        daemon.Configure(vm1.Configuration(vm2.PeerEntry()));
        CommandResult refused = await daemon.CtlAsync("reload");
        Assert.Equal(1, refused.ExitCode);
        Assert.Contains("vm2", refused.Error, StringComparison.Ordinal);
        Assert.Equal(["stored vm2"], await OriginsAsync(daemon));

        await daemon.StopAsync();
        Assert.Equal(78, (await daemon.RunAsync()).ExitCode);
    }

    [SkippableTheory]
    [InlineData("full")]
    [InlineData("read-only")]
    public async Task WhereTheStoreCannotBeWrittenAddingFailsAndLeavesNothing(string trouble)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        string store = Path.Combine(vm1.Directory, "tun0.d");
        string shell = trouble == "full" ? FullDisk : """mkdir -p "$1" && mount -t tmpfs -o ro tmpfs "$1"; shift; exec "$@" """;

        // In the daemon's own mount namespace, which `ip netns exec` makes.
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(), wrapper: ["sh", "-c", shell, "sh", store]);
        string before = await vm1.SnapshotAsync();

        CommandResult refused = await daemon.CtlAsync("add-peer", "vm2", "--endpoint", vm2.Underlay(4), "--subnet", vm2.Subnet(4));

        Assert.Equal(1, refused.ExitCode);
        Assert.Contains("tun0.d", refused.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", refused.Error, StringComparison.Ordinal);
        Assert.Equal(before, await vm1.SnapshotAsync());
        Assert.Empty(await OriginsAsync(daemon));
        Assert.DoesNotContain(Directory.GetFiles($"/proc/{daemon.Process.Pid}/root{store}"), file => Path.GetFileName(file) != ".fill");

        // What isn't to be kept needs no disk.
        (await daemon.CtlAsync("add-peer", "vm2", "--endpoint", vm2.Underlay(4), "--subnet", vm2.Subnet(4), "--ephemeral")).Succeeded();
    }

    private static string[] Names(JsonNode peers) => [.. peers.AsArray().Select(peer => peer!["name"]!.GetValue<string>())];

    // Each peer as "ORIGIN NAME".
    private static async Task<string[]> OriginsAsync(Daemon daemon) =>
        [.. (await daemon.GetAsync("/v1/peers")).AsArray().Select(peer => $"{peer!["origin"]} {peer["name"]}").Order(StringComparer.Ordinal)];
}
