using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>A peer may only use the addresses that are behind it.</summary>
public sealed class SourceCheckTests(ITestOutputHelper output)
{
    [SkippableTheory]
    [InlineData(4, "198.51.100.7")]
    [InlineData(6, "2001:db8::7")]
    public async Task AnAddressThatIsNotBehindThePeerIsDroppedAndCounted(int version, string foreign)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync();

        // A container that takes an address of its own choice. Its host forwards what it sends, and so does tunneld there.
        await vm1.Container.IpAsync($"address add {foreign}/{(version == 4 ? 32 : 128)} dev lo {(version == 4 ? "" : "nodad")}");
        PingResult ping = await vm1.Container.PingAsync(vm2.ContainerAddress(version), 3, "-I", foreign);

        Assert.Equal(0, ping.Received);
        await daemons[1].WaitForDropAsync("SourceNotInPeerSubnets", 3, "vm1");
        Assert.Equal(3, await daemons[1].DropsAsync("SourceNotInPeerSubnets"));
    }

    [SkippableFact]
    public async Task NothingWithAFalseSourceReachesTheContainer()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 3);
        (Vm vm1, Vm vm2, Vm vm3) = (lab.Hosts[0], lab.Hosts[1], lab.Hosts[2]);
        Daemon[] daemons = await lab.StartMeshAsync();
        string target = vm1.ContainerAddress(4);

        // Another peer's container, the host's own, the loopback, the underlay's.
        string[] sources = [vm3.ContainerAddress(4), vm1.ContainerAddress(4), "127.0.0.1", vm2.Underlay(4), "0.0.0.0", "255.255.255.255"];
        await GreSender.SendAsync(vm2, vm1.Underlay(4), [.. sources.Select(source => Inner.Gre(Inner.Ipv4Udp(source, target)))]);
        await GreSender.SendAsync(vm2, vm1.Underlay(4), Inner.Gre(Inner.Ipv6Udp(vm3.ContainerAddress(6), vm1.ContainerAddress(6))));
        await daemons[0].WaitForDropAsync("SourceNotInPeerSubnets", sources.Length + 1, "vm2");

        // The same from the peer that it is behind passes, so that it is the source that counts.
        await GreSender.SendAsync(vm3, vm1.Underlay(4), Inner.Gre(Inner.Ipv4Udp(vm3.ContainerAddress(4), target)));
        await Poll.UntilAsync("vm3's packet is delivered", async () =>
            (await daemons[0].GetAsync("/v1/peers/vm3"))["traffic"]!["received"]!["packets"]!.GetValue<long>() == 1);
        Assert.Equal(0, (await daemons[0].GetAsync("/v1/peers/vm2"))["traffic"]!["received"]!["packets"]!.GetValue<long>());
    }
}
