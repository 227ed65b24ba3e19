using Tunnel.Control;
using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;
using static Tunnel.Tests.Control.ControlFixture;

namespace Tunnel.Tests.Control;

/// <summary>GRE-in-UDP as the control plane sees it: ports and GMTU of peers, what is received, and whose ports and senders are whose.</summary>
public sealed class GreUdpControlTests
{
    private const string NoPeers = "interface: {addresses: [10.0.201.1/24]}\nunderlay: {local: 192.168.40.11}\n";
    private const string UdpPeers =
        "underlay: {local: [192.168.40.11, 'fd00:40::11'], encapsulation: gre-udp, udp-port: 4800}\n" +
        "peers:\n  vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24]}\n  vm3: {endpoint: '[fd00:40::13]:4755', subnets: [172.17.53.0/24], key: 7}\n";

    private const string Vm2 = """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24"]}""";
    private const string UdpVm2 = """{"endpoint": "192.168.40.12:4755", "subnets": ["172.17.52.0/24"], "encapsulation": "gre-udp"}""";
    private const string UdpVm3 = """{"endpoint": "192.168.40.13", "subnets": ["172.17.53.0/24"], "encapsulation": "gre-udp"}""";

    private static readonly InetAddress Local = FakeHostNetwork.Address("192.168.40.11");

    [Fact]
    public async Task PeersGoToTheirPortsWithTheGmtuThatUdpLeaves()
    {
        var host = new FakeHostNetwork
        {
            Paths = to => new HostPath(FakeHostNetwork.Address(to.IsIpv4 ? "192.168.40.11" : "fd00:40::11"), 2, 1500),
        };
        await using ControlFixture fixture = await StartAsync(UdpPeers, host);
        PeerSettings vm2 = fixture.Receiver("172.17.52.9")!.Settings;
        PeerSettings vm3 = fixture.Receiver("172.17.53.9")!.Settings;

        // IPv4 20, UDP 8, GRE 4; IPv6 40, UDP 8, GRE with key 8.
        Assert.Equal((4800, 1500 - 32), (vm2.UdpPort, vm2.Gmtu));
        Assert.Equal((4755, 1500 - 56), (vm3.UdpPort, vm3.Gmtu));
        Assert.Equal(4755, fixture.Receiver("172.17.53.9")!.Target.UdpPort);
        Assert.Equal(1468, host.FindLink(7)!.Mtu);
        Assert.Equal((1468, "gre-udp"), (fixture.Network.DescribePeer("vm2").Gmtu, fixture.Network.DescribePeer("vm2").Encapsulation));
        Assert.Equal(["gre-udp"], fixture.Network.DescribeNetwork().Underlay.Accept);
    }

