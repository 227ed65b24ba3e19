using Tunnel.Control.Api;
using Tunnel.Control.Configuration;
using Tunnel.Dataplane;
using Tunnel.TestSupport;
using static Tunnel.TestSupport.FakeHostNetwork;

namespace Tunnel.Tests.Control.Encapsulations;

public sealed class DirectRouteTests
{
    private const string Network = """
        interface: {addresses: [10.0.201.1/24]}
        peers:
          vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24, "fd00:52::/64"], encapsulation: ENCAPSULATION}
        """;

    private static readonly HostRoute Direct = new(Prefix("172.17.52.0/24"), 2, 147, 0, 1500, Address("192.168.40.12")) { Source = Address("10.0.201.1") };

    private static readonly HostRoute Tunneled = new(Prefix("172.17.52.0/24"), 7, 147, 0, 0);

    [Fact]
    public async Task A_neighbour_is_reached_without_the_device_by_its_own_family()
    {
        await using ControlFixture fixture = await StartAsync("direct", isOnLink: true);
        Assert.Equal(Direct, RouteTo(fixture, "172.17.52.0/24"));
        Assert.True(fixture.HasRoute("fd00:52::/64"));
        PeerModel peer = fixture.Network.DescribePeer("vm2");
        Assert.Equal(("direct", "192.168.40.12 is a neighbour"), (peer.Encapsulation, peer.EncapsulationReason));
        Assert.Empty(peer.Problems);
        Assert.Equal(["gre"], fixture.Network.DescribeNetwork().Underlay.Accept);
    }

    [Theory]
    [InlineData("gre")]
    [InlineData("auto")]
    public async Task Nothing_else_leads_past_the_device(string encapsulation)
    {
        await using ControlFixture fixture = await StartAsync(encapsulation, isOnLink: true);
        Assert.Equal(Tunneled, RouteTo(fixture, "172.17.52.0/24"));
        Assert.Equal("gre", fixture.Network.DescribePeer("vm2").Encapsulation);
    }

    [Fact]
    public async Task The_route_follows_the_neighbour()
    {
        await using ControlFixture fixture = await StartAsync("direct", isOnLink: false);
        Assert.Equal(Tunneled, RouteTo(fixture, "172.17.52.0/24"));
        fixture.Host.Paths = _ => new HostPath(Address("192.168.40.11"), 2, 1500, IsOnLink: true);
        fixture.Host.Change((_, _, _) => { });
        await ControlFixture.EventuallyAsync(() => RouteTo(fixture, "172.17.52.0/24") == Direct);
        fixture.Host.Paths = _ => new HostPath(Address("192.168.40.11"), 2, 1500);
        fixture.Host.Change((_, _, _) => { });
        await ControlFixture.EventuallyAsync(() => RouteTo(fixture, "172.17.52.0/24") == Tunneled);
    }

    [Fact]
    public async Task What_the_kernel_refuses_goes_through_the_tunnel()
    {
        await using ControlFixture fixture = await StartAsync("direct", isOnLink: true, host => host.RefusesRoute = route => route.LinkIndex == 2);
        Assert.Equal(Tunneled, RouteTo(fixture, "172.17.52.0/24"));
        PeerModel peer = fixture.Network.DescribePeer("vm2");
        Assert.Contains("refused by the test", Assert.Single(peer.Problems), StringComparison.Ordinal);
        Assert.Equal(("gre", "the host would not take the plain route"), (peer.Encapsulation, peer.EncapsulationReason));
    }

    [Fact]
    public async Task What_an_earlier_process_left_is_taken_over_and_others_routes_are_not()
    {
        HostRoute left = Direct with { Gateway = Address("192.168.40.13") };
        HostRoute forgotten = left with { Destination = Prefix("172.17.61.0/24") };
        HostRoute other = new(Prefix("172.17.60.0/24"), 2, 147, 0, 0, Address("192.168.40.13")) { Source = Address("10.9.9.9") };
        await using ControlFixture fixture = await StartAsync("direct", isOnLink: true, host => host.Change((_, _, routes) => routes.AddRange([left, forgotten, other])));
        Assert.Equal(Direct, RouteTo(fixture, "172.17.52.0/24"));
        Assert.DoesNotContain(forgotten, fixture.Host.GetRoutes());
        await fixture.ReloadAsync("interface: {addresses: [10.0.201.1/24]}\n");
        Assert.Equal([other], fixture.Host.GetRoutes());
    }

