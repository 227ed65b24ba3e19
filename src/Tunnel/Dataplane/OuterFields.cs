using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// Those fields of an outer IP header that may follow the inner packet's: traffic class (DSCP and ECN), TTL or hop limit, and DF. The default
/// value is what a peer without options gets: traffic class 0, TTL 64, DF set.
/// </summary>
public readonly record struct OuterFields
{
    /// <summary>The bits of <see cref="With"/> that are the DSCP (RFC 2474 section 3).</summary>
    public const uint Dscp = 0xfc;

    /// <summary>The bits of <see cref="With"/> that are the ECN field (RFC 3168 section 5).</summary>
    public const uint Ecn = 0x03;

    /// <summary>The bits of <see cref="With"/> that are the TTL or hop limit.</summary>
    public const uint Ttl = 0xff00;

    /// <summary>The bit of <see cref="With"/> that is DF.</summary>
    public const uint Df = 0x1_0000;

    private const byte UsualTtl = 64;

    // The traffic class, the TTL as it differs from the usual, and whether DF is not set.
    private readonly uint _bits;

    /// <summary>Describes a header.</summary>
    /// <param name="trafficClass">DSCP and ECN.</param>
    /// <param name="timeToLive">TTL or hop limit.</param>
    /// <param name="dontFragment">Whether DF is set; IPv6 has none, and nobody on the way fragments.</param>
    public OuterFields(byte trafficClass, byte timeToLive, bool dontFragment)
        : this(trafficClass | ((uint)(timeToLive ^ UsualTtl) << 8) | (dontFragment ? 0 : Df))
    {
    }

    private OuterFields(uint bits) => _bits = bits;

    /// <summary>DSCP and ECN.</summary>
    public byte TrafficClass => (byte)_bits;

    /// <summary>TTL or hop limit.</summary>
    public byte TimeToLive => (byte)((_bits >> 8) ^ UsualTtl);

    /// <summary>Whether DF is set.</summary>
    public bool DontFragment => (_bits & Df) == 0;

    /// <summary>What they add to the sum of an IPv4 header.</summary>
    public uint Ipv4Sum => TrafficClass + ((uint)TimeToLive << 8) + (DontFragment ? 0x4000u : 0);

    /// <summary>The fields of an IP packet, whose header is checked. An IPv6 packet has no DF: it doesn't care what becomes of the outer one.</summary>
    public static OuterFields Of(ReadOnlySpan<byte> packet) => packet[0] >> 4 == 4
        ? new OuterFields(packet[1], packet[8], (packet[Ipv4Header.FlagsOffset] & 0x40) != 0)
        : new OuterFields((byte)((packet[0] << 4) | (packet[1] >> 4)), packet[7], dontFragment: false);

    /// <summary>The same with some fields of another.</summary>
    /// <param name="other">Where they come from.</param>
    /// <param name="which"><see cref="Dscp"/>, <see cref="Ecn"/>, <see cref="Ttl"/>, <see cref="Df"/>, added up.</param>
    public OuterFields With(OuterFields other, uint which) => new((_bits & ~which) | (other._bits & which));

    /// <summary>Writes them to an IPv4 header; its checksum is left as it is.</summary>
    public void WriteIpv4(Span<byte> header)
    {
        header[1] = TrafficClass;
        header[Ipv4Header.FlagsOffset] = (byte)(DontFragment ? 0x40 : 0);
        header[8] = TimeToLive;
    }

    /// <summary>Writes them to an IPv6 header.</summary>
    public void WriteIpv6(Span<byte> header)
    {
        header[0] = (byte)(0x60 | (TrafficClass >> 4));
        header[1] = (byte)((TrafficClass << 4) | (header[1] & 0x0f));
        header[7] = TimeToLive;
    }
}
