using System.Buffers.Binary;
using System.Net;

namespace Tunnel.TestSupport;

/// <summary>
/// A TCP segment or UDP datagram with every field that segmentation and coalescing look at, built byte by byte without the code under
/// test. The family follows from the addresses. The default is a TCP segment from vm2's container to vm1's.
/// </summary>
public sealed record FlowPacket
{
    public const byte Fin = 0x01;
    public const byte Syn = 0x02;
    public const byte Rst = 0x04;
    public const byte Psh = 0x08;
    public const byte Ack = 0x10;
    public const byte Urg = 0x20;
    public const byte Ece = 0x40;
    public const byte Cwr = 0x80;

    public string Source { get; init; } = "172.17.52.2";

    public string Destination { get; init; } = "172.17.51.2";

    public bool IsUdp { get; init; }

    public ushort SourcePort { get; init; } = 40_000;

    public ushort DestinationPort { get; init; } = 3333;

    public byte[] Payload { get; init; } = [];

    public uint Sequence { get; init; } = 1000;

    public uint Acknowledgement { get; init; } = 0x0506_0708;

    public byte Flags { get; init; } = Ack;

    public ushort Window { get; init; } = 501;

    public ushort Urgent { get; init; }

    /// <summary>TCP options, a multiple of 4 bytes.</summary>
    public byte[] Options { get; init; } = [];

    /// <summary>IPv4 options, a multiple of 4 bytes.</summary>
    public byte[] IpOptions { get; init; } = [];

    public byte TrafficClass { get; init; }

    public byte Ttl { get; init; } = 63;

    public bool DontFragment { get; init; } = true;

    public bool MoreFragments { get; init; }

    public int FragmentOffset { get; init; }

    public ushort Id { get; init; } = 0x1234;

    public uint FlowLabel { get; init; }

    /// <summary>Whether the checksum field holds the sum of the pseudo-header only, as the kernel leaves it to a device.</summary>
    public bool IsPartial { get; init; }

    /// <summary>Whether a UDP datagram has no checksum.</summary>
    public bool HasNoChecksum { get; init; }

    /// <summary>Bits to flip in the checksum field.</summary>
    public ushort Damage { get; init; }

    public bool IsIpv4 => IPAddress.Parse(Source).AddressFamily == System.Net.Sockets.AddressFamily.InterNetwork;

    /// <summary>Where the transport header begins, in bytes.</summary>
    public int TransportStart => IsIpv4 ? 20 + IpOptions.Length : 40;

    /// <summary>IP and transport header, in bytes.</summary>
    public int HeaderLength => TransportStart + (IsUdp ? 8 : 20 + Options.Length);

    /// <summary>The packet's bytes.</summary>
    public byte[] Build()
    {
        byte[] transport = IsUdp ? BuildUdp() : BuildTcp();
        byte protocol = IsUdp ? Packets.Udp : Packets.Tcp;
        int field = IsUdp ? 6 : 16;
        ushort pseudoHeader = Packets.PseudoHeader(Source, Destination, protocol, transport.Length);
        ushort checksum = IsPartial ? pseudoHeader : Rfc1071.Checksum(transport, pseudoHeader);
        checksum = IsUdp && checksum == 0 ? (ushort)0xffff : checksum;
        Packets.Put16(transport, field, HasNoChecksum ? 0 : checksum ^ Damage);
        return IsIpv4
            ? Packets.Ipv4(Source, Destination, protocol, transport, Ttl, TrafficClass, Id, DontFragment, MoreFragments, FragmentOffset, IpOptions)
            : Packets.Ipv6(Source, Destination, protocol, transport, Ttl, TrafficClass, FlowLabel);
    }

    private byte[] BuildTcp()
    {
        byte[] segment = [.. new byte[20], .. Options, .. Payload];
        Packets.Put16(segment, 0, SourcePort);
        Packets.Put16(segment, 2, DestinationPort);
        BinaryPrimitives.WriteUInt32BigEndian(segment.AsSpan(4), Sequence);
        BinaryPrimitives.WriteUInt32BigEndian(segment.AsSpan(8), Acknowledgement);
        segment[12] = (byte)((20 + Options.Length) / 4 << 4);
        segment[13] = Flags;
        Packets.Put16(segment, 14, Window);
        Packets.Put16(segment, 18, Urgent);
        return segment;
    }

    private byte[] BuildUdp()
    {
        byte[] datagram = [.. new byte[8], .. Payload];
        Packets.Put16(datagram, 0, SourcePort);
        Packets.Put16(datagram, 2, DestinationPort);
        Packets.Put16(datagram, 4, datagram.Length);
        return datagram;
    }
}
