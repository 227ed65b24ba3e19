using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

/// <summary>Our views must read in the golden packets what tshark reads in them.</summary>
public sealed class GoldenPacketTests
{
    public static TheoryData<string> Names => [.. GoldenPackets.All.Select(p => p.Name)];

    [Theory]
    [MemberData(nameof(Names))]
    public void Every_layer_reads_as_tshark_reads_it(string name)
    {
        GoldenPacket golden = GoldenPackets.Get(name);
        new Decoder(golden).Ip(golden.Bytes);
    }

    [Fact]
    public void All_combinations_are_there()
    {
        Assert.Equal(80, GoldenPackets.All.Count);
        Assert.Equal(56, GoldenPackets.All.Count(p => p.Emit));
        foreach (string pair in (string[])["4in4", "6in4", "4in6", "6in6"])
        {
            string[] flags = [.. GoldenPackets.All
                .Where(p => p.Emit && p.Name.StartsWith(pair, StringComparison.Ordinal))
                .Select(p => p.Text("gre.flags_and_version"))
                .Distinct()
                .Order()];
            Assert.Equal(["0x0000", "0x1000", "0x2000", "0x3000", "0x8000", "0x9000", "0xa000", "0xb000"], flags);
        }
    }

    /// <summary>Goes down the layers and counts how often each has occurred, as tshark's lists do.</summary>
    private sealed class Decoder(GoldenPacket golden)
    {
        private int _ipv4;
        private int _ipv6;

        public void Ip(ReadOnlySpan<byte> bytes)
        {
            if (bytes[0] >> 4 == 4)
            {
                Ipv4(bytes);
            }
            else
            {
                Ipv6(bytes);
            }
        }

        private void Ipv4(ReadOnlySpan<byte> bytes)
        {
            int i = _ipv4++;
            if (!Ipv4View.TryParse(bytes, out Ipv4View ip))
            {
                Assert.True(golden.Number("ip.len", i) > bytes.Length, "refused although tshark finds it complete");
                return;
            }

            Assert.Equal(golden.Number("ip.hdr_len", i), ip.HeaderLength);
            Assert.Equal(golden.Number("ip.dsfield", i), ip.TrafficClass);
            Assert.Equal(golden.Number("ip.len", i), ip.TotalLength);
            Assert.Equal(golden.Number("ip.id", i), ip.Identification);
            Assert.Equal(golden.Number("ip.flags.df", i) == 1, ip.DontFragment);
            Assert.Equal(golden.Number("ip.flags.mf", i) == 1 || golden.Number("ip.frag_offset", i) != 0, ip.IsFragment);
            Assert.Equal(golden.Number("ip.frag_offset", i) * 8, ip.FragmentOffset);
            Assert.Equal(golden.Number("ip.ttl", i), ip.TimeToLive);
            Assert.Equal(golden.Number("ip.proto", i), ip.Protocol);
            Assert.Equal(golden.Number("ip.checksum.status", i) == 1, ip.IsChecksumValid);
            Assert.Equal(golden.Text("ip.src", i), ip.Source.ToString());
            Assert.Equal(golden.Text("ip.dst", i), ip.Destination.ToString());
            if (ip.FragmentOffset == 0)
            {
                ushort pseudoHeader = InternetChecksum.PseudoHeader(ip.Addresses, ip.Protocol, ip.Payload.Length);
                Payload(ip.Protocol, ip.Payload, pseudoHeader);
            }
        }

        private void Ipv6(ReadOnlySpan<byte> bytes)
        {
            int i = _ipv6++;
            if (!Ipv6View.TryParse(bytes, out Ipv6View ip))
            {
                Assert.True(golden.Number("ipv6.plen", i) + 40 > bytes.Length, "refused although tshark finds it complete");
                return;
            }

            Assert.Equal(golden.Number("ipv6.tclass", i), ip.TrafficClass);
            Assert.Equal(golden.Number("ipv6.flow", i), ip.FlowLabel);
            Assert.Equal(golden.Number("ipv6.plen", i), ip.Payload.Length);
            Assert.Equal(golden.Number("ipv6.nxt", i), ip.NextHeader);
            Assert.Equal(golden.Number("ipv6.hlim", i), ip.HopLimit);
            Assert.Equal(golden.Text("ipv6.src", i), ip.Source.ToString());
            Assert.Equal(golden.Text("ipv6.dst", i), ip.Destination.ToString());
            Payload(ip.NextHeader, ip.Payload, InternetChecksum.PseudoHeader(ip.Addresses, ip.NextHeader, ip.Payload.Length));
        }

