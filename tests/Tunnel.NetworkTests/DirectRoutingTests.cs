using System.Text.Json.Nodes;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>Peers that are neighbours are reached without a tunnel where that is configured, or works. Traffic flows on while that changes.</summary>
public sealed class DirectRoutingTests(ITestOutputHelper output)
{
    [SkippableTheory]
    [InlineData(4)]
    [InlineData(6)]
    public async Task DirectIsAPlainRouteAndTakingItLosesNothing(int outer)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await Task.WhenAll(lab.Hosts.Select(host => host.StartDaemonAsync(host.Configuration(outer: outer))));
        await AddAsync(daemons[0], vm2, outer);
        await AddAsync(daemons[1], vm1, outer);
        await using UdpFlow flow = await UdpFlow.StartAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(outer));
        for (int i = 0; i < 3; i++)
        {
            foreach (string encapsulation in new[] { "direct", "gre" })
            {
                foreach ((Daemon daemon, Vm to) in new[] { (daemons[0], vm2), (daemons[1], vm1) })
                {
                    (await daemon.CtlAsync("set-peer", to.Name, "--encapsulation", encapsulation)).Succeeded();
                    Assert.Equal(encapsulation == "direct" ? "eth1" : "tun0", await DeviceAsync(daemon.Host, to.ContainerAddress(outer), outer));
                }
            }
        }

        FlowResult result = await flow.StopAsync();
        Assert.Equal((0, 0, 0), (result.Lost, result.Corrupt, result.Repeated));

        // The other family's packets have no neighbour to go to.
        (await daemons[0].CtlAsync("set-peer", "vm2", "--encapsulation", "direct")).Succeeded();
        int other = 10 - outer;
        Assert.Equal("eth1", await DeviceAsync(vm1, vm2.ContainerAddress(outer), outer));
        Assert.Equal("tun0", await DeviceAsync(vm1, vm2.ContainerAddress(other), other));
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(other))).Received);

        // This host's own packets have its overlay address, by which the peer knows it.
        Assert.Equal(3, (await vm1.PingAsync(vm2.ContainerAddress(outer))).Received);
        Assert.Contains($"src {vm1.Overlay(outer)} ", (await vm1.ShellAsync("ip -$1 route get $2", $"{outer}", vm2.ContainerAddress(outer))).Out, StringComparison.Ordinal);
        JsonNode peer = await daemons[0].GetAsync("/v1/peers/vm2");
        Assert.Equal("direct", peer["encapsulation"]!.GetValue<string>());
        Assert.Equal($"{vm2.Underlay(outer)} is a neighbour", peer["encapsulation-reason"]!.GetValue<string>());
        Assert.Contains($"direct: {vm2.Underlay(outer)} is a neighbour", (await daemons[0].CtlAsync("show", "vm2")).Succeeded().Out, StringComparison.Ordinal);
        string explained = (await daemons[0].CtlAsync("explain", vm1.ContainerAddress(outer), vm2.ContainerAddress(outer))).Succeeded().Out;
        Assert.Contains($"by way of {vm2.Underlay(outer)} on eth1", explained, StringComparison.Ordinal);
        Assert.DoesNotContain("overlap", (await daemons[0].CtlAsync("doctor")).Out, StringComparison.Ordinal);

        // With its device down, the tunnel's route is what is left; what somebody deletes is put back.
        (await vm1.ShellAsync("ip -$1 route del $2 via $3", $"{outer}", vm2.Subnet(outer), vm2.Underlay(outer))).Succeeded();
        await Poll.UntilAsync("the route is back", async () => await DeviceAsync(vm1, vm2.ContainerAddress(outer), outer) == "eth1");

        await daemons[0].StopAsync();
        Assert.DoesNotContain("proto 147", (await vm1.ShellAsync("ip -$1 route", $"{outer}")).Out, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task APeerThatIsNoNeighbourIsReachedThroughTheTunnel()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync(options: (_, _) => ["encapsulation: direct"]);
        Assert.Equal("eth1", await DeviceAsync(vm1, vm2.ContainerAddress(4), 4));

        // From now on by way of a router.
        await lab.Switch.IpAsync("addr add 192.168.40.1/24 dev br0");
        await lab.Switch.ShellAsync("echo 1 >/proc/sys/net/ipv4/ip_forward");
        await vm1.IpAsync($"route add {vm2.Underlay(4)}/32 via 192.168.40.1");
        await Poll.UntilAsync("the tunnel is used", async () => await DeviceAsync(vm1, vm2.ContainerAddress(4), 4) == "tun0");
        JsonNode peer = await daemons[0].GetAsync("/v1/peers/vm2");
        Assert.Equal("gre", peer["encapsulation"]!.GetValue<string>());
        Assert.Equal(
            $"direct is configured, but {vm2.Underlay(4)} is not a neighbour on a link of this host", peer["encapsulation-reason"]!.GetValue<string>());
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
    }

    [SkippableFact]
    public async Task AutoIsDirectWhereThatWorksAndNowhereElse()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync(options: (_, _) => ["encapsulation: auto", "keepalive: 200ms"]);
        Assert.Equal("gre", await EncapsulationAsync(daemons[0], vm2));

        // The peer's host itself may answer: that says nothing of those behind it.
        (await vm2.ShellAsync("nft add table ip fw; nft 'add chain ip fw forward { type filter hook forward priority 0; }'; nft add rule ip fw forward iifname eth1 drop")).Succeeded();
        await using UdpFlow flow = await UdpFlow.StartAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4));
        await Poll.UntilAsync("a way without a tunnel was tried", async () => (await ReasonAsync(daemons[0], vm2)) == "nobody behind it answered without a tunnel");
        Assert.Equal(3, (await vm1.PingAsync(vm2.Overlay(4))).Received);
        await vm1.Container.PingAsync(vm2.ContainerAddress(4), 10);
        Assert.Equal("tun0", await DeviceAsync(vm1, vm2.ContainerAddress(4), 4));

        (await vm2.ShellAsync("nft delete table ip fw")).Succeeded();
        await Poll.UntilAsync("no tunnel is used", async () => await DeviceAsync(vm1, vm2.ContainerAddress(4), 4) == "eth1");
        Assert.Equal("direct", await EncapsulationAsync(daemons[0], vm2));
        Assert.Contains($"{vm2.ContainerAddress(4)} behind it answered without a tunnel; through the tunnel: ", await ReasonAsync(daemons[0], vm2), StringComparison.Ordinal);
        Assert.Equal("tun0", await DeviceAsync(vm1, vm2.ContainerAddress(6), 6));
        FlowResult result = await flow.StopAsync();
        Assert.Equal((0, 0, 0), (result.Lost, result.Corrupt, result.Repeated));

        // A firewall that lets go on what it knows already, and nothing new.
        (await vm2.ShellAsync("nft add table ip fw; nft 'add chain ip fw forward { type filter hook forward priority 0; }'; nft add rule ip fw forward ct state established accept; nft add rule ip fw forward iifname eth1 drop")).Succeeded();
        await Poll.UntilAsync("the tunnel is used", async () => await DeviceAsync(vm1, vm2.ContainerAddress(4), 4) == "tun0");
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
    }

    [SkippableFact]
    public async Task AutoKeepsTheTunnelWhereAnswersWouldBeDropped()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync(options: (_, _) => ["encapsulation: auto"]);
        (await vm1.ShellAsync("echo 1 >/proc/sys/net/ipv4/conf/tun0/rp_filter")).Succeeded();
        await Poll.UntilAsync("it says why", async () => await ReasonAsync(daemons[0], vm2) == "rp_filter is strict on tun0, so nothing may come another way than it goes");
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        Assert.Equal("gre", await EncapsulationAsync(daemons[0], vm2));
    }

    [SkippableTheory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task AutoComesToUdpWhereGreIsBlockedAndUdpIsAllowed(bool allowed)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        (await lab.Switch.ShellAsync("""
            nft -f - <<'END'
            table netdev fw {
              chain in {
                type filter hook ingress devices = { port1, port2 } priority 0;
                ip protocol != { udp, icmp } drop
                ip daddr != 192.168.40.0/24 drop
              }
            }
            END
            """)).Succeeded();
        Daemon[] daemons = await lab.StartMeshAsync(
            options: (_, _) => ["encapsulation: auto", "keepalive: 500ms"], underlayExtra: allowed ? "  allow-udp: true\n" : "");
        Assert.Equal(allowed ? "[\"gre\",\"gre-udp\"]" : "[\"gre\"]", (await daemons[0].GetAsync("/v1/network"))["underlay"]!["accept"]!.ToJsonString());
        if (!allowed)
        {
            await Poll.UntilAsync("the peer is down", async () => (await daemons[0].GetAsync("/v1/peers/vm2"))["state"]!.GetValue<string>() == "down");
            Assert.Equal("gre", await EncapsulationAsync(daemons[0], vm2));
            return;
        }

        await Poll.UntilAsync("both are up", async () =>
            (await Task.WhenAll(daemons.Zip([vm2, vm1]).Select(pair => pair.First.GetAsync($"/v1/peers/{pair.Second.Name}"))))
            .All(peer => peer["state"]!.GetValue<string>() == "up" && peer["encapsulation"]!.GetValue<string>() == "gre-udp"));
        Assert.EndsWith("; plain GRE was not answered", await ReasonAsync(daemons[0], vm2), StringComparison.Ordinal);
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        Assert.Equal(3, (await vm2.Container.PingAsync(vm1.ContainerAddress(6))).Received);
    }

    private static async Task AddAsync(Daemon daemon, Vm peer, int outer) =>
        (await daemon.CtlAsync(
            "add-peer", peer.Name, "--endpoint", peer.Underlay(outer), "--subnet", peer.Subnet(4), "--subnet", peer.Subnet(6), "--subnet", $"{peer.Overlay(outer)}/{(outer == 4 ? 32 : 128)}"))
        .Succeeded();

    private static async Task<string> DeviceAsync(Vm host, string address, int version) =>
        (await host.ShellAsync("ip -$1 -json route get $2 | jq -r '.[0].dev'", $"{version}", address)).Out.Trim();

    private static async Task<string> EncapsulationAsync(Daemon daemon, Vm peer) =>
        (await daemon.GetAsync($"/v1/peers/{peer.Name}"))["encapsulation"]!.GetValue<string>();

    private static async Task<string> ReasonAsync(Daemon daemon, Vm peer) =>
        (await daemon.GetAsync($"/v1/peers/{peer.Name}"))["encapsulation-reason"]!.GetValue<string>();
}