    [Fact]
    public async Task ADeviceWithoutPeersHasTheMtuOfTheNetworksEncapsulation()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers.Replace("11}", "11, encapsulation: gre-udp}", StringComparison.Ordinal));
        Assert.Equal(1468, fixture.Host.FindLink(7)!.Mtu);
        Assert.Equal((false, true), fixture.Reception.Accepted);
    }

    [Fact]
    public async Task TheTargetIsKeptWhereEndpointAndPortStay()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        await fixture.PutAsync("vm2", UdpVm2);
        Peer before = fixture.Receiver("172.17.52.9")!;
        await fixture.Network.PatchPeerAsync("vm2", Json("""{"checksum": true, "key": 3}"""));
        Peer after = fixture.Receiver("172.17.52.9")!;
        Assert.NotSame(before, after);
        Assert.Same(before.Target, after.Target);

        await fixture.Network.PatchPeerAsync("vm2", Json("""{"endpoint": "192.168.40.12:4756"}"""));
        Peer other = fixture.Receiver("172.17.52.9")!;
        Assert.NotSame(before.Target, other.Target);
        Assert.Equal(4756, other.Target.UdpPort);

        await fixture.Network.PatchPeerAsync("vm2", Json("""{"endpoint": "192.168.40.12", "encapsulation": "gre"}"""));
        Peer plain = fixture.Receiver("172.17.52.9")!;
        Assert.Equal((0, FakeHostNetwork.Address("192.168.40.12")), (plain.Target.UdpPort, plain.Target.Endpoint));
        Assert.Same(other.Sequences, plain.Sequences);

        await fixture.Network.PatchPeerAsync("vm2", Json("""{"endpoint": "192.168.40.22"}"""));
        Assert.Equal(FakeHostNetwork.Address("192.168.40.22"), fixture.Receiver("172.17.52.9")!.Target.Endpoint);
    }

    [Fact]
    public async Task WhatPeersUseIsReceived()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        await fixture.PutAsync("vm2", Vm2);
        Assert.Equal((true, false), fixture.Reception.Accepted);
        await fixture.PutAsync("vm3", UdpVm3);
        Assert.Equal((true, true), fixture.Reception.Accepted);
        await fixture.Network.RemovePeerAsync("vm2");
        Assert.Equal((false, true), fixture.Reception.Accepted);

        // Both while a peer moves from one to the other, so that nothing on its way is lost.
        fixture.Reception.History.Clear();
        await fixture.Network.PatchPeerAsync("vm3", Json("""{"encapsulation": null}"""));
        Assert.Equal([(true, true), (true, false)], fixture.Reception.History);
    }

    [Fact]
    public async Task WhatIsConfiguredIsReceivedWhateverPeersUse()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers.Replace("11}", "11, accept: [gre, gre-udp]}", StringComparison.Ordinal));
        Assert.Equal((true, true), fixture.Reception.Accepted);
        await fixture.PutAsync("vm2", Vm2);
        Assert.Equal((true, true), Assert.Single(fixture.Reception.History));
        Assert.Equal(["gre", "gre-udp"], fixture.Network.DescribeNetwork().Underlay.Accept);
    }

    [Fact]
    public async Task APortInUseTakesTheWholeChangeBack()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        await fixture.PutAsync("vm2", Vm2);
        fixture.Reception.IsPortTaken = true;
        ControlException refused = await Assert.ThrowsAsync<ControlException>(() => fixture.PutAsync("vm3", UdpVm3));
        Assert.Equal((ControlErrorKind.Conflict, "underlay.udp-port"), (refused.Kind, refused.Field));
        Assert.Equal(("UDP port 4754 is in use", "stop what has it: ss -lunp sport = 4754"), (refused.Message, refused.Hint));
        Assert.Equal((true, false), fixture.Reception.Accepted);
        Assert.Null(fixture.Receiver("172.17.53.9"));
        Assert.False(fixture.HasRoute("172.17.53.0/24"));
        Assert.Equal(["vm2.yaml"], fixture.StoredPeers);
        Assert.Empty(fixture.Claims.Ports);
        Assert.Equal(FakeHostNetwork.Address("192.168.40.12"), Assert.Single(fixture.Claims.Held).Endpoint);

        fixture.Reception.IsPortTaken = false;
        await fixture.PutAsync("vm3", UdpVm3);
        Assert.Equal((true, true), fixture.Reception.Accepted);
    }

    [Fact]
    public async Task AFailingDiskTakesTheReceptionBack()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        await fixture.PutAsync("vm2", Vm2);
        fixture.OnSync = () => throw new IOException("no space left on device");
        await Assert.ThrowsAsync<ControlException>(() => fixture.PutAsync("vm3", UdpVm3));
        Assert.Equal((true, false), fixture.Reception.Accepted);
        Assert.Empty(fixture.Claims.Ports);
    }

    [Fact]
    public async Task APortInUseStopsTheStart() =>
        await Assert.ThrowsAsync<UnderlayException>(() => StartAsync(UdpPeers, prepare: fixture => fixture.Reception.IsPortTaken = true));

    [Fact]
    public async Task SendersAreClaimedForPlainGreAndPortsForGreUdp()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        await fixture.PutAsync("vm3", UdpVm3);
        Assert.Empty(fixture.Claims.Held);
        Assert.Equal(new UdpPortClaim(Local, 4754), Assert.Single(fixture.Claims.Ports));

        // From now on each peer's packets could come as plain GRE, too.
        await fixture.PutAsync("vm2", Vm2);
        Assert.Equal(2, fixture.Claims.Held.Count);
        Assert.Single(fixture.Claims.Ports);

        await fixture.Network.RemovePeerAsync("vm3");
        Assert.Single(fixture.Claims.Held);
        Assert.Empty(fixture.Claims.Ports);
    }

    [Fact]
    public async Task BothLocalAddressesOrEveryAddressIsClaimed()
    {
        await using (ControlFixture fixture = await StartAsync(UdpPeers))
        {
            Assert.Equal(
                [new UdpPortClaim(Local, 4800), new UdpPortClaim(FakeHostNetwork.Address("fd00:40::11"), 4800)],
                fixture.Claims.Ports);
        }

        await using ControlFixture any = await StartAsync("underlay: {interface: eth0, encapsulation: gre-udp}");
        Assert.Equal(new UdpPortClaim(InetAddress.None, 4754), Assert.Single(any.Claims.Ports));
    }

    [Fact]
    public async Task AGreUdpPeerIsNoClashForAPlainOneOfAnotherNetwork()
    {
        var claims = new FakeClaims();
        claims.Foreign.Add(new EndpointClaim(Local, FakeHostNetwork.Address("192.168.40.13"), null));
        await using ControlFixture fixture = await StartAsync(NoPeers, claims: claims);
        await fixture.PutAsync("vm3", UdpVm3);
        Assert.True(fixture.HasRoute("172.17.53.0/24"));

        // It is one once plain GRE is received: the other network's packets come in here as well.
        ControlException refused = await Assert.ThrowsAsync<ControlException>(() => fixture.PutAsync("vm2", Vm2));
        Assert.Equal((ControlErrorKind.Conflict, "endpoint"), (refused.Kind, refused.Field));
        Assert.Empty(fixture.Claims.Held);
    }

    [Fact]
    public async Task AnotherNetworksPortRefusesTheChangeAndNamesIt()
    {
        var claims = new FakeClaims();
        claims.ForeignPorts.Add(new UdpPortClaim(InetAddress.None, 4754));
        await using ControlFixture fixture = await StartAsync(NoPeers, claims: claims);
        await fixture.PutAsync("vm2", Vm2);
        ControlException refused = await Assert.ThrowsAsync<ControlException>(() => fixture.PutAsync("vm3", UdpVm3));
        Assert.Equal((ControlErrorKind.Conflict, "underlay.udp-port"), (refused.Kind, refused.Field));
        Assert.Equal("UDP port 4754 of 192.168.40.11 is already used by network tun9 (tunneld, pid 9) in this network namespace", refused.Message);
        Assert.Contains("underlay.udp-port", refused.Hint, StringComparison.Ordinal);
        Assert.Equal(FakeHostNetwork.Address("192.168.40.12"), Assert.Single(fixture.Claims.Held).Endpoint);
        Assert.Equal((true, false), fixture.Reception.Accepted);
    }

    [Theory]
    [InlineData("192.168.40.11", 4754, "192.168.40.11", 4754, true)]
    [InlineData("192.168.40.11", 4754, null, 4754, true)]
    [InlineData(null, 4754, "fd00::1", 4754, true)]
    [InlineData(null, 4754, null, 4754, true)]
    [InlineData("192.168.40.11", 4754, "192.168.40.12", 4754, false)]
    [InlineData("192.168.40.11", 4754, "192.168.40.11", 4755, false)]
    [InlineData(null, 4754, null, 4755, false)]
    public void PortsOverlapWhereADatagramCouldBeForBoth(string? one, int onePort, string? other, int otherPort, bool overlaps)
    {
        UdpPortClaim first = Claim(one, onePort);
        UdpPortClaim second = Claim(other, otherPort);
        Assert.Equal((overlaps, overlaps), (first.Overlaps(second), second.Overlaps(first)));
    }

    [Fact]
    public async Task PeersThatDifferInPortOnlyAreNotToldApart()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        await fixture.PutAsync("vm2", UdpVm2);
        const string Twin = """{"endpoint": "192.168.40.12", "subnets": ["172.17.53.0/24"]}""";
        ControlException refused = await Assert.ThrowsAsync<ControlException>(() => fixture.PutAsync("vm3", Twin));
        Assert.Equal((ControlErrorKind.Conflict, "endpoint"), (refused.Kind, refused.Field));
    }

    [Theory]
    [InlineData("udp-port: 4755", "underlay.udp-port")]
    [InlineData("source-port: 50000", "underlay.source-port")]
    public async Task ReloadRefusesNewPorts(string setting, string field)
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        ControlException refused = await Assert.ThrowsAsync<ControlException>(
            () => fixture.ReloadAsync(NoPeers.Replace("11}", $"11, {setting}}}", StringComparison.Ordinal)));
        Assert.Equal((ControlErrorKind.Conflict, field), (refused.Kind, refused.Field));
        Assert.Contains("systemctl restart tunneld@tun0", refused.Hint, StringComparison.Ordinal);
    }

    private static UdpPortClaim Claim(string? local, int port) =>
        new(local is null ? InetAddress.None : FakeHostNetwork.Address(local), (ushort)port);
}
