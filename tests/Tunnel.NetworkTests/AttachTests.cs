using System.Text.Json.Nodes;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>tunnelctl attach and detach: a network namespace without anything gets an interface in the overlay.</summary>
public sealed class AttachTests(ITestOutputHelper output)
{
    [SkippableTheory]
    [InlineData(4, "172.17.51.100", 24)]
    [InlineData(6, "fd17:51::100", 64)]
    public async Task AProcessIsReachedThroughTheOverlayUntilItIsDetached(int version, string address, int length)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        (Daemon daemon, _) = await StartAsync(vm1, vm2);
        await using Background container = await ContainerAsync(vm1);
        string pid = $"{container.Pid}";

        JsonNode done = await daemon.CtlJsonAsync("attach", pid, $"{address}/{length}");

        Assert.Equal(("eth1", $"{address}/{length}", "br0", false), (Text(done, "interface"), Text(done, "address"), Text(done, "bridge"), (bool)done["was-attached"]!));
        CommandResult there = await InAsync(vm1, pid, "ping", "-n", "-c", "2", "-i", "0.2", vm2.ContainerAddress(version));
        Assert.Equal(0, there.ExitCode);
        Assert.True((await vm2.Container.PingAsync(address)).Received > 0);
        string route = (await InAsync(vm1, pid, "ip", $"-{version}", "route", "get", vm2.ContainerAddress(version))).Succeeded().Out;
        Assert.Contains("dev eth1", route, StringComparison.Ordinal);
        Assert.Contains("mtu 1476", (await InAsync(vm1, pid, "ip", $"-{version}", "route", "show", "table", "main", "exact", vm2.Subnet(version))).Succeeded().Out, StringComparison.Ordinal);

        // Again: nothing is made anew.
        string before = await PortsAsync(vm1);
        Assert.True((bool)(await daemon.CtlJsonAsync("attach", pid, $"{address}/{length}"))["was-attached"]!);
        Assert.Equal(before, await PortsAsync(vm1));

