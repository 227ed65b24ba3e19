using System.Text.Json.Nodes;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>Each finding of doctor's: provoked with a real kernel, and gone once its cure was run.</summary>
public sealed class DoctorTests(ITestOutputHelper output)
{
    [SkippableFact]
    public async Task NothingIsFoundWhereNothingIsWrong()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        Daemon[] daemons = await lab.StartMeshAsync();
        await Poll.UntilAsync("vm2 is up", async () => (await daemons[0].GetAsync("/v1/peers/vm2"))["state"]!.GetValue<string>() == "up");

        CommandResult result = await daemons[0].CtlAsync("doctor");
        Assert.Equal((0, "nothing found\n"), (result.ExitCode, result.Out));
        Assert.Equal("[]\n", (await daemons[0].CtlAsync("--json", "doctor", "vm2")).Out);
        Assert.Equal(404, (await daemons[0].SendAsync("GET", "/v1/doctor?peer=vm9")).Status);

        await daemons[0].StopAsync();
        (await lab.Hosts[0].ShellAsync("echo 0 >/proc/sys/net/ipv4/ip_forward")).Succeeded();
        result = await daemons[0].CtlAsync("doctor");
        Assert.Equal(3, result.ExitCode);
        Assert.Contains("sysctl -w net.ipv4.ip_forward=1", result.Out, StringComparison.Ordinal);
        Assert.Contains("start it: systemctl start tunneld@tun0", result.Error, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task ForwardingThatIsOffIsFound()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon one = (await lab.StartMeshAsync())[0];

        await vm1.ShellAsync("echo 0 >/proc/sys/net/ipv4/ip_forward");
        Assert.Equal(4, (await one.CtlAsync("doctor")).ExitCode);
        await FindAndCureAsync(one, "ip-forward", null, "net.ipv4.ip_forward is 0", "sysctl -w net.ipv4.ip_forward=1");

        await vm1.ShellAsync("echo 0 >/proc/sys/net/ipv4/conf/br0/forwarding");
        await FindAndCureAsync(one, "ip-forward", null, "forwarding is off on br0", "sysctl -w net.ipv4.conf.br0.forwarding=1");

        await vm1.ShellAsync("echo 0 >/proc/sys/net/ipv6/conf/all/forwarding");
        await FindAndCureAsync(one, "ip-forward", null, "no IPv6 is forwarded", "sysctl -w net.ipv6.conf.all.forwarding=1");
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(6))).Received);
        Assert.Empty(await LookAsync(one));
    }

    [SkippableTheory]
    [InlineData("nft", "nft insert rule inet fw forward iifname \"tun0\" accept")]
    [InlineData("iptables", "iptables-nft -I FORWARD -i tun0 -j ACCEPT")]
    [InlineData("docker", "iptables-nft -I DOCKER-USER -i tun0 -j ACCEPT")]
    public async Task ARuleThatDropsWhatIsForwardedIsFound(string kind, string cure)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon one = (await lab.StartMeshAsync())[0];
        string rules = kind switch
        {
            "nft" => """
                nft -f - <<END
                table inet fw {
                    chain forward {
                        type filter hook forward priority 0; policy drop;
                        ct state established,related accept
                        tcp dport 22 drop
                        ip daddr 10.0.0.0/8 jump more
                        oifname "tun0" ip saddr 172.17.51.0/24 accept
                    }
                    chain more { accept; }
                }
                END
                """,
            "iptables" => """
                iptables-nft -P FORWARD DROP
                iptables-nft -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
                iptables-nft -A FORWARD -i br0 ! -o br0 -j ACCEPT
                """,

            // As Docker 20.10 to 27 writes them.
            _ => """
                iptables-nft -N DOCKER; iptables-nft -N DOCKER-USER; iptables-nft -N DOCKER-ISOLATION-STAGE-1; iptables-nft -N DOCKER-ISOLATION-STAGE-2
                iptables-nft -P FORWARD DROP
                iptables-nft -A FORWARD -j DOCKER-USER
                iptables-nft -A FORWARD -j DOCKER-ISOLATION-STAGE-1
                iptables-nft -A FORWARD -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
                iptables-nft -A FORWARD -o br0 -j DOCKER
                iptables-nft -A FORWARD -i br0 ! -o br0 -j ACCEPT
                iptables-nft -A FORWARD -i br0 -o br0 -j ACCEPT
                iptables-nft -A DOCKER-ISOLATION-STAGE-1 -i br0 ! -o br0 -j DOCKER-ISOLATION-STAGE-2
                iptables-nft -A DOCKER-ISOLATION-STAGE-1 -j RETURN
                iptables-nft -A DOCKER-ISOLATION-STAGE-2 -o br0 -j DROP
                iptables-nft -A DOCKER-ISOLATION-STAGE-2 -j RETURN
                iptables-nft -A DOCKER-USER -j RETURN
                iptables-nft -A DOCKER -d 172.17.51.9/32 ! -i br0 -o br0 -p tcp -m tcp --dport 80 -j ACCEPT
                """,
        };
        (await vm1.ShellAsync(rules)).Succeeded();
        Assert.Equal(0, (await vm2.Container.PingAsync(vm1.ContainerAddress(4))).Received);
        await FindAndCureAsync(one, "forward-rules", null, "from tun0", cure);
        Assert.Equal(3, (await vm2.Container.PingAsync(vm1.ContainerAddress(4))).Received);
        Assert.Empty(await LookAsync(one));
    }

    [SkippableFact]
    public async Task ARuleThatDropsWhatComesWithoutATunnelIsFound()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon one = (await lab.StartMeshAsync(options: (_, _) => ["encapsulation: direct"]))[0];
        (await vm1.ShellAsync(
            "iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables-nft -A FORWARD -i br0 ! -o br0 -j ACCEPT"))
            .Succeeded();
        Assert.Equal(0, (await vm2.Container.PingAsync(vm1.ContainerAddress(4))).Received);

        // Each of its subnets: the containers', and its own address.
        await FindAndCureAsync(one, "forward-rules", null, "as from 172.17.52", "iptables-nft -I FORWARD -i eth1 -s 172.17.52.0/24 -j ACCEPT", isWhole: false);
        await FindAndCureAsync(one, "forward-rules", null, "as from 10.0.201.2", "iptables-nft -I FORWARD -i eth1 -s 10.0.201.2/32 -j ACCEPT");
        Assert.Equal(3, (await vm2.Container.PingAsync(vm1.ContainerAddress(4))).Received);
        Assert.Equal(3, (await vm2.PingAsync(vm1.ContainerAddress(4))).Received);
        Assert.Empty(await LookAsync(one));
    }

    // Ahead of the network's own table, which keeps sources from what comes at the usual priority.
    [SkippableFact]
    public async Task MasqueradeIsFoundWhereItIsDoneAndWhereItArrives()
    {
        const string Rules = "nft add table ip my; nft add chain ip my post '{ type nat hook postrouting priority 80; }'; nft add rule ip my post oifname != \"br0\" masquerade";
        const string Cure = "nft insert rule ip my post oifname \"tun0\" accept";
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);

        // Its own address in the overlay is none of its subnets at the other end.
        string Peers(Vm peer) => peer.PeerEntry().Replace($", {peer.Overlay(4)}/32", "", StringComparison.Ordinal);
        Daemon one = await vm1.StartDaemonAsync(vm1.Configuration(Peers(vm2)));
        Daemon two = await vm2.StartDaemonAsync(vm2.Configuration(Peers(vm1)));
        (await vm1.ShellAsync(Rules)).Succeeded();

        Assert.Equal(0, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        JsonNode there = await FindAsync(two, "masquerade", "vm1", "with source 10.0.201.1 are dropped");
        Assert.Null(there["cure"]);
        await FindAndCureAsync(one, "masquerade", null, "gives what containers send into tun0 another source", Cure);
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
    }

    [SkippableFact]
    public async Task ATableThatKeepsSourcesAsTheyAreIsNoMasquerade()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        Vm vm1 = lab.Hosts[0];
        Daemon one = (await lab.StartMeshAsync())[0];
        (await vm1.ShellAsync(
            """
            iptables-nft -t nat -A POSTROUTING -s 172.17.51.0/24 ! -o br0 -j MASQUERADE
            nft -f - <<END
            table inet keeps {
                set overlay { type ipv4_addr; flags interval; elements = { 172.17.51.0/24, 172.17.52.0/24 }; }
                chain post {
                    type nat hook postrouting priority srcnat - 10;
                    ip saddr @overlay ip daddr @overlay snat ip to ip saddr
                }
            }
            END
            """)).Succeeded();
        Assert.Empty(await LookAsync(one));
    }

    [SkippableFact]
    public async Task AStrictReversePathFilterIsFoundWhereItBites()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon one = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()) + "\ndatapath: {receive: raw}\n");
        await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));
        await vm1.ShellAsync("echo 1 >/proc/sys/net/ipv4/conf/eth1/rp_filter; echo 1 >/proc/sys/net/ipv4/conf/tun0/rp_filter");
        Assert.DoesNotContain(await LookAsync(one), finding => Is(finding, "rp-filter"));

        // What comes by eth1 would be answered by another device; and from behind the tunnel to behind another.
        await vm1.IpAsync(
            """
            link add eth2 type bridge
            addr add 10.9.9.1/24 dev eth2
            link set eth2 up
            route add 192.168.40.12/32 dev eth2
            """);
        await FindAndCureAsync(one, "rp-filter", "vm2", "rp_filter on eth1 is strict", "sysctl -w net.ipv4.conf.eth1.rp_filter=2");
        await vm1.IpAsync("route add 172.17.52.128/25 dev eth2");
        await FindAndCureAsync(one, "rp-filter", "vm2", "rp_filter on tun0 is strict", "sysctl -w net.ipv4.conf.tun0.rp_filter=2");
    }

    [SkippableFact]
    public async Task AnEndpointThatCantBeReachedIsFound()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon one = await vm1.StartDaemonAsync(vm1.Configuration());
        await AddAsync(one, "vm2", vm2.Underlay(4), vm2.Subnet(4));
        await AddAsync(one, "nobody", "192.168.40.99", "172.17.59.0/24");
        await AddAsync(one, "self", "10.0.2.15", "172.17.58.0/24");
        await AddAsync(one, "nowhere", "203.0.113.9", "172.17.57.0/24");

        await FindAsync(one, "endpoint", "nobody", "192.168.40.99 does not answer ARP on eth1");
        await FindAsync(one, "endpoint", "nowhere", "no route to 203.0.113.9");
        await vm1.IpAsync("link add eth0 type bridge\naddr add 10.0.2.15/24 dev eth0\nlink set eth0 up");
        await FindAsync(one, "endpoint", "self", "10.0.2.15 is an address of this host itself, on eth0; every Vagrant");

        // Nobody on vm2 takes GRE, and its kernel says so.
        await FindAsync(one, "endpoint", "vm2", "rotocol");

        await vm1.IpAsync("link set eth1 down");
        await FindAndCureAsync(one, "endpoint", "vm2", "eth1, which has an address there, is down", "ip link set eth1 up", isWhole: false);
    }

    [SkippableFact]
    public async Task AWayThatDropsGreIsFoundWithItsDirectionAndGreInUdpGoesAroundIt()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon one = await vm1.StartDaemonAsync(vm1.Configuration());
        Daemon two = await vm2.StartDaemonAsync(vm2.Configuration());
        await BlockAsync(lab, "192.168.40.11");
        await AddAsync(one, "vm2", vm2.Underlay(4), vm2.Subnet(4));
        await AddAsync(two, "vm1", vm1.Underlay(4), vm1.Subnet(4));

        // vm1 knows it for certain, from what vm2 says that it hears; vm2 knows its own half.
        JsonNode known = await FindAsync(
            one, "blocked", "vm2", "outbound: vm2's packets arrive, and it says that it hears nothing of this host: protocol 47 (GRE) is blocked from here to 192.168.40.12");
        Assert.Equal("tunnelctl -n tun0 set-peer vm2 --encapsulation gre-udp", known["cure"]!.GetValue<string>());
        await FindAsync(two, "blocked", "vm1", "inbound, perhaps both ways: nothing of vm1 arrives, though its host answers ping");

        await BlockAsync(lab, "192.168.40.11, 192.168.40.12");
        await RestartAsync(one);
        await RestartAsync(two);
        JsonNode there = await FindAsync(two, "blocked", "vm1", "inbound, perhaps both ways: nothing of vm1 arrives");
        JsonNode here = await FindAsync(one, "blocked", "vm2", "inbound, perhaps both ways: nothing of vm2 arrives");
        await CureAsync(one, here);
        await CureAsync(two, there);
        await GoneAsync(one, "blocked", "vm2");
        await GoneAsync(two, "blocked", "vm1");
        Assert.Empty(await LookAsync(one));
    }

    [SkippableFact]
    public async Task AWayThatBeginsToDropGreIsFoundByBothEnds()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        Daemon[] daemons = await lab.StartMeshAsync(options: (_, _) => ["keepalive: 500ms"]);
        foreach ((Daemon daemon, string peer) in daemons.Zip(["vm2", "vm1"]))
        {
            await Poll.UntilAsync("the peer is up", async () => (await daemon.GetAsync($"/v1/peers/{peer}"))["state"]!.GetValue<string>() == "up");
        }

        await BlockAsync(lab, "192.168.40.12");
        JsonNode finding = await FindAsync(daemons[0], "blocked", "vm2", "inbound, perhaps both ways: nothing of vm2 arrives");
        Assert.StartsWith($"edit {daemons[0].ConfigFile}: peers: {{vm2: {{encapsulation: gre-udp}}}}", finding["cure"]!.GetValue<string>(), StringComparison.Ordinal);
        await FindAsync(daemons[1], "blocked", "vm1", "outbound: vm1's packets arrive, and it says that it hears nothing for");

        // Nobody gets through to whom nothing arrives from, nor to who hears nothing.
        await Poll.UntilAsync("vm2 is down", async () => (await daemons[0].GetAsync("/v1/peers/vm2"))["state"]!.GetValue<string>() == "down");
        await Poll.UntilAsync("vm1 is down, and says why", async () => (await daemons[1].GetAsync("/v1/peers/vm1")) is JsonNode vm1 &&
            vm1["state"]!.GetValue<string>() == "down" && vm1["problems"]!.ToJsonString().Contains("gets nothing from this host", StringComparison.Ordinal));

        // A path that is mended is not told of.
        await lab.Switch.RunAsync("nft", "flush", "ruleset");
        await GoneAsync(daemons[0], "blocked", "vm2");
        await GoneAsync(daemons[1], "blocked", "vm1");
    }

    [SkippableTheory]
    [InlineData("nft", "input", "nft insert rule inet fw input ip saddr 192.168.40.12 ip protocol gre accept")]
    [InlineData("nft", "output", "nft insert rule inet fw output ip daddr 192.168.40.12 ip protocol gre accept")]
    [InlineData("iptables", "INPUT", "iptables-legacy -I INPUT -s 192.168.40.12 -p gre -j ACCEPT")]
    public async Task AFirewallOfThisHostThatDropsGreIsFound(string tool, string chain, string cure)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        Vm vm1 = lab.Hosts[0];
        Daemon one = (await lab.StartMeshAsync())[0];
        (await vm1.ShellAsync(tool == "nft"
            ? $"nft add table inet fw; nft add chain inet fw {chain} '{{ type filter hook {chain} priority 0; policy drop; }}'; nft add rule inet fw {chain} ip protocol != gre accept; nft add rule inet fw {chain} ip6 nexthdr != gre accept"
            : $"iptables-legacy -P {chain} DROP; iptables-legacy -A {chain} -p icmp -j ACCEPT")).Succeeded();
        await FindAndCureAsync(one, "firewall", "vm2", chain.Equals("output", StringComparison.OrdinalIgnoreCase) ? "outbound is blocked here" : "inbound is blocked here", cure);
        if (tool == "iptables")
        {
            JsonNode legacy = await FindAsync(one, "iptables-legacy", null, "tables of iptables-legacy exist");
            Assert.Equal("warning", legacy["severity"]!.GetValue<string>());
        }
    }

    // What a host's firewall mostly looks like. GRE passes it as an answer to this host's own; GRE-in-UDP comes to another port than it leaves from.
    [SkippableTheory]
    [InlineData("nft", "nft insert rule inet fw input ip saddr 192.168.40.12 udp dport 4754 accept")]
    [InlineData("iptables", "iptables-nft -I INPUT -s 192.168.40.12 -p udp --dport 4754 -j ACCEPT")]
    public async Task AFirewallThatTakesAnswersOnlyIsFoundWithGreInUdp(string tool, string cure)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        Vm vm1 = lab.Hosts[0];
        Daemon one = (await lab.StartMeshAsync(options: (_, _) => ["encapsulation: gre-udp"]))[0];
        (await vm1.ShellAsync(tool == "nft"
            ? "nft -f - <<END\ntable inet fw { chain input { type filter hook input priority 0; policy drop; ct state { established, related } accept\n ct state vmap { new : continue, invalid : drop }\n ct status dnat accept\n meta l4proto { icmp, ipv6-icmp } accept; }; }\nEND"
            : "iptables-nft -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables-nft -A INPUT -p icmp -j ACCEPT; iptables-nft -P INPUT DROP")).Succeeded();
        await FindAndCureAsync(one, "firewall", "vm2", "inbound is blocked here", cure);
    }

    [SkippableFact]
    public async Task APathThatTakesLessThanTheDeviceSaysIsFound()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        Daemon one = (await lab.StartMeshAsync())[0];
        await lab.Switch.IpAsync("link set port2 mtu 1400");
        JsonNode finding = await FindAndCureAsync(
            one, "path-mtu", "vm2", "takes 1400 bytes, eth1 says 1500", "ip route replace 192.168.40.12 dev eth1 src 192.168.40.11 mtu 1400");
        Assert.Equal("warning", finding["severity"]!.GetValue<string>());
        Assert.Empty(await LookAsync(one));
    }

    [SkippableFact]
    public async Task ASourceThatThePeerDoesNotKnowIsFoundAtBothEnds()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        foreach (Vm host in lab.Hosts)
        {
            await host.IpAsync("link add eth0 type bridge\naddr add 10.0.2.15/24 dev eth0\nlink set eth0 up");
        }

        string good = vm1.Configuration(vm2.PeerEntry());
        Daemon one = await vm1.StartDaemonAsync(good.Replace("local: 192.168.40.11", "local: 10.0.2.15", StringComparison.Ordinal));
        Daemon two = await vm2.StartDaemonAsync(vm2.Configuration());
        await AddAsync(two, "vm1", vm1.Underlay(4), vm1.Subnet(4));
        JsonNode here = await FindAsync(one, "underlay-source", "vm2", "leave by eth1 with the source 10.0.2.15 of eth0; by itself this host would take 192.168.40.11");
        Assert.Equal($"edit {one.ConfigFile}: underlay: {{local: 192.168.40.11}}; then: systemctl restart tunneld@tun0", here["cure"]!.GetValue<string>());
        await FindAsync(two, "underlay-source", "vm1", "a tunneld sends from 10.0.2.15, the address of the NAT device");

        await one.StopAsync();
        one.Configure(good);
        await one.StartAsync();
        await GoneAsync(one, "underlay-source", "vm2");
        await GoneAsync(two, "underlay-source", "vm1");

        // Another of its addresses: there is a packet that shows whose it is.
        await one.StopAsync();
        await vm1.IpAsync("addr add 192.168.40.77/24 dev eth1");
        one.Configure(good.Replace("local: 192.168.40.11", "local: 192.168.40.77", StringComparison.Ordinal));
        await one.StartAsync();
        await vm1.Container.PingAsync(vm2.ContainerAddress(4));
        await FindAndCureAsync(
            two, "underlay-source", "vm1", "packets like vm1's come from 192.168.40.77", "tunnelctl -n tun0 set-peer vm1 --endpoint 192.168.40.77",
            poke: () => vm1.Container.PingAsync(vm2.ContainerAddress(4), 1));
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
    }

    [SkippableFact]
    public async Task RoutesThatOverlapAreFound()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        Vm vm1 = lab.Hosts[0];
        Daemon one = (await lab.StartMeshAsync())[0];
        await vm1.IpAsync("link add docker0 type bridge\naddr add 172.16.0.1/12 dev docker0\nlink set docker0 up");
        JsonNode contained = await FindAsync(one, "overlap", "vm2", "172.16.0.0/12 dev docker0 contains vm2's 172.17.52.0/24");
        Assert.Equal("warning", contained["severity"]!.GetValue<string>());
        await vm1.IpAsync("link del docker0");
        await GoneAsync(one, "overlap", "vm2");

        await vm1.IpAsync("route add 172.17.52.128/25 dev eth1");
        await FindAndCureAsync(one, "overlap", "vm2", "takes a part of vm2's 172.17.52.0/24 away", "ip route del 172.17.52.128/25 dev eth1");

        await vm1.IpAsync("addr add 172.17.52.200/26 dev eth1");
        Assert.Null((await FindAsync(one, "overlap", "vm2", "an address of this host is in there"))["cure"]);
    }

    [SkippableFact]
    public async Task KeysThatDifferAreFound()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon one = await vm1.StartDaemonAsync(vm1.Configuration());
        Daemon two = await vm2.StartDaemonAsync(vm2.Configuration());
        await AddAsync(one, "vm2", vm2.Underlay(4), vm2.Subnet(4), "--key", "7");
        await AddAsync(two, "vm1", vm1.Underlay(4), vm1.Subnet(4), "--key", "9");
        await FindAsync(two, "key", "vm1", "come with key 7");
        await FindAndCureAsync(one, "key", "vm2", "come with key 9, the last", "tunnelctl -n tun0 set-peer vm2 --key 9");
        Assert.Empty(await LookAsync(one));

        // One direction alone: what vm2 sends is right, and it says what it thinks of what it gets.
        (await one.CtlAsync("set-peer", "vm2", "--key", "9:7")).Succeeded();
        await RestartAsync(two);
        await FindAsync(one, "key", "vm2", "vm2 says that this host's packets come with a key that it does not expect: they have key 7");
    }

    [SkippableFact]
    public async Task TheKernelsOwnDeviceIsFound()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        Vm vm1 = lab.Hosts[0];
        Daemon one = (await lab.StartMeshAsync())[0];

        // Of another kind, as not every kernel has the module: what is looked at is the name, which the module gives it in every namespace.
        await vm1.IpAsync("link add gre0 type bridge\nlink set gre0 up");
        JsonNode finding = await FindAsync(one, "kernel-gre", null, "gre0 is up");
        await CureAsync(one, finding);
        JsonNode rest = await FindAsync(one, "kernel-gre", null, "gre0 is there");
        Assert.Equal("warning", rest["severity"]!.GetValue<string>());
    }

    private static async Task AddAsync(Daemon daemon, string name, string endpoint, string subnet, params string[] options) =>
        (await daemon.CtlAsync(["add-peer", name, "--endpoint", endpoint, "--subnet", subnet, .. options])).Succeeded();

    // The switch drops the GRE that some hosts send.
    private static async Task BlockAsync(Lab lab, string sources)
    {
        await lab.Switch.RunAsync("nft", "flush", "ruleset");
        (await lab.Switch.ShellAsync($$"""
            nft add table bridge block
            nft add chain bridge block forward '{ type filter hook forward priority 0; }'
            nft add rule bridge block forward ip saddr '{ {{sources}} }' ip protocol gre drop
            """)).Succeeded();
    }

    private static async Task RestartAsync(Daemon daemon)
    {
        await daemon.StopAsync();
        await daemon.StartAsync();
    }

    private static async Task<JsonNode[]> LookAsync(Daemon daemon) => [.. (await daemon.GetAsync("/v1/doctor")).AsArray().Select(finding => finding!)];

    private static bool Is(JsonNode finding, string check, string? peer = null) =>
        finding["check"]!.GetValue<string>() == check && (peer is null || finding["peer"]?.GetValue<string>() == peer);

    // Some take until the other end has asked, or the path was measured.
    private static async Task<JsonNode> FindAsync(Daemon daemon, string check, string? peer, string text, Func<Task>? poke = null)
    {
        JsonNode[] findings = [];
        JsonNode? found = null;
        await Poll.UntilAsync(
            $"{daemon.Host}: {check}: {text}",
            async () =>
            {
                await (poke?.Invoke() ?? Task.CompletedTask);
                findings = await LookAsync(daemon);
                found = findings.FirstOrDefault(finding => Is(finding, check, peer) && finding["finding"]!.GetValue<string>().Contains(text, StringComparison.Ordinal));
                return found is not null;
            },
            () => Task.FromResult(string.Join('\n', findings.Select(finding => finding.ToJsonString()))));
        return found!;
    }

    private static Task GoneAsync(Daemon daemon, string check, string? peer)
    {
        JsonNode[] findings = [];
        return Poll.UntilAsync(
            $"{daemon.Host}: {check} is gone",
            async () => !(findings = await LookAsync(daemon)).Any(finding => Is(finding, check, peer)),
            () => Task.FromResult(string.Join('\n', findings.Select(finding => finding.ToJsonString()))));
    }

    private static async Task<JsonNode> FindAndCureAsync(
        Daemon daemon, string check, string? peer, string text, string cure, bool isWhole = true, Func<Task>? poke = null)
    {
        JsonNode finding = await FindAsync(daemon, check, peer, text, poke);
        Assert.Equal(cure, finding["cure"]!.GetValue<string>());
        await CureAsync(daemon, finding);
        JsonNode[] findings = [];
        await Poll.UntilAsync(
            $"{daemon.Host}: {check} is cured",
            async () => !(findings = await LookAsync(daemon)).Any(one => Is(one, check, peer) && (isWhole || one["finding"]!.GetValue<string>().Contains(text, StringComparison.Ordinal))),
            () => Task.FromResult(string.Join('\n', findings.Select(one => one.ToJsonString()))));
        return finding;
    }

    private static async Task CureAsync(Daemon daemon, JsonNode finding)
    {
        string command = finding["cure"]!.GetValue<string>().Replace("tunnelctl -n tun0", $"{Programs.Tunnelctl} --socket {daemon.SocketFile}", StringComparison.Ordinal);
        (await daemon.Host.ShellAsync(command)).Succeeded();
    }
}
