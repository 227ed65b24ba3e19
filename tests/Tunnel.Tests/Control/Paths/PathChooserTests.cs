using Microsoft.Extensions.Logging.Abstractions;
using Tunnel.Control;
using Tunnel.Control.Paths;
using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Control.Paths;

public sealed class PathChooserTests
{
    private const ulong Mac = 0x02_00_00_00_00_0c;
    private const string Drop = """
        {"nftables": [{"chain": {"family": "ip", "table": "t", "name": "in", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}}]}
        """;

    private const string DropUdpOut = """
        {"nftables": [{"chain": {"family": "ip", "table": "t", "name": "out", "handle": 1, "type": "filter", "hook": "output", "prio": 0, "policy": "accept"}},
        {"rule": {"family": "ip", "table": "t", "chain": "out", "handle": 2, "expr": [
        {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 4754}}, {"drop": null}]}}]}
        """;

    private const string DropSourcePort = """
        {"nftables": [{"chain": {"family": "ip", "table": "t", "name": "out", "handle": 1, "type": "filter", "hook": "output", "prio": 0, "policy": "accept"}},
        {"rule": {"family": "ip", "table": "t", "chain": "out", "handle": 2, "expr": [
        {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "sport"}}, "right": 4000}}, {"drop": null}]}}]}
        """;

    private static readonly (UnderlayPath, UnderlayPath) Raw = (UnderlayPath.Raw, UnderlayPath.Raw);
    private static readonly (UnderlayPath, UnderlayPath) Packet = (UnderlayPath.Packet, UnderlayPath.Packet);
    private static readonly InetAddress Vm2 = FakeHostNetwork.Address("192.168.40.12");
    private static readonly InetAddress Vm3 = FakeHostNetwork.Address("192.168.40.13");

    [Fact]
    public async Task PacketSocketsAreUsedWhereNothingIsInTheWay()
    {
        await using var host = new Fixture("192.168.40.12");
        using EventStream.Subscription events = host.Events.Subscribe();
        Assert.Equal(Raw, host.Paths.Now);
        host.Start();
        await host.UntilAsync(() => host.Paths.Now == Packet);
        await host.UntilReasonsAsync();

        // It is asked for once, and used once it is known.
        Assert.Equal((2, Vm2), Assert.Single(host.Neighbors.Uses));
        Assert.Null(host.Target().Neighbor);
        host.Neighbors.Change(Vm2, Mac);
        await host.UntilAsync(() => host.Target().Neighbor is { LinkIndex: 2, Address: Mac });
        NetworkEvent told = await NextAsync(events);
        Assert.Equal(("datapath-changed", "receive packet, send packet"), (told.Event, told.Detail));
    }

    [Fact]
    public async Task AfterAChangeOfLinksOrRoutesThereIsAnotherObject()
    {
        await using var host = new Fixture("192.168.40.12");
        host.Start();
        host.Neighbors.Change(Vm2, Mac);
        await host.UntilAsync(() => host.Target().Neighbor is not null);
        LinkNeighbor before = host.Target().Neighbor!;
        host.Neighbors.Change(Vm2, Mac, isStale: true);
        host.Neighbors.ChangeRoutes(destination => new HostNextHop(2, "eth0", IsEthernet: true, destination, CarriesUdpTunnels: true, CarriesGre: true));
        await host.UntilAsync(() => !ReferenceEquals(host.Target().Neighbor, before));
        Assert.Equal(before, host.Target().Neighbor);
    }

    // As when a link goes down and comes up again at once: nothing that is sent would make the kernel ask.
    [Fact]
    public async Task ANeighborThatVanishesIsAskedForAgainOnce()
    {
        await using var host = new Fixture("192.168.40.12");
        host.Start();
        host.Neighbors.Change(Vm2, Mac);
        await host.UntilAsync(() => host.Target().Neighbor is not null);
        int before = host.Neighbors.Uses.Count;
        host.Neighbors.Change(Vm2, Mac, isUsable: false);
        await host.UntilAsync(() => host.Target().Neighbor is null && host.Neighbors.Uses.Count == before + 1);
        host.Neighbors.Change(Vm2, Mac, isUsable: false);
        host.Neighbors.Change(Vm2, Mac);
        await host.UntilAsync(() => host.Target().Neighbor is not null);
        Assert.Equal(before + 1, host.Neighbors.Uses.Count);
    }

