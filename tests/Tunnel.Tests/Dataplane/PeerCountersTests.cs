using Tunnel.Dataplane;

namespace Tunnel.Tests.Dataplane;

public sealed class PeerCountersTests
{
    [Fact]
    public void Counts_each_way_and_each_reason_apart()
    {
        var counters = new PeerCounters();
        counters.CountSent(1, 100);
        counters.CountSent(1, 50);
        counters.CountReceived(1, 7, now: 1234);
        Assert.Equal((2, 150, 1, 7, 1234), (
            counters.SentPackets, counters.SentBytes, counters.ReceivedPackets, counters.ReceivedBytes, counters.LastReceived));

        DropReason[] reasons = Enum.GetValues<DropReason>();
        Assert.Equal(reasons.Length, PeerCounters.ReasonCount);
        foreach (DropReason reason in reasons)
        {
            for (int i = 0; i <= (int)reason; i++)
            {
                counters.CountDrop(reason);
            }
        }

        Assert.All(reasons, reason => Assert.Equal((int)reason + 1, counters.Drops(reason)));
        Assert.Equal(reasons.Sum(r => (long)r + 1), counters.TotalDrops);
    }

    // Counters are arrays indexed by reason.
    [Fact]
    public void Reasons_are_numbered_from_0_without_a_gap() =>
        Assert.Equal(Enumerable.Range(0, PeerCounters.ReasonCount), Enum.GetValues<DropReason>().Select(r => (int)r));
}
