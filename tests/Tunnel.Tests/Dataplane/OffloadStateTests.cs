using Tunnel.Dataplane;

namespace Tunnel.Tests.Dataplane;

public sealed class OffloadStateTests
{
    [Fact]
    public void WhatIsRefusedIsOffForGoodAndToldOnce()
    {
        var told = new List<(Offloads, string)>();
        var state = new OffloadState(Offloads.TunTcp | Offloads.UdpGro) { OnRefused = (offload, reason) => told.Add((offload, reason)) };
        state.Refuse(Offloads.UdpGro, "first");
        state.Refuse(Offloads.UdpGro, "second");
        state.Refuse(Offloads.TunUdp, "was never on");
        Assert.Equal(Offloads.TunTcp, state.Active);
        Assert.False(state.Has(Offloads.UdpGro));
        Assert.Equal([(Offloads.UdpGro, "first")], told);
        Assert.Equal([(Offloads.UdpGro, "first")], state.Refused);
    }

    [Fact]
    public void ThreadsThatFindOutTogetherTellOnce()
    {
        int told = 0;
        var state = new OffloadState(Offloads.UdpSegment) { OnRefused = (_, _) => Interlocked.Increment(ref told) };
        Parallel.For(0, 64, _ => state.Refuse(Offloads.UdpSegment, "refused"));
        Assert.Equal(1, told);
        Assert.Single(state.Refused);
    }
}
