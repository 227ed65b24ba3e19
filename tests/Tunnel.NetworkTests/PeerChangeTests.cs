using System.Text.Json.Nodes;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>Peers come, change and go while the others' traffic flows on, without the loss of a single packet.</summary>
public sealed class PeerChangeTests(ITestOutputHelper output)
{
    [SkippableFact]
    public async Task ChangesOfOnePeerLoseNoPacketOfAnother()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 3);
        (Vm vm1, Vm vm2, Vm vm3) = (lab.Hosts[0], lab.Hosts[1], lab.Hosts[2]);
        Daemon daemon1 = await vm1.StartDaemonAsync(vm1.Configuration());
        Daemon daemon2 = await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));
        await AddAsync(daemon1, vm2);

        await using UdpFlow there = await UdpFlow.StartAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4));
        await using UdpFlow back = await UdpFlow.StartAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(6));
        for (int round = 0; round < 3; round++)
        {
            await AddAsync(daemon1, vm3);
            (await daemon1.CtlAsync("set-peer", "vm3", "--key", "7", "--checksum")).Succeeded();
            (await daemon1.CtlAsync("set-peer", "vm3", "--subnet", vm3.Subnet(4), "--subnet", "172.17.60.0/24", "--key", "none")).Succeeded();
            (await daemon1.CtlAsync("remove-peer", "vm3")).Succeeded();
        }

        for (int i = 0; i < 200; i++)
        {
            string peer = $$"""{"endpoint": "192.168.40.{{20 + i}}", "subnets": ["172.18.{{i}}.0/24"], "ephemeral": true}""";
            Assert.Equal(201, (await daemon1.SendAsync("PUT", $"/v1/peers/many{i}", peer)).Status);
        }

        Assert.Equal(200, (await daemon1.CtlJsonAsync("routes")).AsArray().Count(route => route!["peer"]!.GetValue<string>() != "vm2"));
        for (int i = 0; i < 200; i++)
        {
            Assert.Equal(204, (await daemon1.SendAsync("DELETE", $"/v1/peers/many{i}")).Status);
        }

        (await daemon1.CtlAsync("reload")).Succeeded();
        await AssertNothingLostAsync(there, daemon1, daemon2);
        await AssertNothingLostAsync(back, daemon2, daemon1);
    }

    // A real name server, and the system's resolver. Nobody tells the daemon.
    [SkippableFact]
    public async Task AHostThatMovesIsFoundByItsNameAndOthersLoseNothing()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 3);
        (Vm vm1, Vm vm2, Vm vm3) = (lab.Hosts[0], lab.Hosts[1], lab.Hosts[2]);
        Skip.If((await vm1.ShellAsync("command -v dnsmasq")).ExitCode != 0, "dnsmasq is not installed");
        (string names, string resolver) = (Path.Combine(vm1.Directory, "names"), Path.Combine(vm1.Directory, "resolv.conf"));
        Directory.CreateDirectory(vm1.Directory);
        await File.WriteAllTextAsync(names, "192.168.40.12 vm2.lab.example\n");
        await File.WriteAllTextAsync(resolver, "nameserver 192.168.40.11\n");
        await using Background server = vm1.Start(
            null, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=",
            "--listen-address=192.168.40.11", "--bind-interfaces", $"--addn-hosts={names}");
        await server.WaitForAsync("names");

        // The daemon's mount namespace is its own.
        string named = vm2.PeerEntry().Replace("\"192.168.40.12\"", "vm2.lab.example", StringComparison.Ordinal);
        Daemon daemon1 = await vm1.StartDaemonAsync(
            vm1.Configuration(named + vm3.PeerEntry()), wrapper: ["sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"", resolver]);
        Daemon daemon2 = await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));
        Daemon daemon3 = await vm3.StartDaemonAsync(vm3.Configuration(vm1.PeerEntry()));
        await Poll.UntilAsync("the name is resolved", async () => (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received > 0);
        await using UdpFlow flow = await UdpFlow.StartAsync(vm1.Container, vm3.Container, vm3.ContainerAddress(4));

        await daemon2.StopAsync();
        await vm2.IpAsync("addr del 192.168.40.12/24 dev eth1\naddr add 192.168.40.22/24 dev eth1");
        daemon2.Configure(vm2.Configuration(vm1.PeerEntry()).Replace("192.168.40.12", "192.168.40.22", StringComparison.Ordinal));
        await daemon2.StartAsync();
        await File.WriteAllTextAsync(names, "192.168.40.22 vm2.lab.example\n");
        await server.SignalAsync("HUP");
        await Poll.UntilAsync(
            "the host is found again",
            async () => (await daemon1.GetAsync("/v1/peers/vm2"))["address"]!.GetValue<string>() == "192.168.40.22",
            async () => (await daemon1.GetAsync("/v1/peers/vm2")).ToJsonString());
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        await AssertNothingLostAsync(flow, daemon1, daemon3);
    }

    [SkippableFact]
    public async Task APeerKeepsItsTrafficWhileItsOwnSubnetsGrowAndShrink()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon daemon1 = await vm1.StartDaemonAsync(vm1.Configuration());
        Daemon daemon2 = await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));
        await AddAsync(daemon1, vm2);

        await using UdpFlow flow = await UdpFlow.StartAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4));
        for (int round = 0; round < 5; round++)
        {
            (await daemon1.CtlAsync("set-peer", "vm2", "--subnet", vm2.Subnet(4), "--subnet", "172.17.60.0/24")).Succeeded();
            (await daemon1.CtlAsync("set-peer", "vm2", "--subnet", vm2.Subnet(4))).Succeeded();
        }

        await AssertNothingLostAsync(flow, daemon1, daemon2);
    }

    [SkippableFact]
    public async Task ASetPeerTakesEffectAndChangesOnlyWhatItNames()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon daemon1 = await vm1.StartDaemonAsync(vm1.Configuration());
        await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry(options: "key: {in: 5, out: 6}")));
        await AddAsync(daemon1, vm2);
        Assert.Equal(0, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);

        JsonNode before = await daemon1.CtlJsonAsync("show", "vm2");
        (await daemon1.CtlAsync("set-peer", "vm2", "--key", "6:5")).Succeeded();
        JsonNode after = await daemon1.CtlJsonAsync("show", "vm2");

        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        Assert.Equal("""{"in":6,"out":5}""", after["key"]!.ToJsonString());
        foreach (string property in new[] { "endpoint", "subnets", "encapsulation", "checksum", "sequence", "origin" })
        {
            Assert.Equal(before[property]!.ToJsonString(), after[property]!.ToJsonString());
        }
    }

    [SkippableFact]
    public async Task ARemovedPeersRoutesAreGoneAndItsPacketsRefused()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon daemon1 = await vm1.StartDaemonAsync(vm1.Configuration());
        await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));
        string before = await vm1.SnapshotAsync();
        await AddAsync(daemon1, vm2);
        Assert.Equal(3, (await vm2.Container.PingAsync(vm1.ContainerAddress(4))).Received);

        (await daemon1.CtlAsync("remove-peer", "vm2")).Succeeded();

        Assert.Equal(before, await vm1.SnapshotAsync());
        Assert.Equal(0, (await vm2.Container.PingAsync(vm1.ContainerAddress(4))).Received);
        await daemon1.WaitForDropAsync("UnknownPeer", 3);
    }

    private static async Task AddAsync(Daemon daemon, Vm peer) =>
        (await daemon.CtlAsync(
            "add-peer", peer.Name, "--endpoint", peer.Underlay(4),
            "--subnet", peer.Subnet(4), "--subnet", peer.Subnet(6), "--subnet", $"{peer.Overlay(4)}/32")).Succeeded();

    private static async Task AssertNothingLostAsync(UdpFlow flow, Daemon sender, Daemon receiver)
    {
        FlowResult result = await flow.StopAsync();
        Assert.True(
            result is { Lost: 0, Repeated: 0, Corrupt: 0 },
            $"{result}\nsender: {(await sender.GetAsync("/v1/drops")).ToJsonString()}\nreceiver: {(await receiver.GetAsync("/v1/drops")).ToJsonString()}");
    }
}