        Assert.Equal($"detached {pid}: eth1 {address}/{length}\n", (await daemon.CtlAsync("detach", pid, address)).Succeeded().Out);
        Assert.Equal($"nothing is attached to {pid}\n", (await daemon.CtlAsync("detach", pid)).Succeeded().Out);
        Assert.DoesNotContain("tc", await PortsAsync(vm1), StringComparison.Ordinal);
        Assert.DoesNotContain("eth1", (await InAsync(vm1, pid, "ip", "link")).Succeeded().Out, StringComparison.Ordinal);
    }

    // Another network with a default route, as Docker's own networks give one, and one address of each family.
    [SkippableFact]
    public async Task AContainerKeepsWhatItHas()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        (Daemon daemon, _) = await StartAsync(vm1, vm2);
        await using Background container = await ContainerAsync(vm1);
        string pid = $"{container.Pid}";
        (await InAsync(
            vm1, pid, "sh", "-c",
            "ip link add eth0 type bridge && ip addr add 172.30.0.2/24 dev eth0 && ip link set eth0 up && ip route add default via 172.30.0.1")).Succeeded();

        (await daemon.CtlAsync("attach", pid, "172.17.51.100/24")).Succeeded();
        JsonNode second = await daemon.CtlJsonAsync("attach", $"/proc/{pid}/ns/net", "fd17:51::101/64", "--bridge", "br0", "--interface", "overlay0");

        Assert.Equal("overlay0", Text(second, "interface"));
        Assert.Contains("default via 172.30.0.1 dev eth0", (await InAsync(vm1, pid, "ip", "route")).Out, StringComparison.Ordinal);
        Assert.True((await vm2.Container.PingAsync("172.17.51.100")).Received > 0);
        Assert.True((await vm2.Container.PingAsync("fd17:51::101")).Received > 0);
        Assert.Equal($"detached {pid}: eth1 172.17.51.100/24; overlay0 fd17:51::101/64\n", (await daemon.CtlAsync("detach", pid)).Succeeded().Out);
        Assert.Contains("172.30.0.2", (await InAsync(vm1, pid, "ip", "addr")).Out, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task WhatEndsTakesItsInterfaceAlong()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        (Daemon daemon, _) = await StartAsync(vm1, vm2);
        string before = await PortsAsync(vm1);
        await using Background container = await ContainerAsync(vm1);
        (await daemon.CtlAsync("attach", $"{container.Pid}", "172.17.51.100/24")).Succeeded();
        Assert.NotEqual(before, await PortsAsync(vm1));

        await container.SignalAsync("KILL");

        await Poll.UntilAsync("the bridge has no further port", async () => await PortsAsync(vm1) == before, () => PortsAsync(vm1));

        // The address is free again at once, although the host may still know the last owner.
        await using Background next = await ContainerAsync(vm1);
        (await daemon.CtlAsync("attach", $"{next.Pid}", "172.17.51.100/24")).Succeeded();
    }

    [SkippableFact]
    public async Task WhatCannotBeDoneIsOneLineAndChangesNothing()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        (Daemon daemon, _) = await StartAsync(vm1, vm2);
        await using Background container = await ContainerAsync(vm1);
        string pid = $"{container.Pid}";
        string before = (await vm1.RunAsync("ip", "addr")).Out;

        await RefusedAsync("172.17.51.2 is in use on br0, by ", "attach", pid, "172.17.51.2/24");
        await RefusedAsync("172.17.51.1 is this host's own, at br0", "attach", pid, "172.17.51.1/24");
        await RefusedAsync("172.17.52.9 is in no subnet of this host (take one of 172.17.51.0/24, fd17:51::/64)", "attach", pid, "172.17.52.9/24");
        await RefusedAsync("172.17.51.9/16 is wider than this host's subnet 172.17.51.0/24 (as 172.17.51.9/24)", "attach", pid, "172.17.51.9/16");
        await RefusedAsync("172.17.51.255 is the first or last address of 172.17.51.0/24", "attach", pid, "172.17.51.255/24");
        await RefusedAsync("br0's address 172.17.51.1 is not in 172.17.51.100/30 (as tunnelctl attach ", "attach", pid, "172.17.51.100/30");
        await RefusedAsync("no bridge of this host is called br7", "attach", pid, "172.17.51.9/24", "--bridge", "br7");
        await RefusedAsync("no container, process or network namespace is called 'nobody'", "attach", "nobody", "172.17.51.9/24");
        await RefusedAsync("there is no /run/netns/nobody", "attach", "/run/netns/nobody", "172.17.51.9/24");
        await RefusedAsync(" has the host's own network", "attach", $"{daemon.Process.Pid}", "172.17.51.9/24");
        await RefusedAsync("172.17.51.2 is eth0's in ", "attach", vm1.Container.Netns, "172.17.51.2/24");
        await RefusedAsync("172.17.51.2 is eth0's in ", "detach", vm1.Container.Netns, "172.17.51.2");
        await RefusedAsync(" is in 172.17.51.0/24 already, by 172.17.51.2 at eth0 (it needs no attach)", "attach", vm1.Container.Netns, "172.17.51.9/24");
        await RefusedAsync(" has an interface lo already", "attach", pid, "172.17.51.9/24", "--interface", "lo");
        await RefusedAsync("an interface a-name-that-is-too-long can't be made in ", "attach", pid, "172.17.51.9/24", "--interface", "a-name-that-is-too-long");
        Assert.Equal(before, (await vm1.RunAsync("ip", "addr")).Out);

        await vm1.IpAsync("addr del 172.17.51.1/24 dev br0");
        await RefusedAsync("no bridge of this host has an address in 172.17.51.0/24 (let Docker have it", "attach", pid, "172.17.51.9/24");
        await vm1.IpAsync("addr add 172.17.51.1/24 dev br0\nlink set br0 down");
        await RefusedAsync("br0 is down (ip link set br0 up)", "attach", pid, "172.17.51.9/24");

        async Task RefusedAsync(string error, params string[] words)
        {
            CommandResult result = await daemon.CtlAsync(words);
            Assert.Equal(1, result.ExitCode);
            Assert.Equal("", result.Out);
            Assert.StartsWith("tunnelctl: ", result.Error, StringComparison.Ordinal);
            Assert.Contains(error, result.Error, StringComparison.Ordinal);
            Assert.Single(result.Error.TrimEnd('\n').Split('\n'));
        }
    }

    private static async Task<(Daemon First, Daemon Second)> StartAsync(Vm vm1, Vm vm2)
    {
        Daemon[] daemons = await Task.WhenAll(
            vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()) + $"\nsubnets: [{vm1.Subnet(4)}, \"{vm1.Subnet(6)}\"]\n"),
            vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry())));
        return (daemons[0], daemons[1]);
    }

    // A process with a network of its own that has nothing, as a container with --net=none.
    private static async Task<Background> ContainerAsync(Vm vm)
    {
        string host = (await vm.RunAsync("readlink", "/proc/self/ns/net")).Succeeded().Out.Trim();
        Background container = vm.Start(null, "unshare", "--net", "sleep", "600");
        await Poll.UntilAsync(
            "the process has a network of its own",
            async () => (await vm.RunAsync("readlink", $"/proc/{container.Pid}/ns/net")).Out.Trim() is { Length: > 0 } own && own != host
                && (await vm.RunAsync("cat", $"/proc/{container.Pid}/comm")).Out.Trim() == "sleep");
        return container;
    }

    private static Task<CommandResult> InAsync(Vm vm, string pid, params string[] words) => vm.RunAsync(["nsenter", $"--net=/proc/{pid}/ns/net", .. words]);

    private static async Task<string> PortsAsync(Vm vm) => (await vm.RunAsync("ls", "/sys/class/net/br0/brif")).Succeeded().Out;

    private static string Text(JsonNode node, string member) => node[member]!.GetValue<string>();
}
