using System.Net;
using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.Wire;

namespace Tunnel.NetworkTests.Linux;

public sealed class HostNeighborsTests
{
    private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(10);

    [SkippableFact]
    public void NextHopsAreThoseOfTheRoutes()
    {
        using var lab = new PathLab();
        using HostNeighbors host = lab.OpenNeighbors();
        lab.Here.Ip("tuntap add tun9 mode tun");
        lab.Here.Ip("link set tun9 up");
        lab.Here.Ip("route add 10.1.0.0/16 via 192.168.40.12");
        lab.Here.Ip("route add 10.2.0.0/16 via inet6 fe80::1 dev eth0");
        lab.Here.Ip("route add unreachable 10.3.0.0/16");
        lab.Here.Ip("route add 10.4.0.0/16 dev tun9");
        lab.Here.Ip("route add 10.5.0.0/16 nexthop via 192.168.40.20 nexthop via 192.168.40.21");
        lab.Here.Ip("nexthop add id 7 via 192.168.40.30 dev eth0");
        lab.Here.Ip("route add 10.6.0.0/16 nhid 7");

        InetAddress none = InetAddress.None;
        string[] destinations =
            ["192.168.40.12", "10.1.0.1", "10.2.0.1", "10.3.0.1", "10.4.0.1", "10.6.0.1", "192.168.40.11", "203.0.113.1", "192.168.40.255"];
        IReadOnlyList<HostNextHop?> hops = host.GetNextHops([.. destinations.Select(destination => (Address(destination), none))]);
        Assert.Equal(new HostNextHop(lab.Link, "eth0", IsEthernet: true, PathLab.Vm2, CarriesUdpTunnels: true, CarriesGre: true), hops[0]);
        Assert.Equal(new HostNextHop(lab.Link, "eth0", IsEthernet: true, PathLab.Vm2, CarriesUdpTunnels: true, CarriesGre: true), hops[1]);
        Assert.Equal(new HostNextHop(lab.Link, "eth0", IsEthernet: true, none, CarriesUdpTunnels: true, CarriesGre: true), hops[2]);
        Assert.Null(hops[3]);
        Assert.Equal(("tun9", false), (hops[4]!.LinkName, hops[4]!.IsEthernet));
        Assert.Equal(Address("192.168.40.30"), hops[5]!.Address);
        Assert.Equal(("lo", false), (hops[6]!.LinkName, hops[6]!.IsEthernet));
        Assert.Null(hops[7]);
        Assert.Null(hops[8]);

        Assert.Contains(
            Assert.Single(host.GetNextHops([(Address("10.5.0.1"), PathLab.Vm1)]))!.Address,
            new[] { Address("192.168.40.20"), Address("192.168.40.21") });
        Assert.Null(Assert.Single(host.GetNextHops([(PathLab.Vm2, Address("192.168.40.99"))])));
    }

    [SkippableFact]
    public void ARouteBySourceIsFound()
    {
        using var lab = new PathLab();
        using HostNeighbors host = lab.OpenNeighbors();
        lab.Here.Ip("address add 192.168.40.15/24 dev eth0");
        lab.Here.Ip("route add 10.1.0.0/16 via 192.168.40.12 table 100");
        lab.Here.Ip("rule add from 192.168.40.15 lookup 100");
        Assert.Null(Assert.Single(host.GetNextHops([(Address("10.1.0.1"), PathLab.Vm1)])));
        Assert.Equal(PathLab.Vm2, Assert.Single(host.GetNextHops([(Address("10.1.0.1"), Address("192.168.40.15"))]))!.Address);
    }

    [SkippableFact]
    public void ARouteThatEncapsulatesHasNoNeighbor()
    {
        using var lab = new PathLab();
        using HostNeighbors host = lab.OpenNeighbors();
        try
        {
            lab.Here.Ip("route add 10.1.0.0/16 encap ip id 1 dst 192.168.40.12 dev eth0");
        }
        catch (Xunit.Sdk.XunitException)
        {
            Skip.If(true, "the kernel has no lightweight tunnels");
        }

        Assert.Equal(InetAddress.None, Assert.Single(host.GetNextHops([(Address("10.1.0.1"), InetAddress.None)]))!.Address);
    }

    [SkippableFact]
    public async Task ANeighborThatIsUsedIsFoundAndTold()
    {
        using var lab = new PathLab();
        using HostNeighbors host = lab.OpenNeighbors();
        Assert.Empty(host.GetNeighbors());

        host.UseNeighbor(lab.Link, PathLab.Vm2);
        var expected = new HostNeighbor(lab.Link, PathLab.Vm2, lab.Mac, IsUsable: true, IsStale: false);
        Assert.Equal(expected, await ToldAsync(host, neighbor => neighbor.IsUsable));
        Assert.Equal(expected, Assert.Single(host.GetNeighbors()));

        lab.Here.Ip("neigh change 192.168.40.12 dev eth0 nud stale");
        Assert.Equal(expected with { IsStale = true }, await ToldAsync(host, neighbor => neighbor.IsStale));

        // It has another address now: nobody answers at the old one, and who is used next is asked for anew.
        lab.There.Ip("link set eth0 address 02:00:00:00:77:01");
        lab.Here.Ip("neigh change 192.168.40.12 dev eth0 nud probe");
        await ToldAsync(host, neighbor => !neighbor.IsUsable);
        host.UseNeighbor(lab.Link, PathLab.Vm2);
        HostNeighbor moved = await ToldAsync(host, neighbor => neighbor is { IsUsable: true, LinkAddress: 0x020000007701 });
        Assert.Equal(PathLab.Vm2, moved.Address);

        lab.Here.Ip("neigh del 192.168.40.12 dev eth0");
        Assert.False((await ToldAsync(host, neighbor => !neighbor.IsUsable)).IsStale);
        lab.Here.Ip("neigh add 192.168.40.12 lladdr 02:00:00:00:77:02 dev eth0 nud permanent");
        Assert.Equal(0x020000007702ul, (await ToldAsync(host, neighbor => neighbor.IsUsable)).LinkAddress);
    }