        private void Payload(byte protocol, ReadOnlySpan<byte> bytes, ushort pseudoHeader)
        {
            switch (protocol)
            {
                case IpProtocol.Gre:
                    Gre(bytes);
                    break;
                case IpProtocol.Tcp:
                    Assert.True(TcpView.TryParse(bytes, out TcpView tcp));
                    Assert.Equal(golden.Number("tcp.srcport"), tcp.SourcePort);
                    Assert.Equal(golden.Number("tcp.dstport"), tcp.DestinationPort);
                    Assert.Equal(golden.Number("tcp.seq_raw"), tcp.Sequence);
                    Assert.Equal(golden.Number("tcp.hdr_len"), tcp.HeaderLength);
                    Assert.Equal(golden.Number("tcp.flags"), tcp.Flags);
                    Assert.Equal(golden.Number("tcp.checksum"), tcp.Checksum);
                    Assert.Equal(golden.Number("tcp.len"), tcp.Payload.Length);
                    AssertChecksum("tcp.checksum.status", InternetChecksum.IsValid(bytes, pseudoHeader));
                    break;
                case IpProtocol.Udp when golden.Number("udp.length") <= bytes.Length:
                    Assert.True(UdpView.TryParse(bytes, out UdpView udp));
                    Assert.Equal(golden.Number("udp.srcport"), udp.SourcePort);
                    Assert.Equal(golden.Number("udp.dstport"), udp.DestinationPort);
                    Assert.Equal(golden.Number("udp.length"), udp.Length);
                    Assert.Equal(golden.Number("udp.checksum"), udp.Checksum);
                    AssertChecksum("udp.checksum.status", InternetChecksum.IsValid(bytes, pseudoHeader));
                    break;
                case IpProtocol.Udp:
                    Assert.False(UdpView.TryParse(bytes, out _));
                    break;
                case IpProtocol.Icmp or IpProtocol.Icmpv6:
                    string layer = protocol == IpProtocol.Icmp ? "icmp" : "icmpv6";
                    Assert.True(IcmpView.TryParse(bytes, out IcmpView icmp));
                    Assert.Equal(golden.Number($"{layer}.type"), icmp.Type);
                    Assert.Equal(golden.Number($"{layer}.code"), icmp.Code);
                    AssertChecksum(
                        $"{layer}.checksum.status", InternetChecksum.IsValid(bytes, protocol == IpProtocol.Icmp ? 0u : pseudoHeader));
                    if (golden.Has($"{layer}.mtu"))
                    {
                        Assert.Equal(golden.Number($"{layer}.mtu"), icmp.RestOfHeader);
                        Ip(icmp.Body);
                    }

                    break;
                default:
                    Assert.Fail($"protocol {protocol} has no view");
                    break;
            }
        }

        private void Gre(ReadOnlySpan<byte> bytes)
        {
            GreParseResult result = GreView.TryParse(bytes, out GreView gre);
            Assert.Equal(ExpectedResult(), result);
            if (result != GreParseResult.Ok)
            {
                return;
            }

            Assert.Equal(golden.Number("gre.flags.checksum") == 1, gre.HasChecksum);
            Assert.Equal(golden.Number("gre.flags.key") == 1, gre.HasKey);
            Assert.Equal(golden.Number("gre.flags.sequence_number") == 1, gre.HasSequence);
            Assert.Equal(golden.Number("gre.proto"), gre.ProtocolType);
            Assert.Equal(golden.Has("gre.key") ? golden.Number("gre.key") : 0, gre.Key);
            Assert.Equal(golden.Has("gre.sequence_number") ? golden.Number("gre.sequence_number") : 0, gre.Sequence);
            if (gre.HasChecksum)
            {
                AssertChecksum("gre.checksum.status", gre.IsChecksumValid);
            }

            if (gre.ProtocolType is EtherType.Ipv4 or EtherType.Ipv6 && !gre.Payload.IsEmpty)
            {
                Ip(gre.Payload);
            }
        }

        private GreParseResult ExpectedResult()
        {
            if (golden.Name.StartsWith("gre-truncated", StringComparison.Ordinal))
            {
                return GreParseResult.Truncated;
            }

            long flags = golden.Number("gre.flags_and_version");
            return (flags & 7) != 0 ? GreParseResult.VersionUnsupported
                : (flags & 0x4c00) != 0 ? GreParseResult.ReservedBits
                : GreParseResult.Ok;
        }

        // 2 is tshark's "unverified": a fragment, or a quoted packet.
        private void AssertChecksum(string field, bool isValid)
        {
            long status = golden.Number(field);
            Assert.True(status == 2 || isValid == (status == 1), $"{field} is {status}, and we say {isValid}");
        }
    }
}