    [Theory]
    [InlineData(null)]
    [InlineData(UnderlayPath.Packet)]
    public async Task WherePacketSocketsAreRefusedRawOnesAreUsedUntilTheyAreNot(UnderlayPath? pinned)
    {
        await using var host = new Fixture(new HurriedClock(100), "192.168.40.12") { Configured = (pinned, pinned) };
        host.Paths.HasNoPacketSockets = true;
        host.Start();
        await host.UntilAsync(() => host.Chooser.Reasons.SequenceEqual(["the ways can't be chosen: cannot open a packet socket"]));
        Assert.Equal(Raw, host.Paths.Now);

        host.Paths.HasNoPacketSockets = false;
        await host.UntilAsync(() => host.Paths.Now == Packet && host.Chooser.Reasons.Count == 0);
    }

    [Fact]
    public async Task ANeighborIsFollowed()
    {
        await using Fixture host = await Fixture.KnownAsync();
        host.Neighbors.Change(Vm2, Mac + 1);
        await host.UntilAsync(() => host.Target().Neighbor?.Address == Mac + 1);
        host.Neighbors.Change(Vm2, 0, isUsable: false);
        await host.UntilAsync(() => host.Target().Neighbor is null);
        host.Neighbors.Change(Vm2, Mac);
        await host.UntilAsync(() => host.Target().Neighbor?.Address == Mac);
    }

    [Fact]
    public async Task LostNotificationsAreMadeUpForByAList()
    {
        await using Fixture host = await Fixture.KnownAsync();
        int lists = host.Neighbors.Lists;
        host.Neighbors.Change(Vm2, Mac + 2, isTold: false);
        host.Neighbors.Lose();
        await host.UntilAsync(() => host.Target().Neighbor?.Address == Mac + 2);
        Assert.Equal(lists + 1, host.Neighbors.Lists);
    }

    [Fact]
    public async Task SomebodyElsesNeighborsWakeNobody()
    {
        await using Fixture host = await Fixture.KnownAsync();
        LinkNeighbor? known = host.Target().Neighbor;
        int lists = host.Neighbors.Lists;
        for (uint i = 0; i < 1000; i++)
        {
            host.Neighbors.Change(InetAddress.FromIpv4(0x0a000000 + i), i);
        }

        host.Neighbors.Change(Vm2, Mac + 1);
        await host.UntilAsync(() => host.Target().Neighbor?.Address == Mac + 1);
        Assert.NotSame(known, host.Target().Neighbor);
        Assert.Equal(lists, host.Neighbors.Lists);
    }

    [Fact]
    public async Task ARouteIsFollowedToItsGateway()
    {
        await using Fixture host = await Fixture.KnownAsync();
        InetAddress gateway = FakeHostNetwork.Address("192.168.40.1");
        host.Neighbors.Change(gateway, 0x020000000001);
        host.Neighbors.ChangeRoutes(_ => new HostNextHop(2, "eth0", IsEthernet: true, gateway, CarriesUdpTunnels: true, CarriesGre: true));
        await host.UntilAsync(() => host.Target().Neighbor?.Address == 0x020000000001);
        host.Neighbors.ChangeRoutes(_ => new HostNextHop(2, "eth0", IsEthernet: true, InetAddress.None, CarriesUdpTunnels: true, CarriesGre: true));
        await host.UntilAsync(() => host.Target().Neighbor is null);
        Assert.Equal(Packet, host.Paths.Now);
        host.Neighbors.ChangeRoutes(_ => new HostNextHop(3, "eth1", IsEthernet: true, Vm2, CarriesUdpTunnels: true, CarriesGre: true));
        await host.UntilAsync(() => host.Neighbors.Uses.Contains((3, Vm2)));
        host.Neighbors.Change(Vm2, Mac, link: 3);
        await host.UntilAsync(() => host.Target().Neighbor is { LinkIndex: 3, Address: Mac });
        host.Neighbors.ChangeRoutes(_ => null);
        await host.UntilAsync(() => host.Target().Neighbor is null);
    }

    [Fact]
    public async Task AnotherKindOfLinkTakesRawSockets()
    {
        await using Fixture host = await Fixture.KnownAsync();
        host.Neighbors.ChangeRoutes(destination => new HostNextHop(5, "wg0", IsEthernet: false, destination, CarriesUdpTunnels: false, CarriesGre: true));
        await host.UntilAsync(() => host.Paths.Now.Receive == UnderlayPath.Raw && host.Target().Neighbor is null);
        await host.UntilReasonsAsync("wg0, the way to 192.168.40.12, is no Ethernet device");
    }

