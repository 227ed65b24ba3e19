using Tunnel.Control.Encapsulations;

namespace Tunnel.Tests.Control.Encapsulations;

public sealed class TunnelChoiceTests
{
    [Fact]
    public void Udp_is_for_silence_only_and_only_where_it_is_allowed()
    {
        var choice = new TunnelChoice(now: 0);
        choice.Look(isHeard: false, allowsUdp: false, 60_000);
        Assert.False(choice.IsUdp);
        choice.Look(isHeard: true, allowsUdp: true, 69_999);
        choice.Look(isHeard: false, allowsUdp: true, 79_998);
        Assert.False(choice.IsUdp);
        choice.Look(isHeard: false, allowsUdp: true, 79_999);
        Assert.True(choice.IsUdp);
        choice.Look(isHeard: true, allowsUdp: false, 80_000);
        Assert.False(choice.IsUdp);
    }

    // Whoever begins when: a host that tries one and the other is at GRE-in-UDP for more than half of the time.
    [Theory]
    [InlineData(0)]
    [InlineData(5_000)]
    [InlineData(10_000)]
    [InlineData(20_000)]
    [InlineData(33_000)]
    [InlineData(3_600_000)]
    public void Two_hosts_that_try_both_in_turn_meet_at_udp(int later)
    {
        var one = new TunnelChoice(now: 0);
        var two = new TunnelChoice(now: later);
        int longest = 0;
        int together = 0;
        for (int now = 0; now < later + 120_000; now += 100)
        {
            one.Look(isHeard: false, allowsUdp: true, now);
            if (now >= later)
            {
                two.Look(isHeard: false, allowsUdp: true, now);
                together = one.IsUdp && two.IsUdp ? together + 100 : 0;
                longest = Math.Max(longest, together);
            }
        }

        Assert.InRange(longest, 10_000, 120_000);
    }

    [Fact]
    public void What_is_in_vain_is_tried_ever_less_often()
    {
        var choice = new TunnelChoice(now: 0);
        var changes = new List<int>();
        for (int now = 0; now < 1_000_000; now += 1_000)
        {
            bool before = choice.IsUdp;
            choice.Look(isHeard: false, allowsUdp: true, now);
            if (before != choice.IsUdp)
            {
                changes.Add(now / 1_000);
            }
        }

        Assert.Equal([10, 40, 60, 120, 160, 280, 340, 520, 580, 760, 820], changes);
    }

    [Fact]
    public void Plain_gre_is_tried_beside_udp_and_preferred()
    {
        var choice = new TunnelChoice(now: 0);
        choice.Look(isHeard: false, allowsUdp: true, 10_000);
        Assert.False(choice.IsPlainDue(69_999));
        Assert.True(choice.IsPlainDue(70_000));
        choice.HearPlain(answered: false, 70_000);
        Assert.True(choice.IsUdp);
        Assert.False(choice.IsPlainDue(129_999));
        choice.HearPlain(answered: true, 130_000);
        Assert.False(choice.IsUdp);
        Assert.False(choice.IsPlainDue(1_000_000));
    }
}
