using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>Keys, checksums and sequence numbers: what the configuration says is what stands on the wire, and what is demanded of the other side.</summary>
public sealed class HeaderOptionTests(ITestOutputHelper output)
{
    [SkippableTheory]
    [InlineData(4)]
    [InlineData(6)]
    public async Task PlainHeaderHasNothingOptional(int outer)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        await lab.StartMeshAsync(outer);
        IReadOnlyList<GrePacket> packets = await CapturePingsAsync(lab);

        Assert.All(packets, packet => Assert.Equal(0, packet.Flags));
        Assert.All(packets, packet => Assert.Equal(outer == 4, packet.DontFragment));
    }

    [SkippableFact]
    public async Task OneKeyForBothDirections()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        await lab.StartMeshAsync(options: (_, _) => ["key: 42"]);
        IReadOnlyList<GrePacket> packets = await CapturePingsAsync(lab);

        Assert.All(packets, packet => Assert.Equal(0x2000, packet.Flags));
        Assert.All(packets, packet => Assert.Equal(42u, packet.Key));
    }

    [SkippableFact]
    public async Task AnotherKeyForEachDirection()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        Vm vm1 = lab.Hosts[0];
        await lab.StartMeshAsync(options: (host, _) => [host == vm1 ? "key: {in: 1, out: 4294967295}" : "key: {in: 4294967295, out: 1}"]);
        IReadOnlyList<GrePacket> packets = await CapturePingsAsync(lab);

        Assert.All(packets, packet => Assert.Equal(packet.Source.ToString() == vm1.Underlay(4) ? uint.MaxValue : 1, packet.Key));
    }

    [SkippableTheory]
    [InlineData("key: 1", "key: 2")]
    [InlineData("key: 1", null)]
    [InlineData(null, "key: 2")]
    public async Task AnotherKeyIsDroppedAndCounted(string? key1, string? key2)
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync(options: (host, _) => (host == vm1 ? key1 : key2) is string key ? [key] : []);

        PingResult ping = await vm1.Container.PingAsync(vm2.ContainerAddress(4));

        Assert.Equal(0, ping.Received);
        await daemons[1].WaitForDropAsync("KeyMismatch", ping.Sent);
    }

    [SkippableTheory]
    [InlineData(4, false)]
    [InlineData(6, false)]
    [InlineData(4, true)]
    [InlineData(6, true)]
    public async Task ChecksumIsRightAndVerified(int outer, bool wire)
    {
        await using Lab lab = await Lab.CreateAsync(output, wire: wire);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync(outer, options: (_, _) => ["checksum: true"]);
        IReadOnlyList<GrePacket> packets = await CapturePingsAsync(lab);
        Assert.All(packets, packet => Assert.Equal(0x8000, packet.Flags));
        Assert.All(packets, packet => Assert.True(packet.ChecksumIsGood));

        await TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4), 4 << 20);
        Assert.Equal(0, await daemons[1].DropsAsync("ChecksumMismatch"));

        // One bit of the payload turned over on the way.
        byte[] bad = [.. packets.First(packet => packet.Source.ToString() == vm1.Underlay(outer)).Gre];
        bad[^1] ^= 1;
        await GreSender.SendAsync(vm1, vm2.Underlay(outer), bad);
        await daemons[1].WaitForDropAsync("ChecksumMismatch", peer: "vm1");
    }

    [SkippableFact]
    public async Task SequenceNumbersCountUpFromZeroAndOldOnesAreDropped()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        // Messages between daemons have numbers, too.
        Daemon[] daemons = await lab.StartMeshAsync(options: (_, _) => ["sequence: true", "keepalive: off"]);
        IReadOnlyList<GrePacket> packets = await CapturePingsAsync(lab);
        GrePacket[] sent = [.. packets.Where(packet => packet.Source.ToString() == vm1.Underlay(4))];
        Assert.All(sent, packet => Assert.Equal(0x1000, packet.Flags));
        Assert.Equal(Enumerable.Range(0, sent.Length).Select(i => (uint?)i), sent.Select(packet => packet.Sequence));

        await TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4), 4 << 20);
        Assert.Equal(0, await daemons[1].DropsAsync("SequenceOld"));

        await GreSender.SendAsync(vm1, vm2.Underlay(4), sent[^1].Gre);
        await daemons[1].WaitForDropAsync("SequenceOld", peer: "vm1");
    }

    [SkippableTheory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task EverythingTogetherMovesTcpIntact(bool wire)
    {
        await using Lab lab = await Lab.CreateAsync(output, wire: wire);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await lab.StartMeshAsync(options: (_, _) => ["key: 7", "checksum: true", "sequence: true"]);
        IReadOnlyList<GrePacket> packets = await CapturePingsAsync(lab);
        Assert.All(packets, packet => Assert.Equal(0xb000, packet.Flags));

        await TcpTransfer.CheckAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4), 8 << 20);
        await TcpTransfer.CheckAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(6), 8 << 20);
    }

    [SkippableFact]
    public async Task WhatIsNoGoodGreIsDroppedUnderItsOwnReason()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 3);
        (Vm vm1, Vm vm2, Vm vm3) = (lab.Hosts[0], lab.Hosts[1], lab.Hosts[2]);
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()));

        await GreSender.SendAsync(vm2, vm1.Underlay(4), [0x00, 0x00]);
        await daemon.WaitForDropAsync("GreTruncated");
        await GreSender.SendAsync(vm2, vm1.Underlay(4), [0x20, 0x01, 0x88, 0x0b, 0, 0, 0, 0]);
        await daemon.WaitForDropAsync("GreVersionUnsupported");
        await GreSender.SendAsync(vm2, vm1.Underlay(4), [0x40, 0x00, 0x08, 0x00, 0, 0, 0, 0]);
        await daemon.WaitForDropAsync("GreReservedBits");
        await GreSender.SendAsync(vm2, vm1.Underlay(4), [0x00, 0x00, 0x12, 0x34, 0, 0, 0, 0]);
        await daemon.WaitForDropAsync("GreProtocolUnknown");
        await GreSender.SendAsync(vm3, vm1.Underlay(4), [0x00, 0x00, 0x08, 0x00, 0, 0, 0, 0]);
        await daemon.WaitForDropAsync("UnknownPeer");
        Assert.Equal(1, await daemon.DropsAsync("GreTruncated"));
    }

    // Three pings from cont1 to cont2 over IPv4 inside, as they cross the underlay; the daemons talk to one another beside them.
    private static async Task<IReadOnlyList<GrePacket>> CapturePingsAsync(Lab lab)
    {
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await using Capture capture = await Capture.StartAsync(vm1);
        PingResult ping = await vm1.Container.PingAsync(vm2.ContainerAddress(4));
        Assert.Equal(3, ping.Received);
        GrePacket[] packets = [.. (await capture.StopAsync()).Where(packet => packet.Protocol == 0x0800)];
        Assert.Equal(6, packets.Length);
        return packets;
    }
}