    [Fact]
    public async Task ARuleLeadsToRawSocketsAndBack()
    {
        await using Fixture host = await Fixture.KnownAsync();
        using EventStream.Subscription events = host.Events.Subscribe();
        LinkNeighbor? whenSwitched = null;
        host.Paths.OnUse = () => whenSwitched = host.Target().Neighbor;
        host.Policies.Change(netfilter: new NetfilterRules(Drop, null, null, []));
        await host.UntilAsync(() => host.Paths.Now == Raw && host.Target().Neighbor is null);

        // First the way, then the next hop.
        Assert.NotNull(whenSwitched);
        const string Reason = "nftables: chain in (table ip t) has policy drop, which GRE from 192.168.40.12 may reach";
        await host.UntilReasonsAsync(Reason);
        Assert.Equal($"receive raw, send raw: {Reason}", (await NextAsync(events)).Detail);

        // And the other way round: first the next hop.
        whenSwitched = null;
        host.Policies.Change(netfilter: NetfilterRules.None);
        await host.UntilAsync(() => host.Paths.Now == Packet);
        Assert.NotNull(whenSwitched);
        await host.UntilReasonsAsync();
        Assert.Equal("receive packet, send packet", (await NextAsync(events)).Detail);
    }

    [Fact]
    public async Task AnIpsecPolicyConcernsTheSendingToItsPeerOnly()
    {
        await using var host = new Fixture("192.168.40.12", "192.168.40.13");
        InetAddress vm3 = FakeHostNetwork.Address("192.168.40.13");
        host.Neighbors.Change(Vm2, Mac);
        host.Neighbors.Change(vm3, Mac + 1);
        host.Policies.Change(new XfrmPolicies(
            [new XfrmPolicy(XfrmDirection.Out, FakeHostNetwork.Prefix("192.168.40.11/32"), FakeHostNetwork.Prefix("192.168.40.12/32"), 47, false, true)],
            false,
            false));
        host.Start();
        await host.UntilAsync(() => host.Paths.Now == (UnderlayPath.Raw, UnderlayPath.Packet));
        await host.UntilReasonsAsync("IPsec: a policy covers 192.168.40.11 -> 192.168.40.12 (ip xfrm policy)");
        Assert.Null(host.Target(0).Neighbor);
        Assert.Equal(Mac + 1, host.Target(1).Neighbor?.Address);
    }

    [Theory]
    [InlineData(UnderlayPath.Packet, UnderlayPath.Packet)]
    [InlineData(UnderlayPath.Raw, UnderlayPath.Raw)]
    [InlineData(UnderlayPath.Packet, null)]
    [InlineData(null, UnderlayPath.Packet)]
    public async Task AnOperatorsChoiceIsKept(UnderlayPath? receive, UnderlayPath? send)
    {
        await using var host = new Fixture("192.168.40.12") { Configured = (receive, send) };
        host.Neighbors.Change(Vm2, Mac);
        host.Policies.Change(
            new XfrmPolicies([], BlocksIn: true, BlocksOut: true), new NetfilterRules(Drop, null, null, []));
        host.Start();
        await host.UntilAsync(() => host.Chooser.Reasons is [not "the host's rules are not read yet", ..]);
        (UnderlayPath, UnderlayPath) expected = (receive ?? UnderlayPath.Raw, send ?? UnderlayPath.Raw);
        await host.UntilAsync(() => host.Paths.Now == expected && host.Target().Neighbor is null == (send is not UnderlayPath.Packet));

        // A reload changes it.
        host.Configured = (UnderlayPath.Packet, UnderlayPath.Packet);
        host.Chooser.Changed();
        await host.UntilAsync(() => host.Paths.Now == Packet && host.Target().Neighbor is not null);
    }

    [Fact]
    public async Task APinnedRawSocketNeedsNoNeighbor()
    {
        await using var host = new Fixture("192.168.40.12") { Configured = (UnderlayPath.Raw, UnderlayPath.Raw) };
        host.Start();
        await host.UntilAsync(() => host.Chooser.Reasons is ["the configuration pins datapath.receive and datapath.send to raw"]);
        Assert.Empty(host.Neighbors.Uses);
        Assert.Equal(Raw, host.Paths.Now);
    }

