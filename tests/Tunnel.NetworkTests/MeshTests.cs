using System.Text.Json.Nodes;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>More than two hosts, and more than one network.</summary>
public sealed class MeshTests(ITestOutputHelper output)
{
    [SkippableTheory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task ThreeHostsShareOneDeviceEach(bool wire)
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 3, wire: wire);
        await lab.StartMeshAsync();

        foreach (Vm from in lab.Hosts)
        {
            foreach (Vm to in lab.Hosts.Where(to => to != from))
            {
                foreach (int inner in new[] { 4, 6 })
                {
                    PingResult ping = await from.Container.PingAsync(to.ContainerAddress(inner));
                    Assert.True(ping.Received == ping.Sent, $"{from} to {to}, IPv{inner}: {ping.Result}");
                }
            }

            JsonArray links = await from.IpJsonAsync("-d", "link", "show", "type", "tun");
            Assert.Equal("tun0", Assert.Single(links)!["ifname"]!.GetValue<string>());
        }

        (Vm vm1, Vm vm2, Vm vm3) = (lab.Hosts[0], lab.Hosts[1], lab.Hosts[2]);
        await Task.WhenAll(
            TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4), 4 << 20),
            TcpTransfer.CheckAsync(vm2.Container, vm3.Container, vm3.ContainerAddress(4), 4 << 20),
            TcpTransfer.CheckAsync(vm3.Container, vm1.Container, vm1.ContainerAddress(6), 4 << 20));
    }

    [SkippableFact]
    public async Task TheLongestPrefixWinsForTheWayAndForTheSource()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 3);
        (Vm vm1, Vm vm2, Vm vm3) = (lab.Hosts[0], lab.Hosts[1], lab.Hosts[2]);

        // vm2 stands for all containers' subnets, vm3 for its own part of them.
        const string Whole = "subnets: [172.17.0.0/16]";
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(
            $"  vm2: {{endpoint: {vm2.Underlay(4)}, {Whole}}}\n  vm3: {{endpoint: {vm3.Underlay(4)}, subnets: [{vm3.Subnet(4)}]}}\n"));
        await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry() + $"  vm3: {{endpoint: {vm3.Underlay(4)}, subnets: [{vm3.Subnet(4)}]}}\n"));
        await vm3.StartDaemonAsync(vm3.Configuration(vm1.PeerEntry()));

        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        Assert.Equal(3, (await vm1.Container.PingAsync(vm3.ContainerAddress(4))).Received);
        Assert.Equal(3, (await daemon.GetAsync("/v1/peers/vm3"))["traffic"]!["sent"]!["packets"]!.GetValue<long>());

        // cont3's address inside, but from vm2.
        await GreSender.SendAsync(vm2, vm1.Underlay(4), Inner.Gre(Inner.Ipv4Udp(vm3.ContainerAddress(4), vm1.ContainerAddress(4))));
        await daemon.WaitForDropAsync("SourceNotInPeerSubnets", peer: "vm2");
    }

    [SkippableFact]
    public async Task TwoNetworksSideBySide()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] red = await lab.StartMeshAsync(options: (_, _) => ["key: 1"]);
        string Blue(int self, int other, Vm peer) =>
            $$"""
            interface: {addresses: [10.0.202.{{self}}/24]}
            underlay: {local: 192.168.40.1{{self}}}
            peers:
              {{peer}}: {endpoint: {{peer.Underlay(4)}}, subnets: [10.0.202.{{other}}/32], key: 2}
            """;
        Daemon blue1 = await vm1.StartDaemonAsync(Blue(1, 2, vm2), "blue");
        Daemon blue2 = await vm2.StartDaemonAsync(Blue(2, 1, vm1), "blue");

        Assert.Equal(3, (await vm1.PingAsync("10.0.202.2")).Received);
        Assert.Equal(3, (await vm1.PingAsync(vm2.Overlay(4))).Received);
        Assert.Equal(3, (await blue2.GetAsync("/v1/peers/vm1"))["traffic"]!["received"]!["packets"]!.GetValue<long>());

        // One that stops takes nothing of the other's with it.
        Assert.Equal(0, await blue1.StopAsync());
        Assert.Equal(3, (await vm1.PingAsync(vm2.Overlay(4))).Received);
        Assert.True(File.Exists(red[0].SocketFile));
    }

    [SkippableFact]
    public async Task TwoNetworksOfOneHostMayNotHaveTheSamePeerEndpointAndKey()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()));

        CommandResult second = await vm1.RunDaemonAsync(
            $$"""
            interface: {addresses: [10.0.202.1/24]}
            underlay: {local: {{vm1.Underlay(4)}}}
            peers:
              other: {endpoint: {{vm2.Underlay(4)}}, subnets: [10.0.202.2/32]}
            """,
            "blue");

        Assert.Equal(1, second.ExitCode);
        string line = Assert.Single(second.Error.TrimEnd().Split('\n'));
        Assert.Contains("tun0", line, StringComparison.Ordinal);
        Assert.Contains(vm2.Underlay(4), line, StringComparison.Ordinal);
    }
}
