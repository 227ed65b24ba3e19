using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>
/// What links and operators do: traffic goes on in the time that is stated, what did not arrive is counted under its reason, and nothing is left behind.
/// The switch between the hosts does the damage: port1 is vm1's, port2 vm2's.
/// </summary>
[Collection(nameof(LabCollection))]
public sealed partial class FaultTests(ITestOutputHelper output)
{
    // A UDP flow's datagrams of 200 bytes, inside GRE with checksum, key and sequence number.
    private const int OuterLength = 20 + 16 + 20 + 8 + 200;

    // What a process may take more after a test than before, in KiB: pages of packet memory are touched when used.
    private const long MemoryMargin = 16_384;

    private static readonly TimeSpan Recovery = TimeSpan.FromSeconds(3);

    [SkippableTheory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task LossDuplicatesAndDamageAreCountedUnderTheirReasons(bool sequence)
    {
        await using Lab lab = await Lab.CreateAsync(output, wire: true);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync(options: (_, _) => ["key: 42", "checksum: true", sequence ? "sequence: true" : "sequence: false"]);
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        int length = OuterLength - (sequence ? 0 : 4);
        (await lab.Switch.ShellAsync($$"""
            nft -f - <<'END'
            table netdev faults {
              counter lost {}
              counter damaged {}
              counter repeated {}
              chain faults {
                type filter hook ingress device "port1" priority 0;
                meta protocol != ip accept
                ip length != {{length}} accept
                numgen random mod 20 == 0 counter name lost drop
                numgen random mod 20 == 0 counter name damaged @th,720,32 set 0x5aa5c33c accept
                numgen random mod 20 == 0 counter name repeated dup to "port2"
              }
            }
            END
            """)).Succeeded();
        long before = await ReceivedAsync(daemons[1], vm1);

        await using UdpFlow flow = await UdpFlow.StartAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4));
        await Poll.UntilAsync("enough was damaged", async () => await CounterAsync(lab, "damaged") >= 30 && await CounterAsync(lab, "repeated") >= 30);
        FlowResult result = await flow.StopAsync();

        (long lost, long damaged, long repeated) = (await CounterAsync(lab, "lost"), await CounterAsync(lab, "damaged"), await CounterAsync(lab, "repeated"));
        output.WriteLine($"{result}; lost {lost}, damaged {damaged}, repeated {repeated}");
        Assert.Equal(0, result.Corrupt);
        Assert.Equal(lost + damaged, result.Lost);
        Assert.Equal(damaged, await daemons[1].DropsAsync("ChecksumMismatch", "vm1"));
        Assert.Equal(sequence ? repeated : 0, await daemons[1].DropsAsync("SequenceOld", "vm1"));
        Assert.Equal(sequence ? 0 : repeated, result.Repeated);