    [Fact]
    public async Task PeersComeAndGo()
    {
        await using var host = new Fixture();
        host.Start();
        await host.UntilAsync(() => host.Policies.Reads == 1 && host.Chooser.Reasons.Count == 0);
        Assert.Equal(Raw, host.Paths.Now);

        host.Neighbors.Change(Vm2, Mac);
        host.Peers = [Fixture.NewPeer("192.168.40.12")];
        host.Chooser.Changed();
        await host.UntilAsync(() => host.Paths.Now == Packet && host.Target().Neighbor?.Address == Mac);
        Assert.Empty(host.Neighbors.Uses);
        UnderlayTarget gone = host.Target();

        // GRE-in-UDP and IPv6 go their own ways.
        host.Peers = [Fixture.NewPeer("192.168.40.12", udpPort: 4754), Fixture.NewPeer("2001:db8::2")];
        host.Chooser.Changed();
        await host.UntilAsync(() => host.Paths.Now == Raw);
        Assert.Null(gone.Neighbor);
    }

    [Fact]
    public async Task AThousandPeersCostOneList()
    {
        string[] endpoints = [.. Enumerable.Range(0, 1000).Select(i => $"10.0.{i / 250}.{i % 250 + 1}")];
        await using var host = new Fixture(endpoints);
        foreach (string endpoint in endpoints)
        {
            host.Neighbors.Change(FakeHostNetwork.Address(endpoint), Mac);
        }

        host.Start();
        await host.UntilAsync(() => host.Peers.All(peer => peer.Target.Neighbor is not null));
        Assert.Equal(1, host.Neighbors.Lists);
        Assert.Equal(1, host.Neighbors.HopRequests);
        Assert.Empty(host.Neighbors.Uses);
    }

    [Fact]
    public async Task AChurnOfRulesIsReadAtMostTwiceASecond()
    {
        await using Fixture host = await Fixture.KnownAsync();
        var time = System.Diagnostics.Stopwatch.StartNew();
        int before = host.Policies.Reads;
        while (time.Elapsed < TimeSpan.FromSeconds(1.2))
        {
            host.Policies.Change(netfilter: NetfilterRules.None);
            await Task.Delay(5);
        }

        Assert.InRange(host.Policies.Reads - before, 1, (int)(time.Elapsed.TotalSeconds / 0.5) + 1);
    }

    [Fact]
    public async Task AStaleNeighborInUseIsConfirmed()
    {
        var clock = new HurriedClock(200);
        await using var host = new Fixture(clock, "192.168.40.12", "192.168.40.13");
        InetAddress vm3 = FakeHostNetwork.Address("192.168.40.13");
        host.Neighbors.Change(Vm2, Mac, isStale: true);
        host.Neighbors.Change(vm3, Mac, isStale: true);
        host.Start();
        await host.UntilAsync(() => host.Target(1).Neighbor is not null);
        Assert.Empty(host.Neighbors.Uses);

        await host.UntilAsync(() =>
        {
            host.Peers[0].Counters[0].CountSent(1, 100);
            return host.Neighbors.Uses.Count >= 3;
        });
        Assert.All(host.Neighbors.Uses, use => Assert.Equal((2, Vm2), use));

        host.Neighbors.Change(Vm2, Mac);
        await host.UntilAsync(() => host.Target().Neighbor is not null);
    }

    [Fact]
    public async Task WhatCantBeReadTakesRawSocketsUntilItCan()
    {
        var clock = new HurriedClock(200);
        await using var host = new Fixture(clock, "192.168.40.12");
        host.Neighbors.Change(Vm2, Mac);
        host.Policies.OnRead = () => throw new HostNetworkException("list the IPsec policies", 1, "Operation not permitted");
        host.Start();
        await host.UntilAsync(() => host.Chooser.Reasons is ["the host's rules can't be read: list the IPsec policies: Operation not permitted"]);
        Assert.Equal(Raw, host.Paths.Now);
        host.Policies.OnRead = () => { };
        await host.UntilAsync(() => host.Paths.Now == Packet);

        host.Neighbors.OnGetNextHops = () => throw new HostNetworkException("send a netlink request", 105, "No buffer space available");
        host.Neighbors.ChangeRoutes(_ => null);
        await host.UntilAsync(() => host.Paths.Now == Raw);
        host.Neighbors.OnGetNextHops = () => { };
        host.Neighbors.ChangeRoutes(destination => new HostNextHop(2, "eth0", IsEthernet: true, destination, CarriesUdpTunnels: true, CarriesGre: true));
        await host.UntilAsync(() => host.Paths.Now == Packet && host.Target().Neighbor is not null);
    }

