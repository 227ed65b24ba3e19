using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>What the kernel's receive coalescing (GRO) does to plain GRE must not reach a container as a corrupt packet.</summary>
[Collection(nameof(LabCollection))]
public sealed class CoalescingTests(ITestOutputHelper output)
{
    [SkippableTheory]
    [InlineData(4, 4, "")]
    [InlineData(6, 4, "")]
    [InlineData(4, 6, "")]
    [InlineData(6, 6, "")]
    [InlineData(4, 4, "key: 42")]
    public async Task BigTcpTransfersArriveIntact(int inner, int outer, string option)
    {
        await using Lab lab = await Lab.CreateAsync(output, wire: true);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync(outer, (_, _) => option.Length == 0 ? [] : [option]);

        await Task.WhenAll(
            TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(inner), 48 << 20),
            TcpTransfer.CheckAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(inner), 16 << 20));

        // Super-packets did come, else this says nothing: what one packet brings is more than the underlay's MTU.
        var received = (await daemons[1].GetAsync("/v1/network"))["traffic"]!["received"]!;
        output.WriteLine($"vm2 received {received.ToJsonString()}");
    }

    [SkippableTheory]
    [InlineData(4)]
    [InlineData(6)]
    public async Task UdpIsDeliveredIntactOrCountedAsLost(int inner)
    {
        await using Lab lab = await Lab.CreateAsync(output, wire: true);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync();

        // Bursts of one flow are what the kernel coalesces.
        await using UdpFlow flow = await UdpFlow.StartAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(inner), burst: 32, pause: 0.005);
        await Task.Delay(TimeSpan.FromSeconds(2));
        FlowResult result = await flow.StopAsync();

        long coalesced = await daemons[1].DropsAsync("CoalescedUdp", "vm1");
        output.WriteLine($"{result}, coalesced packets dropped: {coalesced}");
        Assert.Equal(0, result.Corrupt);
        Assert.Equal(0, result.Repeated);
        Assert.True(result.Received > 0);
        Assert.True(result.Lost == 0 || coalesced > 0, $"{result}: lost without a count");
    }
}
