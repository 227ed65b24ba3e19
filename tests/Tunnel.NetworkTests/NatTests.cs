using System.Text.Json.Nodes;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>The network's part in the host's firewall, with the real nft and iptables: sources are kept, and what is not ours stays as it is.</summary>
public sealed class NatTests(ITestOutputHelper output)
{
    private const string Table = "nft list table inet tunnel_tun0";

    // As Docker has it; the bridge's name is the lab's.
    private const string DockersNat = "$1 -t nat -A POSTROUTING -s $2 ! -o br0 -j MASQUERADE";

    private const string DockersFilter = """
        $1 -P FORWARD DROP
        $1 -N DOCKER-USER
        $1 -A DOCKER-USER -j RETURN
        $1 -A FORWARD -j DOCKER-USER
        $1 -A FORWARD -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        $1 -A FORWARD -i br0 ! -o br0 -j ACCEPT
        """;

    [SkippableTheory]
    [InlineData("iptables-nft", "", 4)]
    [InlineData("iptables-legacy", "", 4)]
    [InlineData("ip6tables-nft", "", 6)]
    [InlineData("iptables-nft", "subnets: [172.17.51.0/24]\n", 4)]
    [InlineData("iptables-nft", "subnets: [172.17.51.0/24]\nnat: {masquerade: true}\n", 4)]
    public async Task ContainersAreSeenByTheirOwnAddressWhereSomebodyMasquerades(string program, string options, int version)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        (await vm1.ShellAsync(DockersNat, program, vm1.Subnet(version))).Succeeded();
        Daemon daemon1 = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()) + options);
        await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));

        Assert.Equal(vm1.ContainerAddress(version), await SourceSeenAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(version)));
        Assert.Equal(vm2.ContainerAddress(version), await SourceSeenAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(version)));

        // And packets go the fast way all the same: nothing in the table can concern the outer ones.
        await Poll.UntilAsync(
            "packet sockets are in use",
            async () => (await daemon1.GetAsync("/v1/network"))["datapath"]!["send"]!.GetValue<string>() == "packet",
            async () => (await daemon1.GetAsync("/v1/network")).ToJsonString());
    }

    [SkippableTheory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task ToElsewhereTheOverlayIsMasqueradedWhereThatIsWanted(bool masquerade)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        Vm vm1 = lab.Hosts[0];
        await lab.Switch.IpAsync("addr add 192.168.40.99/24 dev br0\naddr add fd40::99/64 dev br0");
        await vm1.StartDaemonAsync(
            vm1.Configuration() + $"subnets: [172.17.51.0/24, \"fd17:51::/64\"]\nnat: {{masquerade: {(masquerade ? "true" : "false")}}}\n");

        Assert.Equal(masquerade ? vm1.Underlay(4) : vm1.ContainerAddress(4), await SourceSeenAsync(vm1.Container, lab.Switch, "192.168.40.99"));
        Assert.Equal(masquerade ? vm1.Underlay(6) : vm1.ContainerAddress(6), await SourceSeenAsync(vm1.Container, lab.Switch, "fd40::99"));

        // The host's own traffic is nobody's business.
        Assert.Equal(vm1.Underlay(4), await SourceSeenAsync(vm1, lab.Switch, "192.168.40.99"));
    }

    // A container reaches the one beside it by a port that is published on the host; without the bridge's address the answer would not come back this way.
    [SkippableFact]
    public async Task WhatAPublishedPortNeedsIsLeftToItsOwner()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        Vm vm1 = lab.Hosts[0];
        (await vm1.ShellAsync(
            """
            iptables-nft -t nat -A PREROUTING -p udp --dport 8080 -j DNAT --to-destination 172.17.51.2:5000
            iptables-nft -t nat -A POSTROUTING -s 172.17.51.0/24 -o br0 -j MASQUERADE
            echo 1 >/sys/class/net/cont1/brport/hairpin_mode
            """)).Succeeded();
        await vm1.StartDaemonAsync(vm1.Configuration() + "subnets: [172.17.51.0/24]\n");

        Assert.Contains("tunnel_tun0", (await vm1.ShellAsync("nft list tables")).Out, StringComparison.Ordinal);
        Assert.Equal("172.17.51.1", await SourceSeenAsync(vm1.Container, vm1.Container, "0.0.0.0", "192.168.40.11", 8080));
    }

    [SkippableFact]
    public async Task WhatIsFlushedOrChangedIsPutBackOnce()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()) + "subnets: [172.17.51.0/24]\nnat: {masquerade: true}\n");
        string whole = (await vm1.ShellAsync(Table)).Succeeded().Out;
        await using Background monitor = vm1.Start(null, "nft", "monitor");
        await using Background events = vm1.Start(null, "curl", "-svN", "--unix-socket", daemon.SocketFile, "http://tunnel/v1/events");
        await events.WaitForAsync("200 OK");
        await AwaitMonitorAsync(vm1, monitor);

        // Two of these are within the first repairs, which come at once.
        foreach (string damage in new[] { "nft flush ruleset", "nft delete element inet tunnel_tun0 overlay4 '{ 172.17.52.0/24 }'" })
        {
            (await vm1.ShellAsync(damage)).Succeeded();
            await Poll.UntilAsync(
                $"the table is as it was after: {damage}",
                async () => (await vm1.ShellAsync(Table)).Out == whole,
                async () => (await vm1.ShellAsync(Table)).ToString());
        }

        // The repairs are heard of by who made them, too. It makes no more of it.
        (await vm1.ShellAsync("nft add table inet witness")).Succeeded();
        await monitor.WaitForAsync("add table inet witness");
        await Poll.UntilAsync("it is told", () => Task.FromResult(events.Log.Contains("table inet tunnel_tun0", StringComparison.Ordinal)), () => Task.FromResult(events.Log));

        // What was changed while the first repair was still looked at is written again without a word.
        Assert.InRange(monitor.Log.Split("add chain inet tunnel_tun0 postrouting").Length - 1, 2, 3);
    }

    [SkippableFact]
    public async Task TheSetsFollowThePeers()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration() + "subnets: [172.17.51.0/24]\nnat: {}\n");
        string alone = (await vm1.ShellAsync(Table)).Succeeded().Out;

        (await daemon.CtlAsync("add-peer", "vm2", "--endpoint", vm2.Underlay(4), "--subnet", "172.17.52.0/24", "--subnet", "172.17.52.128/25", "--subnet", "fd17:52::/64")).Succeeded();
        string with = (await vm1.ShellAsync(Table)).Succeeded().Out;
        (await daemon.CtlAsync("remove-peer", "vm2")).Succeeded();

        Assert.Contains("elements = { 10.0.201.1, 172.17.51.0/24,\n\t\t\t     172.17.52.0/24 }", with, StringComparison.Ordinal);
        Assert.Contains("fd17:52::/64", with, StringComparison.Ordinal);
        Assert.Equal(alone, (await vm1.ShellAsync(Table)).Succeeded().Out);
        Assert.Contains("table inet tunnel_tun0", (await daemon.CtlAsync("show")).Out, StringComparison.Ordinal);

        daemon.Configure(vm1.Configuration() + "subnets: [172.17.51.0/24]\n");
        (await daemon.CtlAsync("reload")).Succeeded();
        Assert.DoesNotContain("tunnel_tun0", (await vm1.ShellAsync("nft list tables")).Out, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task NothingElseInTheRulesetIsTouched()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        (await vm1.ShellAsync(DockersFilter, "iptables-nft")).Succeeded();
        (await vm1.ShellAsync(DockersNat, "iptables-nft", "172.17.51.0/24")).Succeeded();
        (await Command.RunAsync(
            ["ip", "netns", "exec", vm1.Netns, "nft", "-f", "-"],
            """
            table inet fw {
                set blocked { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 } }
                chain input { type filter hook input priority 0; policy accept; ip saddr @blocked counter drop; }
                chain forward { type filter hook forward priority 0; policy accept; ct state vmap { invalid : drop }; }
                chain postrouting { type nat hook postrouting priority 90; policy accept; oifname "eth9" masquerade; }
            }
            table ip tunnel_tun0 {
                chain mine {
                    accept
                }
            }
            """)).Succeeded();
        string before = await RulesetAsync(vm1);

        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()) + "subnets: [172.17.51.0/24]\nnat: {masquerade: true, forward: true}\n");
        string during = await RulesetAsync(vm1);
        string ours = (await vm1.ShellAsync("nft list table inet tunnel_tun0")).Succeeded().Out;
        Assert.Equal(0, await daemon.StopAsync());

        Assert.Equal(before, await RulesetAsync(vm1));
        string rule = Assert.Single(during.Split('\n'), line => line.Contains("iifname \"tun0\"", StringComparison.Ordinal));
        Assert.Equal(before, during.Replace(ours, "", StringComparison.Ordinal).Replace(rule + "\n", "", StringComparison.Ordinal));
    }

    [SkippableTheory]
    [InlineData("iptables-nft")]
    [InlineData("iptables-legacy")]
    public async Task ForwardIsOneTaggedRuleInDockersChain(string program)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        (await vm1.ShellAsync(DockersFilter, program)).Succeeded();
        string before = (await vm1.ShellAsync("$1 -S", program)).Out;
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()) + "subnets: [172.17.51.0/24]\n");
        await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));
        Assert.Equal(0, (await vm2.Container.PingAsync(vm1.ContainerAddress(4))).Received);

        daemon.Configure(vm1.Configuration(vm2.PeerEntry()) + "subnets: [172.17.51.0/24]\nnat: {forward: true}\n");
        (await daemon.CtlAsync("reload")).Succeeded();
        Assert.Equal(3, (await vm2.Container.PingAsync(vm1.ContainerAddress(4))).Received);
        Assert.Contains($"forwards by {program}", (await daemon.CtlAsync("show")).Out, StringComparison.Ordinal);
        Assert.Contains("-A DOCKER-USER -i tun0 -m comment --comment tunnel_tun0 -j ACCEPT", (await vm1.ShellAsync("$1 -S DOCKER-USER", program)).Out, StringComparison.Ordinal);

        // Docker starts anew. Of legacy rules nobody tells, so that takes its time.
        (await vm1.ShellAsync("$1 -F DOCKER-USER && $1 -A DOCKER-USER -j RETURN", program)).Succeeded();
        await Poll.UntilAsync("packets flow again", async () => (await vm2.Container.PingAsync(vm1.ContainerAddress(4), 1)).Received == 1);

        Assert.Equal(0, await daemon.StopAsync());
        Assert.Equal(before, (await vm1.ShellAsync("$1 -S", program)).Out);
    }

    [SkippableFact]
    public async Task WithoutDockerADropInForwardingIsAProblemWithTheCure()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        (await vm1.ShellAsync("nft 'table inet fw { chain forwarding { type filter hook forward priority 0; policy drop; iifname \"br0\" accept; }; }'")).Succeeded();
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()) + "nat: {forward: true}\n");
        await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));
        string problem = Assert.Single((await daemon.GetAsync("/v1/network"))["problems"]!.AsArray())!.GetValue<string>();

        // What it says is what helps.
        (await vm1.ShellAsync(problem[(problem.IndexOf("policy: ", StringComparison.Ordinal) + 8)..])).Succeeded();
        Assert.Equal(3, (await vm2.Container.PingAsync(vm1.ContainerAddress(4))).Received);
        await Poll.UntilAsync("the problem is gone", async () => (await daemon.GetAsync("/v1/network"))["problems"]!.AsArray().Count == 0);
    }

    [SkippableFact]
    public async Task WhatAKilledDaemonLeftIsTakenOverOrRemoved()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        (await vm1.ShellAsync(DockersFilter, "iptables-nft")).Succeeded();
        string before = await RulesetAsync(vm1);
        const string Options = "subnets: [172.17.51.0/24]\nnat: {masquerade: true, forward: true}\n";
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()) + Options);
        string during = await RulesetAsync(vm1);
        await daemon.KillAsync();
        Assert.Equal(during, await RulesetAsync(vm1));

        await daemon.StartAsync();
        Assert.Equal(during, await RulesetAsync(vm1));
        await daemon.KillAsync();
        daemon.Configure(vm1.Configuration(vm2.PeerEntry()));
        await daemon.StartAsync();
        Assert.Equal(before, await RulesetAsync(vm1));
    }

    [SkippableFact]
    public async Task WithoutNftThereIsOneProblemAndTheNetworkWorks()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));

        // The daemon's mount namespace is its own.
        string[] without = ["sh", "-c", "mkdir -p \"$0\" && for d in /usr/local/sbin /usr/sbin; do mount --bind \"$0\" $d || exit 1; done; exec \"$@\"", Path.Combine(vm1.Directory, "empty")];
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()) + "subnets: [172.17.51.0/24]\nnat: {masquerade: true}\n", wrapper: without);

        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        JsonArray problems = (await daemon.GetAsync("/v1/network"))["problems"]!.AsArray();
        Assert.Equal(["nat: the program nft is missing: install the package nftables"], problems.Select(problem => problem!.GetValue<string>()));
        Assert.Contains("nat: the program nft is missing", (await daemon.CtlAsync("show")).Out, StringComparison.Ordinal);
    }

    // As the service unit has it: no root, three capabilities, no new privileges, a file system that can't be written to.
    [SkippableFact]
    public async Task TheServicesUserMayDoItAll()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        (await vm1.ShellAsync(DockersFilter, "iptables-nft")).Succeeded();
        Directory.CreateDirectory(Path.Combine(vm1.Directory, "run"));
        (await vm1.ShellAsync("chmod 777 \"$1\" \"$1/run\"", vm1.Directory)).Succeeded();
        string[] asService =
        [
            "sh", "-c",
            """
            mknod "$0/tun" c 10 200 && chmod 666 "$0/tun" "$NOTIFY_SOCKET" && mount --bind "$0/tun" /dev/net/tun && mount --bind "$0" "$0" && mount -o remount,ro,bind / && exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs \
                --inh-caps=-all,+net_admin,+net_raw,+bpf --ambient-caps=-all,+net_admin,+net_raw,+bpf --bounding-set=-all,+net_admin,+net_raw,+bpf "$@"
            """,
            vm1.Directory,
        ];
        Daemon daemon = await vm1.StartDaemonAsync(
            vm1.Configuration(vm2.PeerEntry()) + "subnets: [172.17.51.0/24]\nnat: {masquerade: true, forward: true}\n", wrapper: asService);

        Assert.Empty((await daemon.GetAsync("/v1/network"))["problems"]!.AsArray());
        Assert.Contains("forwards by iptables-nft", (await daemon.CtlAsync("show")).Out, StringComparison.Ordinal);
        Assert.Equal(0, await daemon.StopAsync());
        Assert.DoesNotContain("tun", await RulesetAsync(vm1), StringComparison.Ordinal);
    }

    // Without counters, which packets change.
    private static async Task<string> RulesetAsync(Node host) => (await host.ShellAsync("nft --stateless list ruleset")).Succeeded().Out;

    // From the first event that it shows it shows all.
    private static Task AwaitMonitorAsync(Node host, Background monitor) => Poll.UntilAsync("nft monitor listens", async () =>
    {
        (await host.ShellAsync("nft add table ip awaited; nft delete table ip awaited")).Succeeded();
        return monitor.Log.Contains("awaited", StringComparison.Ordinal);
    });

    // One datagram, and whose it is for who receives it.
    private static async Task<string> SourceSeenAsync(Node from, Node to, string address, string? target = null, int port = 5000)
    {
        const string Receive = """
            import socket, sys
            receiver = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
            receiver.bind((sys.argv[1], 5000))
            print('bound', flush=True)
            print('from', receiver.recvfrom(9)[1][0], 'all', flush=True)
            """;
        const string Send = """
            import socket, sys
            socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], int(sys.argv[2])))
            """;
        await using Background receiver = to.StartPython(Receive, address);
        await receiver.WaitForAsync("bound");
        (await from.PythonAsync(Send, target ?? address, $"{port}")).Succeeded();
        await receiver.WaitForAsync("all", TimeSpan.FromSeconds(10));
        return receiver.Log.Split(["from ", " all"], StringSplitOptions.None)[1];
    }
}
