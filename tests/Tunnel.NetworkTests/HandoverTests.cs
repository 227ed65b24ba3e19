using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>A daemon that another one follows: the device stays, and what comes meanwhile waits.</summary>
public sealed class HandoverTests(ITestOutputHelper output)
{
    // What 100 ms hold at the flows' rate.
    private const int MostLost = 1000;

    [SkippableTheory]
    [InlineData("gre", "auto", 1)]
    [InlineData("gre", "raw", 2)]
    [InlineData("gre-udp", "auto", 1)]
    public async Task TheNextProcessGoesOnWithoutLoss(string encapsulation, string receive, int workers)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        string extra = $"  encapsulation: {encapsulation}\ndatapath: {{receive: {receive}, workers: {workers}}}\n";
        Daemon[] daemons = await lab.StartMeshAsync(underlayExtra: extra);
        string device = await DeviceAsync(vm2);

        await using UdpFlow there = await UdpFlow.StartAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4), burst: 10);
        await using UdpFlow back = await UdpFlow.StartAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(6), burst: 10);
        Task<int> transfer = TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4), 100 << 20);
        Background before = daemons[1].Process;
        await daemons[1].StartAsync("--handover");
        Assert.Equal(0, await before.WaitAsync());
        int pause = await transfer;
        (FlowResult to, FlowResult from) = (await there.StopAsync(), await back.StopAsync());
        output.WriteLine($"lost {to.Lost} of {to.Sent} there, {from.Lost} of {from.Sent} back; TCP paused for {pause} ms at most");
        output.WriteLine($"vm1: {await daemons[0].GetAsync("/v1/drops")}\nvm2: {await daemons[1].GetAsync("/v1/drops")}");
        Assert.InRange(to.Lost, 0, MostLost);
        Assert.InRange(from.Lost, 0, MostLost);
        Assert.Equal((0, 0, 0, 0), (to.Repeated, to.Corrupt, from.Repeated, from.Corrupt));

        // With everything that belongs to it: index, addresses, routes, the length of its queue.
        await Poll.UntilAsync("all is as before", async () => await DeviceAsync(vm2) == device, () => DeviceAsync(vm2));
        Assert.Contains($"network tun0 stops: pid {daemons[1].Process.Pid} goes on with it", before.Log, StringComparison.Ordinal);
        Assert.Equal(0, await daemons[1].StopAsync());
        Assert.NotEqual(0, (await vm2.RunAsync("ip", "link", "show", "tun0")).ExitCode);
    }

    [SkippableFact]
    public async Task WhatTheConfigurationNoLongerSaysGoes()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        Vm vm1 = lab.Hosts[0];
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(lab.Hosts[1].PeerEntry(4)));
        string device = IndexOf(await DeviceAsync(vm1));
        daemon.Configure("""
            interface: {addresses: [10.0.201.77/24]}
            underlay: {local: 192.168.40.11, udp-port: 4755, accept: [gre, gre-udp]}
            peers:
              other: {endpoint: 192.168.40.12, subnets: [172.17.99.0/24]}
            """);
        await daemon.StartAsync("--handover");
        string now = await DeviceAsync(vm1);
        Assert.Equal(device, IndexOf(now));
        Assert.Contains("10.0.201.77/24", now, StringComparison.Ordinal);
        Assert.DoesNotContain("10.0.201.1/24", now, StringComparison.Ordinal);
        Assert.Contains("172.17.99.0/24", now, StringComparison.Ordinal);
        Assert.DoesNotContain("172.17.52.0/24", now, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task WithAnotherNumberOfWorkersTheDeviceIsMadeAnew()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync();
        daemons[0].Configure(File.ReadAllText(daemons[0].ConfigFile) + "datapath: {workers: 2}\n");
        await daemons[0].StartAsync("--handover");
        Assert.True((await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received == 3);
    }

    [SkippableFact]
    public async Task WhereNobodyServesTheNetworkItIsAnOrdinaryStart()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 1);
        Vm vm1 = lab.Hosts[0];
        await using var daemon = new Daemon(vm1, "tun0", vm1.Configuration(""));
        await daemon.StartAsync("--handover");
        Assert.Equal(0, await daemon.StopAsync());
    }

    private static string IndexOf(string device) => device.Split(':')[0];

    private static async Task<string> DeviceAsync(Vm host) =>
        (await host.ShellAsync("ip -o link show tun0 | sed 's/ state .* qlen/ qlen/'; ip -o addr show tun0 | sed 's/valid_lft.*//'; ip route show dev tun0; ip -6 route show dev tun0 proto 147")).Succeeded().Out;
}
