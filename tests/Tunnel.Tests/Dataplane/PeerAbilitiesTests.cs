using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

public sealed class PeerAbilitiesTests
{
    private readonly PeerAbilities _abilities = new();

    [Fact]
    public void Nothing_is_known_before_the_peer_has_said_it()
    {
        Assert.False(_abilities.Has(Abilities.TcpSuperPackets, 0));
        _abilities.Hear(Abilities.TcpSuperPackets, 0);
        Assert.True(_abilities.Has(Abilities.TcpSuperPackets, 0));
        Assert.False(_abilities.Has(Abilities.UdpSuperPackets, 0));
    }

    [Fact]
    public void What_was_said_holds_for_half_a_minute_and_the_last_word_counts()
    {
        _abilities.Hear(Abilities.TcpSuperPackets | Abilities.UdpSuperPackets, 1000);
        Assert.True(_abilities.Has(Abilities.UdpSuperPackets, 30_999));
        Assert.False(_abilities.Has(Abilities.UdpSuperPackets, 31_000));
        _abilities.Hear(Abilities.TcpSuperPackets, 31_000);
        Assert.False(_abilities.Has(Abilities.UdpSuperPackets, 31_000));
        Assert.True(_abilities.Has(Abilities.TcpSuperPackets, 31_000));
    }

    [Fact]
    public void Who_never_answers_is_asked_ever_less_often()
    {
        var asked = new List<long>();
        for (long now = 0; now < 300_000; now += 100)
        {
            if (_abilities.TryAsk(now))
            {
                asked.Add(now / 1000);
            }
        }

        Assert.Equal([0, 1, 3, 7, 15, 31, 63, 127, 191, 255], asked);
    }

    [Fact]
    public void Who_answers_is_asked_again_before_the_answer_is_too_old()
    {
        Assert.True(_abilities.TryAsk(0));
        _abilities.Hear(Abilities.TcpSuperPackets, 5);
        Assert.False(_abilities.TryAsk(10_004));
        Assert.True(_abilities.TryAsk(10_005));

        // A question may get lost.
        Assert.False(_abilities.TryAsk(11_000));
        Assert.True(_abilities.TryAsk(11_005));
        _abilities.Hear(Abilities.TcpSuperPackets, 11_006);
        Assert.False(_abilities.TryAsk(21_005));
        Assert.True(_abilities.TryAsk(21_006));
    }

    [Fact]
    public void Answers_are_at_most_ten_a_second()
    {
        Assert.Equal(10, Enumerable.Range(0, 1000).Count(now => _abilities.TryTell(now)));
    }
}
