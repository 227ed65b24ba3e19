using System.Net;
using PacketDotNet;
using PacketDotNet.Utils;

namespace Tunnel.PacketDotNetTests;

/// <summary>Packets that PacketDotNet builds. Of GRE it parses headers but builds none: those four or eight bytes are written here.</summary>
internal static class PacketDotNetFrames
{
    /// <summary>An outer IP packet around an inner one, with a GRE header that has a key or nothing.</summary>
    public static IPPacket Encapsulate(IPPacket inner, string source, string destination, uint? key)
    {
        ushort protocol = (ushort)(inner is IPv4Packet ? EthernetType.IPv4 : EthernetType.IPv6);
        byte[] header = key is uint k
            ? [0x20, 0, (byte)(protocol >> 8), (byte)protocol, (byte)(k >> 24), (byte)(k >> 16), (byte)(k >> 8), (byte)k]
            : [0, 0, (byte)(protocol >> 8), (byte)protocol];
        IPPacket outer = Ip(source, destination, ProtocolType.Gre);
        byte[] innerBytes = inner.Bytes;
        outer.PayloadPacket = new GrePacket(new ByteArraySegment([.. header, .. innerBytes]), outer);
        // With its payload it took the protocol that it knows for it, and for GRE it knows none.
        outer.Protocol = ProtocolType.Gre;
        Finish(outer);
        return outer;
    }

    /// <summary>An IP packet that holds a UDP datagram.</summary>
    public static IPPacket Udp(string source, string destination, byte[] data)
    {
        IPPacket packet = Ip(source, destination, ProtocolType.Udp);
        var udp = new UdpPacket(4000, 9) { PayloadData = data };
        packet.PayloadPacket = udp;
        Finish(packet);
        udp.UpdateCalculatedValues();
        udp.UpdateUdpChecksum();
        return packet;
    }

    /// <summary>The answer to an ICMP or ICMPv6 echo request.</summary>
    public static IPPacket EchoReply(IPPacket request)
    {
        (string source, string destination) = (request.DestinationAddress.ToString(), request.SourceAddress.ToString());
        if (request is IPv4Packet)
        {
            IPPacket reply = Ip(source, destination, ProtocolType.Icmp);
            var icmp = new IcmpV4Packet(new ByteArraySegment(request.Extract<IcmpV4Packet>().Bytes), reply) { TypeCode = IcmpV4TypeCode.EchoReply };
            reply.PayloadPacket = icmp;
            Finish(reply);
            icmp.UpdateIcmpChecksum();
            return reply;
        }

        IPPacket reply6 = Ip(source, destination, ProtocolType.IcmpV6);
        var icmp6 = new IcmpV6Packet(new ByteArraySegment(request.Extract<IcmpV6Packet>().Bytes), reply6) { Type = IcmpV6Type.EchoReply };
        reply6.PayloadPacket = icmp6;
        Finish(reply6);
        // Its ICMPv6 checksum is right only where header and payload lie together.
        var whole = new IPv6Packet(new ByteArraySegment(reply6.Bytes));
        whole.Extract<IcmpV6Packet>().UpdateIcmpChecksum();
        return whole;
    }

    private static IPPacket Ip(string source, string destination, ProtocolType protocol)
    {
        (IPAddress from, IPAddress to) = (IPAddress.Parse(source), IPAddress.Parse(destination));
        return source.Contains(':', StringComparison.Ordinal)
            ? new IPv6Packet(from, to) { Protocol = protocol, HopLimit = 64 }
            : new IPv4Packet(from, to) { Protocol = protocol, TimeToLive = 64, FragmentFlags = 2 };
    }

    private static void Finish(IPPacket packet)
    {
        packet.UpdateCalculatedValues();
        if (packet is IPv4Packet ipv4)
        {
            ipv4.UpdateIPChecksum();
        }
    }
}
