using Tunnel.Control;
using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Control;

/// <summary>What of the host's firewall is the network's, on a host in memory.</summary>
public sealed class FirewallKeeperTests
{
    private const string Base = "interface: {addresses: [10.0.201.1/24]}\nsubnets: [172.17.51.0/24]\n";
    private const string OurRule = "-A DOCKER-USER -i tun0 -m comment --comment tunnel_tun0 -j ACCEPT";
    private static readonly FirewallChain Masquerading = new("ip", "nat", "POSTROUTING", "nat", "postrouting");
    private static readonly string[] DockersRules = ["-P FORWARD DROP", "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER", "-A DOCKER-USER -j RETURN"];

    [Fact]
    public async Task Where_nobody_changes_sources_there_is_no_table_and_no_program_is_run()
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(Base, prepare: fixture => fixture.Firewall.Failure = "no program works");

        await fixture.PutAsync("vm2", """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24"]}""");

        Assert.Empty(fixture.Firewall.Calls);
        Assert.Empty(fixture.Network.DescribeNetwork().Problems);
        Assert.Null(fixture.Network.DescribeNetwork().Nat.Table);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Where_somebody_may_change_sources_the_table_is_there_from_the_start(bool isLegacy)
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(Base, prepare: fixture =>
        {
            fixture.Firewall.Legacy = isLegacy ? ["nat"] : [];
            fixture.Firewall.Change((chains, _, _) => chains.AddRange(isLegacy ? [] : [Masquerading]));
        });