    [Fact]
    public async Task GreInUdpGetsItsNextHopAndIsToldNoWay()
    {
        await using var host = new Fixture { Peers = [Fixture.NewPeer("192.168.40.12", udpPort: 4754), Fixture.NewPeer("2001:db8::2", udpPort: 4754)] };
        using EventStream.Subscription events = host.Events.Subscribe();
        host.Paths.OnUse = () => Assert.Fail("no way was to be told");
        host.Start();
        await host.UntilAsync(() => host.Neighbors.Uses.Count > 0);
        Assert.Equal((2, Vm2), Assert.Single(host.Neighbors.Uses));
        host.Neighbors.Change(Vm2, Mac);
        await host.UntilAsync(() => host.Target().Neighbor is { LinkIndex: 2, Address: Mac });
        host.Neighbors.Change(Vm2, Mac + 1);
        await host.UntilAsync(() => host.Target().Neighbor?.Address == Mac + 1);
        host.Neighbors.Change(Vm2, 0, isUsable: false);
        await host.UntilAsync(() => host.Target().Neighbor is null);
        Assert.Null(host.Target(1).Neighbor);
        await host.UntilReasonsAsync();
        Assert.Equal(Raw, host.Paths.Now);

        // At most the one event that every network begins with.
        Assert.All(Drain(events), told => Assert.Equal("receive raw, send raw", told.Detail));
    }

    // Each at a host with two peers that are reached directly: vm2 by plain GRE, vm3 by GRE-in-UDP.
    [Theory]
    [InlineData(Drop, null, false, true)]
    [InlineData(DropUdpOut, null, true, false)]
    [InlineData("{", null, false, false)]
    [InlineData(null, 47, false, true)]
    [InlineData(null, 17, true, false)]
    [InlineData(null, 0, false, false)]
    [InlineData(null, -1, false, false)]
    public async Task WhatHindersTheOneKindLeavesTheOtherAlone(string? nftables, int? policyProtocol, bool keepsGre, bool keepsUdp)
    {
        await using Fixture host = await Fixture.MixedAsync();
        using EventStream.Subscription events = host.Events.Subscribe();
        XfrmPolicies policies = policyProtocol switch
        {
            null => XfrmPolicies.None,
            -1 => new XfrmPolicies([], BlocksIn: false, BlocksOut: true),
            int protocol => new XfrmPolicies(
                [new XfrmPolicy(XfrmDirection.Out, FakeHostNetwork.Prefix("0.0.0.0/0"), FakeHostNetwork.Prefix("192.168.40.0/24"), (byte)protocol, false, true)],
                false,
                false),
        };
        host.Policies.Change(policies, nftables is null ? NetfilterRules.None : new NetfilterRules(nftables, null, null, []));
        await host.UntilAsync(() => host.Target(0).Neighbor is null == !keepsGre && host.Target(1).Neighbor is null == !keepsUdp);
        await host.UntilAsync(() => host.Chooser.Reasons.Count == (keepsGre ? 0 : 1) && host.Paths.Now.Receive == (keepsGre ? UnderlayPath.Packet : UnderlayPath.Raw));
        host.Policies.Change(XfrmPolicies.None, NetfilterRules.None);
        await host.UntilAsync(() => host.Paths.Now == Packet && host.Target(0).Neighbor is not null && host.Target(1).Neighbor is not null);
        await host.UntilReasonsAsync();

        // That of plain GRE is told, that of GRE-in-UDP is not.
        Assert.Equal(keepsGre ? 0 : 1, Drain(events).Count(told => told.Detail != "receive packet, send packet"));
    }

    [Fact]
    public async Task ALinkThatWouldCutKeepsGreInUdpAtItsSockets()
    {
        await using Fixture host = await Fixture.MixedAsync();
        InetAddress gateway = FakeHostNetwork.Address("192.168.40.1");
        host.Neighbors.Change(gateway, Mac + 7);
        host.Neighbors.ChangeRoutes(_ => new HostNextHop(2, "eth0", IsEthernet: true, gateway, CarriesUdpTunnels: false, CarriesGre: true));
        await host.UntilAsync(() => host.Target(0).Neighbor?.Address == Mac + 7 && host.Target(1).Neighbor is null);
        host.Neighbors.ChangeRoutes(_ => new HostNextHop(2, "eth0", IsEthernet: true, gateway, CarriesUdpTunnels: true, CarriesGre: true));
        await host.UntilAsync(() => host.Target(1).Neighbor?.Address == Mac + 7);
        host.Neighbors.ChangeRoutes(destination => new HostNextHop(5, "wg0", IsEthernet: destination == Vm2, destination, CarriesUdpTunnels: true, CarriesGre: true));
        host.Neighbors.Change(Vm2, Mac, link: 5);
        await host.UntilAsync(() => host.Target(0).Neighbor is { LinkIndex: 5 } && host.Target(1).Neighbor is null);
        await host.UntilReasonsAsync();
        Assert.Equal(Packet, host.Paths.Now);
    }

