using System.Buffers.Binary;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests.Interop;

/// <summary>
/// tunneld on this machine against the GRE of the Linux kernel in a virtual machine: every option of the header, both IP versions inside and
/// outside, and the kernel's GRE-in-UDP (ip-link(8), ip-fou(8)).
/// </summary>
public sealed partial class KernelVmTests(KernelVmLab lab, ITestOutputHelper output) : IClassFixture<KernelVmLab>
{
    // The type, gre or ip6gre, and the addresses are added.
    private static readonly KernelCase[] Cases =
    [
        new("plain", 4, "", []),
        new("key", 4, "key 42", ["key: 42"], Flags: 0x2000),
        new("two keys", 4, "ikey 1 okey 4294967295", ["key: {in: 4294967295, out: 1}"], Flags: 0x2000),
        new("checksum", 4, "csum", ["checksum: true"], Flags: 0x8000),
        // As above, but as a virtual machine comes: nobody has finished the checksum (docs/interop-kernel.md).
        new("checksum, left to the device", 4, "csum", ["checksum: true"], Flags: 0x8000, LeavesChecksums: true),
        new("sequence", 4, "seq", ["sequence: true"], Flags: 0x1000),
        new("all options", 4, "key 7 csum seq", ["key: 7", "checksum: true", "sequence: true"], Flags: 0xb000),
        new("IPv6 outside", 6, "encaplimit none", []),
        new("IPv6 outside, all options", 6, "encaplimit none key 7 csum seq", ["key: 7", "checksum: true", "sequence: true"], Flags: 0xb000),
        // The kernel's default: a Destination Options header with the Tunnel Encapsulation Limit (RFC 2473 section 4.1.1), 8 bytes.
        new("IPv6 outside, encapsulation limit", 6, "", [], KernelExtra: 8),
        new("GRE-in-UDP", 4, "encap fou encap-sport auto encap-dport 4754", ["encapsulation: gre-udp"], IsUdp: true),
        new(
            "GRE-in-UDP, checksum and key", 4, "encap fou encap-sport auto encap-dport 4754 encap-csum key 42", ["encapsulation: gre-udp", "key: 42"],
            Flags: 0x2000, IsUdp: true),
        new(
            "GRE-in-UDP, IPv6 outside", 6, "encaplimit none encap fou encap-sport auto encap-dport 4754 encap-udp6-csum", ["encapsulation: gre-udp"],
            IsUdp: true),
    ];

    private static readonly InteropRecord Record = new("kernel");

    public static TheoryData<string> Names => [.. Cases.Select(one => one.Name)];

    [SkippableTheory]
    [MemberData(nameof(Names))]
    public async Task TheKernelAndTunneldUnderstandEachOther(string name)
    {
        KernelCase one = Cases.Single(c => c.Name == name);
        (Vm host, Node container, KernelVm kernel) = (lab.Host, lab.Host.Container, lab.Kernel);
        (Daemon started, int kernelMtu) = await StartAsync(one);
        await using Daemon daemon = started;
        try
        {
            await CapturePingsAsync(one);

            JsonNode peer = await daemon.GetAsync("/v1/peers/vm2");
            int gmtu = peer["gmtu"]!.GetValue<int>();
            Assert.Equal(gmtu - one.KernelExtra, kernelMtu);
            await CheckSizesAsync(gmtu, kernelMtu);
            await lab.TransferBothWaysAsync(
                container,
                (host.ContainerAddress(4), lab.KernelPeer.ContainerAddress(4)),
                (host.ContainerAddress(6), lab.KernelPeer.ContainerAddress(6)));

            JsonNode drops = await daemon.GetAsync("/v1/drops");
            // The kernel asks for routers on a device that goes up, from a link-local address.
            Assert.All(
                drops["peers"]!["vm2"]!.AsObject().Where(reason => reason.Key != "SourceNotInPeerSubnets"),
                reason => Assert.True(reason.Value!.GetValue<long>() == 0, drops.ToJsonString()));
        }
        catch
        {
            output.WriteLine((await daemon.GetAsync("/v1/drops")).ToJsonString());
            output.WriteLine((await kernel.RunAsync("ip -s -d link show gre1; ip -6 -br addr; dmesg | tail -n 5")).ToString());
            throw;
        }
        finally
        {
            output.WriteLine(daemon.Report());
        }
    }

