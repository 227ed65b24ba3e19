using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

public sealed class PeerTests
{
    public static TheoryData<string> Emitted => [.. GoldenPackets.All.Where(p => p.Emit).Select(p => p.Name)];

    /// <summary>The peer that sends a golden packet: its parameters are what tshark reads in it.</summary>
    public static Peer PeerOf(GoldenPacket golden)
    {
        bool isIpv4 = golden.Bytes[0] >> 4 == 4;
        uint? key = golden.Number("gre.flags.key") == 1 ? (uint)golden.Number("gre.key") : null;
        Peer peer = Overlay.Peer(
            endpoint: golden.Text(isIpv4 ? "ip.dst" : "ipv6.dst"),
            local: golden.Text(isIpv4 ? "ip.src" : "ipv6.src"),
            keyOut: key,
            checksum: golden.Number("gre.flags.checksum") == 1,
            sequence: golden.Number("gre.flags.sequence_number") == 1);
        long sequence = golden.Has("gre.sequence_number") ? golden.Number("gre.sequence_number") : 0;
        for (long i = 0; i < sequence; i++)
        {
            peer.Sequences.NextToSend();
        }

        return peer;
    }

    [Theory]
    [MemberData(nameof(Emitted))]
    public void Writes_the_golden_outer_headers(string name)
    {
        GoldenPacket golden = GoldenPackets.Get(name);
        Peer peer = PeerOf(golden);
        var packet = new byte[golden.Bytes.Length];
        packet.AsSpan().Fill(0xa5);
        golden.Bytes.AsSpan(peer.Overhead).CopyTo(packet.AsSpan(peer.Overhead));

        peer.WriteOuterHeaders(packet, (ushort)golden.Number("gre.proto"), peer.OuterFieldsOf(golden.Bytes.AsSpan(peer.Overhead)));
        Assert.Equal(Convert.ToHexString(golden.Bytes), Convert.ToHexString(packet));
    }

    [Fact]
    public void Writing_again_takes_the_next_sequence_number_and_nothing_else()
    {
        Peer peer = Overlay.Peer(keyOut: 42, checksum: true, sequence: true);
        byte[] inner = Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(5));
        for (uint sequence = 0; sequence < 3; sequence++)
        {
            byte[] packet = [.. new byte[peer.Overhead], .. inner];
            peer.WriteOuterHeaders(packet, EtherType.Ipv4, peer.OuterFieldsOf(inner));
            byte[] expected = Packets.Outer(
                "192.168.40.11", "192.168.40.12", Packets.GrePacket(inner, checksum: true, key: 42, sequence: sequence));
            Assert.Equal(expected, packet);
        }
    }

    [Theory]
    [InlineData("192.168.40.12", "192.168.40.11", null, false, false, 24)]
    [InlineData("192.168.40.12", "192.168.40.11", 1u, true, true, 36)]
    [InlineData("fd00:40::12", "fd00:40::11", null, false, false, 44)]
    [InlineData("fd00:40::12", "fd00:40::11", 0u, false, true, 52)]
    [InlineData("fd00:40::12", "fd00:40::11", 1u, true, true, 56)]
    public void Overhead_is_the_outer_and_the_GRE_header(string endpoint, string local, uint? key, bool checksum, bool sequence, int expected)
    {
        Assert.Equal(expected, Overlay.Peer(endpoint: endpoint, local: local, keyOut: key, checksum: checksum, sequence: sequence).Overhead);
        Assert.Equal(expected, PeerSettings.OverheadOf(endpoint.Contains('.', StringComparison.Ordinal), key is not null, checksum, sequence));
        Assert.True(expected <= PacketBatch.Headroom);
    }

    [Theory]
    [InlineData("192.168.40.12", "192.168.40.11", true)]
    [InlineData("192.168.40.12", "::", false)]
    [InlineData("::", "192.168.40.11", false)]
    [InlineData("fd00:40::12", "::", false)]
    [InlineData("::", "::", false)]
    public void Is_ready_once_both_addresses_are_known(string endpoint, string local, bool isReady) =>
        Assert.Equal(isReady, Overlay.Peer(endpoint: endpoint, local: local).IsReady);

    // The outer length fields have 16 bits; the loopback device's MTU, for one, is more.
    [Theory]
    [InlineData("192.168.40.12", "192.168.40.11", 65_511)]
    [InlineData("fd00:40::12", "fd00:40::11", 65_531)]
    public void The_GMTU_never_exceeds_what_an_outer_header_can_say(string endpoint, string local, int most)
    {
        Assert.Equal(most, Overlay.Peer(endpoint: endpoint, local: local, gmtu: 70_000).Gmtu);
        Assert.Equal(1400, Overlay.Peer(endpoint: endpoint, local: local, gmtu: 1400).Gmtu);
    }
}
