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
    private readonly byte[] _udpTemplate = [];
    private readonly ushort _ipv4TemplateSum;
    private readonly int _greOffset;
    private readonly int _sequenceOffset;

    /// <summary>Describes a peer.</summary>
    /// <param name="settings">What the configuration says, with addresses resolved.</param>
    /// <param name="counters">One for each worker; kept over changes.</param>
    /// <param name="sequences">Sequence state; kept while endpoint and keys stay the same.</param>
    /// <param name="target">Where packets to it go; kept while endpoint and UDP port stay the same. Made here where there is none.</param>
    public Peer(PeerSettings settings, PeerCounters[] counters, SequenceState sequences, UnderlayTarget? target = null)
    {
        Settings = settings;
        Counters = counters;
        Sequences = sequences;
        Target = target ?? new UnderlayTarget(settings.Endpoint, settings.UdpPort);
        var gre = new GreHeader(EtherType.Ipv4, settings.UsesChecksum, settings.KeyOut, settings.UsesSequence ? 0u : null);
        _greOffset = Target.UdpPort != 0 ? 0 : settings.Endpoint.IsIpv4 ? Ipv4Header.Length : Ipv6Header.Length;
        _sequenceOffset = _greOffset + gre.SequenceOffset;
        _template = new byte[_greOffset + gre.Length];
        if (Target.UdpPort == 0)
        {
            _ipv4TemplateSum = WriteOuterIpHeader(settings, IpProtocol.Gre, _template);
        }
        else if (settings.Endpoint.IsIpv4)
        {
            _udpTemplate = new byte[Ipv4Header.Length + UdpView.HeaderLength];
            _ipv4TemplateSum = WriteOuterIpHeader(settings, IpProtocol.Udp, _udpTemplate);
            BinaryPrimitives.WriteUInt16BigEndian(_udpTemplate.AsSpan(Ipv4Header.Length + UdpView.DestinationPortOffset), Target.UdpPort);
        }

        gre.Write(_template.AsSpan(_greOffset));
        Gmtu = Math.Min(settings.Gmtu, LargestInner(settings.Endpoint.IsIpv4));
    }

    /// <summary>What the configuration says.</summary>
    public PeerSettings Settings { get; }

    /// <summary>Counters, one for each worker.</summary>
    public PeerCounters[] Counters { get; }

    /// <summary>Sequence numbers sent and received.</summary>
    public SequenceState Sequences { get; }

    /// <summary>Where packets to it go on the underlay.</summary>
    public UnderlayTarget Target { get; }

    /// <summary>Bytes that encapsulation puts before an inner packet: outer IP and GRE header; only the GRE header where the kernel puts UDP and IP before it.</summary>
    public int Overhead => _template.Length;

    /// <summary>The same before a super-packet that the kernel cuts: there it puts nothing before the GRE header.</summary>
    public int UncutOverhead => _udpTemplate.Length + _template.Length;

    /// <summary>
    /// The largest inner packet that may be sent to it, in bytes: the path's GMTU, but never more than the outer header's 16-bit length
    /// can describe (the IPv4 total length counts the header, the IPv6 payload length does not).
    /// </summary>
    public int Gmtu { get; }

    /// <summary>
    /// The largest inner IPv6 packet that may be sent to it, in bytes: the GMTU, but at least what every link must carry. What is larger than
    /// the GMTU then travels in several outer fragments (RFC 7676 section 3.3).
    /// </summary>
    public int LargestIpv6 => Math.Max(Gmtu, Ipv6Header.MinMtu);

    /// <summary>Whether packets can be sent to it: its endpoint is resolved and this host has an address to send from.</summary>
    public bool IsReady => !Settings.Endpoint.IsNone && !Settings.Local.IsNone;

    /// <summary>
    /// Writes the outer headers directly before an inner packet: what <see cref="Overhead"/> counts, and the GRE checksum over header
    /// and packet where the peer wants one. Takes the next sequence number where the peer wants one.
    /// </summary>
    /// <param name="packet"><see cref="Overhead"/> free bytes, then the inner packet.</param>
    /// <param name="protocolType">What the inner packet is: <see cref="EtherType"/>.</param>
    public void WriteOuterHeaders(Span<byte> packet, ushort protocolType)
    {
        Span<byte> inner = packet[Overhead..];
        ushort innerSum = Settings.UsesChecksum ? InternetChecksum.Sum(inner) : (ushort)0;
        WriteOuterHeaders(packet[..Overhead], inner.Length, protocolType, innerSum);
    }

    /// <summary>The same for an inner packet that lies elsewhere.</summary>
    /// <param name="headers"><see cref="Overhead"/> bytes.</param>
    /// <param name="innerLength">The inner packet's length in bytes.</param>
    /// <param name="protocolType">What the inner packet is: <see cref="EtherType"/>.</param>
    /// <param name="innerSum">The folded sum of the inner packet's bytes (<see cref="InternetChecksum.Sum"/>), where <see cref="PeerSettings.UsesChecksum"/> is set.</param>
    public void WriteOuterHeaders(Span<byte> headers, int innerLength, ushort protocolType, ushort innerSum)
    {
        _template.CopyTo(headers);
        if (_greOffset == Ipv4Header.Length)
        {
            WriteIpv4Length(headers, Overhead + innerLength);
        }
        else if (_greOffset == Ipv6Header.Length)
        {
            int length = Overhead - Ipv6Header.Length + innerLength;
            BinaryPrimitives.WriteUInt16BigEndian(headers[Ipv6Header.PayloadLengthOffset..], (ushort)length);
        }

        BinaryPrimitives.WriteUInt16BigEndian(headers[(_greOffset + GreHeader.ProtocolTypeOffset)..], protocolType);
        if (Settings.UsesSequence)
        {
            BinaryPrimitives.WriteUInt32BigEndian(headers[_sequenceOffset..], Sequences.NextToSend());
        }

        if (Settings.UsesChecksum)
        {
            Span<byte> gre = headers[_greOffset..Overhead];
            BinaryPrimitives.WriteUInt16BigEndian(gre[GreHeader.ChecksumOffset..], InternetChecksum.Compute(gre, innerSum));
        }
    }

    /// <summary>
    /// The same before a super-packet over IPv4 that the kernel cuts. In UDP, the source port is left 0, and the checksum field holds the
    /// sum of the pseudo-header, as the kernel expects it of what it is to cut.
    /// </summary>
    /// <param name="headers"><see cref="UncutOverhead"/> bytes.</param>
    /// <param name="innerLength">The inner packet's length in bytes; with the headers at most 65,535.</param>
    /// <param name="protocolType">What the inner packet is: <see cref="EtherType"/>.</param>
    public void WriteUncutHeaders(Span<byte> headers, int innerLength, ushort protocolType)
    {
        WriteOuterHeaders(headers[_udpTemplate.Length..], innerLength, protocolType, innerSum: 0);
        if (_udpTemplate.Length != 0)
        {
            int udpLength = UncutOverhead - Ipv4Header.Length + innerLength;
            _udpTemplate.CopyTo(headers);
            WriteIpv4Length(headers, Ipv4Header.Length + udpLength);
            Span<byte> udp = headers[Ipv4Header.Length..];
            BinaryPrimitives.WriteUInt16BigEndian(udp[UdpView.LengthOffset..], (ushort)udpLength);
            ushort pseudoHeader = InternetChecksum.PseudoHeader(headers[12..Ipv4Header.Length], IpProtocol.Udp, udpLength);
            BinaryPrimitives.WriteUInt16BigEndian(udp[UdpView.ChecksumOffset..], pseudoHeader);
        }
    }

    /// <summary>Writes a message to its daemon, outer headers before it.</summary>
    /// <param name="packet"><see cref="Overhead"/> + <see cref="AbilitiesMessage.Length"/> bytes.</param>
    /// <param name="message">The message.</param>
    public void WriteMessage(Span<byte> packet, AbilitiesMessage message)
    {
        message.Write(packet[Overhead..]);
        WriteOuterHeaders(packet, EtherType.Experimental);
    }

    private void WriteIpv4Length(Span<byte> header, int length)
    {
        BinaryPrimitives.WriteUInt16BigEndian(header[Ipv4Header.TotalLengthOffset..], (ushort)length);
        ushort checksum = (ushort)~InternetChecksum.Fold((ulong)_ipv4TemplateSum + (ushort)length);
        BinaryPrimitives.WriteUInt16BigEndian(header[Ipv4Header.ChecksumOffset..], checksum);
    }

    // The IPv4 total length counts the IP header, the IPv6 payload length does not; the UDP length is bounded by both.
    private int LargestInner(bool isIpv4)
    {
        int udp = Target.UdpPort == 0 ? 0 : UdpView.HeaderLength;
        int counted = isIpv4 ? Ipv4Header.Length : 0;
        return ushort.MaxValue - counted - udp - (_template.Length - _greOffset);
    }

    // The sum of an IPv4 header whose total length and checksum are 0, which each packet's checksum begins with.
    private static ushort WriteOuterIpHeader(PeerSettings settings, byte protocol, Span<byte> header)
    {
        if (!settings.Endpoint.IsIpv4)
        {
            new Ipv6Header(settings.Local, settings.Endpoint, protocol, PayloadLength: 0).Write(header);
            return 0;
        }

        new Ipv4Header(settings.Local, settings.Endpoint, protocol, PayloadLength: 0).Write(header);
        header.Slice(Ipv4Header.TotalLengthOffset, 2).Clear();
        header.Slice(Ipv4Header.ChecksumOffset, 2).Clear();
        return InternetChecksum.Sum(header[..Ipv4Header.Length]);
    }
}

