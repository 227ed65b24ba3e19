using System.Buffers.Binary;
using System.Net;

namespace Tunnel.NetworkTests;

/// <summary>Inner packets made by hand, for what an honest host would never send. Written here by itself, not with the code under test.</summary>
internal static class Inner
{
    /// <summary>A GRE packet without anything optional, holding an inner packet.</summary>
    public static byte[] Gre(byte[] inner) => [0, 0, .. (inner[0] >> 4 == 4 ? (byte[])[0x08, 0x00] : [0x86, 0xdd]), .. inner];

    /// <summary>An IPv4 packet that holds a UDP datagram to port 9 with some bytes and no checksum.</summary>
    public static byte[] Ipv4Udp(string source, string destination)
    {
        byte[] udp = Udp();
        byte[] packet =
        [
            0x45, 0, 0, (byte)(20 + udp.Length), 0, 0, 0x40, 0, 64, 17, 0, 0,
            .. IPAddress.Parse(source).GetAddressBytes(), .. IPAddress.Parse(destination).GetAddressBytes(), .. udp,
        ];
        int sum = 0;
        for (int i = 0; i < 20; i += 2)
        {
            sum += BinaryPrimitives.ReadUInt16BigEndian(packet.AsSpan(i));
        }

        sum = (sum & 0xffff) + (sum >> 16);
        BinaryPrimitives.WriteUInt16BigEndian(packet.AsSpan(10), (ushort)~((sum & 0xffff) + (sum >> 16)));
        return packet;
    }

    /// <summary>An IPv6 packet that holds a UDP datagram to port 9 with some bytes and no good checksum.</summary>
    public static byte[] Ipv6Udp(string source, string destination)
    {
        byte[] udp = Udp();
        return
        [
            0x60, 0, 0, 0, 0, (byte)udp.Length, 17, 64,
            .. IPAddress.Parse(source).GetAddressBytes(), .. IPAddress.Parse(destination).GetAddressBytes(), .. udp,
        ];
    }

    private static byte[] Udp() => [0x30, 0x39, 0, 9, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
}
