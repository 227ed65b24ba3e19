using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>Packets between containers on two hosts arrive, and unchanged, whatever the IP versions and the underlay's devices.</summary>
public sealed class DeliveryTests(ITestOutputHelper output)
{
    [SkippableTheory]
    [InlineData(4, 4, false)]
    [InlineData(4, 6, false)]
    [InlineData(6, 4, false)]
    [InlineData(6, 6, false)]
    [InlineData(4, 4, true)]
    [InlineData(4, 6, true)]
    [InlineData(6, 4, true)]
    [InlineData(6, 6, true)]
    public async Task EachVersionInsideEachVersion(int inner, int outer, bool wire)
    {
        await using Lab lab = await Lab.CreateAsync(output, wire: wire);
        await lab.StartMeshAsync(outer);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);

        foreach ((Vm from, Vm to) in new[] { (vm1, vm2), (vm2, vm1) })
        {
            PingResult ping = await from.Container.PingAsync(to.ContainerAddress(inner));
            Assert.Equal(ping.Sent, ping.Received);
            await TcpTransfer.CheckAsync(from.Container, to.Container, to.ContainerAddress(inner), 8 << 20);
        }
    }

    [SkippableFact]
    public async Task HostsReachContainersAndOneAnotherByTheirOverlayAddresses()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        await lab.StartMeshAsync();
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);

        foreach (int version in new[] { 4, 6 })
        {
            Assert.Equal(3, (await vm1.PingAsync(vm2.Overlay(version))).Received);
            Assert.Equal(3, (await vm1.PingAsync(vm2.ContainerAddress(version))).Received);
            Assert.Equal(3, (await vm2.Container.PingAsync(vm1.Overlay(version))).Received);

            // One less for each host that forwards between a container and the tunnel, as for any router, and none for the tunnel.
            foreach ((Node from, string to, int timeToLive) in new (Node, string, int)[]
                { (vm1, vm2.Overlay(version), 64), (vm1, vm2.ContainerAddress(version), 63), (vm1.Container, vm2.ContainerAddress(version), 62) })
            {
                Assert.Contains($" ttl={timeToLive} ", (await from.PingAsync(to, 1)).Result.Out, StringComparison.Ordinal);
            }
        }
    }
}