    /// <summary>I8: the kernel's GRE module beside tunneld, without a tunnel of its own that would match.</summary>
    [SkippableTheory]
    [InlineData(4, "auto", "packet")]
    [InlineData(4, "raw", "raw")]
    [InlineData(6, "auto", "raw")]
    public async Task TheKernelsModuleAnswersWhatTunneldReceives(int outer, string configured, string inUse)
    {
        (Vm host, KernelVm vm) = (lab.Host, await lab.TunneldAsync());
        (string module, string unreachable, int quoted) = outer == 4
            ? ("ip_gre", "icmp type destination-unreachable icmp code port-unreachable", 64 + 72)
            : ("ip6_gre", "icmpv6 type destination-unreachable icmpv6 code port-unreachable", 64 + 48);
        await vm.SucceedAsync(
            $$"""
            sed -i 's/receive: .*/receive: {{configured}}/' /etc/tunnel/tun0.yaml
            {{Ask("POST", "/v1/reload")}}
            """);
        await Poll.UntilAsync("the datapath in use", async () => outer == 6 || (await vm.RunAsync(Ask("GET", "/v1/network"))).Out.Contains($"\"receive\":\"{inUse}\"", StringComparison.Ordinal));
        // 10.0.206.1 is vm1's address behind its IPv6 endpoint.
        string own = outer == 4 ? host.Overlay(4) : "10.0.206.1";
        await using Daemon daemon = await new Daemon(host, "tun0",
            $"""
            interface:
              addresses: [{own}/24]
            underlay:
              local: {host.Underlay(outer)}
            peers:
            {lab.TunneldPeer.PeerEntry(outer)}
            """).StartAsync();
        await using PacketCapture answers = await PacketCapture.StartAsync(
            host, "eth1", outer == 4 ? "icmp[0] == 3 and src host 192.168.40.13" : "icmp6 and ip6[40] == 1 and src host fd40::13");
        try
        {
            await PingVm3Async(own);
            await vm.SucceedAsync("modprobe gre");
            await PingVm3Async(own);
            Assert.Empty(await answers.PacketsAsync());

            // Port Unreachable, which quotes a packet of protocol 47; the pings are answered all the same.
            await vm.SucceedAsync($"modprobe {module}");
            await Poll.UntilAsync("an ICMP error", async () =>
            {
                await PingVm3Async(own);
                return (await answers.PacketsAsync()).Count > 0;
            });
            byte[] error = (await answers.PacketsAsync())[0];
            Assert.Equal(outer == 4 ? new byte[] { 3, 3, 47 } : [1, 4, 47], outer == 4 ? [error[20], error[21], error[37]] : [error[40], error[41], error[54]]);

            // A rule at output keeps them in: the quoted packet's protocol follows the 8 bytes of the ICMP header.
            await vm.SucceedAsync(
                $$"""
                nft add table inet quiet
                nft add chain inet quiet output '{ type filter hook output priority 0; }'
                nft add rule inet quiet output {{unreachable}} @th,{{quoted}},8 47 counter drop
                """);
            int before = (await answers.PacketsAsync()).Count;
            await Poll.UntilAsync("the rule meets one", async () =>
            {
                await PingVm3Async(own);
                return !(await vm.SucceedAsync("nft list table inet quiet")).Contains("packets 0 ", StringComparison.Ordinal);
            });
            Assert.Equal(before, (await answers.PacketsAsync()).Count);
            Assert.Contains($"\"receive\":\"{(configured == "raw" ? "raw" : "packet")}\"", await vm.SucceedAsync(Ask("GET", "/v1/network")), StringComparison.Ordinal);
        }
        finally
        {
            await vm.RunAsync("nft delete table inet quiet; rmmod ip_gre ip6_gre gre");
            output.WriteLine(daemon.Report());
            output.WriteLine((await vm.RunAsync("cat /tmp/tunneld.log")).ToString());
        }
    }

    /// <summary>I8, the worse case: the module's device gre0 takes what matches no tunnel, as soon as somebody sets it up.</summary>
    [SkippableFact]
    public async Task TheFallbackDeviceHandsEveryPacketOverASecondTime()
    {
        (Vm host, KernelVm vm) = (lab.Host, await lab.TunneldAsync());
        await using Daemon daemon = await new Daemon(host, "tun0", host.Configuration(lab.TunneldPeer.PeerEntry())).StartAsync();
        try
        {
            Assert.DoesNotContain("(DUP!)", await PingVm3Async(host.Overlay(4)), StringComparison.Ordinal);
            await vm.SucceedAsync("modprobe ip_gre; ip link set gre0 up");
            await Poll.UntilAsync("duplicates", async () => (await PingVm3Async(host.Overlay(4))).Contains("(DUP!)", StringComparison.Ordinal));
        }
        finally
        {
            await vm.RunAsync("ip link set gre0 down; rmmod ip_gre gre");
            output.WriteLine(daemon.Report());
        }
    }

