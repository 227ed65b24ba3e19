using System.Globalization;
using System.Text.Json.Nodes;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>
/// Traffic arrives whole and is counted by every way between the daemons: encapsulation, underlay, number of workers, sockets.
/// TUNNEL_TRANSFER_MB sets the size of the big transfers (2048 to be thorough; 64 by default).
/// </summary>
[Collection(nameof(LabCollection))]
public sealed class DatapathTests(ITestOutputHelper output)
{
    private const int MemoryLimitKilobytes = 128 << 10;

    // Sends datagrams of every size and compares what comes back. What is larger than the path is lost until the sender has learnt it.
    private const string EchoClient = """
        import random, socket, sys
        address, sizes = sys.argv[1], [int(size) for size in sys.argv[2].split(',')]
        client = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
        client.connect((address, 5002))
        client.settimeout(1)
        for size in sizes:
            data = random.Random(size).randbytes(size)
            for attempt in range(4):
                try:
                    client.send(data)
                    answer = client.recv(65535)
                    if answer != data:
                        sys.exit(f'{len(answer)} other bytes instead of {size}')
                    break
                except OSError as problem:
                    print(size, problem)
            else:
                sys.exit(f'{size} bytes never came back')
        """;

    private const string EchoServer = """
        import socket, sys
        server = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((sys.argv[1], 5002))
        print('listening', flush=True)
        while True:
            data, client = server.recvfrom(65535)
            try:
                server.sendto(data, client)
            except OSError:
                pass  # the path is learnt
        """;

    /// <summary>Each way through the kernel, IPv4 outside, with one worker: datapath, encapsulation, wire-like.</summary>
    public static TheoryData<string, string, bool> WaysOverIpv4 => new()
    {
        { "raw", "gre", false },
        { "packet", "gre", false },
        { "packet", "gre", true },
        { "raw", "gre-udp", false },
        { "raw", "gre-udp", true },
    };

    /// <summary>Those, and a raw socket that gets what the kernel has coalesced, and IPv6 outside: with one worker, datapath, encapsulation, underlay's IP version, wire-like.</summary>
    public static TheoryData<string, string, int, bool> WaysOfOneWorker
    {
        get
        {
            var ways = new TheoryData<string, string, int, bool> { { "raw", "gre", 4, true }, { "raw", "gre", 6, false }, { "raw", "gre-udp", 6, true } };
            foreach (object[] way in WaysOverIpv4)
            {
                ways.Add((string)way[0], (string)way[1], 4, (bool)way[2]);
            }

            return ways;
        }
    }

    /// <summary>The ways: sockets for plain GRE, encapsulation, underlay's IP version, wire-like, workers. Packet sockets carry IPv4 outside only.</summary>
    public static TheoryData<string, string, int, bool, int> Ways
    {
        get
        {
            var ways = new TheoryData<string, string, int, bool, int>();
            foreach (string datapath in new[] { "raw", "packet" })
            {
                ways.Add(datapath, "gre", 4, false, 1);
                ways.Add(datapath, "gre", 4, true, 1);
                ways.Add(datapath, "gre", 4, true, 2);
            }

            ways.Add("raw", "gre", 6, true, 2);
            ways.Add("raw", "gre-udp", 4, false, 1);
            ways.Add("raw", "gre-udp", 4, true, 1);
            ways.Add("raw", "gre-udp", 4, false, 2);
            ways.Add("raw", "gre-udp", 6, true, 2);
            return ways;
        }
    }

    // What the underlay's devices had dropped before the daemons had traffic: IPv6 sends as soon as a link is half up.
    private Dictionary<string, long> _dropsBefore = [];

    private static long TransferBytes =>
        (long.TryParse(Environment.GetEnvironmentVariable("TUNNEL_TRANSFER_MB"), CultureInfo.InvariantCulture, out long size) ? size : 64) << 20;

