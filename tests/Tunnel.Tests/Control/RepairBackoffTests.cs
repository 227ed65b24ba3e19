using Tunnel.Control;

namespace Tunnel.Tests.Control;

public sealed class RepairBackoffTests
{
    [Fact]
    public void ThreeAtOnceThenPausesThatDoubleUpToAMinute()
    {
        var clock = new Clock();
        var backoff = new RepairBackoff(clock);
        for (int i = 0; i < 3; i++)
        {
            Assert.True(backoff.MayRepair("route", out _));
        }

        foreach (int seconds in (int[])[1, 2, 4, 8, 16, 32, 60, 60])
        {
            Assert.False(backoff.MayRepair("route", out TimeSpan wait));
            Assert.Equal(TimeSpan.FromSeconds(seconds), wait);
            clock.Advance(wait);
            Assert.True(backoff.MayRepair("route", out _));
        }
    }

    [Fact]
    public void WhatIsLeftAloneIsForgiven()
    {
        var clock = new Clock();
        var backoff = new RepairBackoff(clock);
        for (int i = 0; i < 3; i++)
        {
            backoff.MayRepair("route", out _);
        }

        clock.Advance(TimeSpan.FromMinutes(3));
        Assert.True(backoff.MayRepair("route", out _));
        Assert.True(backoff.MayRepair("route", out _));
        Assert.Equal(2, backoff.Repairs("route"));
    }

    [Fact]
    public void ThingsAreJudgedApart()
    {
        var backoff = new RepairBackoff(new Clock());
        for (int i = 0; i < 3; i++)
        {
            backoff.MayRepair("one", out _);
        }

        Assert.False(backoff.MayRepair("one", out _));
        Assert.True(backoff.MayRepair("other", out _));
    }

    private sealed class Clock : TimeProvider
    {
        private DateTimeOffset _now = new(2026, 1, 1, 0, 0, 0, TimeSpan.Zero);

        public void Advance(TimeSpan time) => _now += time;

        public override DateTimeOffset GetUtcNow() => _now;
    }
}
