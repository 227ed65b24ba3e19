using System.Text.Json.Nodes;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>What others do to the daemon's device and routes is mended; what is others' own is left alone.</summary>
public sealed class RepairTests(ITestOutputHelper output)
{
    [SkippableTheory]
    [InlineData("route del 172.17.52.0/24")]
    [InlineData("route del fd17:52::/64")]
    [InlineData("address del 10.0.201.1/24 dev tun0")]
    [InlineData("address del fd10:201::1/64 dev tun0")]
    [InlineData("address flush dev tun0")]
    [InlineData("route del 172.17.52.0/24\nroute del 10.0.201.2\nroute del fd17:52::/64\nroute del fd10:201::2")]
    [InlineData("link set tun0 down\nlink set tun0 up")]
    [InlineData("link set tun0 mtu 1300")]
    public async Task WhatIsTakenAwayIsPutBack(string damage)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync();
        string whole = await vm1.SnapshotAsync();

        await vm1.IpAsync(damage);

        await AwaitSnapshotAsync(vm1, whole, daemons[0]);
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(6))).Received);
        JsonArray routes = (await daemons[0].GetAsync("/v1/routes")).AsArray();
        Assert.All(routes, route => Assert.True(route!["installed"]!.GetValue<bool>()));
    }

    [SkippableFact]
    public async Task ADeviceThatIsDownSaysSoAndComesBackWithItsRoutes()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync();

        // Somebody's wish: it isn't put up against it, but what was flushed comes back once it is up again.
        await vm1.IpAsync("link set tun0 down");
        await Poll.UntilAsync("the device is shown as down or is up again", async () =>
        {
            JsonNode network = await daemons[0].GetAsync("/v1/network");
            return !network["interface"]!["up"]!.GetValue<bool>() || (await vm1.Container.PingAsync(vm2.ContainerAddress(4), 1)).Received == 1;
        });
        await vm1.IpAsync("link set tun0 up");

        await Poll.UntilAsync("packets flow again", async () => (await vm1.Container.PingAsync(vm2.ContainerAddress(4), 1)).Received == 1);
        Assert.Equal(3, (await vm2.Container.PingAsync(vm1.ContainerAddress(6))).Received);
    }

    [SkippableFact]
    public async Task TheUnderlaysDeviceMayGoDownAndUp()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync();

        await vm1.IpAsync("link set eth1 down");
        Assert.Equal(0, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        Assert.Equal(0, (await daemons[0].CtlAsync("show")).ExitCode);
        await vm1.IpAsync("link set eth1 up");

        await Poll.UntilAsync(
            "packets flow again",
            async () => (await vm1.Container.PingAsync(vm2.ContainerAddress(4), 1)).Received == 1,
            async () => (await daemons[0].GetAsync("/v1/peers")).ToJsonString());
    }

    [SkippableTheory]
    [InlineData("172.17.52.0/24")]
    [InlineData("fd17:52::/64")]
    public async Task AForeignRouteIsRefusedAndStays(string subnet)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration());
        await vm1.IpAsync($"route add {subnet} dev eth1");
        string before = await vm1.SnapshotAsync();

        CommandResult refused = await daemon.CtlAsync("add-peer", "vm2", "--endpoint", vm2.Underlay(4), "--subnet", "172.17.99.0/24", "--subnet", subnet);
        string body = $$"""{"endpoint": "{{vm2.Underlay(4)}}", "subnets": ["{{subnet}}"]}""";
        (int status, JsonNode? answer) = await daemon.SendAsync("PUT", "/v1/peers/vm2", body);

        Assert.Equal(1, refused.ExitCode);
        Assert.Contains(subnet, refused.Error, StringComparison.Ordinal);
        Assert.Equal(409, status);
        Assert.Contains(subnet, answer!["error"]!.GetValue<string>(), StringComparison.Ordinal);
        Assert.Equal(before, await vm1.SnapshotAsync());
        Assert.Empty((await daemon.GetAsync("/v1/peers")).AsArray());
        Assert.Empty(StoredPeers(daemon));

        // Its owner takes it away: now there is room.
        await vm1.IpAsync($"route del {subnet} dev eth1");
        Assert.Equal(201, (await daemon.SendAsync("PUT", "/v1/peers/vm2", body)).Status);
    }

    [SkippableFact]
    public async Task AForeignRouteOfAnotherPrefixOrMetricIsNotTouchedByStopping()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await vm1.IpAsync("route add 172.17.0.0/16 dev eth1\nroute add 172.17.52.128/25 dev eth1 proto 147\nroute add blackhole 172.17.90.0/24");
        string before = await vm1.SnapshotAsync();
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()));

        Assert.Equal(0, await daemon.StopAsync());

        Assert.Equal(before, await vm1.SnapshotAsync());
    }

    private static string[] StoredPeers(Daemon daemon) => Directory.Exists(daemon.StoreDirectory) ? Directory.GetFileSystemEntries(daemon.StoreDirectory) : [];

    private static Task AwaitSnapshotAsync(Vm host, string wanted, Daemon daemon) => Poll.UntilAsync(
        "everything is as it was",
        async () => await host.SnapshotAsync() == wanted,
        async () => $"wanted:\n{wanted}\nis:\n{await host.SnapshotAsync()}\n{(await daemon.GetAsync("/v1/network")).ToJsonString()}");
}
