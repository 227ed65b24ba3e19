using System.Text.Json.Nodes;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests.Interop;

/// <summary>tunneld on vm1 against Open vSwitch's userspace GRE on vm2: every option that both have, both IP versions inside and outside.</summary>
public sealed class OpenVSwitchTests(ITestOutputHelper output)
{
    private static readonly OpenVSwitchCase[] Cases =
    [
        new("plain", 4, [], []),
        new("key", 4, ["options:key=42"], ["key: 42"], Flags: 0x2000),
        new("two keys", 4, ["options:in_key=1", "options:out_key=4294967295"], ["key: {in: 4294967295, out: 1}"], Flags: 0x2000),
        new("checksum", 4, ["options:csum=true"], ["checksum: true"], Flags: 0x8000),
        new("sequence", 4, ["options:seq=true"], ["sequence: true"], Flags: 0x1000),
        new("key and checksum", 4, ["options:key=7", "options:csum=true"], ["key: 7", "checksum: true"], Flags: 0xa000),
        new("key and sequence", 4, ["options:key=7", "options:seq=true"], ["key: 7", "sequence: true"], Flags: 0x3000),
        new("IPv6 outside", 6, [], []),
        new("IPv6 outside, key", 6, ["options:key=42"], ["key: 42"], Flags: 0x2000),
    ];

    private static readonly InteropRecord Record = new("ovs");

    public static TheoryData<string> Names => [.. Cases.Select(one => one.Name)];

