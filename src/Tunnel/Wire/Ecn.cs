using System.Buffers.Binary;

namespace Tunnel.Wire;

/// <summary>Explicit Congestion Notification across a tunnel (RFC 6040).</summary>
public static class Ecn
{
    /// <summary>Not ECN-capable.</summary>
    public const byte NotEct = 0;

    /// <summary>ECN-capable, ECT(1).</summary>
    public const byte Ect1 = 1;

    /// <summary>ECN-capable, ECT(0).</summary>
    public const byte Ect0 = 2;

    /// <summary>Congestion experienced.</summary>
    public const byte Ce = 3;

    /// <summary>The two ECN bits of a traffic class.</summary>
    public const byte Mask = 3;

    /// <summary>The inner ECN field after decapsulation (RFC 6040 section 4.2, figure 4); -1 where the packet must be dropped.</summary>
    /// <param name="inner">The arriving inner field, 0 to 3.</param>
    /// <param name="outer">The arriving outer field, 0 to 3.</param>
    public static int Decapsulate(int inner, int outer) => (inner, outer) switch
    {
        (NotEct, Ce) => -1,
        (Ect0, Ect1) => Ect1,
        (Ect0 or Ect1, Ce) => Ce,
        _ => inner,
    };

    /// <summary>
    /// Whether the two fields should not meet at a decapsulator (RFC 6040 section 4.2, figure 4, the marked combinations): no encapsulator makes the one of the other, and no
    /// router on the way should. Something between changes the field, or counts on a meaning of ECT(1) that is not ours.
    /// </summary>
    /// <param name="inner">The arriving inner field, 0 to 3.</param>
    /// <param name="outer">The arriving outer field, 0 to 3.</param>
    public static bool IsAnomalous(int inner, int outer) => (inner, outer) is (NotEct, not NotEct) or (Ect1, Ect0) or (Ce, Ect1);

    /// <summary>Sets the ECN field of an IPv4 header in place and mends its checksum (RFC 1624).</summary>
    /// <param name="header">An IPv4 header.</param>
    /// <param name="ecn">0 to 3.</param>
    public static void SetIpv4(Span<byte> header, int ecn)
    {
        ushort before = BinaryPrimitives.ReadUInt16BigEndian(header);
        header[1] = (byte)((header[1] & ~Mask) | ecn);
        ushort after = BinaryPrimitives.ReadUInt16BigEndian(header);
        ushort checksum = BinaryPrimitives.ReadUInt16BigEndian(header[Ipv4Header.ChecksumOffset..]);
        ulong sum = (ulong)(ushort)~checksum + (ushort)~before + after;
        BinaryPrimitives.WriteUInt16BigEndian(header[Ipv4Header.ChecksumOffset..], (ushort)~InternetChecksum.Fold(sum));
    }

    /// <summary>Sets the ECN field of an IPv6 header in place.</summary>
    /// <param name="header">An IPv6 header.</param>
    /// <param name="ecn">0 to 3.</param>
    public static void SetIpv6(Span<byte> header, int ecn) => header[1] = (byte)((header[1] & ~0x30) | (ecn << 4));
}
