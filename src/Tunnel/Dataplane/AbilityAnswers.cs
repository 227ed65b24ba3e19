using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>Tells peers what this host can receive. Thread rule: used by one worker; allocates nothing.</summary>
internal sealed class AbilityAnswers(IUnderlay underlay)
{
    private readonly GatherBatch _send = new(1, 1);
    private readonly PinnedPacketMemory _memory = new(PacketBatch.Headroom + AbilitiesMessage.Length);

    /// <summary>Sends an answer, unless the peer has had one a moment ago. What becomes of it is nobody's concern: the peer asks again.</summary>
    /// <param name="peer">Who gets it.</param>
    /// <param name="abilities">What it is told.</param>
    public void Tell(Peer peer, Abilities abilities)
    {
        if (!peer.IsReady || !peer.Target.Abilities.TryTell(Environment.TickCount64))
        {
            return;
        }

        int length = peer.Overhead + AbilitiesMessage.Length;
        peer.WriteMessage(_memory.Slice(0, length), new AbilitiesMessage(abilities, IsQuestion: false));
        _send.Clear();
        int index = _send.Add(new Piece(_memory, 0, length), target: peer.Target);
        _send[index].Outer = peer.MessageFields;
        underlay.Send(_send);
    }
}