    [Fact]
    public async Task Another_networks_plain_route_is_in_the_way()
    {
        HostRoute other = Direct with { Source = Address("10.9.9.9") };
        await using ControlFixture fixture = await StartAsync("direct", isOnLink: true, host => host.Change((_, _, routes) => routes.Add(other)));
        Assert.Equal(other, RouteTo(fixture, "172.17.52.0/24"));
        Assert.Contains("a route that tunneld did not install is in the way", Assert.Single(fixture.Network.DescribePeer("vm2").Problems), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Without_an_overlay_address_of_its_family_the_neighbour_is_reached_through_the_tunnel()
    {
        var host = new FakeHostNetwork { Paths = _ => new HostPath(Address("192.168.40.11"), 2, 1500, IsOnLink: true) };
        string yaml = Network.Replace("ENCAPSULATION", "direct", StringComparison.Ordinal).Replace("10.0.201.1/24", "\"fd00:201::1/64\"", StringComparison.Ordinal);
        await using ControlFixture fixture = await ControlFixture.StartAsync(yaml, host);
        Assert.Equal(Tunneled, RouteTo(fixture, "172.17.52.0/24"));
        Assert.Contains("no overlay address", fixture.Network.DescribePeer("vm2").EncapsulationReason, StringComparison.Ordinal);
    }

    // The kernel removes an address's routes with it, so the new one comes first.
    [Fact]
    public async Task A_changed_overlay_address_is_the_routes_new_source_before_the_old_one_goes()
    {
        await using ControlFixture fixture = await StartAsync("direct", isOnLink: true);
        await fixture.ReloadAsync(Network.Replace("ENCAPSULATION", "direct", StringComparison.Ordinal).Replace("10.0.201.1/24", "10.0.201.7/24", StringComparison.Ordinal));
        Assert.Equal(Direct with { Source = Address("10.0.201.7") }, RouteTo(fixture, "172.17.52.0/24"));
        Assert.Equal([Prefix("10.0.201.7/24")], fixture.Host.GetAddresses(7));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task At_a_real_end_it_goes_with_the_device_and_a_successor_finds_it(bool hasSuccessor)
    {
        ControlFixture fixture = await StartAsync("direct", isOnLink: true);
        fixture.Network.LeaveHost(hasSuccessor);
        await fixture.DisposeAsync();
        Assert.Equal(hasSuccessor ? Direct : Tunneled with { Mtu = 1500 }, RouteTo(fixture, "172.17.52.0/24"));
        Assert.True(fixture.HasRoute("fd00:52::/64"));
    }

    [Fact]
    public void Udp_is_received_where_auto_may_come_to_it()
    {
        string yaml = Network.Replace("ENCAPSULATION", "auto", StringComparison.Ordinal);
        Assert.Equal([Encapsulation.Gre], Read(yaml).Accepted);
        NetworkConfig allowed = Read("underlay: {allow-udp: true}\n" + yaml.Replace("192.168.40.12", "\"192.168.40.12:4755\"", StringComparison.Ordinal));
        Assert.Equal([Encapsulation.Gre, Encapsulation.GreUdp], allowed.Accepted);
        Assert.Equal(0, allowed.UdpPortOf(allowed.Peers[0]));
        Assert.Equal(4755, allowed.UdpPortOf(allowed.Peers[0], Encapsulation.GreUdp));
    }

    private static NetworkConfig Read(string yaml) => ConfigReader.Parse("tun0.yaml", System.Text.Encoding.UTF8.GetBytes(yaml)).Value!;

    private static HostRoute RouteTo(ControlFixture fixture, string prefix) =>
        Assert.Single(fixture.Host.GetRoutes(), route => route.Destination == Prefix(prefix));

    private static Task<ControlFixture> StartAsync(string encapsulation, bool isOnLink, Action<FakeHostNetwork>? prepare = null)
    {
        var host = new FakeHostNetwork { Paths = _ => new HostPath(Address("192.168.40.11"), 2, 1500, IsOnLink: isOnLink) };
        prepare?.Invoke(host);
        return ControlFixture.StartAsync(Network.Replace("ENCAPSULATION", encapsulation, StringComparison.Ordinal), host);
    }
}
