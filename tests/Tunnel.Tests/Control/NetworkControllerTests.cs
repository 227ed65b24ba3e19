using System.Text.Json;
using Tunnel.Control;
using Tunnel.Control.Api;
using Tunnel.Control.Configuration;
using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;
using static Tunnel.Tests.Control.ControlFixture;

namespace Tunnel.Tests.Control;

public sealed class NetworkControllerTests
{
    private const string NoPeers = "interface: {addresses: [10.0.201.1/24]}\nunderlay: {local: 192.168.40.11}\n";
    private const string OnePeer = NoPeers + "peers:\n  vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24]}\n";
    private const string Vm2 = """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24"]}""";
    private const string Vm3 = """{"endpoint": "192.168.40.13", "subnets": ["172.17.53.0/24"]}""";

    [Fact]
    public async Task StartMakesDeviceAddressRouteAndClaim()
    {
        await using ControlFixture fixture = await StartAsync(OnePeer);
        HostLink link = fixture.Host.FindLink("tun0")!;
        Assert.True(link.IsUp);
        Assert.Equal(1476, link.Mtu);
        Assert.Equal(FakeHostNetwork.Prefix("10.0.201.1/24"), Assert.Single(fixture.Host.GetAddresses(7)));
        Assert.True(fixture.HasRoute("172.17.52.0/24"));
        Assert.Equal("vm2", fixture.Receiver("172.17.52.9")!.Settings.Name);
        Assert.Equal(new EndpointClaim(FakeHostNetwork.Address("192.168.40.11"), FakeHostNetwork.Address("192.168.40.12"), null), Assert.Single(fixture.Claims.Held));
    }

    [Fact]
    public async Task StopRemovesRoutesAddressesAndClaims()
    {
        ControlFixture fixture = await StartAsync(OnePeer);
        await fixture.DisposeAsync();
        Assert.Empty(fixture.Host.GetRoutes());
        Assert.Empty(fixture.Host.GetAddresses(7));
        Assert.Empty(fixture.Claims.Held);
    }

    [Fact]
    public async Task PutStoresRoutesAndPublishesAndDeleteUndoesIt()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        Assert.True(await fixture.PutAsync("vm2", Vm2));
        Assert.True(fixture.HasRoute("172.17.52.0/24"));
        Assert.Equal("vm2", fixture.Receiver("172.17.52.9")!.Settings.Name);
        Assert.Equal(["vm2.yaml"], fixture.StoredPeers);