    /// <summary>tunneld and the kernel's GRE over IPsec in transport mode, between the two virtual machines.</summary>
    [SkippableFact]
    public async Task OverIpsecNothingLeavesInTheClear()
    {
        (KernelVm kernel, KernelVm vm) = (lab.Kernel, await lab.TunneldAsync());
        await kernel.SucceedAsync(
            """
            modprobe ip_gre
            ethtool -K eth0 tx off gro on
            if [ -e /sys/class/net/gre1 ]; then ip link del gre1; fi
            ip link add gre1 type gre local 192.168.40.12 remote 192.168.40.13
            ip link set gre1 up mtu 1400
            ip addr add 10.0.201.2/24 dev gre1
            """);
        await using PacketCapture wire = await PacketCapture.StartAsync(lab.Switch, "vm3", "ip host 192.168.40.12 and ip host 192.168.40.13");
        try
        {
            // What would be seen without it. The pattern is in every ping.
            (await vm.PingAsync("10.0.201.2", "-p 5ec2e7")).Succeeded();
            Assert.Contains(await wire.PacketsAsync(), IsInTheClear);
            string network = await vm.SucceedAsync(Ask("GET", "/v1/network"));
            Assert.Contains("\"send\":\"packet\"", network, StringComparison.Ordinal);

            // Linux 6.1 has no UDP super-packets on TUN devices.
            Assert.Contains("{\"offload\":\"tun-udp\",\"reason\":\"the TUN device", network, StringComparison.Ordinal);
            Assert.Contains("offload tun-udp is off", await vm.SucceedAsync("cat /tmp/tunneld.log"), StringComparison.Ordinal);

            await Task.WhenAll(kernel.SucceedAsync(Ipsec("192.168.40.12", "192.168.40.13")), vm.SucceedAsync(Ipsec("192.168.40.13", "192.168.40.12")));
            await Poll.UntilAsync("raw sockets in use", async () =>
                await vm.SucceedAsync(Ask("GET", "/v1/network")) is var state
                && state.Contains("\"receive\":\"raw\"", StringComparison.Ordinal) && state.Contains("IPsec", StringComparison.Ordinal),
                async () => await vm.SucceedAsync(Ask("GET", "/v1/network") + "; cat /tmp/tunneld.log"));
            int before = (await wire.PacketsAsync()).Count;

            (await vm.PingAsync("10.0.201.2", "-p 5ec2e7")).Succeeded();
            (await kernel.PingAsync("10.0.201.3", "-p 5ec2e7")).Succeeded();
            (await vm.PingAsync("10.0.201.2", "-p 5ec2e7 -M dont -s 3000")).Succeeded();
            Task<string> received = vm.SucceedAsync("timeout 50 nc -l 10.0.201.3 5000 </dev/null | sha256sum");
            await vm.SucceedAsync("until cat /proc/net/tcp /proc/net/tcp6 | grep -q ':1388 .* 0A '; do sleep 0.1; done");
            string sent = await kernel.SucceedAsync("head -c 500000 /data >/tmp/part; timeout 50 nc -N 10.0.201.3 5000 </tmp/part; sha256sum </tmp/part");
            Assert.Equal(sent, await received);

            byte[][] packets = [.. (await wire.StopAsync()).Skip(before)];
            Assert.True(packets.Length > 100, $"{packets.Length} packets");
            // ESP (RFC 4303), protocol 50, its fragments included.
            Assert.All(packets, packet => Assert.Equal(50, packet[9]));
            Assert.DoesNotContain(packets, IsInTheClear);
        }
        finally
        {
            await kernel.RunAsync("ip xfrm policy flush; ip xfrm state flush; ip link del gre1");
            await vm.RunAsync("ip xfrm policy flush; ip xfrm state flush");
            output.WriteLine((await vm.RunAsync("cat /tmp/tunneld.log; cat /proc/net/xfrm_stat")).ToString());
        }

        static bool IsInTheClear(byte[] packet) => packet.AsSpan().IndexOf(stackalloc byte[] { 0x5e, 0xc2, 0xe7, 0x5e, 0xc2, 0xe7 }) >= 0;
    }

