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

    private readonly PinnedPacketMemory _memory = new(MostPerBatch * IcmpMessage.MaxErrorIpv6);
    private readonly GatherBatch _answers = new(MostPerBatch, MostPerBatch);
    private RateLimit _limit = new(MostPerSecond, 1000);

    /// <summary>Prepares an answer; nothing where there may be none, or the limit is reached.</summary>
    /// <param name="packet">The packet, its header checked.</param>
    /// <param name="source">Where the answer comes from.</param>
    /// <param name="mtu">What would fit, in bytes.</param>
    public void Answer(ReadOnlySpan<byte> packet, InetAddress source, int mtu)
    {
        bool mayAnswer = QuotedPacket.TryParse(packet, out QuotedPacket offending) && offending.MayCauseError;
        if (!mayAnswer || _answers.Count == MostPerBatch || !_limit.TryTake(Environment.TickCount64))
        {
            return;
        }

        int offset = _answers.Count * IcmpMessage.MaxErrorIpv6;
        int length = IcmpMessage.WriteTooBig(_memory.Slice(offset, IcmpMessage.MaxErrorIpv6), source, offending, mtu);
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
}