        await fixture.Network.RemovePeerAsync("vm2");
        Assert.False(fixture.HasRoute("172.17.52.0/24"));
        Assert.Null(fixture.Receiver("172.17.52.9"));
        Assert.Empty(fixture.StoredPeers);
        Assert.Empty(fixture.Claims.Held);
    }

    [Fact]
    public async Task EphemeralPeersAreNotStoredAndSurviveReload()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        await fixture.PutAsync("vm2", """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24"], "ephemeral": true}""");
        Assert.Empty(fixture.StoredPeers);
        await fixture.Network.ReloadAsync();
        Assert.Equal("ephemeral", fixture.Network.DescribePeer("vm2").Origin);
        Assert.True(fixture.HasRoute("172.17.52.0/24"));
    }

    [Fact]
    public async Task CreatingAPeerThatExistsIsAConflict()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        await fixture.PutAsync("vm2", Vm2);
        ControlException refused = await Assert.ThrowsAsync<ControlException>(() => fixture.PutAsync("vm2", Vm3));
        Assert.Equal(ControlErrorKind.Conflict, refused.Kind);
        Assert.Contains("set-peer vm2", refused.Hint, StringComparison.Ordinal);
        Assert.False(await fixture.PutAsync("vm2", Vm3, createOnly: false));
        Assert.False(fixture.HasRoute("172.17.52.0/24"));
        Assert.True(fixture.HasRoute("172.17.53.0/24"));
    }

    [Fact]
    public async Task PeersOfTheFileAreNotChangedByCommand()
    {
        await using ControlFixture fixture = await StartAsync(OnePeer);
        foreach (Func<Task> change in (Func<Task>[])
            [
                () => fixture.PutAsync("vm2", Vm3, createOnly: false),
                () => fixture.Network.PatchPeerAsync("vm2", Json("""{"checksum": true}""")),
                () => fixture.Network.RemovePeerAsync("vm2"),
            ])
        {
            ControlException refused = await Assert.ThrowsAsync<ControlException>(change);
            Assert.Equal(ControlErrorKind.Conflict, refused.Kind);
            Assert.Contains("reload", refused.Hint, StringComparison.Ordinal);
        }

        Assert.True(fixture.HasRoute("172.17.52.0/24"));
    }

    [Fact]
    public async Task AForeignRouteRefusesThePeerAndStays()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        var foreign = new HostRoute(FakeHostNetwork.Prefix("172.17.52.0/24"), 2, 4, 100, 0);
        fixture.Host.Change((_, _, routes) => routes.Add(foreign));
        ControlException refused = await Assert.ThrowsAsync<ControlException>(() => fixture.PutAsync("vm2", Vm2));
        Assert.Equal(ControlErrorKind.Conflict, refused.Kind);
        Assert.Equal("subnets", refused.Field);
        Assert.Contains("eth0", refused.Message, StringComparison.Ordinal);
        Assert.Equal([foreign], fixture.Host.GetRoutes());
        Assert.Empty(fixture.StoredPeers);
        Assert.Empty(fixture.Claims.Held);
        Assert.Null(fixture.Receiver("172.17.52.9"));
    }

    [Fact]
    public async Task AForeignRouteAtStartIsAProblemUntilItGoes()
    {
        var host = new FakeHostNetwork();
        var foreign = new HostRoute(FakeHostNetwork.Prefix("172.17.52.0/24"), 2, 4, 0, 0);
        host.Change((_, _, routes) => routes.Add(foreign));
        await using ControlFixture fixture = await StartAsync(OnePeer, host);
        Assert.Equal([foreign], host.GetRoutes());
        Assert.Contains(fixture.Network.DescribeNetwork().Problems, problem => problem.Contains("172.17.52.0/24", StringComparison.Ordinal));
        Assert.False(fixture.Network.DescribeRoutes().Single().Installed);

        host.Change((_, _, routes) => routes.Remove(foreign));
        await EventuallyAsync(() => fixture.HasRoute("172.17.52.0/24"));
        await EventuallyAsync(() => fixture.Network.DescribeNetwork().Problems.Count == 0);
    }

    [Fact]
    public async Task AFailingDiskTakesTheWholeChangeBack()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        fixture.OnSync = () => throw new IOException("no space left on device");
        ControlException refused = await Assert.ThrowsAsync<ControlException>(() => fixture.PutAsync("vm2", Vm2));
        Assert.Equal(ControlErrorKind.Failed, refused.Kind);
        Assert.False(fixture.HasRoute("172.17.52.0/24"));
        Assert.Null(fixture.Receiver("172.17.52.9"));
        Assert.Empty(fixture.StoredPeers);
        Assert.Empty(fixture.Claims.Held);
    }

    [Fact]
    public async Task ARouteThatTheKernelRefusesTakesTheWholeChangeBack()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        fixture.Host.RefusesRoute = route => route.Destination == FakeHostNetwork.Prefix("172.17.54.0/24");
        const string TwoSubnets = """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24", "172.17.54.0/24"]}""";
        await Assert.ThrowsAsync<ControlException>(() => fixture.PutAsync("vm2", TwoSubnets));
        Assert.Empty(fixture.Host.GetRoutes());
        Assert.Empty(fixture.StoredPeers);
    }

    [Fact]
    public async Task AClaimOfAnotherNetworkRefusesThePeer()
    {
        var claims = new FakeClaims();
        claims.Foreign.Add(new EndpointClaim(FakeHostNetwork.Address("192.168.40.11"), FakeHostNetwork.Address("192.168.40.12"), null));
        await using ControlFixture fixture = await StartAsync(NoPeers, claims: claims);
        ControlException refused = await Assert.ThrowsAsync<ControlException>(() => fixture.PutAsync("vm2", Vm2));
        Assert.Equal(ControlErrorKind.Conflict, refused.Kind);
        Assert.Contains("tun9", refused.Message, StringComparison.Ordinal);
        Assert.False(fixture.HasRoute("172.17.52.0/24"));
        await fixture.PutAsync("vm2", """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24"], "key": 7}""");
        Assert.True(fixture.HasRoute("172.17.52.0/24"));
    }

    [Fact]
    public async Task AClaimOfAnotherNetworkStopsTheStart()
    {
        var claims = new FakeClaims();
        claims.Foreign.Add(new EndpointClaim(FakeHostNetwork.Address("192.168.40.11"), FakeHostNetwork.Address("192.168.40.12"), null));
        await Assert.ThrowsAsync<ClaimConflictException>(() => StartAsync(OnePeer, claims: claims));
    }

    [Fact]
    public async Task WhatOthersDeleteIsPutBack()
    {
        await using ControlFixture fixture = await StartAsync(OnePeer);
        fixture.Host.Change((_, _, routes) => routes.Clear());
        await EventuallyAsync(() => fixture.HasRoute("172.17.52.0/24"));
        fixture.Host.Change((_, addresses, _) => addresses.RemoveAll(entry => entry.Link == 7));
        await EventuallyAsync(() => fixture.Host.GetAddresses(7).Count == 1);
        fixture.Host.Change((links, _, routes) =>
        {
            links[1] = links[1] with { IsUp = false };
            routes.Clear();
        });
        await EventuallyAsync(() => fixture.HasRoute("172.17.52.0/24") && fixture.Host.FindLink(7)!.IsUp);
    }

    [Fact]
    public async Task WhatOthersKeepDeletingIsLeftAloneForAWhile()
    {
        await using ControlFixture fixture = await StartAsync(OnePeer);
        for (int i = 0; i < 3; i++)
        {
            fixture.Host.Change((_, _, routes) => routes.Clear());
            await EventuallyAsync(() => fixture.HasRoute("172.17.52.0/24"));
        }

        fixture.Host.Change((_, _, routes) => routes.Clear());
        await EventuallyAsync(() => fixture.Network.DescribeRoutes().Single().Problem?.Contains("keeps deleting", StringComparison.Ordinal) == true);
        Assert.False(fixture.HasRoute("172.17.52.0/24"));
        await EventuallyAsync(() => fixture.HasRoute("172.17.52.0/24"));
    }

    [Fact]
    public async Task RoutesOfOthersOnOurDeviceAndElsewhereAreNeverTouched()
    {
        await using ControlFixture fixture = await StartAsync(OnePeer);
        HostRoute[] others =
        [
            new(FakeHostNetwork.Prefix("10.0.201.0/24"), 7, 2, 0, 0),
            new(FakeHostNetwork.Prefix("192.168.99.0/24"), 7, 3, 0, 0),
            new(FakeHostNetwork.Prefix("172.17.53.0/24"), 2, 147, 0, 0),
        ];
        fixture.Host.Change((_, _, routes) => routes.AddRange(others));
        await fixture.PutAsync("vm4", """{"endpoint": "192.168.40.14", "subnets": ["172.17.54.0/24"]}""");
        await fixture.Network.RemovePeerAsync("vm4");
        Assert.Subset(fixture.Host.GetRoutes().ToHashSet(), others.ToHashSet());
    }

    [Fact]
    public async Task APathThatChangesIsFollowedAndKeepsTheCounters()
    {
        await using ControlFixture fixture = await StartAsync(OnePeer);
        Peer before = fixture.Receiver("172.17.52.9")!;
        before.Counters[0].CountSent(1, 100);
        fixture.Host.Paths = _ => new HostPath(FakeHostNetwork.Address("192.168.40.99"), 2, 1400);
        fixture.Host.Change((_, _, _) => { });
        await EventuallyAsync(() => fixture.Receiver("172.17.52.9")!.Settings.Local == FakeHostNetwork.Address("192.168.40.99"));
        Peer after = fixture.Receiver("172.17.52.9")!;
        Assert.Equal(1376, after.Settings.Gmtu);
        Assert.Equal(100, after.Counters[0].SentBytes);
        Assert.Same(before.Sequences, after.Sequences);
        Assert.Equal(1376, fixture.Host.FindLink(7)!.Mtu);
        Assert.Equal(FakeHostNetwork.Address("192.168.40.99"), Assert.Single(fixture.Claims.Held).Local);
    }

    [Fact]
    public async Task ALesserGmtuIsSaidByTheRouteAndNotByTheDevice()
    {
        await using ControlFixture fixture = await StartAsync(OnePeer);
        await fixture.PutAsync("vm3", """{"endpoint": "192.168.40.13", "subnets": ["172.17.53.0/24"], "key": 5, "checksum": true}""");
        Assert.Equal(1476, fixture.Host.FindLink(7)!.Mtu);
        Dictionary<IpPrefix, int> mtus = fixture.Host.GetRoutes().ToDictionary(route => route.Destination, route => route.Mtu);
        Assert.Equal(0, mtus[FakeHostNetwork.Prefix("172.17.52.0/24")]);
        Assert.Equal(1468, mtus[FakeHostNetwork.Prefix("172.17.53.0/24")]);
    }

    // V3: the kernel takes IPv6 off a device that has less, and refuses a route that says so.
    [Theory]
    [InlineData("172.17.53.0/24", 876, 0)]
    [InlineData("fd00:53::/64", 1280, 0)]
    public async Task WithIpv6TheDeviceHas1280BytesWhateverThePathTakes(string subnet, int deviceMtu, int routeMtu)
    {
        var host = new FakeHostNetwork { Paths = _ => new HostPath(FakeHostNetwork.Address("192.168.40.11"), 2, 900) };
        await using ControlFixture fixture = await StartAsync(OnePeer, host);
        await fixture.PutAsync("vm3", $$"""{"endpoint": "192.168.40.13", "subnets": ["{{subnet}}"]}""");
        Assert.Equal(deviceMtu, host.FindLink(7)!.Mtu);
        Dictionary<IpPrefix, int> mtus = host.GetRoutes().ToDictionary(route => route.Destination, route => route.Mtu);
        Assert.Equal(deviceMtu == 876 ? 0 : 876, mtus[FakeHostNetwork.Prefix("172.17.52.0/24")]);
        Assert.Equal(routeMtu, mtus[FakeHostNetwork.Prefix(subnet)]);
        Assert.Equal(deviceMtu, fixture.Network.DescribeRoutes().Single(route => route.Prefix == subnet).Mtu);
    }

    [Fact]
    public async Task AnIpv6RouteNeverSaysLessThan1280()
    {
        var host = new FakeHostNetwork
        {
            Paths = to => new HostPath(FakeHostNetwork.Address("192.168.40.11"), 2, to == FakeHostNetwork.Address("192.168.40.12") ? 1500 : 900),
        };
        await using ControlFixture fixture = await StartAsync(OnePeer, host);
        await fixture.PutAsync("vm3", """{"endpoint": "192.168.40.13", "subnets": ["172.17.53.0/24", "fd00:53::/64"]}""");
        Assert.Equal(1476, host.FindLink(7)!.Mtu);
        Dictionary<IpPrefix, int> mtus = host.GetRoutes().ToDictionary(route => route.Destination, route => route.Mtu);
        Assert.Equal(876, mtus[FakeHostNetwork.Prefix("172.17.53.0/24")]);
        Assert.Equal(1280, mtus[FakeHostNetwork.Prefix("fd00:53::/64")]);
        Assert.Equal(
            [876, 1280], fixture.Network.DescribeRoutes().Where(route => route.Peer == "vm3").OrderBy(route => route.Mtu).Select(route => route.Mtu));
    }

    [Fact]
    public async Task AnUnreachablePeerIsAProblemOfItsOwn()
    {
        var host = new FakeHostNetwork { Paths = _ => null };
        await using ControlFixture fixture = await StartAsync(OnePeer, host);
        Assert.Contains("no route", Assert.Single(fixture.Network.DescribePeer("vm2").Problems), StringComparison.Ordinal);
        Assert.False(fixture.Receiver("172.17.52.9")!.IsReady);
        host.Paths = _ => new HostPath(FakeHostNetwork.Address("192.168.40.11"), 2, 1500);
        host.Change((_, _, _) => { });
        await EventuallyAsync(() => fixture.Receiver("172.17.52.9")!.IsReady && fixture.Network.DescribePeer("vm2").Problems.Count == 0);
    }

    [Fact]
    public async Task AnEndpointBehindTheTunnelItselfIsNotUsed()
    {
        var host = new FakeHostNetwork { Paths = _ => new HostPath(FakeHostNetwork.Address("10.0.201.1"), 7, 1476) };
        await using ControlFixture fixture = await StartAsync(OnePeer, host);
        Assert.Contains("tunnel itself", Assert.Single(fixture.Network.DescribePeer("vm2").Problems), StringComparison.Ordinal);
        Assert.False(fixture.Receiver("172.17.52.9")!.IsReady);
    }

    // I7
    [Fact]
    public async Task AnEndpointWhoseRouteComesToLeadIntoTheTunnelIsNotUsedUntilItLeadsElsewhere()
    {
        var host = new FakeHostNetwork();
        await using ControlFixture fixture = await StartAsync(OnePeer, host);
        Assert.True(fixture.Receiver("172.17.52.9")!.IsReady);

        host.Paths = _ => new HostPath(FakeHostNetwork.Address("10.0.201.1"), 7, 1476);
        host.Change((_, _, _) => { });
        await EventuallyAsync(() => !fixture.Receiver("172.17.52.9")!.IsReady);
        await EventuallyAsync(() => fixture.Network.DescribePeer("vm2").Problems.Count == 1);
        Assert.Contains("tunnel itself", fixture.Network.DescribePeer("vm2").Problems[0], StringComparison.Ordinal);

        host.Paths = _ => new HostPath(FakeHostNetwork.Address("192.168.40.11"), 2, 1500);
        host.Change((_, _, _) => { });
        await EventuallyAsync(() => fixture.Receiver("172.17.52.9")!.IsReady && fixture.Network.DescribePeer("vm2").Problems.Count == 0);
    }

    // F1: what routers say of the path is heeded, unless it is turned off; over IPv6 it always is.
    [Theory]
    [InlineData("192.168.40.12", true, 1276)]
    [InlineData("192.168.40.12", false, 1476)]
    [InlineData("fd00:40::12", true, 1256)]
    [InlineData("fd00:40::12", false, 1256)]
    public async Task WithoutPathMtuDiscoveryTheGmtuIsTheDevices(string endpoint, bool pmtud, int gmtu)
    {
        var host = new FakeHostNetwork { Paths = to => new HostPath(FakeHostNetwork.Address(to.IsIpv4 ? "192.168.40.11" : "fd00:40::11"), 2, 1500, LearntMtu: 1300) };
        string yaml = $"peers:\n  vm2: {{endpoint: \"{endpoint}\", subnets: [172.17.52.0/24], pmtud: {(pmtud ? "true" : "false")}}}\n";
        await using ControlFixture fixture = await StartAsync(yaml, host);
        Assert.Equal(gmtu, fixture.Receiver("172.17.52.9")!.Gmtu);
        Assert.Equal(gmtu, fixture.Network.DescribePeer("vm2").Gmtu);
    }

    // localhost has an address at once, and it can't be an endpoint.
    [Fact]
    public async Task ANameOfNoUseIsNotResolvedWithoutPause()
    {
        int looks = 0;
        var host = new FakeHostNetwork
        {
            Paths = _ =>
            {
                Interlocked.Increment(ref looks);
                return new HostPath(FakeHostNetwork.Address("192.168.40.11"), 2, 1500);
            },
        };
        await using ControlFixture fixture = await StartAsync("""
            peers:
              vm2: {endpoint: localhost, subnets: [172.17.52.0/24]}
              vm3: {endpoint: 192.168.40.13, subnets: [172.17.53.0/24]}
            """, host);
        await Task.Delay(TimeSpan.FromMilliseconds(500));
        Assert.InRange(looks, 1, 10);
    }

    // The first never answers, and must; the second is never asked.
    [Fact]
    public async Task TheRoutesOfAPeerThatIsDownAreWithdrawnWhereItSaysSo()
    {
        await using ControlFixture fixture = await StartAsync("""
            peers:
              first: {endpoint: 192.168.40.12, subnets: [172.17.60.0/24, 172.17.61.0/24], keepalive: 100ms, on-down: withdraw}
              second: {endpoint: 192.168.40.13, subnets: [172.17.60.0/24], keepalive: off, on-down: withdraw}
            """);
        Assert.Equal("first", fixture.Receiver("172.17.60.9")!.Settings.Name);
        Assert.True(fixture.HasRoute("172.17.61.0/24"));

        await ControlFixture.EventuallyAsync(() => fixture.Receiver("172.17.60.9")!.Settings.Name == "second" && !fixture.HasRoute("172.17.61.0/24"));
        Assert.True(fixture.HasRoute("172.17.60.0/24"));
        Assert.Equal("down", fixture.Network.DescribePeer("first").State);
        Assert.Equal(
            [("first", "withdrawn: the peer is down"), ("second", null), ("first", "withdrawn: the peer is down")],
            fixture.Network.DescribeRoutes().Select(route => (route.Peer, route.Problem)));
        Assert.True(fixture.Routing.Current.Shares(fixture.Routing.Current.Peers[0], FakeHostNetwork.Address("172.17.60.9")));
    }

    [Fact]
    public async Task OuterHeaderOptionsReachThePacketThreadsAndTheDescription()
    {
        await using ControlFixture fixture = await StartAsync(OnePeer);
        await fixture.PutAsync("vm3", """
            {"endpoint": "192.168.40.13", "subnets": ["172.17.53.0/24"], "dscp": 46, "ecn": "compatible", "ttl": "inherit", "pmtud": false, "strict": true}
            """);
        PeerSettings settings = fixture.Receiver("172.17.53.9")!.Settings;
        Assert.Equal(new OuterHeaderOptions { Dscp = 46, Ecn = EcnMode.Compatible, TimeToLive = null, DiscoversPathMtu = false }, settings.Outer);
        Assert.True(settings.IsStrict);
        Assert.Equal(
            """ "checksum":false,"sequence":false,"dscp":46,"ecn":"compatible","ttl":"inherit","pmtud":false,"strict":true,""".Trim(),
            Between(JsonSerializer.Serialize(fixture.Network.DescribePeer("vm3"), ApiJson.Default.PeerModel)));
        Assert.Equal(
            """ "checksum":false,"sequence":false,"dscp":0,"ecn":"auto","ttl":64,"pmtud":true,"strict":false,""".Trim(),
            Between(JsonSerializer.Serialize(fixture.Network.DescribePeer("vm2"), ApiJson.Default.PeerModel)));

        // A change keeps what is known of the peer.
        Peer before = fixture.Receiver("172.17.53.9")!;
        before.Target.Abilities.Hear(Abilities.None, 1);
        await fixture.Network.PatchPeerAsync("vm3", Json("""{"ecn": "auto", "dscp": "copy"}"""));
        Assert.True(fixture.Receiver("172.17.53.9")!.Target.Abilities.IsHeard);
        Assert.Equal((null, EcnMode.Auto), (fixture.Receiver("172.17.53.9")!.Settings.Outer.Dscp, fixture.Receiver("172.17.53.9")!.Settings.Outer.Ecn));

        static string Between(string json) => json[json.IndexOf("\"checksum\"", StringComparison.Ordinal)..json.IndexOf("\"origin\"", StringComparison.Ordinal)];
    }

    // RFC 6040 section 4.2: told, but not for every packet.
    [Fact]
    public async Task EcnFieldsThatContradictEachOtherAreToldOnceForAllPeersAndPackets()
    {
        await using ControlFixture fixture = await StartAsync(OnePeer);
        await fixture.PutAsync("vm3", Vm3);
        var log = new LinesLog();
        var report = new EcnReport(TimeProvider.System, log);
        PeerEntry[] peers = [.. new[] { "172.17.52.9", "172.17.53.9" }.Select(address => fixture.Receiver(address)!).Select(EntryOf)];
        report.Look(peers);
        Assert.Empty(log.Lines);

        for (int i = 0; i < 1000; i++)
        {
            peers[0].Peer.Counters[0].CountEcnAnomaly();
        }

        peers[1].Peer.Counters[0].CountEcnAnomaly();
        report.Look(peers);
        report.Look(peers);
        Assert.EndsWith("from vm2 (1000), vm3 (1)", Assert.Single(log.Lines).Line, StringComparison.Ordinal);
        Assert.Equal(1000, fixture.Network.DescribePeer("vm2").EcnAnomalies);

        peers[1].Peer.Counters[0].CountEcnAnomaly();
        report.Look(peers);
        Assert.EndsWith("from vm3 (1)", log.Lines.Last().Line, StringComparison.Ordinal);

        static PeerEntry EntryOf(Peer peer) => new(
            new PeerConfig { Name = peer.Settings.Name, Endpoint = default, Subnets = [], Origin = PeerOrigin.Stored }, peer.Settings.Endpoint, peer, []);
    }

    [Fact]
    public async Task ReloadTellsWhatChangedAndABadOneChangesNothing()
    {
        await using ControlFixture fixture = await StartAsync(OnePeer);
        await File.WriteAllTextAsync(fixture.ConfigPath, NoPeers + """
            peers:
              vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24], key: 9}
              vm3: {endpoint: 192.168.40.13, subnets: [172.17.53.0/24]}
            """);
        ReloadResult result = await fixture.Network.ReloadAsync();
        Assert.Equal(["vm3"], result.Added);
        Assert.Equal(["vm2"], result.Changed);
        Assert.Empty(result.Removed);
        Assert.False(result.Network);
        Assert.Equal(9u, fixture.Receiver("172.17.52.9")!.Settings.KeyIn);

        await File.WriteAllTextAsync(fixture.ConfigPath, NoPeers + "peers:\n  vm2: {endpoint: 192.168.40.12, subnet: [172.17.52.0/24]}\n");
        ControlException refused = await Assert.ThrowsAsync<ControlException>(() => fixture.Network.ReloadAsync());
        Assert.Equal(ControlErrorKind.Invalid, refused.Kind);
        Assert.Contains(":4:", refused.Message, StringComparison.Ordinal);
        Assert.True(fixture.HasRoute("172.17.53.0/24"));
        Assert.Equal(2, fixture.Network.DescribePeers().Count);
    }

    [Fact]
    public async Task ReloadTellsThatTheNetworksOwnSettingsChanged()
    {
        await using ControlFixture fixture = await StartAsync(OnePeer);
        await File.WriteAllTextAsync(fixture.ConfigPath, OnePeer.Replace("10.0.201.1/24", "10.0.201.7/24", StringComparison.Ordinal));
        ReloadResult result = await fixture.Network.ReloadAsync();
        Assert.True(result.Network);
        Assert.Empty(result.Changed);
        Assert.Equal([FakeHostNetwork.Prefix("10.0.201.7/24")], fixture.Host.GetAddresses(7));
    }

    [Fact]
    public async Task ReloadRefusesANewLocalAddress()
    {
        await using ControlFixture fixture = await StartAsync(OnePeer);
        await File.WriteAllTextAsync(fixture.ConfigPath, OnePeer.Replace("192.168.40.11", "192.168.40.111", StringComparison.Ordinal));
        ControlException refused = await Assert.ThrowsAsync<ControlException>(() => fixture.Network.ReloadAsync());
        Assert.Equal(ControlErrorKind.Conflict, refused.Kind);
        Assert.Equal("underlay.local", refused.Field);
    }

    [Fact]
    public async Task ANewKeyBeginsNewSequenceNumbers()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        await fixture.PutAsync("vm2", Vm2);
        SequenceState before = fixture.Receiver("172.17.52.9")!.Sequences;
        await fixture.Network.PatchPeerAsync("vm2", Json("""{"checksum": true}"""));
        Assert.Same(before, fixture.Receiver("172.17.52.9")!.Sequences);
        await fixture.Network.PatchPeerAsync("vm2", Json("""{"key": 3}"""));
        Assert.NotSame(before, fixture.Receiver("172.17.52.9")!.Sequences);
    }

    [Fact]
    public async Task ADeviceThatCoalescesUdpIsNamedAndToldToThePacketThreads()
    {
        var host = new FakeHostNetwork { UdpCoalescer = new HostLink(2, "eth0", 1500, IsUp: true) };
        await using ControlFixture fixture = await StartAsync(OnePeer, host);
        Assert.True(fixture.Routing.Current.DropsPartialUdp);
        Assert.Contains("ethtool -K eth0", Assert.Single(fixture.Network.DescribeNetwork().Problems), StringComparison.Ordinal);
        host.UdpCoalescer = null;
        host.Change((_, _, _) => { });
        await EventuallyAsync(() => !fixture.Routing.Current.DropsPartialUdp);
    }

    [Fact]
    public async Task EventsTellWhatHappens()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        using EventStream.Subscription subscription = fixture.Events.Subscribe();
        await fixture.PutAsync("vm2", Vm2);
        fixture.Host.Change((_, _, routes) => routes.RemoveAll(route => route.Protocol == 147));
        using var deadline = new CancellationTokenSource(TimeSpan.FromSeconds(10));
        Assert.Equal("peer-added", (await subscription.Events.ReadAsync(deadline.Token)).Event);
        Assert.Equal("restored", (await subscription.Events.ReadAsync(deadline.Token)).Event);
    }

    [Fact]
    public async Task ARouteThatSomebodyRemovesFirstStopsNothing()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        await fixture.PutAsync("vm2", Vm2);
        await fixture.PutAsync("vm3", Vm3);
        fixture.Host.OnRemoveRoute = () => fixture.Host.Change((_, _, routes) => routes.RemoveAll(route => route.Protocol == 147));
        await fixture.Network.RemovePeerAsync("vm2");
        fixture.Host.OnRemoveRoute = () => { };
        await EventuallyAsync(() => fixture.HasRoute("172.17.53.0/24"));
        Assert.False(fixture.HasRoute("172.17.52.0/24"));
    }

    [Fact]
    public async Task AnAddressThatTheKernelRefusesTakesTheReloadBack()
    {
        await using ControlFixture fixture = await StartAsync(OnePeer);
        fixture.Host.RefusesAddress = address => address == FakeHostNetwork.Prefix("fd10::1/64");
        await File.WriteAllTextAsync(fixture.ConfigPath, OnePeer.Replace("10.0.201.1/24", "'fd10::1/64', 10.0.201.7/24", StringComparison.Ordinal));
        ControlException refused = await Assert.ThrowsAsync<ControlException>(() => fixture.Network.ReloadAsync());
        Assert.Equal(ControlErrorKind.Failed, refused.Kind);
        Assert.Equal([FakeHostNetwork.Prefix("10.0.201.1/24")], fixture.Host.GetAddresses(7));
    }

    [Fact]
    public async Task AFileThatWasNotReadYetIsNotOverwritten()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        string file = Path.Combine(Path.ChangeExtension(fixture.ConfigPath, ".d"), "vm2.yaml");
        Directory.CreateDirectory(Path.GetDirectoryName(file)!);
        await File.WriteAllTextAsync(file, "endpoint: 192.168.40.22\nsubnets: [172.17.52.0/24]\n");
        ControlException refused = await Assert.ThrowsAsync<ControlException>(() => fixture.PutAsync("vm2", Vm2));
        Assert.Equal(ControlErrorKind.Conflict, refused.Kind);
        Assert.Contains("reload", refused.Hint, StringComparison.Ordinal);
        Assert.Contains("192.168.40.22", await File.ReadAllTextAsync(file), StringComparison.Ordinal);
    }

    [Fact]
    public async Task WhatGoesWrongWhileFollowingTheHostIsTriedAgain()
    {
        await using ControlFixture fixture = await StartAsync(OnePeer);
        bool failed = false;
        fixture.Host.Paths = _ =>
        {
            failed = true;
            throw new InvalidOperationException("a bug");
        };
        fixture.Host.Change((_, _, _) => { });
        await EventuallyAsync(() => Volatile.Read(ref failed));
        fixture.Host.Paths = _ => new HostPath(FakeHostNetwork.Address("192.168.40.11"), 2, 1500);
        fixture.Host.Change((_, _, routes) => routes.Clear());
        await EventuallyAsync(() => fixture.HasRoute("172.17.52.0/24"));
    }
}