    [Fact]
    public async Task ALinkThatWouldCutIsNoReasonToAskForANeighbor()
    {
        await using var host = new Fixture { Peers = [Fixture.NewPeer("192.168.40.13", udpPort: 4754), Fixture.NewPeer("192.168.40.12")] };
        host.Neighbors.ChangeRoutes(destination => new HostNextHop(2, "eth0", IsEthernet: true, destination, CarriesUdpTunnels: false, CarriesGre: true));
        host.Start();
        await host.UntilAsync(() => host.Neighbors.Uses.Contains((2, Vm2)));
        host.Neighbors.Change(Vm2, Mac);
        await host.UntilAsync(() => host.Target(1).Neighbor is not null);
        Assert.Equal([(2, Vm2)], host.Neighbors.Uses);
    }

    [Fact]
    public async Task APinnedWayDecidesForGreInUdpToo()
    {
        await using Fixture host = await Fixture.MixedAsync();
        host.Configured = (null, UnderlayPath.Raw);
        host.Chooser.Changed();
        await host.UntilAsync(() => host.Target(0).Neighbor is null && host.Target(1).Neighbor is null);

        host.Configured = (UnderlayPath.Raw, UnderlayPath.Packet);
        host.Policies.Change(new XfrmPolicies([], BlocksIn: true, BlocksOut: true), new NetfilterRules(DropUdpOut, null, null, []));
        host.Chooser.Changed();
        await host.UntilAsync(() => host.Chooser.Reasons.Count == 1 && host.Target(0).Neighbor is not null && host.Target(1).Neighbor is not null);

        host.Configured = (null, null);
        host.Chooser.Changed();
        await host.UntilAsync(() => host.Target(0).Neighbor is null && host.Target(1).Neighbor is null);
    }

    [Theory]
    [InlineData(null)]
    [InlineData(UnderlayPath.Packet)]
    public async Task AHostThatCantBeFollowedKeepsGreInUdpAtItsSockets(UnderlayPath? send)
    {
        await using Fixture host = await Fixture.MixedAsync();
        host.Configured = (null, send);
        host.Chooser.Changed();
        host.Neighbors.FailToFollowRoutes();
        await host.UntilAsync(() => host.Target(1).Neighbor is null && host.Target(0).Neighbor is null == send is null);
        await host.UntilReasonsAsync("the host's changes can't be followed: receive notifications: No buffer space available");
    }

    // A raw socket would go around a policy for its ports.
    [Fact]
    public async Task WhereAnIpsecPolicyMayApplyNoRawSocketSendsFragmentsOfGreInUdp()
    {
        await using var host = new Fixture { Peers = [Fixture.NewPeer("192.168.40.12", udpPort: 4754), Fixture.NewPeer("2001:db8::2", udpPort: 4754)] };
        host.Start();
        await UntilAsync(true, true);
        host.Policies.Change(Covering("192.168.40.12/32", IpProtocol.Udp), NetfilterRules.None);
        await UntilAsync(false, true);
        host.Policies.Change(Covering("2001:db8::/32", 0), NetfilterRules.None);
        await UntilAsync(true, false);

        // A peer that comes later too.
        host.Peers = [Fixture.NewPeer("2001:db8::3", udpPort: 4754), Fixture.NewPeer("2001:db9::2", udpPort: 4754)];
        host.Chooser.Changed();
        await UntilAsync(false, true);
        host.Policies.Change(new XfrmPolicies([], BlocksIn: false, BlocksOut: true), NetfilterRules.None);
        await UntilAsync(false, false);

        Task UntilAsync(bool first, bool second) =>
            host.UntilAsync(() => host.Target(0).TakesRawFragments == first && host.Target(1).TakesRawFragments == second);

        static XfrmPolicies Covering(string destination, byte protocol)
        {
            IpPrefix source = FakeHostNetwork.Prefix(destination.Contains(':', StringComparison.Ordinal) ? "::/0" : "0.0.0.0/0");
            return new([new(XfrmDirection.Out, source, FakeHostNetwork.Prefix(destination), protocol, false, true)], false, false);
        }
    }

