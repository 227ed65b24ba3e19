using System.Buffers.Binary;
using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// A number that is the same for all packets of an inner flow and well spread over flows: the source of the UDP source port (RFC 8086
/// section 3.2.1). Stable for the life of the process; fragments of one packet share it.
/// </summary>
internal static class FlowHash
{
    /// <summary>The hash of an IPv4 packet's flow.</summary>
    public static uint Of(in Ipv4View packet)
    {
        uint ports = packet.IsFragment ? 0 : Ports(packet.Protocol, packet.Payload);
        return Mix((ulong)packet.Source.Ipv4 << 32 | packet.Destination.Ipv4, packet.Protocol, ports);
    }

    /// <summary>The hash of an IPv6 packet's flow. Behind extension headers ports are not looked for.</summary>
    public static uint Of(in Ipv6View packet)
    {
        UInt128 source = packet.Source.Bits;
        UInt128 destination = packet.Destination.Bits;
        ulong addresses = ((ulong)(source >> 64) * 31) + (ulong)source + ((ulong)(destination >> 64) * 17) + ((ulong)destination * 7);
        return Mix(addresses, packet.NextHeader, Ports(packet.NextHeader, packet.Payload));
    }

    private static uint Ports(byte protocol, ReadOnlySpan<byte> transport) =>
        protocol is IpProtocol.Tcp or IpProtocol.Udp && transport.Length >= 4 ? BinaryPrimitives.ReadUInt32BigEndian(transport) : 0;

    // The finaliser of a common 64-bit mixer: every bit of the input reaches every bit of the result.
    private static uint Mix(ulong addresses, byte protocol, uint ports)
    {
        ulong hash = addresses ^ ((ulong)ports << 8) ^ protocol ^ ((ulong)ports * 0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 33)) * 0xff51_afd7_ed55_8ccd;
        hash = (hash ^ (hash >> 33)) * 0xc4ce_b9fe_1a85_ec53;
        return (uint)(hash ^ (hash >> 33));
    }
}