    [SkippableTheory]
    [MemberData(nameof(Ways))]
    public async Task BigTransfersBothWaysAtOnceArriveIntact(string datapath, string encapsulation, int outer, bool wire, int workers)
    {
        await using Lab lab = await Lab.CreateAsync(output, wire: wire);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await StartAsync(lab, datapath, encapsulation, outer, workers);

        // Several flows are what several workers share.
        foreach (int inner in new[] { 4, 6 })
        {
            int flows = workers == 1 ? 1 : 4;
            await Task.WhenAll(Enumerable.Range(0, flows).SelectMany(flow => new[]
            {
                TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(inner), TransferBytes / flows, 5000 + flow),
                TcpTransfer.CheckAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(inner), TransferBytes / flows, 5000 + flow),
            }));
        }

        await AssertCountersAddUpAsync(lab, daemons, isCoalescedBlindly: datapath == "raw" && encapsulation == "gre" && wire);
        foreach (Daemon daemon in daemons)
        {
            string peak = (await File.ReadAllLinesAsync($"/proc/{daemon.Process.Pid}/status")).Single(line => line.StartsWith("VmHWM", StringComparison.Ordinal));
            int kilobytes = int.Parse(peak.Split(':')[1].Replace("kB", "", StringComparison.Ordinal), CultureInfo.InvariantCulture);
            output.WriteLine(peak);
            Assert.InRange(kilobytes, 1, MemoryLimitKilobytes + ((workers - 1) * (16 << 10)));
        }
    }

    [SkippableTheory]
    [InlineData("raw", "gre", 4, false)]
    [InlineData("packet", "gre", 4, false)]
    [InlineData("packet", "gre", 4, true)]
    [InlineData("raw", "gre", 6, true)]
    [InlineData("raw", "gre-udp", 4, false)]
    [InlineData("raw", "gre-udp", 4, true)]
    [InlineData("raw", "gre-udp", 6, false)]
    public async Task DatagramsOfManySizesAroundTheMtuArriveWhole(string datapath, string encapsulation, int outer, bool wire)
    {
        await using Lab lab = await Lab.CreateAsync(output, wire: wire);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await StartAsync(lab, datapath, encapsulation, outer);
        int mtu = (await daemons[0].GetAsync("/v1/network"))["interface"]!["mtu"]!.GetValue<int>();
        Assert.Equal(1500 - (outer == 4 ? 20 : 40) - 4 - (encapsulation == "gre" ? 0 : 8), mtu);

        foreach (int inner in new[] { 4, 6 })
        {
            int largest = mtu - 8 - (inner == 4 ? 20 : 40);
            IEnumerable<int> sizes = [1, 2, 3, 17, 64, 535, 1000, .. Enumerable.Range(largest - 9, 19), 1472, 2000, 4000, 20_000];
            await using Background server = vm2.Container.StartPython(EchoServer, vm2.ContainerAddress(inner));
            await server.WaitForAsync("listening");
            // The server's socket is not told of an answer that was too large: its host learns the path's MTU before, or each would cost the client's patience.
            PingResult large = await vm2.Container.PingAsync(vm1.ContainerAddress(inner), 1, "-M", "do", "-s", $"{1500 - (inner == 4 ? 28 : 48)}");
            Assert.Matches($"mtu ?[=:] ?{mtu}", large.Result.Out + large.Result.Error);
            (await vm1.Container.PythonAsync(EchoClient, vm2.ContainerAddress(inner), string.Join(',', sizes))).Succeeded();
        }
    }

    [SkippableTheory]
    [MemberData(nameof(WaysOfOneWorker))]
    public async Task AModerateFlowIsNeverSentAgainAndManyFlowsComplete(string datapath, string encapsulation, int outer, bool wire)
    {
        await using Lab lab = await Lab.CreateAsync(output, wire: wire);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await StartAsync(lab, datapath, encapsulation, outer);
        await using Background server = vm2.Container.Start(null, "iperf3", "-s", "--forceflush");
        await server.WaitForAsync("Server listening");

        // A probe after a late acknowledgement (TLP) says that the processors are busy, not that a packet was lost.
        foreach (Vm host in lab.Hosts)
        {
            (await host.Container.ShellAsync("echo 0 >/proc/sys/net/ipv4/tcp_early_retrans")).Succeeded();
        }

        foreach (int inner in new[] { 4, 6 })
        {
            // The first flow learns the path's MTU by losing its first flight.
            await IperfAsync(vm1, vm2, inner, "-n", "1M");
            string before = await RetransmitsAsync(lab);
            JsonNode moderate = await IperfAsync(vm1, vm2, inner, "-b", "40M", "-t", "1");
            Assert.True(moderate["bits_per_second"]!.GetValue<double>() > 20e6, moderate.ToJsonString());
            string after = await RetransmitsAsync(lab);
            Assert.True(before == after, $"IPv{inner}: {before}\n{after}");

            foreach (string flows in new[] { "1", "4", "32" })
            {
                JsonNode result = await IperfAsync(vm1, vm2, inner, "-P", flows, "-n", "64M");
                Assert.True(result["bytes"]!.GetValue<long>() > 1 << 20, $"IPv{inner}, {flows} flows: {result.ToJsonString()}");
            }
        }

        await AssertCountersAddUpAsync(lab, daemons, isCoalescedBlindly: datapath == "raw" && encapsulation == "gre" && wire);
    }

    // Datagrams alone and in bursts may take different ways through the kernel. After such a pause it is forgotten which way the flow went before.
    [SkippableTheory]
    [MemberData(nameof(WaysOverIpv4))]
    public async Task NoDatagramOvertakesAnother(string datapath, string encapsulation, bool wire)
    {
        await using Lab lab = await Lab.CreateAsync(output, wire: wire);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await StartAsync(lab, datapath, encapsulation, 4);
        await using Capture capture = await Capture.StartAsync(vm1);
        await using (UdpFlow flow = await UdpFlow.StartAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4), burst: 40, pause: 0.06, vary: true))
        {
            async Task<long> SentAsync() => (await daemons[0].GetAsync("/v1/peers/vm2"))["traffic"]!["sent"]!["packets"]!.GetValue<long>();
            await Poll.UntilAsync("1,000 are sent", async () => await SentAsync() > 1000);
            FlowResult result = await flow.StopAsync();
            Assert.True(result is { Lost: 0, Repeated: 0, Corrupt: 0, Overtaken: 0 }, $"{result}");
        }

        // Of those that leave together the kernel numbers the outer headers, where tunneld leaves them alone.
        bool anyTogether = (await capture.StopAsync()).Any(packet => !packet.IsInUdp && packet.Identification > 0);
        Assert.True(anyTogether || !(datapath == "packet" && wire), "none left together");
    }

    [SkippableTheory]
    [InlineData("raw", "gre")]
    [InlineData("packet", "gre")]
    [InlineData("raw", "gre-udp")]
    public async Task EveryChecksumOnTheWireIsRight(string datapath, string encapsulation)
    {
        await using Lab lab = await Lab.CreateAsync(output, wire: true);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        foreach (Vm host in lab.Hosts)
        {
            // Nothing is left to a device, and nothing is coalesced before it is captured.
            (await host.RunAsync("ethtool", "-K", "eth1", "tx", "off", "gro", "off", "rx-udp-gro-forwarding", "off")).Succeeded();
        }

        await StartAsync(lab, datapath, encapsulation, 4);
        string file = Path.Combine(vm2.Directory, "wire.pcap");
        await using Background tcpdump = vm2.Start(null, "tcpdump", "-i", "eth1", "-U", "--immediate-mode", "-n", "-Z", "root", "-w", file, "ip proto 47 or udp port 4754");
        await tcpdump.WaitForAsync("listening on");
        foreach (int inner in new[] { 4, 6 })
        {
            await TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(inner), 2 << 20);
            await using UdpFlow flow = await UdpFlow.StartAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(inner), burst: 4);
            await flow.StopAsync();
        }

        await tcpdump.SignalAsync("INT");
        await tcpdump.WaitAsync();
        string[] words = ["tshark", "-n", "-r", file, "-d", "udp.port==4754,gre", "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"];
        string bad = (await vm2.RunAsync([.. words, "-Y", "ip.checksum.status==0 || udp.checksum.status==0 || tcp.checksum.status==0"])).Succeeded().Out;
        string good = (await vm2.RunAsync([.. words, "-Y", "gre && tcp.checksum.status==1 && tcp.len>1000"])).Succeeded().Out;
        Assert.Equal("", bad);
        Assert.True(good.Split('\n').Length > 1000, "tshark did not see the segments");
    }

    [SkippableFact]
    public async Task OnePeerUsesGreAndAnotherGreInUdp()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 3);
        (Vm vm1, Vm vm2, Vm vm3) = (lab.Hosts[0], lab.Hosts[1], lab.Hosts[2]);
        Daemon[] daemons = await lab.StartMeshAsync(options: (host, peer) => host == vm3 || peer == vm3 ? ["encapsulation: gre-udp"] : ["encapsulation: gre"]);

        // A raw socket can't tell how many segments a super-packet of the kernel has, and the counters are to add up.
        foreach (Daemon daemon in daemons[..2])
        {
            await Poll.UntilAsync(
                "packet sockets receive",
                async () => (await daemon.GetAsync("/v1/network"))["datapath"]!["receive"]!.GetValue<string>() == "packet");
        }

        await Task.WhenAll(
            TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4), 8 << 20, 5000),
            TcpTransfer.CheckAsync(vm1.Container, vm3.Container, vm3.ContainerAddress(4), 8 << 20, 5001),
            TcpTransfer.CheckAsync(vm3.Container, vm1.Container, vm1.ContainerAddress(6), 8 << 20, 5002),
            TcpTransfer.CheckAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(6), 8 << 20, 5003));

        await AssertCountersAddUpAsync(lab, [daemons[0], daemons[1]]);
        Assert.Equal("[\"gre\",\"gre-udp\"]", (await daemons[0].GetAsync("/v1/network"))["underlay"]!["accept"]!.ToJsonString());
    }

    [SkippableFact]
    public async Task APeerThatIsAddedOpensThePortAndWhatIsNotAcceptedStaysOut()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 3);
        (Vm vm1, Vm vm2, Vm vm3) = (lab.Hosts[0], lab.Hosts[1], lab.Hosts[2]);
        Daemon daemon1 = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()));
        await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));
        Daemon daemon3 = await vm3.StartDaemonAsync(vm3.Configuration(vm1.PeerEntry(), underlayExtra: "  encapsulation: gre-udp\n"));
        await using UdpFlow flow = await UdpFlow.StartAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(4));
        Assert.DoesNotContain(":4754", await PortsAsync(vm1), StringComparison.Ordinal);

        (await daemon1.CtlAsync("add-peer", "vm3", "--endpoint", vm3.Underlay(4), "--subnet", vm3.Subnet(4), "--encapsulation", "gre-udp")).Succeeded();
        Assert.Contains(":4754", await PortsAsync(vm1), StringComparison.Ordinal);
        PingResult ping = await vm1.Container.PingAsync(vm3.ContainerAddress(4));
        Assert.True(ping.Received == 3, $"{ping.Result}{await daemon3.GetAsync("/v1/drops")}");

        // Only plain GRE from now on, by a reload.
        (await daemon1.CtlAsync("remove-peer", "vm3")).Succeeded();
        daemon1.Configure(vm1.Configuration(vm2.PeerEntry() + vm3.PeerEntry(4, "encapsulation: gre-udp"), underlayExtra: "  accept: [gre]\n"));
        (await daemon1.CtlAsync("reload")).Succeeded();
        Assert.Equal(0, (await vm1.Container.PingAsync(vm3.ContainerAddress(4))).Received);

        daemon1.Configure(vm1.Configuration(vm2.PeerEntry() + vm3.PeerEntry(4, "encapsulation: gre-udp"), underlayExtra: "  accept: [gre, gre-udp]\n"));
        (await daemon1.CtlAsync("reload")).Succeeded();
        Assert.Equal(3, (await vm1.Container.PingAsync(vm3.ContainerAddress(4))).Received);
        FlowResult counted = await flow.StopAsync();
        Assert.True(counted is { Lost: 0, Corrupt: 0 }, $"{counted}");
    }

    // Packet sockets go around nftables, so they are in use only while no rule is about what they carry.
    [SkippableTheory]
    [InlineData("receive", "input")]
    [InlineData("send", "output")]
    public async Task PacketsObeyAFirewallRuleForGreAsSoonAsItIsThere(string way, string hook)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync();
        async Task UsesAsync(string path) => await Poll.UntilAsync(
            $"{way} by {path} sockets",
            async () => (await daemons[1].GetAsync("/v1/network"))["datapath"]![way]!.GetValue<string>() == path,
            async () => (await daemons[1].GetAsync("/v1/network"))["datapath"]!.ToJsonString());

        await UsesAsync("packet");
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);

        (await vm2.ShellAsync($"nft add table inet fw; nft 'add chain inet fw c {{ type filter hook {hook} priority 0; }}'; nft add rule inet fw c meta l4proto gre counter drop")).Succeeded();
        await UsesAsync("raw");

        // What comes at the moment of the change may be lost before it gets there.
        await Poll.UntilAsync("the rule has taken packets", async () =>
        {
            Assert.Equal(0, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
            return !(await vm2.ShellAsync("nft list table inet fw")).Succeeded().Out.Contains("packets 0 ", StringComparison.Ordinal);
        });

        (await vm2.ShellAsync("nft delete table inet fw")).Succeeded();
        await UsesAsync("packet");
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
    }

    [SkippableFact]
    public async Task WorkersStayOnTheirCpusAndLookForPacketsBeforeTheySleepWhereThatIsWanted()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync(underlayExtra: "datapath: {workers: 2, pin: true, busy-poll: 50us}\n");

        string[] free = AllowedCpus($"/proc/{daemons[0].Process.Pid}/status");
        string[] expected = [.. Enumerable.Range(0, 2).Select(worker => free[worker % free.Length])];
        string[] tasks = Directory.GetDirectories($"/proc/{daemons[0].Process.Pid}/task");
        Assert.Equal(expected, Enumerable.Range(0, 2).Select(worker =>
            Assert.Single(AllowedCpus(Path.Combine(tasks.Single(task => File.ReadAllText(Path.Combine(task, "comm")).Trim() == $"tun0-{worker}"), "status")))));

        await TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4), 8 << 20);
        Assert.Equal(3, (await vm2.Container.PingAsync(vm1.ContainerAddress(6))).Received);
    }

    // Cpus_allowed_list of proc_pid_status(5): numbers and ranges.
    private static string[] AllowedCpus(string status) =>
    [
        .. File.ReadAllLines(status).Single(line => line.StartsWith("Cpus_allowed_list:", StringComparison.Ordinal)).Split(':')[1].Trim().Split(',')
            .Select(range => range.Split('-'))
            .SelectMany(range => Enumerable.Range(int.Parse(range[0]), int.Parse(range[^1]) - int.Parse(range[0]) + 1))
            .Select(cpu => $"{cpu}"),
    ];

    private static async Task<string> PortsAsync(Vm host) => (await host.RunAsync("ss", "-Huln")).Succeeded().Out;

    // What was sent again, and what was sent again for nothing, of both containers.
    private static async Task<string> RetransmitsAsync(Lab lab) => string.Concat(await Task.WhenAll(lab.Hosts.Select(async host =>
        (await host.Container.RunAsync("nstat", "-asz", "TcpRetransSegs", "TcpExtTCPLossProbes", "TcpExtTCPTimeouts", "TcpExtTCPSackRecovery", "TcpExtTCPFastRetrans", "TcpExtTCPDSACKRecv", "TcpExtTCPSACKReorder")).Succeeded().Out)));

    private static async Task<JsonNode> IperfAsync(Vm from, Vm to, int inner, params string[] options)
    {
        CommandResult result = await from.Container.RunAsync(["iperf3", "-J", "-c", to.ContainerAddress(inner), .. options]);
        return JsonNode.Parse(result.Succeeded().Out)!["end"]!["sum_received"]!;
    }

    private async Task<Daemon[]> StartAsync(Lab lab, string datapath, string encapsulation, int outer, int workers = 1)
    {
        _dropsBefore = await DeviceDropsAsync(lab);
        string extra = $"  encapsulation: {encapsulation}\ndatapath: {{receive: {datapath}, send: {datapath}, workers: {workers}}}\n";
        return await lab.StartMeshAsync(outer, underlayExtra: extra);
    }

    // What the underlay's devices have dropped, of hosts and switch, each by name.
    private static async Task<Dictionary<string, long>> DeviceDropsAsync(Lab lab)
    {
        var drops = new Dictionary<string, long>();
        foreach (Node node in lab.Hosts.Append(lab.Switch))
        {
            foreach (JsonNode? link in await node.IpJsonAsync("-s", "link", "show", "type", "veth"))
            {
                JsonNode counted = link!["stats64"]!;
                drops[$"{node} {link["ifname"]}"] = counted["rx"]!["dropped"]!.GetValue<long>() + counted["tx"]!["dropped"]!.GetValue<long>();
            }
        }

        return drops;
    }

    // What the one has sent, the other has received or dropped, in packets. The last packets are on their way for a moment. Where a raw
    // socket gets what the kernel has coalesced, nobody knows how many packets it was: each but the first lacks its headers then. What the
    // kernel drops may have been coalesced, too: one drop is up to 64 KiB.
    private async Task AssertCountersAddUpAsync(Lab lab, Daemon[] daemons, bool isCoalescedBlindly = false)
    {
        const int leastHeaders = 40;
        const int mostHeaders = 72;
        const int mostSegments = 64;
        const int mostBytes = 64 << 10;
        foreach ((Daemon from, Daemon to) in new[] { (daemons[0], daemons[1]), (daemons[1], daemons[0]) })
        {
            string state = "";
            await Poll.UntilAsync(
                "the counters add up",
                async () =>
                {
                    JsonNode sent = (await from.GetAsync($"/v1/peers/{to.Host.Name}"))["traffic"]!["sent"]!;
                    JsonNode received = (await to.GetAsync($"/v1/peers/{from.Host.Name}"))["traffic"]!["received"]!;
                    JsonNode drops = await to.GetAsync("/v1/drops");
                    JsonNode inbound = drops["peers"]![from.Host.Name]!;
                    string[] reasons = ["CoalescedUdp", "ChecksumMismatch", "InnerHeaderMalformed", "SourceNotInPeerSubnets", "TunWriteFailed"];
                    long dropped = reasons.Sum(reason => inbound[reason]!.GetValue<long>());
                    long queueFull = drops["network"]!["ReceiveQueueFull"]!.GetValue<long>();
                    (string Device, long Drops)[] devices =
                    [
                        .. (await DeviceDropsAsync(lab))
                            .Select(device => (device.Key, device.Value - _dropsBefore.GetValueOrDefault(device.Key)))
                            .Where(device => device.Item2 > 0),
                    ];
                    state = $"{from.Host} to {to.Host}: sent {sent.ToJsonString()}, received {received.ToJsonString()}, dropped {dropped}, " +
                        $"with a full receive queue {queueFull}, by devices {string.Join(", ", devices)}";
                    long missing = sent["packets"]!.GetValue<long>() - received["packets"]!.GetValue<long>() - dropped;
                    long missingBytes = sent["bytes"]!.GetValue<long>() - received["bytes"]!.GetValue<long>();
                    long dropsOfKernel = queueFull + devices.Sum(device => device.Drops);
                    return isCoalescedBlindly
                        ? missing >= queueFull && missingBytes >= missing * leastHeaders &&
                            missingBytes <= (missing * mostHeaders) + ((dropsOfKernel + dropped) * mostBytes)
                        : missing >= queueFull && missing <= dropsOfKernel * mostSegments;
                },
                () => Task.FromResult(state));
            output.WriteLine(state);
        }
    }
}
