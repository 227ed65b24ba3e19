using System.Text.Json.Nodes;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>From the start to the stop, the hard one too: what a daemon makes, and that nothing of it stays.</summary>
public sealed class LifecycleTests(ITestOutputHelper output)
{
    [SkippableFact]
    public async Task ReadyMeansThatPacketsFlow()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));
        await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()));

        // The very first packet.
        Assert.Equal(1, (await vm1.Container.PingAsync(vm2.ContainerAddress(4), 1)).Received);
    }

    [SkippableFact]
    public async Task DeviceAddressesMtuAndRoutesAreAsConfigured()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry(options: ["key: 1", "checksum: true", "sequence: true"])));

        JsonNode device = Assert.Single(await vm1.IpJsonAsync("address", "show", "dev", "tun0"))!;
        Assert.Equal(1500 - 20 - 16, device["mtu"]!.GetValue<int>());
        Assert.Contains("UP", device["flags"]!.AsArray().Select(flag => flag!.GetValue<string>()));
        Assert.Equal(
            ["10.0.201.1/24", "fd10:201::1/64"],
            device["addr_info"]!.AsArray().Select(address => $"{address!["local"]}/{address["prefixlen"]}").Order(StringComparer.Ordinal));
        JsonArray routes = [.. (await vm1.IpJsonAsync("-4", "route", "show", "dev", "tun0", "proto", "147")).Select(route => route!["dst"]!.DeepClone())];
        Assert.Equal(["10.0.201.2", vm2.Subnet(4)], routes.Select(route => route!.GetValue<string>()).Order(StringComparer.Ordinal));
        routes = [.. (await vm1.IpJsonAsync("-6", "route", "show", "dev", "tun0", "proto", "147")).Select(route => route!["dst"]!.DeepClone())];
        Assert.Equal(["fd10:201::2", vm2.Subnet(6)], routes.Select(route => route!.GetValue<string>()).Order(StringComparer.Ordinal));
    }

    [SkippableFact]
    public async Task SigtermLeavesNothingBehind()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        string before = await vm1.SnapshotAsync();
        Daemon[] daemons = await lab.StartMeshAsync();
        Assert.NotEqual(before, await vm1.SnapshotAsync());
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);

        Assert.Equal(0, await daemons[0].StopAsync());

        Assert.Equal(before, await vm1.SnapshotAsync());
        Assert.Empty(Directory.EnumerateFileSystemEntries(daemons[0].RunDirectory));
    }

    [SkippableFact]
    public async Task SigkillAndAnotherStartRecover()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        string before = await vm1.SnapshotAsync();
        Daemon[] daemons = await lab.StartMeshAsync();

        for (int round = 0; round < 2; round++)
        {
            await daemons[0].KillAsync();
            Assert.True(File.Exists(daemons[0].SocketFile), "a killed daemon can't have removed its socket");
            await daemons[0].StartAsync();
            Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
            Assert.Equal(3, (await vm2.Container.PingAsync(vm1.ContainerAddress(6))).Received);
        }

        Assert.Equal(0, await daemons[0].StopAsync());
        Assert.Equal(before, await vm1.SnapshotAsync());
        Assert.Empty(Directory.EnumerateFileSystemEntries(daemons[0].RunDirectory));
    }

    [SkippableFact]
    public async Task ARestartedSenderOfSequenceNumbersIsHeardAgain()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync(options: (_, _) => ["sequence: true", "keepalive: off"]);
        // More than what is taken for reordering (docs/decisions/0008); else the new numbers would just have to catch up.
        for (int i = 0; i < 2; i++)
        {
            Assert.Equal(50, (await vm1.Container.PingAsync(vm2.ContainerAddress(4), 50)).Received);
        }

        await daemons[0].KillAsync();
        await daemons[0].StartAsync();

        await Poll.UntilAsync(
            "vm2 accepts the new numbers",
            async () => (await vm1.Container.PingAsync(vm2.ContainerAddress(4), 1, "-W", "0.2")).Received == 1,
            async () => (await daemons[1].GetAsync("/v1/drops")).ToJsonString());
        Assert.Equal(3, await daemons[1].DropsAsync("SequenceOld", "vm1"));
    }

    [SkippableFact]
    public async Task ASecondDaemonOfTheSameNetworkIsRefusedAndTheFirstGoesOn()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync();

        CommandResult second = await vm1.RunDaemonAsync(vm1.Configuration(vm2.PeerEntry()));

        Assert.Equal(1, second.ExitCode);
        string line = Assert.Single(second.Error.TrimEnd().Split('\n'));
        Assert.Contains($"{daemons[0].Process.Pid}", line, StringComparison.Ordinal);
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        Assert.Equal(0, (await daemons[0].CtlAsync("show")).ExitCode);
    }

    [SkippableFact]
    public async Task OfTwoNetworksTunnelctlWantsToBeToldWhich()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 1);
        Vm vm1 = lab.Hosts[0];
        Daemon red = await vm1.StartDaemonAsync(vm1.Configuration());

        // /run/tunnel is what tunnelctl looks into; here it is the daemons' run directory, in a mount namespace of the command's own.
        async Task<CommandResult> CtlAsync(params string[] words) => await vm1.ShellAsync(
            """mkdir -p "$1/view" && mount --bind "$1/view" /run && mkdir -p /run/tunnel && mount --bind "$1/run" /run/tunnel && shift && exec "$@" """,
            [vm1.Directory, Programs.Tunnelctl, .. words]);

        Assert.Contains("tun0", (await CtlAsync()).Succeeded().Out, StringComparison.Ordinal);

        await vm1.StartDaemonAsync("interface: {addresses: [10.0.202.1/24]}\n", "blue");
        CommandResult without = await CtlAsync("show");
        Assert.Equal(2, without.ExitCode);
        Assert.Contains("blue", without.Error, StringComparison.Ordinal);
        Assert.Contains("tun0", without.Error, StringComparison.Ordinal);
        Assert.Contains("10.0.202.1", (await CtlAsync("-n", "blue", "show")).Succeeded().Out, StringComparison.Ordinal);
        Assert.Contains("10.0.201.1", (await CtlAsync("-n", "tun0", "show")).Succeeded().Out, StringComparison.Ordinal);
        Assert.Equal(3, (await CtlAsync("-n", "green", "show")).ExitCode);
        await red.StopAsync();
        Assert.Contains("10.0.202.1", (await CtlAsync()).Succeeded().Out, StringComparison.Ordinal);
    }
}
