using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

public sealed class KernelCoalescingTests
{
    private const int Gmtu = 1476;
    private const string Source4 = "172.17.52.2";
    private const string Destination4 = "172.17.51.2";
    private const string Source6 = "fd00:52::2";
    private const string Destination6 = "fd00:51::2";

    [Theory]
    [InlineData(537, 0)]
    [InlineData(1436, 0)]
    [InlineData(14_480, 12)]
    [InlineData(65_483, 12)]
    public void A_partial_TCP_super_packet_of_IPv4_is_cut_into_what_always_fits(int payload, int tcpOptions)
    {
        byte[] packet = Packets.TcpPacket(Source4, Destination4, Packets.Payload(payload), isPartial: true, new byte[tcpOptions]);
        Assert.Equal(CoalescingVerdict.Partial, Judge(packet, out Offload offload));
        Assert.Equal(new Offload(GsoType.TcpV4, 536, (ushort)(40 + tcpOptions), NeedsChecksum: true, 20, 16), offload);
    }

    [Theory]
    [InlineData(1221, 0)]
    [InlineData(14_480, 12)]
    [InlineData(65_503, 12)]
    public void A_partial_TCP_super_packet_of_IPv6_is_cut_into_what_always_fits(int payload, int tcpOptions)
    {
        byte[] packet = Packets.TcpPacket(Source6, Destination6, Packets.Payload(payload), isPartial: true, new byte[tcpOptions]);
        Assert.Equal(CoalescingVerdict.Partial, Judge(packet, out Offload offload));
        Assert.Equal(new Offload(GsoType.TcpV6, 1220, (ushort)(60 + tcpOptions), NeedsChecksum: true, 40, 16), offload);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(536)]
    public void A_small_partial_TCP_packet_only_wants_its_checksum(int payload)
    {
        byte[] ipv4 = Packets.TcpPacket(Source4, Destination4, Packets.Payload(payload), isPartial: true);
        Assert.Equal(CoalescingVerdict.Partial, Judge(ipv4, out Offload offload));
        Assert.Equal(new Offload(GsoType.None, 0, 0, NeedsChecksum: true, 20, 16), offload);

        byte[] ipv6 = Packets.TcpPacket(Source6, Destination6, Packets.Payload(payload), isPartial: true);
        Assert.Equal(CoalescingVerdict.Partial, Judge(ipv6, out offload));
        Assert.Equal(new Offload(GsoType.None, 0, 0, NeedsChecksum: true, 40, 16), offload);
    }

    [Fact]
    public void What_the_TUN_device_is_told_finishes_the_checksum()
    {
        foreach (byte[] packet in (byte[][])[
            Packets.TcpPacket(Source4, Destination4, Packets.Payload(333), isPartial: true),
            Packets.TcpPacket(Source6, Destination6, Packets.Payload(333), isPartial: true),
            Packets.UdpPacket(Source4, Destination4, Packets.Payload(333), isPartial: true),
            Packets.UdpPacket(Source6, Destination6, Packets.Payload(333), isPartial: true)])
        {
            Judge(packet, out Offload offload);
            byte protocol = packet[0] >> 4 == 4 ? packet[9] : packet[6];
            Packets.Put16(
                packet,
                offload.ChecksumStart + offload.ChecksumOffset,
                Rfc1071.Checksum(packet.AsSpan(offload.ChecksumStart)));
            ushort pseudoHeader = packet[0] >> 4 == 4
                ? Packets.PseudoHeader(Source4, Destination4, protocol, packet.Length - 20)
                : Packets.PseudoHeader(Source6, Destination6, protocol, packet.Length - 40);
            Assert.Equal(0xffff, Rfc1071.Sum(packet.AsSpan(offload.ChecksumStart), pseudoHeader));
        }
    }

    [Fact]
    public void A_finished_packet_is_ordinary()
    {
        foreach (string pair in (string[])["4in4", "6in4"])
        {
            foreach (string kind in (string[])["tcp", "udp", "icmp"])
            {
                byte[] inner = GoldenPackets.Get($"{pair}-{kind}").Bytes[24..];
                Assert.Equal(CoalescingVerdict.Ordinary, Judge(inner, out Offload offload, dropsPartialUdp: true));
                Assert.Equal(default, offload);
            }
        }
    }

    // A super-packet that another virtual device has finished needs no help, however long it is.
    [Fact]
    public void A_finished_packet_larger_than_the_GMTU_is_ordinary()
    {
        Assert.Equal(CoalescingVerdict.Ordinary, Judge(Packets.TcpPacket(Source4, Destination4, new byte[20_000]), out _));
        Assert.Equal(CoalescingVerdict.Ordinary, Judge(Packets.UdpPacket(Source4, Destination4, new byte[20_000]), out _));
    }

    // One in 65,536 finished checksums equals the sum of the pseudo-header: then the payload has to be read.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_finished_checksum_that_equals_the_pseudo_header_sum_is_ordinary(bool isIpv4)
    {
        string source = isIpv4 ? Source4 : Source6;
        string destination = isIpv4 ? Destination4 : Destination6;
        int headerLength = isIpv4 ? 20 : 40;
        byte[] payload = Packets.Payload(1000);
        byte[] packet = Packets.TcpPacket(source, destination, payload, isPartial: true);
        ReadOnlySpan<byte> segment = packet.AsSpan(headerLength);
        ushort pseudoHeader = Packets.PseudoHeader(source, destination, Packets.Tcp, segment.Length);

        // Mends the payload so that the right checksum is what the field already holds.
        ushort missing = Rfc1071.Checksum(segment, pseudoHeader);
        Packets.Put16(packet, packet.Length - 2, Rfc1071.Sum([(byte)(missing >> 8), (byte)missing, packet[^2], packet[^1]]));
        Assert.Equal(0xffff, Rfc1071.Sum(packet.AsSpan(headerLength), pseudoHeader));
        Assert.Equal(pseudoHeader, (packet[headerLength + 16] << 8) | packet[headerLength + 17]);

        Assert.Equal(CoalescingVerdict.Ordinary, Judge(packet, out Offload offload));
        Assert.Equal(default, offload);
    }

