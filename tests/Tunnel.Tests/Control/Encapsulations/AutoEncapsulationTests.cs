using Tunnel.Control.Encapsulations;

namespace Tunnel.Tests.Control.Encapsulations;

public sealed class AutoEncapsulationTests
{
    [Fact]
    public void Three_answers_in_a_row_lead_without_a_tunnel_and_three_misses_back()
    {
        var auto = new AutoEncapsulation(now: 1_000);
        Assert.True(auto.IsDirectDue(1_000));
        auto.HearDirect(answered: true, 1_000);
        auto.HearDirect(answered: true, 1_200);
        auto.HearDirect(answered: false, 1_400);
        Assert.False(auto.IsDirect);

        for (int i = 0; i < 3; i++)
        {
            Assert.False(auto.IsDirect);
            auto.HearDirect(answered: true, 10_000 + (i * 200));
        }

        Assert.True(auto.IsDirect);
        auto.HearDirect(answered: false, 12_000);
        auto.HearDirect(answered: false, 12_200);
        auto.HearDirect(answered: true, 12_400);
        auto.HearDirect(answered: false, 14_400);
        auto.HearDirect(answered: false, 14_600);
        Assert.True(auto.IsDirect);
        auto.HearDirect(answered: false, 14_800);
        Assert.False(auto.IsDirect);
    }

    [Fact]
    public void It_asks_soon_to_be_sure_often_while_it_matters_and_seldom_after_a_failure()
    {
        var auto = new AutoEncapsulation(now: 0);
        auto.HearDirect(answered: false, 0);
        Assert.False(auto.IsDirectDue(4_999));
        Assert.True(auto.IsDirectDue(5_000));
        auto.HearDirect(answered: true, 5_000);
        Assert.True(auto.IsDirectDue(5_200));
        auto.HearDirect(answered: true, 5_200);
        auto.HearDirect(answered: true, 5_400);
        Assert.False(auto.IsDirectDue(7_399));
        Assert.True(auto.IsDirectDue(7_400));
        auto.HearDirect(answered: false, 7_400);
        Assert.True(auto.IsDirectDue(7_600));
        auto.HearDirect(answered: false, 7_600);
        auto.HearDirect(answered: false, 7_800);
        Assert.False(auto.IsDirectDue(37_799));
        Assert.True(auto.IsDirectDue(37_800));
    }

    [Fact]
    public void Udp_is_for_silence_only_and_only_where_it_is_allowed()
    {
        var auto = new AutoEncapsulation(now: 0);
        auto.LookAtTunnel(isHeard: false, allowsUdp: false, 60_000);
        Assert.False(auto.IsUdp);
        auto.LookAtTunnel(isHeard: true, allowsUdp: true, 69_999);
        auto.LookAtTunnel(isHeard: false, allowsUdp: true, 79_998);
        Assert.False(auto.IsUdp);
        auto.LookAtTunnel(isHeard: false, allowsUdp: true, 79_999);
        Assert.True(auto.IsUdp);
        auto.LookAtTunnel(isHeard: true, allowsUdp: false, 80_000);
        Assert.False(auto.IsUdp);
    }

    // Whoever begins when: a host that tries one and the other is at GRE-in-UDP for more than half of the time.
    [Theory]
    [InlineData(0)]
    [InlineData(5_000)]
    [InlineData(10_000)]
    [InlineData(20_000)]
    [InlineData(33_000)]
    public void Two_hosts_that_try_both_in_turn_meet_at_udp(int later)
    {
        var one = new AutoEncapsulation(now: 0);
        var two = new AutoEncapsulation(now: later);
        int together = 0;
        for (int now = later; now < later + 40_000; now += 100)
        {
            one.LookAtTunnel(isHeard: false, allowsUdp: true, now);
            two.LookAtTunnel(isHeard: false, allowsUdp: true, now);
            together += one.IsUdp && two.IsUdp ? 100 : 0;
        }

        Assert.InRange(together, 10_000, 40_000);
    }

    [Fact]
    public void Plain_gre_is_tried_beside_udp_and_preferred()
    {
        var auto = new AutoEncapsulation(now: 0);
        auto.LookAtTunnel(isHeard: false, allowsUdp: true, 10_000);
        Assert.False(auto.IsPlainDue(69_999));
        Assert.True(auto.IsPlainDue(70_000));
        auto.HearPlain(answered: false, 70_000);
        Assert.True(auto.IsUdp);
        Assert.False(auto.IsPlainDue(129_999));
        auto.HearPlain(answered: true, 130_000);
        Assert.False(auto.IsUdp);
        Assert.False(auto.IsPlainDue(1_000_000));
    }
}
