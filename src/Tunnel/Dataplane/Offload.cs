namespace Tunnel.Dataplane;

/// <summary>How a super-packet is to be cut: the values of virtio_net_hdr.gso_type (linux/virtio_net.h).</summary>
public enum GsoType : byte
{
    /// <summary>An ordinary packet.</summary>
    None = 0,

    /// <summary>TCP over IPv4.</summary>
    TcpV4 = 1,

    /// <summary>TCP over IPv6.</summary>
    TcpV6 = 4,

    /// <summary>UDP datagrams of equal size, over IPv4 or IPv6.</summary>
    UdpL4 = 5,
}

/// <summary>
/// What travels beside a packet to or from the TUN device: the content of its virtio_net_hdr. The default value is an ordinary
/// packet whose checksums are complete.
/// </summary>
/// <param name="Gso">How to cut the packet; <see cref="GsoType.None"/> where it is not to be cut.</param>
/// <param name="SegmentSize">Transport payload of each segment but the last, in bytes; 0 where not cut.</param>
/// <param name="HeaderLength">Bytes of inner IP and transport header; a hint only, never to be trusted on read.</param>
/// <param name="NeedsChecksum">Whether the transport checksum field holds only the sum of the pseudo-header and must be finished.</param>
/// <param name="ChecksumStart">Where the transport header begins, in bytes from the start of the inner packet.</param>
/// <param name="ChecksumOffset">Where the checksum field lies, in bytes from <paramref name="ChecksumStart"/>: 16 in TCP, 6 in UDP.</param>
/// <param name="OuterTransport">Where the UDP header begins, in bytes, in which a super-packet is encapsulated over IPv4; 0 where in none. On write only.</param>
/// <param name="InnerNetwork">Where the inner IP header then begins, in bytes.</param>
public readonly record struct Offload(
    GsoType Gso,
    ushort SegmentSize,
    ushort HeaderLength,
    bool NeedsChecksum,
    ushort ChecksumStart,
    ushort ChecksumOffset,
    ushort OuterTransport = 0,
    ushort InnerNetwork = 0);
