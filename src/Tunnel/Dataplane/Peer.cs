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

    // What the template says, and what of it each packet says for itself.
    private readonly OuterFields _outer;
    private readonly uint _copied;
    private readonly bool _copiesEcnWhenHeard;

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
        OuterHeaderOptions outer = settings.Outer;
        _outer = new OuterFields((byte)(outer.Dscp.GetValueOrDefault() << 2), outer.TimeToLive ?? default(OuterFields).TimeToLive, dontFragment: true);
        _copied = (outer.Dscp is null ? OuterFields.Dscp : 0) | (outer.Ecn == EcnMode.Normal ? OuterFields.Ecn : 0) |
            (outer.TimeToLive is null ? OuterFields.Ttl : 0) | (outer.DiscoversPathMtu || !settings.Endpoint.IsIpv4 ? 0 : OuterFields.Df);
        _copiesEcnWhenHeard = outer.Ecn == EcnMode.Auto;
        var gre = new GreHeader(EtherType.Ipv4, settings.UsesChecksum, settings.KeyOut, settings.UsesSequence ? 0u : null);
        _greOffset = Target.UdpPort != 0 ? 0 : settings.Endpoint.IsIpv4 ? Ipv4Header.Length : Ipv6Header.Length;
        _sequenceOffset = _greOffset + gre.SequenceOffset;
        _template = new byte[_greOffset + gre.Length];
        if (Target.UdpPort == 0)
        {
            _ipv4TemplateSum = WriteOuterIpHeader(settings, IpProtocol.Gre, _outer, _template);
        }
        else
        {
            int ipLength = settings.Endpoint.IsIpv4 ? Ipv4Header.Length : Ipv6Header.Length;
            _udpTemplate = new byte[ipLength + UdpView.HeaderLength];
            _ipv4TemplateSum = WriteOuterIpHeader(settings, IpProtocol.Udp, _outer, _udpTemplate);
            BinaryPrimitives.WriteUInt16BigEndian(_udpTemplate.AsSpan(ipLength + UdpView.DestinationPortOffset), Target.UdpPort);
        }

        gre.Write(_template.AsSpan(_greOffset));
        LargestInner = LargestInnerOf(settings.Endpoint.IsIpv4);
        Gmtu = Math.Min(settings.Gmtu, LargestInner);
    }

    /// <summary>What the configuration says.</summary>
    public PeerSettings Settings { get; }

    /// <summary>Counters, one for each worker.</summary>
    public PeerCounters[] Counters { get; }

    /// <summary>When the last packet or message of its was taken, by <see cref="Environment.TickCount64"/>; 0 for never. Allocates nothing.</summary>
    public long LastHeard
    {
        get
        {
            long last = 0;
            foreach (PeerCounters counters in Counters)
            {
                last = Math.Max(last, Math.Max(counters.LastReceived, counters.LastMessage));
            }

            return last;
        }
    }

    /// <summary>Sequence numbers sent and received.</summary>
    public SequenceState Sequences { get; }

    /// <summary>Where packets to it go on the underlay.</summary>
    public UnderlayTarget Target { get; }

    /// <summary>Bytes that encapsulation puts before an inner packet: outer IP and GRE header; only the GRE header where the kernel puts UDP and IP before it.</summary>
    public int Overhead => _template.Length;

    /// <summary>The same before a super-packet that the kernel cuts, and before a packet that a raw socket sends: there it puts nothing before the GRE header.</summary>
    public int UncutOverhead => _udpTemplate.Length + _template.Length;

    /// <summary>The largest inner packet that may be sent to it, in bytes: the path's GMTU, but never more than <see cref="LargestInner"/>.</summary>
    public int Gmtu { get; }

    /// <summary>
    /// The largest inner packet that the outer header's 16-bit length can describe, in bytes (the IPv4 total length counts the header, the
    /// IPv6 payload length does not).
    /// </summary>
    public int LargestInner { get; }

    /// <summary>
    /// The largest inner IPv6 packet that may be sent to it, in bytes: the GMTU, but at least what every link must carry. What is larger than
    /// the GMTU then travels in several outer fragments (RFC 7676 section 3.3).
    /// </summary>
    public int LargestIpv6 => Math.Max(Gmtu, Ipv6Header.MinMtu);

    /// <summary>Whether packets can be sent to it: its endpoint is resolved and this host has an address to send from.</summary>
    public bool IsReady => !Settings.Endpoint.IsNone && !Settings.Local.IsNone;

    /// <summary>What the outer header of a message between daemons says.</summary>
    public OuterFields MessageFields => _outer;

    /// <summary>What the outer header of an inner packet says.</summary>
    /// <param name="inner">The inner packet, its IP header checked.</param>
    public OuterFields OuterFieldsOf(ReadOnlySpan<byte> inner)
    {
        uint copied = _copied | (_copiesEcnWhenHeard && Target.Abilities.IsHeard ? OuterFields.Ecn : 0);
        return copied == 0 ? _outer : _outer.With(OuterFields.Of(inner), copied);
    }

    /// <summary>
    /// Writes the outer headers directly before an inner packet: what <see cref="Overhead"/> counts, and the GRE checksum over header
    /// and packet where the peer wants one. Takes the next sequence number where the peer wants one.
    /// </summary>
    /// <param name="packet"><see cref="Overhead"/> free bytes, then the inner packet.</param>
    /// <param name="protocolType">What the inner packet is: <see cref="EtherType"/>.</param>
    /// <param name="outer">What the outer IP header says; where the kernel writes that, it is to be told beside the packet.</param>
    public void WriteOuterHeaders(Span<byte> packet, ushort protocolType, OuterFields outer)
    {
        Span<byte> inner = packet[Overhead..];
        ushort innerSum = Settings.UsesChecksum ? InternetChecksum.Sum(inner) : (ushort)0;
        WriteOuterHeaders(packet[..Overhead], inner.Length, protocolType, innerSum, outer);
    }

    /// <summary>The same for an inner packet that lies elsewhere.</summary>
    /// <param name="headers"><see cref="Overhead"/> bytes.</param>
    /// <param name="innerLength">The inner packet's length in bytes.</param>
    /// <param name="protocolType">What the inner packet is: <see cref="EtherType"/>.</param>
    /// <param name="innerSum">The folded sum of the inner packet's bytes (<see cref="InternetChecksum.Sum"/>), where <see cref="PeerSettings.UsesChecksum"/> is set.</param>
    /// <param name="outer">What the outer IP header says.</param>
    /// <param name="packets">How many packets the kernel will make of it.</param>
    public void WriteOuterHeaders(Span<byte> headers, int innerLength, ushort protocolType, ushort innerSum, OuterFields outer, int packets = 1)
    {
        _template.CopyTo(headers);
        if (_greOffset == Ipv4Header.Length)
        {
            FinishIpv4(headers, Overhead + innerLength, outer, packets);
        }
        else if (_greOffset == Ipv6Header.Length)
        {
            FinishIpv6(headers, Overhead - Ipv6Header.Length + innerLength, outer);
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
    /// <param name="outer">What the outer IP header says.</param>
    /// <param name="packets">How many packets the kernel will make of it.</param>
    public void WriteUncutHeaders(Span<byte> headers, int innerLength, ushort protocolType, OuterFields outer, int packets)
    {
        WriteOuterHeaders(headers[_udpTemplate.Length..], innerLength, protocolType, innerSum: 0, outer, packets);
        if (_udpTemplate.Length != 0)
        {
            WriteUdpTunnelHeaders(headers, innerLength, outer, packets);
        }
    }

    /// <summary>
    /// The same before a packet that a raw socket sends. In UDP, the source port is left 0 and the checksum covers everything else
    /// (<see cref="UdpView.AddSourcePort"/>).
    /// </summary>
    /// <param name="headers"><see cref="UncutOverhead"/> bytes.</param>
    /// <param name="innerLength">The inner packet's length in bytes.</param>
    /// <param name="protocolType">What the inner packet is: <see cref="EtherType"/>.</param>
    /// <param name="innerSum">The folded sum of the inner packet's bytes, where <see cref="PeerSettings.UsesChecksum"/> is set or there is UDP.</param>
    /// <param name="outer">What the outer IP header says.</param>
    public void WriteAllHeaders(Span<byte> headers, int innerLength, ushort protocolType, ushort innerSum, OuterFields outer)
    {
        WriteOuterHeaders(headers[_udpTemplate.Length..], innerLength, protocolType, innerSum, outer);
        if (_udpTemplate.Length != 0)
        {
            WriteUdpTunnelHeaders(headers, innerLength, outer, packets: 1);
            Span<byte> udp = headers[(_udpTemplate.Length - UdpView.HeaderLength)..UncutOverhead];
            BinaryPrimitives.WriteUInt16BigEndian(udp[UdpView.ChecksumOffset..], InternetChecksum.Compute(udp, innerSum));
        }
    }

    // IP and UDP before the GRE header; the checksum is the pseudo-header's sum.
    private void WriteUdpTunnelHeaders(Span<byte> headers, int innerLength, OuterFields outer, int packets)
    {
        int ipLength = _udpTemplate.Length - UdpView.HeaderLength;
        int udpLength = UncutOverhead - ipLength + innerLength;
        _udpTemplate.CopyTo(headers);
        if (ipLength == Ipv4Header.Length)
        {
            FinishIpv4(headers, ipLength + udpLength, outer, packets);
        }
        else
        {
            FinishIpv6(headers, udpLength, outer);
        }

        // The addresses are the last of either header.
        int addresses = ipLength == Ipv4Header.Length ? 12 : 8;
        Span<byte> udp = headers[ipLength..];
        BinaryPrimitives.WriteUInt16BigEndian(udp[UdpView.LengthOffset..], (ushort)udpLength);
        ushort pseudoHeader = InternetChecksum.PseudoHeader(headers[addresses..ipLength], IpProtocol.Udp, udpLength);
        BinaryPrimitives.WriteUInt16BigEndian(udp[UdpView.ChecksumOffset..], pseudoHeader);
    }

    // What differs from the template: the length, and for some packets more. With DF the identification says nothing and stays 0 (RFC 6864 section 4.1).
    private void FinishIpv4(Span<byte> header, int length, OuterFields outer, int packets)
    {
        BinaryPrimitives.WriteUInt16BigEndian(header[Ipv4Header.TotalLengthOffset..], (ushort)length);
        ulong sum = (ulong)_ipv4TemplateSum + (ushort)length;
        if (outer != _outer)
        {
            ushort identification = outer.DontFragment ? (ushort)0 : Identifications.Take(Target.Endpoint, packets);
            outer.WriteIpv4(header);
            BinaryPrimitives.WriteUInt16BigEndian(header[Ipv4Header.IdentificationOffset..], identification);
            sum += (ushort)~InternetChecksum.Fold(_outer.Ipv4Sum) + outer.Ipv4Sum + identification;
        }

        ushort checksum = (ushort)~InternetChecksum.Fold(sum);
        BinaryPrimitives.WriteUInt16BigEndian(header[Ipv4Header.ChecksumOffset..], checksum);
    }

    private void FinishIpv6(Span<byte> header, int payloadLength, OuterFields outer)
    {
        BinaryPrimitives.WriteUInt16BigEndian(header[Ipv6Header.PayloadLengthOffset..], (ushort)payloadLength);
        if (outer != _outer)
        {
            outer.WriteIpv6(header);
        }
    }

    // The IPv4 total length counts the IP header, the IPv6 payload length does not; the UDP length is bounded by both.
    private int LargestInnerOf(bool isIpv4)
    {
        int udp = Target.UdpPort == 0 ? 0 : UdpView.HeaderLength;
        int counted = isIpv4 ? Ipv4Header.Length : 0;
        return ushort.MaxValue - counted - udp - (_template.Length - _greOffset);
    }

    // The sum of an IPv4 header whose total length and checksum are 0, which each packet's checksum begins with.
    private static ushort WriteOuterIpHeader(PeerSettings settings, byte protocol, OuterFields outer, Span<byte> header)
    {
        if (!settings.Endpoint.IsIpv4)
        {
            new Ipv6Header(settings.Local, settings.Endpoint, protocol, PayloadLength: 0, outer.TimeToLive, outer.TrafficClass).Write(header);
            return 0;
        }

        new Ipv4Header(settings.Local, settings.Endpoint, protocol, PayloadLength: 0, outer.TimeToLive, outer.TrafficClass).Write(header);
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
    /// <summary>What the outer IP headers say beside addresses and protocol.</summary>
    public OuterHeaderOptions Outer { get; init; } = OuterHeaderOptions.Default;

    /// <summary>
    /// Whether its packets must have a checksum just where <see cref="UsesChecksum"/> says so, and a sequence number where <see cref="UsesSequence"/> does.
    /// </summary>
    public bool IsStrict { get; init; }

    /// <summary>The bytes that encapsulation puts before an inner packet, all headers included, whoever writes them.</summary>
    public int Overhead => OverheadOf(!Endpoint.IsIpv6, KeyOut is not null, UsesChecksum, UsesSequence, UdpPort != 0);

    /// <summary>The bytes that encapsulation would put before an inner packet.</summary>
    public static int OverheadOf(bool isIpv4, bool hasKey, bool usesChecksum, bool usesSequence, bool usesUdp = false) =>
        (isIpv4 ? Ipv4Header.Length : Ipv6Header.Length) + (usesUdp ? UdpView.HeaderLength : 0) +
        new GreHeader(EtherType.Ipv4, usesChecksum, hasKey ? 0u : null, usesSequence ? 0u : null).Length;
}
