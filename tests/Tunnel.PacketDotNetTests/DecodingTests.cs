using System.Net;
using PacketDotNet;
using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Packet = PacketDotNet.Packet;

namespace Tunnel.PacketDotNetTests;

/// <summary>
/// PacketDotNet decodes what we emit, and we decode what it builds. Its GRE decoder takes the checksum's field for 2 bytes, though Reserved1 follows
/// (RFC 2784 section 2.1), so packets with a checksum are left out.
/// </summary>
public sealed class DecodingTests
{
    private readonly MemoryHost _host = new();

    /// <summary>The golden packets that we must emit byte for byte.</summary>
    public static TheoryData<string> Golden => [.. GoldenPackets.All
        .Where(one => one.Emit && one.Text("gre.flags.checksum") == "0" && !one.Name.Contains("fragment", StringComparison.Ordinal))
        .Select(one => one.Name)];

    public static TheoryData<int, int, uint?> Ways
    {
        get
        {
            var ways = new TheoryData<int, int, uint?>();
            foreach (int outer in new[] { 4, 6 })
            {
                foreach (int inner in new[] { 4, 6 })
                {
                    ways.Add(outer, inner, null);
                    ways.Add(outer, inner, 0xfffffffe);
                }
            }

            return ways;
        }
    }

    [Theory]
    [MemberData(nameof(Golden))]
    public void PacketDotNet_decodes_what_we_emit(string name)
    {
        GoldenPacket golden = GoldenPackets.Get(name);
        bool isIpv4 = golden.Bytes[0] >> 4 == 4;
        uint? key = golden.Has("gre.key") ? (uint)golden.Number("gre.key") : null;
        bool sequence = golden.Has("gre.sequence_number");
        Peer peer = isIpv4
            ? Overlay.Peer(endpoint: "192.168.40.11", local: "192.168.40.12", keyIn: key, keyOut: key, sequence: sequence)
            : Overlay.Peer(endpoint: "fd00:40::11", local: "fd00:40::12", keyIn: key, keyOut: key, sequence: sequence);
        _host.With([(peer, ["172.17.51.0/24", "fd00:51::/64"])]);
        byte[] inner = golden.Bytes[((isIpv4 ? 20 : 40) + 4 + (key is null ? 0 : 4) + (sequence ? 4 : 0))..];
        _host.Send(inner);
        (byte[] sent, _) = Assert.Single(_host.Underlay.Sent);

        Packet packet = Packet.ParsePacket(LinkLayers.Raw, sent);
        IPPacket outer = Assert.IsAssignableFrom<IPPacket>(packet.PayloadPacket);
        Assert.Equal(golden.Text(isIpv4 ? "ip.src" : "ipv6.src"), outer.SourceAddress.ToString());
        Assert.Equal(golden.Text(isIpv4 ? "ip.dst" : "ipv6.dst"), outer.DestinationAddress.ToString());
        Assert.Equal(64, outer.TimeToLive);
        Assert.Equal(sent.Length, outer.TotalPacketLength);
        if (outer is IPv4Packet ipv4)
        {
            Assert.True(ipv4.ValidIPChecksum);
        }

        GrePacket gre = Assert.IsType<GrePacket>(outer.PayloadPacket);
        Assert.Equal((key is not null, sequence, false), (gre.HasKey, gre.HasSequence, gre.HasCheckSum));
        Assert.Equal(0, gre.Version);
        Assert.Equal(golden.Number("gre.proto"), (long)gre.Protocol);
        IPPacket decoded = Assert.IsAssignableFrom<IPPacket>(gre.PayloadPacket);
        Assert.Equal(Convert.ToHexString(inner), Convert.ToHexString(decoded.Bytes));
        AssertChecksumsAreRight(decoded);
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public void We_decode_what_PacketDotNet_builds(int outer, int inner, uint? key)
    {
        Peer peer = outer == 4
            ? Overlay.Peer(keyIn: key, keyOut: key)
            : Overlay.Peer(endpoint: "fd40::12", local: "fd40::11", keyIn: key, keyOut: key);
        _host.With([(peer, ["172.17.52.0/24", "fd17:52::/64"])]);
        IPPacket packet = inner == 4
            ? PacketDotNetFrames.Udp("172.17.52.2", "172.17.51.2", [1, 2, 3, 4, 5])
            : PacketDotNetFrames.Udp("fd17:52::2", "fd17:51::2", [1, 2, 3, 4, 5]);
        IPPacket wrapped = outer == 4
            ? PacketDotNetFrames.Encapsulate(packet, "192.168.40.12", "192.168.40.11", key)
            : PacketDotNetFrames.Encapsulate(packet, "fd40::12", "fd40::11", key);
        _host.Receive(wrapped.Bytes);

        Assert.Empty(_host.Drops());
        (byte[] delivered, _) = Assert.Single(_host.Tun.Written);
        Assert.Equal(Convert.ToHexString(packet.Bytes), Convert.ToHexString(delivered));
        IPPacket decoded = Assert.IsAssignableFrom<IPPacket>(Packet.ParsePacket(LinkLayers.Raw, delivered).PayloadPacket);
        AssertChecksumsAreRight(decoded);
        Assert.Equal(IPAddress.Parse(inner == 4 ? "172.17.52.2" : "fd17:52::2"), decoded.SourceAddress);
    }

    private static void AssertChecksumsAreRight(IPPacket packet)
    {
        if (packet is IPv4Packet ipv4)
        {
            Assert.True(ipv4.ValidIPChecksum);
        }

        switch (packet.PayloadPacket)
        {
            case TcpPacket tcp:
                Assert.True(tcp.ValidTcpChecksum);
                break;
            case UdpPacket udp:
                Assert.True(udp.ValidUdpChecksum);
                break;
            case IcmpV4Packet icmp:
                Assert.True(icmp.ValidIcmpChecksum);
                break;
            case IcmpV6Packet icmp:
                Assert.True(icmp.ValidIcmpChecksum);
                break;
            default:
                Assert.Fail($"PacketDotNet finds no transport in {packet}");
                break;
        }
    }
}
