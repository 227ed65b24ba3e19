using System.Buffers.Binary;
using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// Another host of the network as the packet threads see it. Immutable, but for what it counts: a change of configuration makes a
/// new one that shares the counters, and the sequence state where endpoint and keys stay the same.
/// </summary>
public sealed class Peer
{
    private readonly byte[] _template;
    private readonly ushort _ipv4TemplateSum;
    private readonly int _greOffset;
    private readonly int _sequenceOffset;

    /// <summary>Describes a peer.</summary>
    /// <param name="settings">What the configuration says, with addresses resolved.</param>
    /// <param name="counters">One for each worker; kept over changes.</param>
    /// <param name="sequences">Sequence state; kept while endpoint and keys stay the same.</param>
    public Peer(PeerSettings settings, PeerCounters[] counters, SequenceState sequences)
    {
        Settings = settings;
        Counters = counters;
        Sequences = sequences;
        var gre = new GreHeader(EtherType.Ipv4, settings.UsesChecksum, settings.KeyOut, settings.UsesSequence ? 0u : null);
        _greOffset = settings.Endpoint.IsIpv4 ? Ipv4Header.Length : Ipv6Header.Length;
        _sequenceOffset = _greOffset + gre.SequenceOffset;
        _template = new byte[_greOffset + gre.Length];
        if (settings.Endpoint.IsIpv4)
        {
            new Ipv4Header(settings.Local, settings.Endpoint, IpProtocol.Gre, PayloadLength: 0).Write(_template);
            BinaryPrimitives.WriteUInt16BigEndian(_template.AsSpan(Ipv4Header.TotalLengthOffset), 0);
            BinaryPrimitives.WriteUInt16BigEndian(_template.AsSpan(Ipv4Header.ChecksumOffset), 0);
            _ipv4TemplateSum = InternetChecksum.Sum(_template.AsSpan(0, Ipv4Header.Length));
        }
        else
        {
            new Ipv6Header(settings.Local, settings.Endpoint, IpProtocol.Gre, PayloadLength: 0).Write(_template);
        }

        gre.Write(_template.AsSpan(_greOffset));
        int uncounted = settings.Endpoint.IsIpv4 ? 0 : Ipv6Header.Length;
        Gmtu = Math.Min(settings.Gmtu, ushort.MaxValue + uncounted - _template.Length);
    }

    /// <summary>What the configuration says.</summary>
    public PeerSettings Settings { get; }

    /// <summary>Counters, one for each worker.</summary>
    public PeerCounters[] Counters { get; }

    /// <summary>Sequence numbers sent and received.</summary>
    public SequenceState Sequences { get; }

    /// <summary>Bytes that encapsulation puts before an inner packet: outer IP and GRE header.</summary>
    public int Overhead => _template.Length;

    /// <summary>
    /// The largest inner packet that may be sent to it, in bytes: the path's GMTU, but never more than the outer header's 16-bit length
    /// can describe (the IPv4 total length counts the header, the IPv6 payload length does not).
    /// </summary>
    public int Gmtu { get; }

    /// <summary>Whether packets can be sent to it: its endpoint is resolved and this host has an address to send from.</summary>
    public bool IsReady => !Settings.Endpoint.IsNone && !Settings.Local.IsNone;

    /// <summary>
    /// Writes the outer IP header and the GRE header directly before an inner packet, and the GRE checksum over both where the peer
    /// wants one. Takes the next sequence number where the peer wants one.
    /// </summary>
    /// <param name="packet"><see cref="Overhead"/> free bytes, then the inner packet.</param>
    /// <param name="protocolType">What the inner packet is: <see cref="EtherType"/>.</param>
    public void WriteOuterHeaders(Span<byte> packet, ushort protocolType)
    {
        _template.CopyTo(packet);
        if (Settings.Endpoint.IsIpv4)
        {
            BinaryPrimitives.WriteUInt16BigEndian(packet[Ipv4Header.TotalLengthOffset..], (ushort)packet.Length);
            ushort checksum = (ushort)~InternetChecksum.Fold((ulong)_ipv4TemplateSum + (ushort)packet.Length);
            BinaryPrimitives.WriteUInt16BigEndian(packet[Ipv4Header.ChecksumOffset..], checksum);
        }
        else
        {
            BinaryPrimitives.WriteUInt16BigEndian(packet[Ipv6Header.PayloadLengthOffset..], (ushort)(packet.Length - Ipv6Header.Length));
        }

        BinaryPrimitives.WriteUInt16BigEndian(packet[(_greOffset + GreHeader.ProtocolTypeOffset)..], protocolType);
        if (Settings.UsesSequence)
        {
            BinaryPrimitives.WriteUInt32BigEndian(packet[_sequenceOffset..], Sequences.NextToSend());
        }

        if (Settings.UsesChecksum)
        {
            GreHeader.WriteChecksum(packet[_greOffset..]);
        }
    }
}

/// <summary>A peer's settings, addresses resolved.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Endpoint">Its underlay address; none while it is not resolved.</param>
/// <param name="Local">The address that this host sends from; none while it has no route to the endpoint.</param>
/// <param name="KeyIn">The key that its packets must have; null for none.</param>
/// <param name="KeyOut">The key that packets to it get; null for none.</param>
/// <param name="UsesChecksum">Whether packets to it get a GRE checksum. Received checksums are verified in any case.</param>
/// <param name="UsesSequence">Whether packets to it get sequence numbers. Received ones are checked in any case.</param>
/// <param name="Gmtu">The largest inner packet that fits the underlay path after encapsulation, in bytes (RFC 7588).</param>
public sealed record PeerSettings(
    string Name,
    InetAddress Endpoint,
    InetAddress Local,
    uint? KeyIn,
    uint? KeyOut,
    bool UsesChecksum,
    bool UsesSequence,
    int Gmtu)
{
    /// <summary>The bytes that encapsulation would put before an inner packet.</summary>
    public static int OverheadOf(bool isIpv4, bool hasKey, bool usesChecksum, bool usesSequence) =>
        (isIpv4 ? Ipv4Header.Length : Ipv6Header.Length) +
        new GreHeader(EtherType.Ipv4, usesChecksum, hasKey ? 0u : null, usesSequence ? 0u : null).Length;
}