    [Theory]
    [InlineData(null)]
    [InlineData(UnderlayPath.Packet)]
    public async Task UntilTheRulesAreReadGreInUdpStaysAtItsSockets(UnderlayPath? send)
    {
        await using var host = new Fixture { Peers = [Fixture.NewPeer("192.168.40.13", udpPort: 4754), Fixture.NewPeer("192.168.40.12")], Configured = (null, send) };
        using var mayRead = new ManualResetEventSlim();
        try
        {
            host.Policies.OnRead = mayRead.Wait;
            host.Neighbors.Change(Vm2, Mac);
            host.Neighbors.Change(Vm3, Mac);
            host.Start();
            await host.UntilAsync(() => host.Neighbors.Lists > 0 && host.Target(1).Neighbor is not null == send is not null);
            host.Neighbors.Change(Vm2, Mac + 1);
            await host.UntilAsync(() => send is null || host.Target(1).Neighbor?.Address == Mac + 1);
            Assert.Null(host.Target().Neighbor);
            mayRead.Set();
            await host.UntilAsync(() => host.Target().Neighbor is not null);
        }
        finally
        {
            // Who waits for it would keep the chooser from its end.
            mayRead.Set();
        }
    }

    [Fact]
    public async Task WhereNothingCanBeDecidedGreInUdpGoesBackToItsSockets()
    {
        var clock = new HurriedClock(200);
        await using var host = new Fixture(clock) { Peers = [Fixture.NewPeer("192.168.40.13", udpPort: 4754)] };
        host.Neighbors.Change(Vm3, Mac);
        host.Start();
        await host.UntilAsync(() => host.Target().Neighbor is not null);
        host.Neighbors.OnGetNextHops = () => throw new HostNetworkException("send a netlink request", 105, "No buffer space available");
        host.Neighbors.ChangeRoutes(_ => null);
        await host.UntilAsync(() => host.Target().Neighbor is null);
        host.Neighbors.OnGetNextHops = () => { };
        host.Neighbors.ChangeRoutes(destination => new HostNextHop(2, "eth0", IsEthernet: true, destination, CarriesUdpTunnels: true, CarriesGre: true));
        await host.UntilAsync(() => host.Target().Neighbor is not null);
    }

    [Fact]
    public async Task AStaleNeighborOfGreInUdpIsConfirmed()
    {
        await using var host = new Fixture(new HurriedClock(200)) { Peers = [Fixture.NewPeer("192.168.40.13", udpPort: 4754)] };
        host.Neighbors.Change(Vm3, Mac, isStale: true);
        host.Start();
        await host.UntilAsync(() => host.Target().Neighbor is not null);
        Assert.Empty(host.Neighbors.Uses);
        await host.UntilAsync(() =>
        {
            host.Peers[0].Counters[0].CountSent(1, 100);
            return host.Neighbors.Uses.Contains((2, Vm3));
        });
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task AConfiguredSourcePortMeetsOtherRules(bool isConfigured)
    {
        await using var host = new Fixture(TimeProvider.System, isConfigured ? PortRange.Any : PortRange.Ephemeral)
        {
            Peers = [Fixture.NewPeer("192.168.40.13", udpPort: 4754), Fixture.NewPeer("192.168.40.12")],
        };
        host.Neighbors.Change(Vm2, Mac);
        host.Neighbors.Change(Vm3, Mac);
        host.Policies.Change(netfilter: new NetfilterRules(DropSourcePort, null, null, []));
        host.Start();
        await host.UntilAsync(() => host.Target(1).Neighbor is not null && host.Target().Neighbor is null == isConfigured);
    }

    [Fact]
    public async Task AGreInUdpPeerThatGoesLosesItsNextHop()
    {
        await using Fixture host = await Fixture.MixedAsync();
        UnderlayTarget gone = host.Target(1);
        host.Peers = [host.Peers[0]];
        host.Chooser.Changed();
        await host.UntilAsync(() => gone.Neighbor is null);
        Assert.NotNull(host.Target().Neighbor);
    }

    private static List<NetworkEvent> Drain(EventStream.Subscription events)
    {
        var told = new List<NetworkEvent>();
        while (events.Events.TryRead(out NetworkEvent? next))
        {
            told.Add(next);
        }

        return told;
    }

    private static Task<NetworkEvent> NextAsync(EventStream.Subscription events) =>
        events.Events.ReadAsync().AsTask().WaitAsync(TimeSpan.FromSeconds(20));

    /// <summary>A clock that runs so many times faster.</summary>
    private sealed class HurriedClock(int factor) : TimeProvider
    {
        public override long GetTimestamp() => System.GetTimestamp() * factor;

        public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period) =>
            System.CreateTimer(callback, state, dueTime > TimeSpan.Zero ? dueTime / factor : dueTime, period);
    }

