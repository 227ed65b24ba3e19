using Tunnel.Linux;
using Tunnel.Wire;

namespace Tunnel.NetworkTests.Host;

public sealed class NetlinkMonitorTests
{
    private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(10);

    // Carrier and operational state of a new device are told a little later than it is set up.
    private static readonly TimeSpan Silence = TimeSpan.FromMilliseconds(300);

    [SkippableTheory]
    [InlineData("route del 172.17.52.0/24")]
    [InlineData("route del fd00:52::/64")]
    [InlineData("route add 172.17.53.0/24 dev d1")]
    [InlineData("route add fd00:53::/64 dev d1")]
    [InlineData("address del 10.0.201.1/24 dev d0")]
    [InlineData("address add fd00:201::2/128 dev d0 noprefixroute")]
    [InlineData("link set d0 mtu 1400")]
    [InlineData("link del d1")]
    [InlineData("link set p1 name p2")]
    public async Task WhatSomebodyElseChangesIsNoticed(string change)
    {
        using HostNamespace space = Prepare();
        using HostNetwork host = space.Run(() => new HostNetwork());
        await Quiet(host);
        Task noticed = host.WaitForChangeAsync(CancellationToken.None);
        Assert.False(noticed.IsCompleted);

        space.Ip(change);
        await noticed.WaitAsync(Deadline);
    }

    [SkippableTheory]
    [InlineData("address add 10.9.9.1/24 dev d1")]
    [InlineData("address add fd00:99::1/64 dev d1")]
    public async Task AnAddressThatBringsNoRouteIsNoticed(string change)
    {
        using HostNamespace space = Prepare();
        using HostNetwork host = space.Run(() => new HostNetwork());
        space.Ip("link set d1 down");
        await Quiet(host);
        Task noticed = host.WaitForChangeAsync(CancellationToken.None);

        space.Ip(change);
        await noticed.WaitAsync(Deadline);
    }

    [SkippableTheory]
    [InlineData("172.17.52.0/24")]
    [InlineData("fd00:52::/64")]
    public async Task ALinkThatGoesDownTakesItsRoutesAlongAndIsNoticed(string destination)
    {
        using HostNamespace space = Prepare();
        using HostNetwork host = space.Run(() => new HostNetwork());
        await Quiet(host);
        Task noticed = host.WaitForChangeAsync(CancellationToken.None);
        Assert.Contains(host.GetRoutes(), route => route.Destination == Prefix(destination));

        space.Ip("link set d0 down");
        await noticed.WaitAsync(Deadline);
        while (host.GetRoutes().Any(route => route.Destination == Prefix(destination)))
        {
            await host.WaitForChangeAsync(CancellationToken.None).WaitAsync(Deadline);
        }
    }

    [SkippableFact]
    public async Task AChangeBetweenTwoCallsIsRemembered()
    {
        using HostNamespace space = Prepare();
        using HostNetwork host = space.Run(() => new HostNetwork());
        await Quiet(host);
        space.Ip("route del 172.17.52.0/24");
        await host.WaitForChangeAsync(CancellationToken.None).WaitAsync(Deadline);
        await Quiet(host);
    }

    [SkippableFact]
    public async Task ABurstIsToldFewTimes()
    {
        using HostNamespace space = Prepare();
        using HostNetwork host = space.Run(() => new HostNetwork());
        await Quiet(host);
        space.IpBatch(Enumerable.Range(0, 1000).Select(i => $"route add 172.20.{i / 250}.{i % 250} dev d1"));
        Assert.InRange(await Quiet(host), 1, 10);
    }

    [SkippableFact]
    public async Task LostNotificationsCountAsAChange()
    {
        using HostNamespace space = Prepare();
        using NetlinkMonitor monitor = space.Run(() => new NetlinkMonitor(receiveBuffer: 1));

        // Nobody reads yet, so the queue of the smallest size overflows.
        space.IpBatch(Enumerable.Range(0, 1000).Select(i => $"route add 172.20.{i / 250}.{i % 250} dev d1"));
        monitor.Start();
        await monitor.WaitForChangeAsync(CancellationToken.None).WaitAsync(Deadline);
        Assert.InRange(monitor.Overflows, 1, 1000);

        // And what comes after is heard.
        await Quiet(monitor.WaitForChangeAsync);
        Task noticed = monitor.WaitForChangeAsync(CancellationToken.None);
        space.Ip("route del 172.17.52.0/24");
        await noticed.WaitAsync(Deadline);
    }

    [SkippableFact]
    public async Task AnotherNamespaceIsNotHeard()
    {
        using HostNamespace space = Prepare();
        using HostNamespace other = Prepare();
        using HostNetwork host = space.Run(() => new HostNetwork());
        await Quiet(host);
        other.Ip("route del 172.17.52.0/24");
        Assert.Equal(0, await Quiet(host));
    }

    [SkippableFact]
    public async Task ACancelledWaitLosesNothing()
    {
        using HostNamespace space = Prepare();
        using HostNetwork host = space.Run(() => new HostNetwork());
        await Quiet(host);
        using var cancelled = new CancellationTokenSource();
        Task wait = host.WaitForChangeAsync(cancelled.Token);
        await cancelled.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => wait.WaitAsync(Deadline));

        space.Ip("route del 172.17.52.0/24");
        await host.WaitForChangeAsync(CancellationToken.None).WaitAsync(Deadline);
    }

    [SkippableFact]
    public async Task DisposeEndsTheWait()
    {
        using HostNamespace space = Prepare();
        HostNetwork host = space.Run(() => new HostNetwork());
        await Quiet(host);
        Task wait = host.WaitForChangeAsync(CancellationToken.None);
        host.Dispose();
        await Assert.ThrowsAsync<ObjectDisposedException>(() => wait.WaitAsync(Deadline));
        host.Dispose();
    }

    private static HostNamespace Prepare()
    {
        HostNamespace space = new HostNamespace().WithDevices();
        space.Ip("address add 10.0.201.1/24 dev d0");
        space.Ip("route add 172.17.52.0/24 dev d0");
        space.Ip("route add fd00:52::/64 dev d0");
        return space;
    }

    private static Task<int> Quiet(HostNetwork host) => Quiet(host.WaitForChangeAsync);

    // Waits until nothing has been told for a while, and returns how often something was.
    private static async Task<int> Quiet(Func<CancellationToken, Task> wait)
    {
        for (int told = 0; ; told++)
        {
            using var silence = new CancellationTokenSource(Silence);
            try
            {
                await wait(silence.Token);
            }
            catch (OperationCanceledException)
            {
                return told;
            }
        }
    }

    private static IpPrefix Prefix(string text) => IpPrefix.TryParse(text, out IpPrefix prefix) ? prefix : throw new FormatException(text);
}