    [SkippableTheory]
    [MemberData(nameof(Names))]
    public async Task OpenVSwitchAndTunneldUnderstandEachOther(string name)
    {
        OpenVSwitchCase one = Cases.Single(c => c.Name == name);
        OpenVSwitch.SkipWhereMissing();
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await using OpenVSwitch ovs = await OpenVSwitch.StartAsync(vm2, vm1, one.Outer, one.Mtu, one.Ovs);
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry(one.Outer, one.Tunneld), one.Outer));
        Assert.Equal(one.Mtu, (await daemon.GetAsync("/v1/peers/vm2"))["gmtu"]!.GetValue<int>());
        await WaitForTheWayAsync(vm1, vm2, daemon, ovs);

        await using (PacketCapture pings = await PacketCapture.StartAsync(vm1, "eth1", "proto 47 or ip6 proto 47"))
        {
            foreach (int inner in new[] { 4, 6 })
            {
                await PingAsync(vm1.Container, vm2.ContainerAddress(inner));
                await PingAsync(vm2.Container, vm1.ContainerAddress(inner));
            }

            IReadOnlyList<byte[]> packets = await pings.StopAsync();
            // Messages between daemons are for tunneld alone.
            GreSample[] samples = [.. packets.Select(GreSample.Read).OfType<GreSample>()];
            Assert.True(samples.Length >= 16, $"{samples.Length} packets");
            Assert.All(samples, sample => Assert.Equal(one.Flags, sample.Flags));
            Record.Keep(one.Name, one.Tunneld, packets);
        }

        await using PacketCapture wire = await PacketCapture.StartAsync(vm2, "eth1", "proto 47 or ip6 proto 47");
        foreach (int inner in new[] { 4, 6 })
        {
            await CheckSizesAsync(vm1, vm2, inner, one.Mtu);
            await CheckSizesAsync(vm2, vm1, inner, one.Mtu);
            await TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(inner), 4 << 20);
            await TcpTransfer.CheckAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(inner), 4 << 20);
        }

        // Open vSwitch drops what is larger than its port, though the kernel here would carry it: a super-packet must not be sent uncut. When busy
        // the capture misses some.
        byte[][] sent = [.. (await wire.StopAsync()).Where(packet => packet.Length > 1000)];
        Assert.True(sent.Length > 1000, $"{sent.Length} large packets");
        Assert.All(sent, packet => Assert.InRange(packet.Length, 1, 1500));

        JsonNode drops = await daemon.GetAsync("/v1/drops");
        // The kernel speaks of multicast groups on a device that goes up, from no address.
        Assert.All(
            drops["peers"]!["vm2"]!.AsObject().Where(reason => reason.Key != "SourceNotInPeerSubnets"),
            reason => Assert.True(reason.Value!.GetValue<long>() == 0, drops.ToJsonString()));
    }

    [SkippableTheory]
    [InlineData("options:key=43", "KeyMismatch")]
    [InlineData("options:key=42", null)]
    public async Task OnlyTheRightKeyPasses(string option, string? reason)
    {
        OpenVSwitch.SkipWhereMissing();
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await using OpenVSwitch ovs = await OpenVSwitch.StartAsync(vm2, vm1, 4, 1472, ["options:key=42"]);
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry(4, "key: 42")));
        await WaitForTheWayAsync(vm1, vm2, daemon, ovs);

        await ovs.SetAsync(option);
        if (reason is null)
        {
            await PingAsync(vm2.Container, vm1.ContainerAddress(4));
            return;
        }

        Assert.Equal(0, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        await vm2.Container.PingAsync(vm1.ContainerAddress(4));
        await daemon.WaitForDropAsync(reason);
    }

    /// <summary>
    /// Open vSwitch 3.1 computes the checksum first and then writes the sequence number, so that only number 0 has a good one (docs/interop-ovs.md).
    /// </summary>
    [SkippableFact]
    public async Task OpenVSwitchSpoilsChecksumsWithSequenceNumbers()
    {
        OpenVSwitch.SkipWhereMissing();
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await using OpenVSwitch ovs = await OpenVSwitch.StartAsync(vm2, vm1, 4, 1468, ["options:csum=true", "options:seq=true"]);
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry(4, "checksum: true", "sequence: true")));
        await using Capture capture = await Capture.StartAsync(vm1);
        await Poll.UntilAsync("Open vSwitch sends", async () =>
        {
            await vm2.Container.PingAsync(vm1.ContainerAddress(4), 1, "-W", "0.1");
            return await daemon.DropsAsync("ChecksumMismatch", "vm2") >= 3;
        });

        GrePacket[] sent = [.. (await capture.StopAsync()).Where(packet => packet.Source.ToString() == vm2.Underlay(4) && packet.Sequence > 0)];
        Assert.NotEmpty(sent);
        Assert.All(sent, packet =>
        {
            Assert.False(packet.ChecksumIsGood);
            Assert.True((packet with { Gre = [.. packet.Gre[..8], 0, 0, 0, 0, .. packet.Gre[12..]] }).ChecksumIsGood);
        });
        // What tunneld sends it takes.
        long before = await ovs.ReceivedAsync();
        await vm1.Container.PingAsync(vm2.ContainerAddress(4));
        await Poll.UntilAsync("Open vSwitch receives", async () => await ovs.ReceivedAsync() >= before + 3);
    }

    // Open vSwitch drops what it has no hardware address for yet, and asks.
    private static Task WaitForTheWayAsync(Vm vm1, Vm vm2, Daemon daemon, OpenVSwitch ovs) =>
        Poll.UntilAsync(
            "the first ping is answered",
            async () => (await vm2.Container.PingAsync(vm1.ContainerAddress(4), 1)).Received == 1,
            async () => $"{daemon.Report()}{await daemon.GetAsync("/v1/drops")}\n{ovs}");

    private static async Task PingAsync(Node from, string address)
    {
        PingResult ping = await from.PingAsync(address);
        Assert.True(ping.Received > 0, $"{ping.Result}");
    }

    // The largest packet that needs no fragment, one byte more, which is answered with what fits, and one in fragments.
    private static async Task CheckSizesAsync(Vm from, Vm to, int inner, int mtu)
    {
        int headers = inner == 4 ? 28 : 48;
        string address = to.ContainerAddress(inner);
        PingResult whole = await from.Container.PingAsync(address, 3, "-M", "do", "-s", $"{mtu - headers}");
        Assert.True(whole.Received > 0, $"{whole.Result}");
        PingResult above = await from.Container.PingAsync(address, 2, "-i", "0.02", "-M", "do", "-s", $"{mtu + 1 - headers}");
        Assert.Equal(0, above.Received);
        Assert.Matches($"mtu ?[=:] ?{mtu}", above.Result.Out + above.Result.Error);
        // Of IPv6 each end must learn first what the path takes.
        await from.Container.PingAsync(address, 1, "-M", "dont", "-s", "4000");
        PingResult pieces = await from.Container.PingAsync(address, 3, "-M", "dont", "-s", "4000");
        Assert.True(pieces.Received > 0, $"{pieces.Result}");
    }
}

/// <summary>A way to configure Open vSwitch's port and tunneld's peer alike.</summary>
/// <param name="Name">For people.</param>
/// <param name="Outer">The outer IP version.</param>
/// <param name="Ovs">The port's options.</param>
/// <param name="Tunneld">The peer's keys.</param>
/// <param name="Flags">The first two bytes of the GRE header, both directions.</param>
internal sealed record OpenVSwitchCase(string Name, int Outer, string[] Ovs, string[] Tunneld, ushort Flags = 0)
{
    /// <summary>The largest inner packet, in bytes: the underlay takes 1500, and each option of the header takes 4.</summary>
    public int Mtu => 1500 - (Outer == 4 ? 20 : 40) - 4 - (4 * int.PopCount(Flags));
}