/// <summary>A peer's settings, addresses resolved.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Endpoint">Its underlay address; none while it is not resolved.</param>
/// <param name="Local">The address that this host sends from; none while it has no route to the endpoint.</param>
/// <param name="KeyIn">The key that its packets must have; null for none.</param>
/// <param name="KeyOut">The key that packets to it get; null for none.</param>
/// <param name="UsesChecksum">Whether packets to it get a GRE checksum. Received checksums are verified in any case.</param>
/// <param name="UsesSequence">Whether packets to it get sequence numbers. Received ones are checked in any case, unless several workers receive: then there is no order to check.</param>
/// <param name="Gmtu">The largest inner packet that fits the underlay path after encapsulation, in bytes (RFC 7588).</param>
/// <param name="UdpPort">The UDP port that packets to it go to (GRE-in-UDP, RFC 8086); 0 for plain GRE.</param>
public sealed record PeerSettings(
    string Name,
    InetAddress Endpoint,
    InetAddress Local,
    uint? KeyIn,
    uint? KeyOut,
    bool UsesChecksum,
    bool UsesSequence,
    int Gmtu,
    ushort UdpPort = 0)
{
    /// <summary>The bytes that encapsulation would put before an inner packet.</summary>
    public static int OverheadOf(bool isIpv4, bool hasKey, bool usesChecksum, bool usesSequence, bool usesUdp = false) =>
        (isIpv4 ? Ipv4Header.Length : Ipv6Header.Length) + (usesUdp ? UdpView.HeaderLength : 0) +
        new GreHeader(EtherType.Ipv4, usesChecksum, hasKey ? 0u : null, usesSequence ? 0u : null).Length;
}