        Assert.Equal(["write 10.0.201.1/32 172.17.51.0/24"], fixture.Firewall.Calls);
        Assert.Equal("inet tunnel_tun0", fixture.Network.DescribeNetwork().Nat.Table);
    }

    [Fact]
    public async Task It_comes_and_goes_with_them()
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(Base);

        fixture.Firewall.Change((chains, _, _) => chains.Add(Masquerading));
        await ControlFixture.EventuallyAsync(() => fixture.Firewall.Written is not null);
        fixture.Firewall.Change((chains, _, _) => chains.Remove(Masquerading));
        await ControlFixture.EventuallyAsync(() => fixture.Firewall.Written is null);
    }

    [Fact]
    public async Task Where_this_hosts_subnets_are_not_named_the_device_tells_what_the_overlay_is()
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync("interface: {addresses: [10.0.201.1/24]}\nnat: {}\n");

        Assert.Equal(["write 10.0.201.1/32 dev tun0"], fixture.Firewall.Calls);
    }

    [Fact]
    public async Task Tables_of_two_networks_do_not_keep_each_other_alive()
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(Base, prepare: fixture =>
            fixture.Firewall.Change((chains, _, _) => chains.Add(new FirewallChain("inet", "tunnel_tun1", "postrouting", "nat", "postrouting"))));

        Assert.Empty(fixture.Firewall.Calls);
    }

    [Fact]
    public async Task Its_prefixes_follow_the_peers_before_a_change_returns()
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(Base + "nat: {}\n");

        await fixture.PutAsync("vm2", """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24", "172.17.52.128/25", "10.0.201.2/32"]}""");
        Assert.Equal("write 10.0.201.1/32 10.0.201.2/32 172.17.51.0/24 172.17.52.0/24", fixture.Firewall.Calls[^1]);

        await fixture.Network.RemovePeerAsync("vm2");
        Assert.Equal("write 10.0.201.1/32 172.17.51.0/24", fixture.Firewall.Calls[^1]);

        await fixture.ReloadAsync(Base + "nat: {masquerade: true}\n");
        Assert.Equal("write 10.0.201.1/32 172.17.51.0/24 masquerade", fixture.Firewall.Calls[^1]);
        Assert.Equal(4, fixture.Firewall.Calls.Count);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task What_is_taken_away_or_changed_is_put_back_once(bool isFlushed)
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(Base + "nat: {masquerade: true}\n");
        using EventStream.Subscription events = fixture.Events.Subscribe();

        if (isFlushed)
        {
            fixture.Firewall.Flush();
        }
        else
        {
            fixture.Firewall.Change((_, texts, _) => texts["inet tunnel_tun0"] = "somebody's own");
        }

        await ControlFixture.EventuallyAsync(() => fixture.Firewall.Calls.Count == 2);

        // Its own change is told as well. Nothing comes of that.
        fixture.Firewall.Change((chains, _, _) => chains.Add(Masquerading));
        await Task.Delay(300);
        Assert.Equal(2, fixture.Firewall.Calls.Count);
        Assert.True(events.Events.TryRead(out NetworkEvent? told));
        Assert.Equal(("restored", "table inet tunnel_tun0"), (told.Event, told.Detail));
    }

    [Fact]
    public async Task Who_keeps_deleting_it_starts_no_race()
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(Base + "nat: {}\n");
        for (int i = 0; i < 3; i++)
        {
            int before = fixture.Firewall.Calls.Count;
            fixture.Firewall.Flush();
            await ControlFixture.EventuallyAsync(() => fixture.Firewall.Calls.Count > before);
        }

        fixture.Firewall.Flush();
        await ControlFixture.EventuallyAsync(() => fixture.Network.DescribeNetwork().Problems.Count > 0);

        Assert.Equal("somebody keeps changing the table inet tunnel_tun0; it will be put back later", fixture.Network.DescribeNetwork().Problems[0]);
        await ControlFixture.EventuallyAsync(() => fixture.Network.DescribeNetwork().Problems.Count == 0);
    }

    [Fact]
    public async Task A_missing_program_is_one_problem_and_stops_nothing()
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(
            Base + "nat: {masquerade: true}\n", prepare: fixture => fixture.Firewall.Failure = "the program nft is missing: install the package nftables");

        await fixture.PutAsync("vm2", """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24"]}""");

        Assert.True(fixture.HasRoute("172.17.52.0/24"));
        Assert.Equal(["nat: the program nft is missing: install the package nftables"], fixture.Network.DescribeNetwork().Problems);
        Assert.Single(fixture.Log.Lines, line => line.Line.Contains("nft is missing", StringComparison.Ordinal));

        // Somebody installs it, and nftables has news.
        fixture.Firewall.Failure = null;
        fixture.Firewall.Change((_, _, _) => { });
        await ControlFixture.EventuallyAsync(() => fixture.Firewall.Written is not null && fixture.Network.DescribeNetwork().Problems.Count == 0);
    }

    [Fact]
    public async Task A_rule_stands_in_Dockers_chain_where_forwarding_is_wanted()
    {
        var fixture = await ControlFixture.StartAsync(
            Base + "nat: {forward: true}\n", prepare: fixture => fixture.Firewall.SetRules("iptables-nft", DockersRules));
        await using (fixture)
        {
            Assert.Equal([.. DockersRules[..3], OurRule, DockersRules[3]], fixture.Firewall.RulesOf("iptables-nft"));
            Assert.Equal(["iptables-nft"], fixture.Network.DescribeNetwork().Nat.ForwardRules);

            // Docker starts anew, with IPv6 as well.
            fixture.Firewall.SetRules("ip6tables-nft", DockersRules);
            fixture.Firewall.SetRules("iptables-nft", DockersRules);
            await ControlFixture.EventuallyAsync(() =>
                fixture.Firewall.RulesOf("iptables-nft").Contains(OurRule) && fixture.Firewall.RulesOf("ip6tables-nft").Contains(OurRule));
        }

        Assert.Equal(DockersRules, fixture.Firewall.RulesOf("iptables-nft"));
        Assert.Equal(DockersRules, fixture.Firewall.RulesOf("ip6tables-nft"));
        Assert.Null(fixture.Firewall.Written);
    }

    // iptables puts a comment in quotes where it has other characters than letters, digits, "_" and "-".
    [Fact]
    public async Task It_is_moved_where_it_would_mean_nothing_and_else_left_alone()
    {
        string quoted = OurRule.Replace("tunnel_tun0", "\"tunnel_tun0\"", StringComparison.Ordinal);
        await using ControlFixture fixture = await ControlFixture.StartAsync(Base + "nat: {forward: true}\n", prepare: fixture =>
        {
            fixture.Firewall.SetRules("iptables-nft", "-N DOCKER-USER", "-A DOCKER-USER -i eth0 -j DROP", quoted, "-A DOCKER-USER -j RETURN");
            fixture.Firewall.SetRules("iptables-legacy", "-N DOCKER-USER", "-A DOCKER-USER -j RETURN", OurRule);
        });

        Assert.Equal(["write 10.0.201.1/32 172.17.51.0/24", "iptables-legacy -D DOCKER-USER", "iptables-legacy -I DOCKER-USER"], fixture.Firewall.Calls);
        Assert.Equal(["-N DOCKER-USER", OurRule, "-A DOCKER-USER -j RETURN"], fixture.Firewall.RulesOf("iptables-legacy"));
    }

    [Fact]
    public async Task What_a_killed_process_left_is_removed_where_it_is_no_longer_wanted()
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(Base, prepare: fixture =>
        {
            fixture.Firewall.SetRules("iptables-nft", "-N DOCKER-USER", OurRule, OurRule);
            fixture.Firewall.WriteTable(new NatTable("tunnel_tun0", "tun0", [], [], Masquerades: true));
        });

        Assert.Equal(["-N DOCKER-USER"], fixture.Firewall.RulesOf("iptables-nft"));
        Assert.Equal("remove", fixture.Firewall.Calls[1]);
    }

    [Fact]
    public async Task Without_Docker_a_chain_that_drops_is_named_with_the_cure_and_left_alone()
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(Base + "nat: {forward: true}\n", prepare: fixture =>
        {
            fixture.Firewall.SetRules("iptables-nft", "-P FORWARD DROP");
            fixture.Firewall.Change((chains, texts, _) =>
            {
                chains.Add(new FirewallChain("ip", "filter", "FORWARD", "filter", "forward", DropsAtEnd: true));
                chains.Add(new FirewallChain("inet", "fw", "fwd", "filter", "forward", DropsAtEnd: true));
                texts["inet fw"] = "table inet fw { }";
            });
        });

        Assert.Equal(
            [
                "forward: the chain FORWARD of iptables-nft drops by policy, and there is no DOCKER-USER to accept in: " +
                    "iptables-nft -I FORWARD -i tun0 -j ACCEPT; iptables-nft -I FORWARD -o tun0 -j ACCEPT",
                "forward: the chain fwd of table inet fw drops by policy: nft insert rule inet fw fwd iifname tun0 accept; nft insert rule inet fw fwd oifname tun0 accept",
            ],
            fixture.Network.DescribeNetwork().Problems);

        // Whoever has rules for the device has thought of it.
        fixture.Firewall.Change((_, texts, iptables) =>
        {
            iptables["iptables-nft"].Add("-A FORWARD -i tun0 -j ACCEPT");
            texts["inet fw"] = "iifname \"tun0\" accept";
        });
        await ControlFixture.EventuallyAsync(() => fixture.Network.DescribeNetwork().Problems.Count == 0);
        Assert.All(fixture.Firewall.Calls, call => Assert.StartsWith("write", call, StringComparison.Ordinal));
    }

    [Fact]
    public void Prefixes_within_others_are_left_out()
    {
        string[] kept = [.. FirewallKeeper.Outermost(
            ((string[])["172.17.52.128/25", "fd00::/8", "172.17.51.0/24", "172.17.52.0/24", "172.17.52.0/25", "172.17.53.0/24", "fd00:1::/64", "172.17.51.0/24"])
                .Select(FakeHostNetwork.Prefix)).Select(prefix => prefix.ToString())];

        Assert.Equal(["172.17.51.0/24", "172.17.52.0/24", "172.17.53.0/24", "fd00::/8"], kept.Order(StringComparer.Ordinal));
    }
}
