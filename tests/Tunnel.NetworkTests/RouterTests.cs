using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>A router stands between two hosts, and says what it can't carry. Nobody asks the peers, so that its word is all there is.</summary>
public sealed class RouterTests(ITestOutputHelper output)
{
    [SkippableTheory]
    [InlineData(4)]
    [InlineData(6)]
    public async Task WhatARouterSaysOfOuterPacketsReachesTheSendersOfTheInnerOnes(int inner)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await lab.Switch.IpAsync("addr add 192.168.40.1/24 dev br0");
        await lab.Switch.ShellAsync(
            "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/conf/all/send_redirects; echo 0 >/proc/sys/net/ipv4/conf/br0/send_redirects");
        await vm1.IpAsync($"route add {vm2.Underlay(4)}/32 via 192.168.40.1");
        Daemon[] daemons = await lab.StartMeshAsync(options: (_, _) => ["keepalive: off"]);
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(inner), 3, "-M", "do", "-s", "1400")).Received);

        // From now on its link takes 1310 bytes: 24 of them are GRE's.
        await lab.Switch.IpAsync($"route add {vm2.Underlay(4)}/32 dev br0 mtu 1310");
        await TellsAsync(vm1, vm2.ContainerAddress(inner), 1400, "mtu = 1286", "mtu=1286");
        Assert.Equal(1286, (await daemons[0].GetAsync("/v1/peers/vm2"))["gmtu"]!.GetValue<int>());
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(inner), 3, "-M", "do", "-s", inner == 4 ? "1258" : "1238")).Received);

        await lab.Switch.IpAsync($"route replace unreachable {vm2.Underlay(4)}/32");
        await TellsAsync(vm1, vm2.ContainerAddress(inner), 56, inner == 4 ? "Destination Host Unreachable" : "Destination unreachable: Address unreachable");
        Assert.Contains("192.168.40.1", (await daemons[0].GetAsync("/v1/peers/vm2"))["problems"]!.ToJsonString(), StringComparison.Ordinal);
    }

    private static Task TellsAsync(Vm from, string to, int size, params string[] texts)
    {
        CommandResult? last = null;
        return Poll.UntilAsync(
            $"the sender is told: {texts[0]}",
            async () =>
            {
                last = (await from.Container.PingAsync(to, 1, "-M", "do", "-s", $"{size}")).Result;
                return texts.Any(text => (last.Out + last.Error).Contains(text, StringComparison.Ordinal));
            },
            () => Task.FromResult($"{last}"));
    }
}
