using Tunnel.Dataplane;
using Tunnel.Linux;
using static Tunnel.NetworkTests.Linux.RawGreLab;

namespace Tunnel.NetworkTests.Linux;

/// <summary>Plain GRE through a packet socket to a neighbour on a veth pair.</summary>
public sealed class PacketSenderTests
{
    private const string A4 = "10.77.1.1";
    private const string B4 = "10.77.1.2";

    [SkippableFact]
    public void PacketsArriveInOrderAndUnchanged()
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(lab.Open(lab.A), b, Packet(A4, B4));
        byte[][] packets = [.. Enumerable.Range(0, 300).Select(i => Packet(A4, B4, 100 + i, (byte)i))];

        Assert.All(Send(lab, Neighbor(lab.A, lab.B), packets), result => Assert.Equal(TransmitResult.Sent, result));

        Assert.Equal(packets, ReceiveAll(b, 300));
    }

    [SkippableFact]
    public void WhatTheLinkDoesNotTakeIsTooLongAndKeepsNoOtherBack()
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(lab.Open(lab.A), b, Packet(A4, B4));

        TransmitResult[] results = Send(lab, Neighbor(lab.A, lab.B), Packet(A4, B4, 1500), Packet(A4, B4, 1501), Packet(A4, B4, 1499));

        Assert.Equal([TransmitResult.Sent, TransmitResult.TooLong, TransmitResult.Sent], results);
        Assert.Equal([1500, 1499], ReceiveAll(b, 2).Select(packet => packet.Length));
    }

    [SkippableFact]
    public void ALinkThatIsDownIsUnreachable()
    {
        using RawGreLab lab = Direct();
        LinkNeighbor neighbor = Neighbor(lab.A, lab.B);
        lab.A.Ip("link set eth0 down");

        Assert.Equal([TransmitResult.Unreachable], Send(lab, neighbor, Packet(A4, B4)));
    }

    [SkippableFact]
    public void ALinkThatIsGoneIsUnreachable()
    {
        using RawGreLab lab = Direct();
        LinkNeighbor neighbor = Neighbor(lab.A, lab.B);
        lab.A.Ip("link del eth0");

        Assert.Equal([TransmitResult.Unreachable, TransmitResult.Unreachable], Send(lab, neighbor, Packet(A4, B4), Packet(A4, B4)));
    }

    [SkippableFact]
    public void ANeighbourIsUsedOnlyWhereThePathIsAPacketSocket()
    {
        using RawGreLab lab = Direct();
        HostUnderlay a = lab.OpenHost(lab.A);
        WorkerUnderlay b = lab.Open(lab.B);
        WarmUp(a.Workers[0], b, Packet(A4, B4));

        // The firewall drops what the host itself sends; a packet socket goes around it.
        lab.A.Exec("nft add table ip t");
        lab.A.Shell("nft 'add chain ip t out { type filter hook output priority 0; }' && nft add rule ip t out ip protocol 47 drop");
        var neighbor = new UnderlayTarget(Address(B4)) { Neighbor = Neighbor(lab.A, lab.B) };
        GatherBatch near = BatchOf(Packet(A4, B4, seed: 1));
        near[0].Target = neighbor;
        GatherBatch unresolved = BatchOf(Packet(A4, B4, seed: 2));

        a.Workers[0].Send(near);
        Assert.Equal([TransmitResult.Denied], Results(near));

        lab.A.Run(() => a.UsePaths(UnderlayPath.Raw, UnderlayPath.Packet));
        a.Workers[0].Send(near);
        a.Workers[0].Send(unresolved);
        Assert.Equal([TransmitResult.Sent, TransmitResult.Denied], [.. Results(near), .. Results(unresolved)]);
        Assert.Equal(Packet(A4, B4, seed: 1), Assert.Single(ReceiveAll(b, 1)));

        lab.A.Run(() => a.UsePaths(UnderlayPath.Raw, UnderlayPath.Raw));
        a.Workers[0].Send(near);
        Assert.Equal([TransmitResult.Denied], Results(near));
    }

    private static TransmitResult[] Send(RawGreLab lab, LinkNeighbor neighbor, params byte[][] packets)
    {
        using PacketSender sender = lab.A.Run(() => new PacketSender());
        GatherBatch batch = BatchOf(packets);
        var patience = new SendPatience();
        sender.Send(batch, 0, batch.Count, neighbor, ref patience);
        return Results(batch);
    }
}