    [Theory]
    [InlineData(Source4, Destination4, 20)]
    [InlineData(Source6, Destination6, 40)]
    public void A_small_partial_UDP_datagram_is_finished_unless_a_device_coalesces_UDP(string source, string destination, int headerLength)
    {
        byte[] packet = Packets.UdpPacket(source, destination, Packets.Payload(100), isPartial: true);
        Assert.Equal(CoalescingVerdict.Partial, Judge(packet, out Offload offload));
        Assert.Equal(new Offload(GsoType.None, 0, 0, NeedsChecksum: true, (ushort)headerLength, 6), offload);
        Assert.Equal(CoalescingVerdict.CoalescedUdp, Judge(packet, out _, dropsPartialUdp: true));
    }

    [Theory]
    [InlineData(Source4, Destination4, 20)]
    [InlineData(Source6, Destination6, 40)]
    public void A_partial_UDP_datagram_larger_than_the_GMTU_was_coalesced(string source, string destination, int headerLength)
    {
        byte[] fits = Packets.UdpPacket(source, destination, Packets.Payload(Gmtu - headerLength - 8), isPartial: true);
        Assert.Equal(CoalescingVerdict.Partial, Judge(fits, out _));
        byte[] larger = Packets.UdpPacket(source, destination, Packets.Payload(Gmtu - headerLength - 7), isPartial: true);
        Assert.Equal(CoalescingVerdict.CoalescedUdp, Judge(larger, out _));
    }

    // IPv4 UDP without a checksum has zero in the field, which a pseudo-header never sums up to.
    [Fact]
    public void UDP_without_a_checksum_is_ordinary()
    {
        byte[] packet = Packets.UdpPacket(Source4, Destination4, Packets.Payload(100));
        Packets.Put16(packet, 26, 0);
        Assert.Equal(CoalescingVerdict.Ordinary, Judge(packet, out _, dropsPartialUdp: true));
    }

    [Theory]
    [InlineData(true, 0)]
    [InlineData(false, 8)]
    public void Fragments_are_ordinary(bool moreFragments, int offset)
    {
        byte[] whole = Packets.TcpPacket(Source4, Destination4, Packets.Payload(1000), isPartial: true);
        byte[] fragment = Packets.Ipv4(Source4, Destination4, Packets.Tcp, whole[20..], mf: moreFragments, fragmentOffset: offset);
        Assert.Equal(CoalescingVerdict.Ordinary, Judge(fragment, out Offload offload));
        Assert.Equal(default, offload);
    }

    [Fact]
    public void IP_options_move_the_start_of_the_checksum()
    {
        byte[] segment = Packets.TcpPacket(Source4, Destination4, Packets.Payload(1000), isPartial: true)[20..];
        byte[] packet = Packets.Ipv4(Source4, Destination4, Packets.Tcp, segment, options: [1, 1, 1, 1, 1, 1, 1, 0]);
        Assert.Equal(CoalescingVerdict.Partial, Judge(packet, out Offload offload));
        Assert.Equal(new Offload(GsoType.TcpV4, 536, 48, NeedsChecksum: true, 28, 16), offload);
    }

    [Fact]
    public void Other_protocols_and_extension_headers_are_ordinary()
    {
        byte[] segment = Packets.TcpPacket(Source6, Destination6, Packets.Payload(1000), isPartial: true)[40..];
        Assert.Equal(CoalescingVerdict.Ordinary, Judge(Packets.Ipv6(Source6, Destination6, 132, segment), out _));
        Assert.Equal(CoalescingVerdict.Ordinary, Judge(Packets.Ipv6(Source6, Destination6, 0, [6, 0, 1, 4, 0, 0, 0, 0, .. segment]), out _));
        Assert.Equal(CoalescingVerdict.Ordinary, Judge(Packets.Ipv4(Source4, Destination4, 132, segment), out _));
    }

    [Fact]
    public void Transport_headers_that_do_not_fit_are_ordinary()
    {
        for (int length = 0; length < 24; length++)
        {
            foreach (byte protocol in (byte[])[Packets.Tcp, Packets.Udp])
            {
                // The field holds the sum of the pseudo-header where it fits at all; TCP claims a header of 60 bytes.
                var transport = new byte[length];
                int field = protocol == Packets.Tcp ? 16 : 6;
                if (length >= field + 2)
                {
                    Packets.Put16(transport, field, Packets.PseudoHeader(Source4, Destination4, protocol, length));
                }

                if (length > 12)
                {
                    transport[12] = 0xf0;
                }

                CoalescingVerdict expected = protocol == Packets.Udp && length >= 8 ? CoalescingVerdict.Partial : CoalescingVerdict.Ordinary;
                Assert.Equal(expected, Judge(Packets.Ipv4(Source4, Destination4, protocol, transport), out _));
            }
        }
    }

    private static CoalescingVerdict Judge(byte[] packet, out Offload offload, bool dropsPartialUdp = false)
    {
        if (Ipv4View.TryParse(packet, out Ipv4View ipv4))
        {
            return KernelCoalescing.Judge(ipv4, Gmtu, dropsPartialUdp, out offload);
        }

        Assert.True(Ipv6View.TryParse(packet, out Ipv6View ipv6));
        return KernelCoalescing.Judge(ipv6, Gmtu, dropsPartialUdp, out offload);
    }
}
