using Tunnel.TestSupport;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests.Interop;

/// <summary>tshark and tcpdump decode everything that daemons send each other, without a warning.</summary>
public sealed class DecoderTests(ITestOutputHelper output)
{
    private const string All = "key: 7, checksum: true, sequence: true";

    /// <summary>Encapsulation, the underlay's IP version and its MTU, sockets for plain GRE, more of each peer's keys.</summary>
    public static TheoryData<string, int, int, string, string> Ways => new()
    {
        { "gre", 4, 1500, "packet", "" },
        { "gre", 4, 1500, "raw", "" },
        { "gre", 4, 1500, "packet", "key: 7" },
        { "gre", 4, 1500, "packet", "checksum: true" },
        { "gre", 4, 1500, "packet", "sequence: true" },
        { "gre", 4, 1500, "packet", All },
        { "gre", 4, 1500, "raw", All },
        { "gre", 4, 900, "packet", All },
        { "gre", 6, 1500, "raw", "" },
        { "gre", 6, 1500, "raw", All },
        { "gre", 6, 1280, "raw", All },
        { "gre-udp", 4, 1500, "auto", "" },
        { "gre-udp", 4, 1500, "auto", All },
        { "gre-udp", 4, 900, "auto", "" },
        { "gre-udp", 6, 1500, "auto", "" },
        { "gre-udp", 6, 1280, "auto", All },
    };