    private sealed class RecordedPaths : IUnderlayPaths
    {
        private readonly Lock _gate = new();
        private (UnderlayPath, UnderlayPath) _now;

        public Action OnUse { get; set; } = () => { };

        public bool HasNoPacketSockets { get; set; }

        public (UnderlayPath Receive, UnderlayPath Send) Now => Paths;

        public (UnderlayPath Receive, UnderlayPath Send) Paths
        {
            get
            {
                lock (_gate)
                {
                    return _now;
                }
            }
        }

        public void UsePaths(UnderlayPath receive, UnderlayPath send)
        {
            OnUse();
            if (HasNoPacketSockets && (receive == UnderlayPath.Packet || send == UnderlayPath.Packet))
            {
                throw new UnderlayException("cannot open a packet socket", "use raw");
            }

            lock (_gate)
            {
                _now = (receive, send);
            }
        }
    }

    private sealed class Fixture : IAsyncDisposable
    {
        private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(20);

        public Fixture(params string[] endpoints)
            : this(TimeProvider.System, endpoints)
        {
        }

        public Fixture(TimeProvider clock, params string[] endpoints)
            : this(clock, PortRange.Ephemeral, endpoints)
        {
        }

        public Fixture(TimeProvider clock, PortRange sourcePorts, params string[] endpoints)
        {
            Peers = [.. endpoints.Select(endpoint => NewPeer(endpoint))];
            Chooser = new PathChooser(() => Peers, () => Configured, Paths, Policies, Neighbors, sourcePorts, Events, clock, NullLogger.Instance);
        }

        public IReadOnlyList<Peer> Peers { get; set; }

        public (UnderlayPath? Receive, UnderlayPath? Send) Configured { get; set; }

        public RecordedPaths Paths { get; } = new();

        public FakeHostPolicies Policies { get; } = new();

        public FakeHostNeighbors Neighbors { get; } = new();

        public EventStream Events { get; } = new(TimeProvider.System);

        public PathChooser Chooser { get; }

        /// <summary>A host with one peer, reached by packet sockets.</summary>
        public static async Task<Fixture> KnownAsync()
        {
            var host = new Fixture("192.168.40.12");
            host.Neighbors.Change(Vm2, Mac);
            host.Start();
            await host.UntilAsync(() => host.Paths.Now == Packet && host.Target().Neighbor is { LinkIndex: 2, Address: Mac });
            return host;
        }

        /// <summary>A host with two peers whose next hops are known: vm2 by plain GRE, vm3 by GRE-in-UDP.</summary>
        public static async Task<Fixture> MixedAsync()
        {
            var host = new Fixture { Peers = [NewPeer("192.168.40.12"), NewPeer("192.168.40.13", udpPort: 4754)] };
            host.Neighbors.Change(Vm2, Mac);
            host.Neighbors.Change(Vm3, Mac);
            host.Start();
            await host.UntilAsync(() => host.Paths.Now == Packet && host.Peers.All(peer => peer.Target.Neighbor?.Address == Mac) && host.Chooser.Reasons.Count == 0);
            return host;
        }

        public static Peer NewPeer(string endpoint, ushort udpPort = 0)
        {
            InetAddress address = FakeHostNetwork.Address(endpoint);
            InetAddress local = FakeHostNetwork.Address(address.IsIpv4 ? "192.168.40.11" : "2001:db8::1");
            var settings = new PeerSettings(endpoint, address, local, null, null, false, false, 1400, udpPort);
            return new Peer(settings, [new PeerCounters()], new SequenceState());
        }

        public void Start() => Chooser.Start();

        public UnderlayTarget Target(int peer = 0) => Peers[peer].Target;

        public async Task UntilAsync(Func<bool> condition)
        {
            using var deadline = new CancellationTokenSource(Deadline);
            while (!condition())
            {
                Assert.False(deadline.IsCancellationRequested, $"{Paths.Now}, {string.Join("; ", Chooser.Reasons)}");
                await Task.Delay(5);
            }
        }

        /// <summary>The reasons are told last, after the ways and the next hops.</summary>
        public Task UntilReasonsAsync(params string[] expected) => UntilAsync(() => Chooser.Reasons.SequenceEqual(expected));

        public ValueTask DisposeAsync() => Chooser.DisposeAsync();
    }
}