    // Keys and SPIs of both directions, and the policy that GRE between the two needs them. The kernel has to be told that what a raw socket sends with
    // its own header is GRE, or the policy does not catch it (docs/interop-kernel.md). rfc4106: AES-GCM, the last 4 bytes of the key are the salt.
    private static string Ipsec(string own, string other)
    {
        static string State(string from, string to) =>
            $"""
            ip xfrm state add src {from} dst {to} proto esp spi 0x{(from.EndsWith("12", StringComparison.Ordinal) ? 112 : 113)} mode transport \
              aead 'rfc4106(gcm(aes))' 0x000102030405060708090a0b0c0d0e0f10111213 128
            """;
        return $"""
            for module in xfrm_user esp4 gcm ctr ghash-generic seqiv sha512_generic drbg; do modprobe $module; done
            {State(own, other)}
            {State(other, own)}
            ip xfrm policy add src {own} dst {other} proto 47 dir out tmpl src {own} dst {other} proto esp mode transport
            ip xfrm policy add src {other} dst {own} proto 47 dir in tmpl src {other} dst {own} proto esp mode transport
            """;
    }

    // A request to vm3's control API.
    private static string Ask(string method, string path) =>
        $@"printf '{method} {path} HTTP/1.1\r\nHost: tunneld\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' | timeout 50 nc -U /run/tunnel/tun0.sock";

    // Pings vm3's tunneld from the host; what ping(8) wrote.
    private async Task<string> PingVm3Async(string from)
    {
        PingResult ping = await lab.Host.PingAsync(lab.TunneldPeer.Overlay(4), 3, "-W", "5", "-I", from);
        Assert.True(ping.Received > 0, $"{ping.Result}");
        return ping.Result.Out;
    }

    // The daemon, and the MTU that the kernel gives its tunnel.
    private async Task<(Daemon Daemon, int KernelMtu)> StartAsync(KernelCase one)
    {
        Vm host = lab.Host;
        (string type, string family) = one.Outer == 4 ? ("gre", "") : ("ip6gre", "-6");
        // The virtual device hands packets over with the checksums that it should finish; a real one finishes them. Linux 6.1 with GRO loses
        // what it has coalesced behind fou. What a case before has learnt about the path is forgotten.
        string setUp = await lab.Kernel.SucceedAsync(
            $"""
            if [ -e /sys/class/net/gre1 ]; then ip link del gre1; fi
            ethtool -K eth0 tx {(one.LeavesChecksums ? "on" : "off")} gro {(one.IsUdp ? "off" : "on")}
            ip fou del port 4754 2>/dev/null || true
            ip -6 fou del port 4754 2>/dev/null || true
            {(one.IsUdp ? $"ip {family} fou add port 4754 ipproto 47" : "")}
            ip -batch - <<END
            link add gre1 type {type} local {lab.KernelPeer.Underlay(one.Outer)} remote {host.Underlay(one.Outer)} {one.Kernel}
            link set gre1 up
            addr add 10.0.201.2/24 dev gre1
            addr add fd10:201::2/64 dev gre1
            route add 172.17.51.0/24 dev gre1 src 172.17.52.2
            route add fd17:51::/64 dev gre1 src fd17:52::2
            route flush cache
            END
            ip -6 route flush cache
            cat /sys/class/net/gre1/mtu
            """);
        // ethtool writes too.
        int kernelMtu = int.Parse(setUp.Trim().Split('\n')[^1]);
        (await host.Container.ShellAsync("ip route flush cache; ip -6 route flush cache")).Succeeded();
        Daemon daemon = new(host, "tun0", host.Configuration(lab.KernelPeer.PeerEntry(one.Outer, one.Tunneld), one.Outer));
        return (await daemon.StartAsync(), kernelMtu);
    }

    // Pings both ways, with either IP version inside, and looks at them on the wire.
    private async Task CapturePingsAsync(KernelCase one)
    {
        (Vm host, Vm peer) = (lab.Host, lab.KernelPeer);
        await using PacketCapture capture = await PacketCapture.StartAsync(host, "eth1", "proto 47 or ip6 protochain 47 or udp port 4754");
        foreach (int version in new[] { 4, 6 })
        {
            PingResult there = await host.Container.PingAsync(peer.ContainerAddress(version), 3, "-W", "5");
            Assert.True(there.Received > 0, $"{there.Result}");
        }

        foreach (CommandResult back in await lab.Kernel.RunEachAsync(KernelVm.Ping(host.ContainerAddress(4)), KernelVm.Ping(host.ContainerAddress(6))))
        {
            back.Succeeded();
        }

        IReadOnlyList<byte[]> packets = await capture.StopAsync();

        // The other machine's daemon asks this one whether it is there, under no key.
        GreSample[] samples = [.. packets.Select(GreSample.Read).OfType<GreSample>().Where(sample => !sample.IsMessage)];
        Assert.True(samples.Length >= 16, $"{samples.Length} packets");
        Assert.All(samples, sample => Assert.Equal(one.Flags, sample.Flags));
        Assert.All(samples, sample => Assert.Equal(one.IsUdp, sample.IsUdp));
        if (!one.LeavesChecksums)
        {
            Record.Keep(one.Name, one.Tunneld, packets);
        }
    }

