using System.Globalization;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>
/// F2, F4, U4, V3, F6: packets that are larger than the path pass in fragments, whatever the path takes, and TCP keeps below it.
/// </summary>
public sealed class FragmentTests(ITestOutputHelper output)
{
    /// <summary>The ways: sockets for plain GRE, encapsulation, underlay's IP version, its MTU. Packet sockets carry IPv4 outside only.</summary>
    public static TheoryData<string, string, int, int> Ways => new()
    {
        { "raw", "gre", 4, 1500 },
        { "raw", "gre", 4, 900 },
        { "packet", "gre", 4, 1500 },
        { "packet", "gre", 4, 900 },
        { "raw", "gre", 6, 1500 },
        { "raw", "gre", 6, 1280 },
        { "raw", "gre-udp", 4, 1500 },
        { "raw", "gre-udp", 4, 900 },
        { "raw", "gre-udp", 6, 1280 },
    };

    [SkippableTheory]
    [MemberData(nameof(Ways))]
    public async Task LargePacketsPassInFragments(string datapath, string encapsulation, int outer, int mtu)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await StartAsync(lab, datapath, encapsulation, outer, mtu);
        int gmtu = mtu - (outer == 4 ? 20 : 40) - 4 - (encapsulation == "gre" ? 0 : 8);
        Assert.Equal(gmtu, (await daemons[0].GetAsync("/v1/peers/vm2"))["gmtu"]!.GetValue<int>());

        // Once fragmented by the kernel, whose route says how large a packet may be; then, where somebody else's route says nothing, by us.
        await CheckPingsAsync(daemons, 4);
        await CheckPingsAsync(daemons, 6);
        await UseForeignRoutesAsync(vm1, vm2);
        await UseForeignRoutesAsync(vm2, vm1);
        long sent = await SentPacketsAsync(daemons[0]);
        string made = await FragmentsMadeAsync(vm1) + await FragmentsMadeAsync(vm2);
        await CheckPingsAsync(daemons, 4);
        Assert.Equal(made, await FragmentsMadeAsync(vm1) + await FragmentsMadeAsync(vm2));

        // Three packets of 20,028 bytes, each in as many fragments as it takes at least.
        Assert.InRange(await SentPacketsAsync(daemons[0]) - sent, 3 * (20_008 / gmtu), 1000);
        foreach (Daemon daemon in daemons)
        {
            Assert.Equal(0, await daemon.DropsAsync("UnderlayTooLong"));
            Assert.Equal(0, await daemon.DropsAsync("OuterMalformed"));
            Assert.Equal(0, await daemon.DropsAsync("ChecksumMismatch"));
        }

        await TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4), 1 << 20);
        await TcpTransfer.CheckAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(6), 1 << 20);
    }

    [SkippableTheory]
    [InlineData(1500, 1436, 1416)]
    [InlineData(900, 836, 816)]
    public async Task TcpIsToldWhatFitsAndNoFirewallRuleCanTakeThatAway(int mtu, int mss4, int mss6)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await StartAsync(lab, "raw", "gre", 4, mtu);

        (await vm1.ShellAsync("nft flush ruleset")).Succeeded();
        (await vm2.ShellAsync("nft flush ruleset")).Succeeded();
        foreach ((int version, int expected) in new[] { (4, mss4), (6, mss6) })
        {
            Assert.Equal([expected, expected], await SegmentSizesAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(version)));
            Assert.Equal([expected, expected], await SegmentSizesAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(version)));
        }
    }

    // The Maximum Segment Size in SYN and SYN-ACK, as each end got it.
    private static async Task<int[]> SegmentSizesAsync(Node client, Node server, string address)
    {
        const string Listen = """
            import socket, sys
            server = socket.create_server((sys.argv[1], 5010), family=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
            print('listening', flush=True)
            connection, _ = server.accept()
            connection.recv(1)
            """;
        const string Connect = "import socket, sys; socket.create_connection((sys.argv[1], 5010), timeout=20).close()";
        await using Background listener = server.StartPython(Listen, address);
        await listener.WaitForAsync("listening");
        await using Background clientSide = await CaptureAsync(client, "src");
        await using Background serverSide = await CaptureAsync(server, "dst");
        (await client.PythonAsync(Connect, address)).Succeeded();
        return [await SizeAsync(serverSide), await SizeAsync(clientSide)];
    }

    // The SYN that comes to the server, the SYN-ACK that comes to the client. tcpdump's filter doesn't find TCP flags in IPv6 by name.
    private static async Task<Background> CaptureAsync(Node node, string portIs)
    {
        Background tcpdump = node.Start(null, "tcpdump", "-i", "eth0", "-l", "--immediate-mode", "-n", "-c", "1",
            $"tcp {portIs} port 5010 and ((ip and tcp[13] & 2 != 0) or (ip6 and ip6[53] & 2 != 0))");
        await tcpdump.WaitForAsync("listening on");
        return tcpdump;
    }

    private static async Task<int> SizeAsync(Background tcpdump)
    {
        await tcpdump.WaitAsync();
        string line = tcpdump.Log.Split('\n').Single(text => text.Contains("mss ", StringComparison.Ordinal));
        return int.Parse(line.Split("mss ")[1].Split(',', ']')[0], CultureInfo.InvariantCulture);
    }

    private static async Task CheckPingsAsync(Daemon[] daemons, int inner)
    {
        (Vm vm1, Vm vm2) = (daemons[0].Host, daemons[1].Host);
        // Of IPv6 the sender must learn first what the path takes; it is told at once.
        await vm1.Container.PingAsync(vm2.ContainerAddress(inner), 1, "-s", "20000", "-M", "dont");
        await vm2.Container.PingAsync(vm1.ContainerAddress(inner), 1, "-s", "20000", "-M", "dont");
        foreach (int size in (int[])[1200, 1400, 20_000])
        {
            PingResult ping = await vm1.Container.PingAsync(vm2.ContainerAddress(inner), 3, "-s", $"{size}", "-M", "dont");
            Assert.True(ping.Received == 3, $"{ping.Result}\n{await daemons[0].GetAsync("/v1/drops")}\n{await daemons[1].GetAsync("/v1/drops")}");
        }
    }

    private static Task UseForeignRoutesAsync(Vm host, Vm peer) =>
        host.IpAsync($"route replace {peer.Subnet(4)} dev tun0 proto static mtu lock 1500");

    // Fragments of IPv4 that the host's kernel has made, of any packet (SNMP's ipFragCreates).
    private static async Task<string> FragmentsMadeAsync(Vm host) =>
        (await host.ShellAsync("nstat -asz IpFragCreates | tail -n 1")).Succeeded().Out;

    private static async Task<long> SentPacketsAsync(Daemon daemon) =>
        (await daemon.GetAsync("/v1/peers/vm2"))["traffic"]!["sent"]!["packets"]!.GetValue<long>();

    private static async Task<Daemon[]> StartAsync(Lab lab, string datapath, string encapsulation, int outer, int mtu)
    {
        foreach (Vm host in lab.Hosts)
        {
            await host.IpAsync($"link set eth1 mtu {mtu}");
        }

        string extra = $"  encapsulation: {encapsulation}\ndatapath: {{receive: {datapath}, send: {datapath}}}\n";
        return await lab.StartMeshAsync(outer, underlayExtra: extra);
    }
}