    [SkippableTheory]
    [MemberData(nameof(Ways))]
    public async Task OthersDecodeWhatWeSend(string encapsulation, int outer, int mtu, string datapath, string options)
    {
        Decoder.SkipWhereMissing();
        await using Lab lab = await Lab.CreateAsync(output, wire: true);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        foreach (Vm host in lab.Hosts)
        {
            // Nothing is left to a device, and nothing is coalesced before it is captured.
            (await host.RunAsync("ethtool", "-K", "eth1", "tx", "off", "gro", "off", "rx-udp-gro-forwarding", "off")).Succeeded();
            await host.IpAsync($"link set eth1 mtu {mtu}");
            // What TCP sends again for nothing, on a busy machine, is told the sender (RFC 2883), and tshark warns of it.
            (await host.Container.ShellAsync("echo 0 >/proc/sys/net/ipv4/tcp_dsack")).Succeeded();
        }

        string file = Path.Combine(lab.Directory, "wire.pcap");
        await using Background tcpdump = await CaptureAsync(vm2, file);
        string extra = $"  encapsulation: {encapsulation}\ndatapath: {{receive: {datapath}, send: {datapath}}}\n";
        string[] keys = [.. options.Split(", ", StringSplitOptions.RemoveEmptyEntries), "keepalive: 200ms"];
        Daemon[] daemons = await lab.StartMeshAsync(outer, (_, _) => keys, extra);
        await Poll.UntilAsync("keepalives are answered", async () => (await daemons[0].GetAsync("/v1/peers/vm2"))["state"]!.GetValue<string>() == "up");
        foreach (int inner in new[] { 4, 6 })
        {
            await vm1.Container.PingAsync(vm2.ContainerAddress(inner), 3, "-M", "dont", "-s", "3000");
            await vm2.Container.PingAsync(vm1.ContainerAddress(inner));
            await TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(inner), 1 << 20);
            await using UdpFlow flow = await UdpFlow.StartAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(inner), burst: 4);
            await flow.StopAsync();
        }

        await StopAsync(tcpdump);
        await AssertCleanAsync(file);
        string[][] packets = await Decoder.FieldsAsync(
            file, "frame.protocols", "gre.proto", "gre.key", "gre.checksum.status", "gre.sequence_number", "udp.dstport");
        // What has a GRE header; of what comes in fragments the last has it, where they are put together.
        packets = [.. packets.Where(packet => packet[1].Length > 0)];
        Assert.All(packets, packet =>
        {
            Assert.Equal(options.Contains("key", StringComparison.Ordinal) ? "0x00000007" : "", packet[2]);
            Assert.Equal(options.Contains("checksum", StringComparison.Ordinal) ? "1" : "", packet[3]);
            Assert.Equal(options.Contains("sequence", StringComparison.Ordinal), packet[4].Length > 0);
            Assert.Equal(encapsulation == "gre-udp", packet[5].Split(',')[0] == "4754");
        });
        string[] protocols = [.. packets.Select(packet => packet[0])];
        foreach (string inside in new[] { "gre:ip:tcp", "gre:ip:udp", "gre:ip:icmp", "gre:ip:data", "gre:ipv6:tcp", "gre:ipv6:udp", "gre:ipv6:icmpv6", "gre:ipv6:ipv6.fraghdr" })
        {
            Assert.True(protocols.Any(text => text.Contains(inside, StringComparison.Ordinal)), $"no {inside} in {string.Join('\n', protocols.Distinct())}");
        }

        // Messages between daemons: questions and answers.
        Assert.True(packets.Count(packet => packet[1] == "0x88b5") >= 2, "no messages");
        Assert.InRange(packets.Length, 1000, int.MaxValue);
    }

    [SkippableFact]
    public async Task OthersDecodeARoutersKeepalives()
    {
        Decoder.SkipWhereMissing();
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        string file = Path.Combine(lab.Directory, "wire.pcap");
        await using Background tcpdump = await CaptureAsync(vm2, file);
        Daemon[] daemons = await lab.StartMeshAsync(options: (self, _) => ["checksum: true", self == vm1 ? "keepalive: gre:200ms" : "keepalive: off"]);
        await Poll.UntilAsync("keepalives come back", async () => (await daemons[0].GetAsync("/v1/peers/vm2"))["state"]!.GetValue<string>() == "up");

        await StopAsync(tcpdump);
        await AssertCleanAsync(file);
        // There: GRE, IP and GRE again, whose protocol type 0 says that it is a keepalive; back: that IP packet alone.
        string[][] packets = await Decoder.FieldsAsync(file, "ip.src", "gre.proto");
        Assert.Contains(packets, packet => packet[0] == $"{vm1.Underlay(4)},{vm2.Underlay(4)}" && packet[1] == "0x0800,0x0000");
        Assert.Contains(packets, packet => packet[0] == vm2.Underlay(4) && packet[1] == "0x0000");
    }

    /// <summary>The tests above would notice.</summary>
    [SkippableTheory]
    [InlineData("4in4-checksum-key-sequence", true)]
    [InlineData("gre-checksum-wrong", false)]
    [InlineData("gre-truncated-sequence", false)]
    [InlineData("inner-truncated", false)]
    public async Task WhatIsWrongIsComplainedAbout(string name, bool isRight)
    {
        Decoder.SkipWhereMissing();
        string file = Path.GetTempFileName();
        try
        {
            await File.WriteAllBytesAsync(file, Pcap(GoldenPackets.Get(name).Bytes));
            Assert.Equal(isRight, (await Decoder.TsharkComplaintsAsync(file)).Length == 0);
            // tcpdump does not verify the GRE checksum.
            Assert.Equal(isRight || name == "gre-checksum-wrong", (await Decoder.TcpdumpComplaintsAsync(file)).Length == 0);
        }
        finally
        {
            File.Delete(file);
        }
    }

    private static async Task AssertCleanAsync(string file)
    {
        Assert.Equal("", await Decoder.TsharkComplaintsAsync(file));
        Assert.Empty(await Decoder.TcpdumpComplaintsAsync(file));
    }

    private static async Task<Background> CaptureAsync(Vm host, string file)
    {
        // Each packet takes a slot as large as the longest that is captured whole: with the default 16 MB were 64 slots.
        Background tcpdump = host.Start(
            null, "tcpdump", "-i", "eth1", "-s", "2048", "-B", "16384", "-U", "--immediate-mode", "-n", "-Z", "root", "-w", file, "ip or ip6");
        await tcpdump.WaitForAsync("listening on");
        return tcpdump;
    }

    private static async Task StopAsync(Background tcpdump)
    {
        await tcpdump.SignalAsync("INT");
        await tcpdump.WaitAsync();
        // A fragment that was missed would make a complaint of its own.
        Assert.Contains("\n0 packets dropped by kernel", tcpdump.Log, StringComparison.Ordinal);
    }

    // A classic pcap file with one packet that begins with its IP header (LINKTYPE_RAW).
    private static byte[] Pcap(byte[] packet)
    {
        uint length = uint.CreateChecked(packet.Length);
        uint[] header = [0xa1b2c3d4, 0x0004_0002, 0, 0, 262_144, 101, 0, 0, length, length];
        return [.. header.SelectMany(BitConverter.GetBytes), .. packet];
    }
}