    // The largest packet that needs no fragment, and one byte more, both ways, with either IP version inside.
    private async Task CheckSizesAsync(int gmtu, int kernelMtu)
    {
        (Vm host, Vm peer) = (lab.Host, lab.KernelPeer);
        var kernels = new List<string>();
        foreach (int version in new[] { 4, 6 })
        {
            int headers = version == 4 ? 28 : 48;

            // An answer as large as the question must fit the kernel's way back.
            int largest = Math.Min(gmtu, kernelMtu);
            PingResult whole = await host.Container.PingAsync(peer.ContainerAddress(version), 2, "-W", "5", "-M", "do", "-s", $"{largest - headers}");
            Assert.True(whole.Received > 0, $"{whole.Result}");
            PingResult above = await host.Container.PingAsync(peer.ContainerAddress(version), 1, "-W", "5", "-M", "do", "-s", $"{gmtu + 1 - headers}");
            Assert.Equal(0, above.Received);
            Assert.Contains(gmtu, Mtus(above.Result));
            PingResult pieces = await host.Container.PingAsync(peer.ContainerAddress(version), 3, "-W", "5", "-M", "dont", "-s", "4000");
            Assert.True(pieces.Received > 0, $"{pieces.Result}");

            string address = host.ContainerAddress(version);
            kernels.Add(KernelVm.Ping(address, $"-M do -s {kernelMtu - headers}"));
            kernels.Add(KernelVm.Ping(address, $"-M do -s {kernelMtu + 1 - headers}"));
            kernels.Add(KernelVm.Ping(address, "-M dont -s 4000"));
        }

        foreach (CommandResult[] back in (await lab.Kernel.RunEachAsync([.. kernels])).Chunk(3))
        {
            back[0].Succeeded();
            Assert.Contains(kernelMtu, Mtus(back[1]));
            back[2].Succeeded();
        }
    }

    // What ping(8) says of the path's MTU.
    private static IEnumerable<int> Mtus(CommandResult ping) =>
        MtuPattern().Matches(ping.Out + ping.Error).Select(match => int.Parse(match.Groups["mtu"].Value));

    [GeneratedRegex(@"mtu ?[=:] ?(?<mtu>\d+)", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex MtuPattern();
}

/// <summary>A way to configure the kernel's tunnel and tunneld's peer alike.</summary>
/// <param name="Name">For people.</param>
/// <param name="Outer">The outer IP version.</param>
/// <param name="Kernel">The options of `ip link add ... type gre` or `ip6gre`.</param>
/// <param name="Tunneld">The peer's keys.</param>
/// <param name="Flags">The first two bytes of the GRE header, both directions.</param>
/// <param name="IsUdp">Whether it is GRE-in-UDP.</param>
/// <param name="LeavesChecksums">Whether the kernel leaves checksums to its device, which hands them over unfinished.</param>
/// <param name="KernelExtra">How much more the kernel puts in front of its packets than tunneld does, in bytes.</param>
internal sealed record KernelCase(
    string Name, int Outer, string Kernel, string[] Tunneld, ushort Flags = 0, bool IsUdp = false, bool LeavesChecksums = false, int KernelExtra = 0);

/// <summary>Where the GRE header begins in a packet, and what stands there. Read here by itself, not with the code under test.</summary>
internal sealed record GreSample(byte[] Packet, int Start, bool IsUdp)
{
    /// <summary>Whether it is a message between daemons: protocol type 0x88B5.</summary>
    public bool IsMessage => Packet[Start + 2] == 0x88 && Packet[Start + 3] == 0xb5;

    /// <summary>The first two bytes: flags and version (RFC 2890 section 2).</summary>
    public ushort Flags => BinaryPrimitives.ReadUInt16BigEndian(Packet.AsSpan(Start));

    /// <summary>Finds the GRE header; null where there is none.</summary>
    public static GreSample? Read(byte[] packet)
    {
        (int start, byte protocol) = packet[0] >> 4 == 4 ? ((packet[0] & 0xf) * 4, packet[9]) : (40, packet[6]);
        // Destination Options (RFC 8200 section 4.6).
        if (protocol == 60)
        {
            (start, protocol) = (start + ((packet[start + 1] + 1) * 8), packet[start]);
        }

        return protocol switch
        {
            47 => new GreSample(packet, start, IsUdp: false),
            17 => new GreSample(packet, start + 8, IsUdp: true),
            _ => null,
        };
    }
}
