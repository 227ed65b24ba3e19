namespace Tunnel.Dataplane;

/// <summary>
/// Why a packet was discarded. Every discard has exactly one reason and is counted under it, for the peer where one is known and
/// for the network otherwise. The names are part of the control API.
/// </summary>
public enum DropReason
{
    // Outbound, in the order of the packet's way.

    /// <summary>From the TUN device: neither IPv4 nor IPv6.</summary>
    InnerNotIp,

    /// <summary>The inner IP header is truncated, or its lengths contradict each other or the packet's.</summary>
    InnerHeaderMalformed,

    /// <summary>The inner TTL or hop limit is 0 (RFC 2003 section 3.1).</summary>
    InnerTtlExpired,

    /// <summary>The inner destination is multicast or broadcast, which a routed overlay does not carry.</summary>
    InnerMulticast,

    /// <summary>No peer's subnets hold the inner destination.</summary>
    NoRoute,

    /// <summary>The inner source is an end of the tunnel, this host's or the peer's: it has strayed into the overlay (RFC 2003 section 3.2).</summary>
    InnerSourceIsEndpoint,

    /// <summary>Larger than the peer's GMTU and not to be fragmented (docs/decisions/0020); the sender got Fragmentation Needed or Packet Too Big.</summary>
    ExceedsGmtu,

    /// <summary>The peer's endpoint is not resolved, or this host has no address to send to it from.</summary>
    PeerNotReady,

    /// <summary>The peer's host has answered GRE-in-UDP with Port Unreachable: nothing is sent until somebody decides (RFC 8086 section 9).</summary>
    EndpointRefuses,

    /// <summary>The underlay's send queue stayed full.</summary>
    UnderlayQueueFull,

    /// <summary>The encapsulated packet is larger than the underlay takes (EMSGSIZE).</summary>
    UnderlayTooLong,

    /// <summary>The underlay has no route or no neighbour for the endpoint.</summary>
    UnderlayUnreachable,

    /// <summary>A local firewall rule refused the encapsulated packet.</summary>
    UnderlayDenied,

    /// <summary>The kernel refused to send for another reason.</summary>
    UnderlaySendFailed,

    // Inbound, in the order of the packet's way.

    /// <summary>The kernel dropped it: this socket's receive queue was full.</summary>
    ReceiveQueueFull,

    /// <summary>The outer IP header is truncated, contradicts the packet's length, is a fragment's, or names an IPv4-mapped source.</summary>
    OuterMalformed,

    /// <summary>The GRE header is truncated.</summary>
    GreTruncated,

    /// <summary>The GRE version is not 0 (RFC 2784 section 2.3.1), as in PPTP.</summary>
    GreVersionUnsupported,

    /// <summary>A GRE flag that must be zero is set: bit 1, 4 or 5 (RFC 2784 section 2.3, RFC 2890 section 2).</summary>
    GreReservedBits,

    /// <summary>The outer source is no peer's endpoint.</summary>
    UnknownPeer,

    /// <summary>The outer source is a peer's endpoint, but the key differs, is missing, or is not expected (RFC 2890 section 2.1).</summary>
    KeyMismatch,

    /// <summary>The peer is strict and uses checksums, and there is none.</summary>
    ChecksumAbsent,

    /// <summary>The peer is strict and uses no checksums, and there is one.</summary>
    ChecksumUnexpected,

    /// <summary>The GRE checksum is wrong (RFC 2784 section 2.2).</summary>
    ChecksumMismatch,

    /// <summary>The peer is strict and uses sequence numbers, and there is none.</summary>
    SequenceAbsent,

    /// <summary>The peer is strict and uses no sequence numbers, and there is one.</summary>
    SequenceUnexpected,

    /// <summary>The sequence number was seen or is older than the last (RFC 2890 section 2.2).</summary>
    SequenceOld,

    /// <summary>The GRE protocol type is neither IPv4, IPv6 nor the daemons' own (RFC 2784 section 2.4).</summary>
    GreProtocolUnknown,

    /// <summary>A message between daemons of a version or type that this one does not know.</summary>
    ControlMessageUnknown,

    /// <summary>The kernel coalesced UDP datagrams on receive, and their boundaries are lost; see docs/troubleshooting.md.</summary>
    CoalescedUdp,

    /// <summary>The inner source lies in none of this peer's subnets, or a longer prefix of another peer claims it.</summary>
    SourceNotInPeerSubnets,

    /// <summary>The inner destination is the endpoint that sent the packet: it would loop (RFC 2784 section 3.1).</summary>
    InnerDestinationIsEndpoint,

    /// <summary>Congestion was marked outside on a packet that cannot carry the mark inside (RFC 6040 section 4.2).</summary>
    EcnCongestionLost,

    /// <summary>The TUN device refused the packet, or is down.</summary>
    TunWriteFailed,
}
