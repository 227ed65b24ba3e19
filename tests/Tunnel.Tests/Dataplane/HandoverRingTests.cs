using Tunnel.Dataplane;

namespace Tunnel.Tests.Dataplane;

public sealed class HandoverRingTests
{
    [Fact]
    public void Hands_over_in_order_and_refuses_what_finds_no_room()
    {
        var ring = new HandoverRing<int>(4);
        Assert.Equal([true, true, true, true, false], Enumerable.Range(0, 5).Select(ring.TryAdd));
        for (int i = 0; i < 4; i++)
        {
            Assert.True(ring.TryTake(out int item));
            Assert.Equal(i, item);
        }

        Assert.False(ring.TryTake(out _));
        Assert.True(ring.TryAdd(9));
    }

    [Fact]
    public void Two_threads_lose_nothing()
    {
        const int count = 200_000;
        var ring = new HandoverRing<long>(64);
        var adder = new Thread(() =>
        {
            for (int i = 0; i < count; i++)
            {
                while (!ring.TryAdd(i))
                {
                    Thread.Yield();
                }
            }
        });
        adder.Start();
        for (int i = 0; i < count; i++)
        {
            long item;
            while (!ring.TryTake(out item))
            {
                Thread.Yield();
            }

            Assert.Equal(i, item);
        }

        adder.Join();
        Assert.False(ring.TryTake(out _));
    }
}
