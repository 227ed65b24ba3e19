using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// Keeps TCP segments to and from a peer within its GMTU: in every SYN and SYN-ACK that passes, either way, the Maximum Segment Size is lowered
/// to what fits (docs/decisions/0020). It is done here and not by a firewall rule, so that nobody's reload takes it away.
/// IPv6 extension headers are not looked behind, and of fragments only the first can have a SYN. Any other packet costs a look at its flags.
/// </summary>
internal static class MssClamp
{
    // Below there would be nothing left: as much payload as in the least that IPv4 links take.
    private const int LeastIpv6 = Ipv4Header.MinMtu + Ipv6Header.Length - Ipv4Header.Length;

    /// <summary>Lowers the option of an IPv4 packet.</summary>
    /// <param name="packet">The packet, lengths checked.</param>
    /// <param name="bytes">The bytes that it lies in; changed in place.</param>
    /// <param name="peer">Where it goes, or came from.</param>
    /// <param name="isChecksumUnfinished">Whether the TCP checksum is left to a device: <see cref="Offload.NeedsChecksum"/>.</param>
    public static void Apply(in Ipv4View packet, Span<byte> bytes, Peer peer, bool isChecksumUnfinished)
    {
        if (packet.Protocol == IpProtocol.Tcp && packet.FragmentOffset == 0 && HasSyn(packet.Payload))
        {
            int largest = Math.Max(peer.Gmtu, Ipv4Header.MinMtu) - Ipv4Header.Length - TcpView.MinHeaderLength;
            TcpMss.Lower(bytes[packet.HeaderLength..packet.TotalLength], (ushort)largest, isChecksumUnfinished);
        }
    }

    /// <summary>Lowers the option of an IPv6 packet.</summary>
    /// <param name="packet">The packet, lengths checked.</param>
    /// <param name="bytes">The bytes that it lies in; changed in place.</param>
    /// <param name="peer">Where it goes, or came from.</param>
    /// <param name="isChecksumUnfinished">Whether the TCP checksum is left to a device: <see cref="Offload.NeedsChecksum"/>.</param>
    public static void Apply(in Ipv6View packet, Span<byte> bytes, Peer peer, bool isChecksumUnfinished)
    {
        if (packet.NextHeader == IpProtocol.Tcp && HasSyn(packet.Payload))
        {
            // Below 1280 too: segments that need no outer fragments arrive where those are dropped.
            int largest = Math.Max(peer.Gmtu, LeastIpv6) - Ipv6Header.Length - TcpView.MinHeaderLength;
            TcpMss.Lower(bytes[Ipv6Header.Length..packet.TotalLength], (ushort)largest, isChecksumUnfinished);
        }
    }

    private static bool HasSyn(ReadOnlySpan<byte> segment) =>
        segment.Length > TcpView.FlagsOffset && (segment[TcpView.FlagsOffset] & TcpView.Syn) != 0;
}
