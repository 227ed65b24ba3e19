using System.Diagnostics;
using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// Sends messages to peers' daemons, one at a time: they are few. What becomes of one is nobody's concern, since whoever waits for an answer
/// asks again. Thread rule: used by one worker; allocates nothing.
/// </summary>
internal sealed class PeerMessages
{
    /// <summary>The longest question in bytes: as long as the longest inner packet.</summary>
    private const int Longest = ushort.MaxValue;

    // What a flood of questions may cost: answers in a window of so many milliseconds.
    private const int MostAnswers = 256;
    private const int Window = 100;

    private readonly IUnderlay _underlay;
    private readonly GatherBatch _send = new(1, 1);
    private readonly PinnedPacketMemory _memory;
    private readonly HandoverRing<ProbeRequest>? _questions;
    private RateLimit _limit = new(MostAnswers, Window);

    /// <summary>Prepares to send.</summary>
    /// <param name="underlay">The worker's underlay.</param>
    /// <param name="questions">The questions to send, which may be long; null where there are none.</param>
    public PeerMessages(IUnderlay underlay, HandoverRing<ProbeRequest>? questions = null)
    {
        _underlay = underlay;
        _questions = questions;
        _memory = new PinnedPacketMemory(PacketBatch.Headroom + (questions is null ? PacketBatch.Headroom : Longest));
    }

    /// <summary>Tells what this host can receive, unless the peer has had an answer a moment ago.</summary>
    /// <param name="peer">Who gets it.</param>
    /// <param name="abilities">What it is told.</param>
    public void Tell(Peer peer, Abilities abilities)
    {
        if (peer.IsReady && peer.Target.Abilities.TryTell(Environment.TickCount64))
        {
            new AbilitiesMessage(abilities, IsQuestion: false).Write(Body(peer, AbilitiesMessage.Length));
            Send(peer, AbilitiesMessage.Length);
        }
    }

    /// <summary>Answers a question.</summary>
    /// <param name="peer">Who has asked.</param>
    /// <param name="question">The question.</param>
    /// <param name="length">Its length as it arrived, in bytes.</param>
    public void Answer(Peer peer, EchoMessage question, int length)
    {
        if (peer.IsReady && _limit.TryTake(Environment.TickCount64))
        {
            (question with { IsReply = true, ReceivedLength = (ushort)length, Hearing = null }).Write(Body(peer, EchoMessage.Length));
            Send(peer, EchoMessage.Length);
        }
    }

    /// <summary>Sends back what a peer has sent for that: a whole IPv4 packet addressed to its endpoint.</summary>
    /// <param name="peer">Who has sent it.</param>
    /// <param name="packet">The packet.</param>
    public void Return(Peer peer, in Piece packet)
    {
        // A packet that is to go by UDP has no IP header of ours.
        if (peer.IsReady && peer.Target.UdpPort == 0 && _limit.TryTake(Environment.TickCount64))
        {
            _send.Clear();
            _send.Add(packet, target: peer.Target);
            _underlay.Send(_send);
        }
    }

    /// <summary>Asks the questions that wait.</summary>
    public void Ask()
    {
        while (_questions is not null && _questions.TryTake(out ProbeRequest request))
        {
            Ask(request);
        }
    }

    private void Ask(in ProbeRequest request)
    {
        Peer peer = request.Peer;
        if (!peer.IsReady || peer.Target.Refuses)
        {
            return;
        }

        var question = new EchoMessage(IsReply: false, 0, request.Token, Stopwatch.GetTimestamp()) { Hearing = HearingOf(peer) };
        if (request.Kind == ProbeKind.Echo)
        {
            int length = Math.Clamp(request.Length, EchoMessage.Length, peer.LargestInner);
            question.Write(Body(peer, length));
            Send(peer, length);
        }
        else if (request.Kind == ProbeKind.RawAbilities)
        {
            new AbilitiesMessage(Abilities.TcpSuperPackets, IsQuestion: false).Write(Body(peer, AbilitiesMessage.Length));
            Send(peer, AbilitiesMessage.Length);
        }
        else
        {
            PeerSettings settings = peer.Settings;
            var gre = new GreHeader(EtherType.Keepalive, HasChecksum: false, settings.KeyIn);
            var ip = new Ipv4Header(settings.Endpoint, settings.Local, IpProtocol.Gre, gre.Length + EchoMessage.Length, DontFragment: false);
            int length = Ipv4Header.Length + gre.Length + EchoMessage.Length;
            Span<byte> inner = Body(peer, length);
            ip.Write(inner);
            gre.Write(inner[Ipv4Header.Length..]);
            question.Write(inner[(Ipv4Header.Length + gre.Length)..]);
            Send(peer, length, EtherType.Ipv4);
        }
    }

    // What this host hears of the peer, which may want to know why there are no answers.
    private static Hearing HearingOf(Peer peer)
    {
        long now = Environment.TickCount64;
        long last = peer.LastHeard;
        long seconds = last == 0 ? Hearing.Never : (now - last) / 1000;
        return new Hearing((byte)Math.Min(seconds, Hearing.Never), peer.Target.HasWrongKey(now));
    }

    private Span<byte> Body(Peer peer, int length) => _memory.Slice(peer.Overhead, length);

    private void Send(Peer peer, int length, ushort protocolType = EtherType.Experimental)
    {
        int total = peer.Overhead + length;
        peer.WriteOuterHeaders(_memory.Slice(0, total), protocolType, peer.MessageFields);
        _send.Clear();
        _send.Add(new Piece(_memory, 0, total), target: peer.Target);
        _send[0].Outer = peer.MessageFields;
        _underlay.Send(_send);
    }
}