    [SkippableFact]
    public async Task ANeighborThatDoesNotAnswerIsNotUsable()
    {
        using var lab = new PathLab();
        using HostNeighbors host = lab.OpenNeighbors();
        host.UseNeighbor(lab.Link, Address("192.168.40.99"));
        HostNeighbor told = await ToldAsync(host, neighbor => neighbor.Address == Address("192.168.40.99"));
        Assert.False(told.IsUsable);
        Assert.Throws<HostNetworkException>(() => host.UseNeighbor(4711, PathLab.Vm2));
    }

    [SkippableFact]
    public async Task WhatOverflowsTheQueueIsToldAsLost()
    {
        using var lab = new PathLab();
        using HostNeighbors host = lab.OpenNeighbors();

        // The list of changes is bounded, and nobody reads it meanwhile.
        lab.Shell("for i in $(seq 0 5000); do echo neigh replace 192.168.$((40 + i / 250)).$((i % 250)) lladdr 02:00:00:00:00:01 dev eth0; done | ip -batch -");
        Task<IReadOnlyList<HostNeighbor>?> changes = host.ReadNeighborChangesAsync(CancellationToken.None);
        Assert.Null(await changes.WaitAsync(Deadline));
    }

    [SkippableTheory]
    [InlineData("route add 10.9.0.0/16 via 192.168.40.12")]
    [InlineData("address add 192.168.40.15/24 dev eth0")]
    [InlineData("rule add from 192.168.40.15 lookup 100")]
    [InlineData("link set eth0 down")]
    [InlineData("nexthop replace id 7 via 192.168.40.31 dev eth0")]
    public async Task RouteChangesAreToldAndNeighborsAreNot(string change)
    {
        using var lab = new PathLab();
        lab.Here.Ip("nexthop add id 7 via 192.168.40.30 dev eth0");
        lab.Here.Ip("route add 10.6.0.0/16 nhid 7");
        using HostNeighbors host = lab.OpenNeighbors();
        await QuietAsync(host);
        Task told = host.WaitForRouteChangeAsync(CancellationToken.None);
        lab.Here.Ip("neigh add 192.168.40.12 lladdr 02:00:00:00:77:02 dev eth0 nud permanent");
        await ToldAsync(host, neighbor => neighbor.IsUsable);
        Assert.False(told.IsCompleted);
        lab.Here.Ip(change);
        await told.WaitAsync(Deadline);
    }

    [SkippableTheory]
    [InlineData("tx-udp_tnl-segmentation")]
    [InlineData("tx-udp_tnl-csum-segmentation")]
    public async Task ALinksFeaturesAreReadAndTold(string feature)
    {
        using var lab = new PathLab();
        using HostNeighbors host = lab.OpenNeighbors();
        Assert.True(Assert.Single(host.GetNextHops([(PathLab.Vm2, PathLab.Vm1)]))!.CarriesUdpTunnels);
        foreach (bool isOn in new[] { false, true })
        {
            await QuietAsync(host);
            lab.Shell($"ethtool -K eth0 {feature} {(isOn ? "on" : "off")}");
            await host.WaitForRouteChangeAsync(CancellationToken.None).WaitAsync(Deadline);
            Assert.Equal(isOn, Assert.Single(host.GetNextHops([(PathLab.Vm2, PathLab.Vm1)]))!.CarriesUdpTunnels);
        }

        Assert.False(Assert.Single(host.GetNextHops([(PathLab.Vm1, PathLab.Vm1)]))!.CarriesUdpTunnels);
        lab.Shell("ethtool -K eth0 tx-gre-segmentation off");
        Assert.False(Assert.Single(host.GetNextHops([(PathLab.Vm2, PathLab.Vm1)]))!.CarriesGre);
    }

    private static async Task<HostNeighbor> ToldAsync(HostNeighbors host, Predicate<HostNeighbor> condition)
    {
        using var deadline = new CancellationTokenSource(Deadline);
        while (true)
        {
            IReadOnlyList<HostNeighbor> changes = await host.ReadNeighborChangesAsync(deadline.Token) ?? [];
            if (changes.FirstOrDefault(change => condition(change)) is HostNeighbor found)
            {
                return found;
            }
        }
    }

    // A link that has just come up is told of a little later.
    private static async Task QuietAsync(HostNeighbors host)
    {
        while (true)
        {
            using var silence = new CancellationTokenSource(TimeSpan.FromMilliseconds(300));
            try
            {
                await host.WaitForRouteChangeAsync(silence.Token);
            }
            catch (OperationCanceledException)
            {
                return;
            }
        }
    }

    private static InetAddress Address(string text) => InetAddress.From(IPAddress.Parse(text));
}
