using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// The answers to packets that are too large for their peer: Fragmentation Needed and Packet Too Big, written back to the TUN device
/// as if a router had sent them. Thread rule: used by one worker; allocates nothing.
/// </summary>
internal sealed class TooBigAnswers(ITunDevice tun)
{
    private const int MostPerBatch = 8;

    // RFC 4443 section 2.4 f demands a limit; a sender that hears one answer in a hundred still learns.
    private const int MostPerSecond = 200;

    private readonly PinnedPacketMemory _memory = new(MostPerBatch * IcmpMessage.MaxPacketTooBig);
    private readonly GatherBatch _answers = new(MostPerBatch, MostPerBatch);
    private long _second;
    private int _sentThisSecond;

    /// <summary>Prepares an answer to an IPv4 packet; nothing where an error may not be answered with an error, or the limit is reached.</summary>
    public void Answer(in Ipv4View offending, InetAddress source, int mtu)
    {
        bool isError = offending.Protocol == IpProtocol.Icmp && offending.Payload.Length > 0 && IcmpMessage.IsErrorIpv4(offending.Payload[0]);
        bool mayNotAnswer = isError || offending.FragmentOffset != 0 || !IsSingleHostIpv4(offending.Source.Ipv4) || !source.IsIpv4;
        if (mayNotAnswer || !MayAnswer(out int offset))
        {
            return;
        }

        int length = IcmpMessage.WriteFragmentationNeeded(_memory.Slice(offset, IcmpMessage.MaxPacketTooBig), source, offending, mtu);
        _answers.Add(new Piece(_memory, offset, length));
    }

    /// <summary>Prepares an answer to an IPv6 packet; nothing where an error may not be answered with an error, or the limit is reached.</summary>
    public void Answer(in Ipv6View offending, InetAddress source, int mtu)
    {
        bool isError = offending.NextHeader == IpProtocol.Icmpv6 && offending.Payload.Length > 0 && IcmpMessage.IsErrorIpv6(offending.Payload[0]);
        bool mayNotAnswer = isError || !IsSingleHostIpv6(offending.Source.Bits) || !source.IsIpv6;
        if (mayNotAnswer || !MayAnswer(out int offset))
        {
            return;
        }

        int length = IcmpMessage.WritePacketTooBig(_memory.Slice(offset, IcmpMessage.MaxPacketTooBig), source, offending, mtu);
        _answers.Add(new Piece(_memory, offset, length));
    }

    /// <summary>Hands the prepared answers to the TUN device.</summary>
    public void Flush()
    {
        if (_answers.Count > 0)
        {
            tun.Write(_answers);
            _answers.Clear();
        }
    }

    // Errors go to single hosts only: not to this network, loopback, multicast, reserved or broadcast (RFC 1122 section 3.2.2).
    private static bool IsSingleHostIpv4(uint source) => source >> 24 is > 0 and < 224 and not 127;

    // Nor to the unspecified address, loopback or multicast (RFC 4443 section 2.4 e.6).
    private static bool IsSingleHostIpv6(UInt128 source) => source > UInt128.One && source >> 120 != 0xff;

    private bool MayAnswer(out int offset)
    {
        offset = _answers.Count * IcmpMessage.MaxPacketTooBig;
        long second = Environment.TickCount64 / 1000;
        if (second != _second)
        {
            _second = second;
            _sentThisSecond = 0;
        }

        return _answers.Count < MostPerBatch && _sentThisSecond++ < MostPerSecond;
    }
}
