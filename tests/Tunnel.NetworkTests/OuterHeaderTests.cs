using System.Globalization;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>What a peer's options say of the outer header is what stands on the wire, whichever way packets leave.</summary>
public sealed class OuterHeaderTests(ITestOutputHelper output)
{
    // The inner packets' last hop before the tunnel is their host.
    private const int InnerTtl = 33;
    private const int OuterTtl = InnerTtl - 1;

    public static TheoryData<int, string> Ways => new()
    {
        { 4, "raw" }, { 4, "packet" }, { 4, "gre-udp" }, { 6, "raw" }, { 6, "gre-udp" },
    };

    [SkippableTheory]
    [MemberData(nameof(Ways))]
    public async Task TheInnerHeaderIsCopiedWhereThePeerSaysSo(int outer, string way)
    {
        await using Lab lab = await StartAsync(outer, way, "dscp: copy", "ecn: normal", "ttl: inherit", "pmtud: false");

        GrePacket[] packets = await PingsAsync(lab, inner: 4, tos: 0xb9, dontFragment: false);
        Assert.All(packets, packet => Assert.Equal((0xb9, OuterTtl, false), (packet.TrafficClass, packet.TimeToLive, packet.DontFragment)));
        Assert.True(outer == 6 || packets.Select(packet => packet.Identification).Distinct().Count() == packets.Length, "identifications repeat");

        packets = await PingsAsync(lab, inner: 4, tos: 0x2a, dontFragment: true);
        Assert.All(packets, packet => Assert.Equal((0x2a, OuterTtl, outer == 4), (packet.TrafficClass, packet.TimeToLive, packet.DontFragment)));

        packets = await PingsAsync(lab, inner: 6, tos: 0x58, dontFragment: true);
        Assert.All(packets, packet => Assert.Equal((0x58, OuterTtl, false), (packet.TrafficClass, packet.TimeToLive, packet.DontFragment)));
    }

    [SkippableTheory]
    [MemberData(nameof(Ways))]
    public async Task FixedFieldsAreFixed(int outer, string way)
    {
        await using Lab lab = await StartAsync(outer, way, "dscp: 46", "ecn: compatible", "ttl: 7");
        GrePacket[] packets = await PingsAsync(lab, inner: 4, tos: 0x2b, dontFragment: false);
        Assert.All(packets, packet => Assert.Equal((46 << 2, 7, outer == 4), (packet.TrafficClass, packet.TimeToLive, packet.DontFragment)));
    }

    // The host's own default is another.
    [SkippableTheory]
    [MemberData(nameof(Ways))]
    public async Task WithoutOptionsNothingIsCopied(int outer, string way)
    {
        // Who asks nothing does not know whether the other end heeds the ECN field.
        await using Lab lab = await StartAsync(outer, way, "keepalive: off");
        GrePacket[] packets = await PingsAsync(lab, inner: 4, tos: 0x2a, dontFragment: false);
        Assert.All(packets, packet => Assert.Equal((0, 64, outer == 4), (packet.TrafficClass, packet.TimeToLive, packet.DontFragment)));
    }

    [SkippableFact]
    public async Task TheEcnFieldIsCopiedOnceThePeersDaemonIsKnown()
    {
        await using Lab lab = await StartAsync(4, "raw");
        await Poll.UntilAsync(
            "ECN is copied, and nothing else",
            async () => (await PingsAsync(lab, inner: 4, tos: 0x2a, dontFragment: false)).All(packet => (packet.TrafficClass, packet.TimeToLive) == (2, 64)));
    }

    // Options that differ from packet to packet must not keep bulk traffic from being whole.
    [SkippableTheory]
    [MemberData(nameof(Ways))]
    public async Task TcpStaysIntactWithEverythingCopied(int outer, string way)
    {
        await using Lab lab = await StartAsync(outer, way, "dscp: copy", "ecn: normal", "ttl: inherit", "pmtud: false");
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        foreach (Vm host in lab.Hosts)
        {
            (await host.Container.ShellAsync("sysctl -qw net.ipv4.tcp_ecn=1")).Succeeded();
        }

        await TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4), 8 << 20);
        await TcpTransfer.CheckAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(6), 8 << 20);
    }

    // H1: what one side sends and the other doesn't expect.
    [SkippableTheory]
    [InlineData("", "checksum: true", "ChecksumUnexpected")]
    [InlineData("checksum: true", "", "ChecksumAbsent")]
    [InlineData("", "sequence: true", "SequenceUnexpected")]
    [InlineData("sequence: true", "", "SequenceAbsent")]
    public async Task AStrictPeersPacketsMustBeAsConfigured(string expected, string sent, string reason)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon strict = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry(4, [.. Words(expected), "strict: true"])));
        Daemon lax = await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry(4, Words(sent))));
        Assert.Equal(0, (await vm2.Container.PingAsync(vm1.ContainerAddress(4))).Received);
        await strict.WaitForDropAsync(reason, 3, "vm2");

        (await strict.CtlAsync("show", "vm2")).Succeeded();
        strict.Configure(vm1.Configuration(vm2.PeerEntry(4, [.. Words(sent), "strict: true"])));
        (await strict.CtlAsync("reload")).Succeeded();
        Assert.Equal(3, (await vm2.Container.PingAsync(vm1.ContainerAddress(4))).Received);
        Assert.Equal(0, await lax.DropsAsync(reason));

        static string[] Words(string option) => option.Length == 0 ? [] : [option];
    }

    private async Task<Lab> StartAsync(int outer, string way, params string[] options)
    {
        Lab lab = await Lab.CreateAsync(output);
        try
        {
            string[] all = way == "gre-udp" ? [.. options, "encapsulation: gre-udp"] : options;
            string datapath = way == "gre-udp" ? "" : $"datapath: {{send: {way}}}\n";
            foreach ((Vm host, Vm peer) in new[] { (lab.Hosts[0], lab.Hosts[1]), (lab.Hosts[1], lab.Hosts[0]) })
            {
                (await host.ShellAsync("sysctl -qw net.ipv4.ip_default_ttl=99 net.ipv6.conf.all.hop_limit=99 net.ipv6.conf.eth1.hop_limit=99")).Succeeded();
                await host.StartDaemonAsync(datapath + host.Configuration(peer.PeerEntry(outer, all), outer));
            }

            return lab;
        }
        catch
        {
            await lab.DisposeAsync();
            throw;
        }
    }

    // What vm1 sends of pings from its container.
    private static async Task<GrePacket[]> PingsAsync(Lab lab, int inner, byte tos, bool dontFragment)
    {
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await using Capture capture = await Capture.StartAsync(vm1);
        string[] options =
        [
            "-Q", tos.ToString(CultureInfo.InvariantCulture), "-t", InnerTtl.ToString(CultureInfo.InvariantCulture), "-M", dontFragment ? "do" : "dont",
        ];
        PingResult ping = await vm1.Container.PingAsync(vm2.ContainerAddress(inner), options: options);
        Assert.Equal(3, ping.Received);
        IReadOnlyList<GrePacket> packets = await capture.StopAsync();
        string[] own = [vm1.Underlay(4), vm1.Underlay(6)];
        GrePacket[] sent = [.. packets.Where(packet => own.Contains(packet.Source.ToString()) && packet.Protocol != 0x88b5)];
        Assert.NotEmpty(sent);
        return sent;
    }
}
