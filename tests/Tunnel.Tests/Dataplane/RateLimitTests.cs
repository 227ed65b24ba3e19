using Tunnel.Dataplane;

namespace Tunnel.Tests.Dataplane;

public sealed class RateLimitTests
{
    [Fact]
    public void GivesSoManyInEachWindow()
    {
        var limit = new RateLimit(most: 3, window: 100);
        int[] taken = [.. new long[] { 1000, 1099, 1100, 5000 }.Select(now => Enumerable.Range(0, 10).Count(_ => limit.TryTake(now)))];
        Assert.Equal([3, 0, 3, 3], taken);
    }
}