        // Delivered are these and no others.
        Assert.Equal(result.Received + result.Repeated, await ReceivedAsync(daemons[1], vm1) - before);
        JsonNode drops = (await daemons[1].GetAsync("/v1/drops"))["peers"]!["vm1"]!;
        Assert.Equal(damaged + (sequence ? repeated : 0), drops.AsObject().Sum(reason => reason.Value!.GetValue<long>()));
    }

    [SkippableFact]
    public async Task TcpComesThroughALossyLinkWithIcmpFiltered()
    {
        await using Lab lab = await Lab.CreateAsync(output, wire: true);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync(options: (_, _) => ["checksum: true", "keepalive: 200ms"]);
        (await lab.Switch.ShellAsync("""
            nft -f - <<'END'
            table netdev faults {
              counter lost {}
              chain there {
                type filter hook ingress device "port1" priority 0;
                ip protocol icmp drop
                ip protocol gre numgen random mod 100 == 0 counter name lost drop
              }
              chain back {
                type filter hook ingress device "port2" priority 0;
                ip protocol icmp drop
                ip protocol gre numgen random mod 100 == 0 counter name lost drop
              }
            }
            END
            """)).Succeeded();

        await TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4), 2 << 20);
        await TcpTransfer.CheckAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(6), 2 << 20);

        Assert.InRange(await CounterAsync(lab, "lost"), 10, long.MaxValue);
        foreach (Daemon daemon in daemons)
        {
            // One packet in a hundred is no reason to think the peer gone, or its path narrow.
            Assert.Equal(0, await daemon.DropsAsync("ChecksumMismatch"));
            JsonNode peer = (await daemon.GetAsync("/v1/peers"))[0]!;
            Assert.NotEqual("down", peer["state"]!.GetValue<string>());
            Assert.DoesNotContain("is down", daemon.Log, StringComparison.Ordinal);
            Assert.Equal(1500, peer["path-mtu"]!.GetValue<int>());
        }
    }

    [SkippableTheory]
    [InlineData("gre")]
    [InlineData("gre-udp")]
    public async Task LinksMayFlap(string encapsulation)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync(options: (_, _) => [$"encapsulation: {encapsulation}", "keepalive: 200ms"]);
        await FlapAsync(lab, daemons, 0);
        (int files, long memory) = await ResourcesAsync(daemons[0]);

        // Packets meet the link at every moment of its going down, and are counted.
        async Task<long> UnsentAsync() => await daemons[0].DropsAsync("UnderlayUnreachable", "vm2") + await daemons[0].DropsAsync("PeerNotReady", "vm2");
        long before = await UnsentAsync();
        await using UdpFlow flow = await UdpFlow.StartAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4));
        for (int i = 1; i <= 8; i++)
        {
            await FlapAsync(lab, daemons, i);
        }

        FlowResult result = await flow.StopAsync();
        output.WriteLine($"{result}; {await UnsentAsync() - before} not sent: {(await daemons[0].GetAsync("/v1/drops"))["peers"]!["vm2"]!.ToJsonString()}");
        Assert.Equal(0, result.Corrupt + result.Repeated);
        Assert.InRange(result.Received, 1, result.Sent - 1);
        Assert.InRange(await UnsentAsync() - before, 1, result.Lost + 100);
        await AssertNothingLeaksAsync(daemons[0], files, memory);
        Assert.Equal(3, (await vm2.Container.PingAsync(vm1.ContainerAddress(6))).Received);
    }

    [SkippableFact]
    public async Task TheDefaultRouteMayGoAndComeBack()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);

        // Endpoints that only the default route leads to.
        await vm1.IpAsync($"addr add 192.0.2.11/32 dev lo\nroute add default via {vm2.Underlay(4)}");
        await vm2.IpAsync($"addr add 192.0.2.12/32 dev lo\nroute add default via {vm1.Underlay(4)}");
        Daemon[] daemons = await Task.WhenAll(
            vm1.StartDaemonAsync(Moved(vm1.Configuration(vm2.PeerEntry()))),
            vm2.StartDaemonAsync(Moved(vm2.Configuration(vm1.PeerEntry()))));
        await ReachesAsync(vm1, vm2, daemons[0]);
        (int files, long memory) = await ResourcesAsync(daemons[0]);

        // First the kernel says so, at each packet; then it is known beforehand.
        async Task<long> UnsentAsync() => await daemons[0].DropsAsync("UnderlayUnreachable", "vm2") + await daemons[0].DropsAsync("PeerNotReady", "vm2");

        for (int i = 0; i < 5; i++)
        {
            await vm1.IpAsync("route del default");
            long before = await UnsentAsync();
            await Poll.UntilAsync(
                "what can't be sent is counted",
                async () =>
                {
                    await vm1.Container.PingAsync(vm2.ContainerAddress(4), 1, "-W", "0.1");
                    return await UnsentAsync() > before;
                },
                async () => (await daemons[0].GetAsync("/v1/drops")).ToJsonString());
            await vm1.IpAsync($"route add default via {vm2.Underlay(4)}");
            await ReachesAsync(vm1, vm2, daemons[0]);
        }

        await AssertNothingLeaksAsync(daemons[0], files, memory);
    }

    [SkippableFact]
    public async Task TheUnderlaysAddressMayChange()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon one = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()));

        // Its sources are the kernel's choice.
        Daemon two = await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()).Replace("underlay:\n  local: 192.168.40.12\n", "", StringComparison.Ordinal));
        await ReachesAsync(vm1, vm2, one);
        (int files, long memory) = await ResourcesAsync(two);

        string old = vm2.Underlay(4);
        foreach (string address in (string[])["192.168.40.77", "192.168.40.78", old])
        {
            await vm2.IpAsync($"addr del {old}/24 dev eth1\naddr add {address}/24 dev eth1");
            one.Configure((await File.ReadAllTextAsync(one.ConfigFile)).Replace($"\"{old}\"", $"\"{address}\"", StringComparison.Ordinal));
            Assert.Equal(200, (await one.SendAsync("POST", "/v1/reload")).Status);
            old = address;
            await ReachesAsync(vm1, vm2, one);
            Assert.Equal(address, (await two.GetAsync("/v1/peers/vm1"))["local"]!.GetValue<string>());
        }

        await AssertNothingLeaksAsync(two, files, memory);
    }

    // A slow link. With a queue for a few packets what does not fit is refused (ENOBUFS; raw and UDP sockets are told nothing, udp(7) and raw(7), and the
    // queue counts it). With a queue for thousands the socket's buffer is full first.
    [SkippableTheory]
    [InlineData("packet", "gre", 3000)]
    [InlineData("raw", "gre", 10_000_000)]
    [InlineData("raw", "gre-udp", 10_000_000)]
    public async Task FullBuffersLoseWhatIsCountedAndNothingElse(string send, string encapsulation, int queue)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        string[] options = [$"encapsulation: {encapsulation}", "keepalive: off", "pmtud: false"];
        Daemon one = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry(4, options)) + $"\ndatapath: {{receive: raw, send: {send}}}\n");
        Daemon two = await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry(4, options)));
        await ReachesAsync(vm1, vm2, one);
        (int files, long memory) = await ResourcesAsync(one);
        (await vm1.ShellAsync($"tc qdisc add dev eth1 root tbf rate 30mbit burst 3000 limit {queue}")).Succeeded();
        long taken = await TakenAsync(vm1);
        (long sent, long dropped) = (await SentAsync(one, vm2), await DropsAsync(one));

        await using (UdpFlow flow = await UdpFlow.StartAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4), size: 1000, burst: 100, pause: 0.005))
        {
            await Poll.UntilAsync("20,000 datagrams were sent", async () => await TakenAsync(vm1) - taken > 20_000);
            FlowResult result = await flow.StopAsync();
            Assert.Equal(0, result.Corrupt + result.Repeated);
            Assert.InRange(result.Lost, 1, result.Sent);
        }

        // Whatever the device gave the daemon was sent or dropped for a reason. The counters were not read at one instant, so a neighbour's packet may be
        // in the one and not in the other.
        await Poll.UntilAsync("the daemon has dealt with all", async () =>
            Math.Abs(await TakenAsync(vm1) - taken - (await SentAsync(one, vm2) - sent + await DropsAsync(one) - dropped)) <= 4,
            async () => $"{await TakenAsync(vm1) - taken} taken, {await SentAsync(one, vm2) - sent} sent, {(await one.GetAsync("/v1/drops")).ToJsonString()}");
        JsonObject reasons = (await one.GetAsync("/v1/drops"))["peers"]!["vm2"]!.AsObject();
        output.WriteLine($"{await TakenAsync(vm1) - taken} taken, {await SentAsync(one, vm2) - sent} sent, {reasons.ToJsonString()}");
        Assert.All(reasons, reason => Assert.True(reason.Value!.GetValue<long>() == 0 || reason.Key == "UnderlayQueueFull", $"{reason}"));

        Assert.True(reasons["UnderlayQueueFull"]!.GetValue<long>() > 0, "neither queue nor buffer was ever full");

        // What was sent was received, or the link's queue has dropped it without a word: up to 64 datagrams at once.
        await Poll.UntilAsync("the link's queue is empty", async () => (await QueueAsync(vm1))["backlog"]!.GetValue<long>() == 0);
        long lost = await SentAsync(one, vm2) - await ReceivedAsync(two, vm1);
        long queueDrops = (await QueueAsync(vm1))["drops"]!.GetValue<long>();
        output.WriteLine($"{lost} lost on the way, {queueDrops} dropped by the queue");
        Assert.InRange(lost, 0, queueDrops * 64);
        await vm1.ShellAsync("tc qdisc del dev eth1 root");
        await ReachesAsync(vm1, vm2, one);
        await AssertNothingLeaksAsync(one, files, memory + (1 << 16));
    }

    private static string Moved(string configuration) => configuration.Replace("192.168.40.1", "192.0.2.1", StringComparison.Ordinal);

    // Down for long enough that packets meet it. Meanwhile the neighbour has got another network card.
    private static async Task FlapAsync(Lab lab, Daemon[] daemons, int time)
    {
        await lab.Hosts[0].IpAsync("link set eth1 down");
        await lab.Hosts[1].IpAsync(FormattableString.Invariant($"link set eth1 address 02:00:00:00:00:{time:x2}"));
        Assert.Equal(0, (await lab.Hosts[0].Container.PingAsync(lab.Hosts[1].ContainerAddress(4), 2, "-W", "0.1")).Received);
        await lab.Hosts[0].IpAsync("link set eth1 up");
        await ReachesAsync(lab.Hosts[0], lab.Hosts[1], daemons[0]);
    }

    // Packets flow again within the time that a change of the underlay may take; a link needs a moment to come up.
    private static async Task ReachesAsync(Vm from, Vm to, Daemon daemon)
    {
        DateTime start = DateTime.UtcNow;
        await Poll.UntilAsync(
            $"{to} is reached",
            async () => (await from.Container.PingAsync(to.ContainerAddress(4), 1, "-W", "0.2")).Received == 1,
            async () => (await daemon.GetAsync("/v1/peers")).ToJsonString());
        Assert.InRange(DateTime.UtcNow - start, TimeSpan.Zero, Recovery + TimeSpan.FromSeconds(2));
    }

    // The first question to the control API opens files that stay open.
    private static async Task<(int Files, long Memory)> ResourcesAsync(Daemon daemon)
    {
        await daemon.GetAsync("/v1/network");
        string process = $"/proc/{daemon.Process.Pid}";
        return (Directory.GetFiles(process + "/fd").Length,
            long.Parse(ResidentMemory().Match(await File.ReadAllTextAsync(process + "/status")).Groups["size"].Value, CultureInfo.InvariantCulture));
    }

    private async Task AssertNothingLeaksAsync(Daemon daemon, int files, long memory)
    {
        (int filesNow, long memoryNow) = await ResourcesAsync(daemon);
        output.WriteLine($"{daemon.Host}: {files} files, {memory} KiB before; {filesNow} files, {memoryNow} KiB after");

        // A connection of the control API comes and goes.
        Assert.InRange(filesNow, 0, files + 2);
        Assert.InRange(memoryNow, 0, memory + MemoryMargin);
    }

    private static async Task<long> CounterAsync(Lab lab, string name) => long.Parse(
        CounterPackets().Match((await lab.Switch.ShellAsync($"nft list counter netdev faults {name}")).Succeeded().Out).Groups["packets"].Value, CultureInfo.InvariantCulture);

    private static async Task<long> SentAsync(Daemon daemon, Vm peer) =>
        (await daemon.GetAsync($"/v1/peers/{peer.Name}"))["traffic"]!["sent"]!["packets"]!.GetValue<long>();

    private static async Task<long> ReceivedAsync(Daemon daemon, Vm peer) =>
        (await daemon.GetAsync($"/v1/peers/{peer.Name}"))["traffic"]!["received"]!["packets"]!.GetValue<long>();

    private static async Task<long> DropsAsync(Daemon daemon)
    {
        JsonNode drops = await daemon.GetAsync("/v1/drops");
        return drops["network"]!.AsObject().Concat(drops["peers"]!["vm2"]!.AsObject()).Sum(reason => reason.Value!.GetValue<long>());
    }

    // What the kernel has sent through the TUN device.
    private static async Task<long> TakenAsync(Vm host) => (await host.IpJsonAsync("-s", "link", "show", "tun0"))[0]!["stats64"]!["tx"]!["packets"]!.GetValue<long>();

    private static async Task<JsonNode> QueueAsync(Vm host) =>
        JsonNode.Parse((await host.RunAsync("tc", "-j", "-s", "qdisc", "show", "dev", "eth1")).Succeeded().Out)![0]!;

    [GeneratedRegex(@"packets (?<packets>\d+)", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex CounterPackets();

    [GeneratedRegex(@"VmRSS:\s+(?<size>\d+)", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex ResidentMemory();
}
