using System.Diagnostics;
using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Control.Monitoring;

public sealed class NetworkMonitorTests
{
    // Twice a second for as long as the daemon runs.
    [Fact]
    public async Task ALookAtQuietPeersAllocatesNothing()
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync("""
            peers:
              vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24]}
              vm3: {endpoint: 192.168.40.13, subnets: [172.17.53.0/24]}
            """);
        await ControlFixture.EventuallyAsync(() =>
        {
            while (fixture.Probes.Requests.TryTake(out ProbeRequest question))
            {
                fixture.Probes.Replies[0].TryAdd(new ProbeReply(question.Peer.Target, question.Token, question.Length, RoundTrip: 1));
            }

            return fixture.Network.DescribePeer("vm2").State == "up" && fixture.Network.DescribePeer("vm3").State == "up";
        });
        Assert.Equal(0, Allocations.InSteadyState(() => fixture.Network.Monitor.Turn()));
    }

    [Fact]
    public async Task ANewKeepaliveForgetsNothing()
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync("""
            peers:
              vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24], keepalive: 100ms}
            """);
        await ControlFixture.EventuallyAsync(() =>
        {
            while (fixture.Probes.Requests.TryTake(out ProbeRequest question))
            {
                if (question.Length + question.Peer.Settings.Overhead <= 1400)
                {
                    fixture.Probes.Replies[0].TryAdd(new ProbeReply(question.Peer.Target, question.Token, Math.Max(20, question.Length), RoundTrip: 1));
                }
            }

            return fixture.Network.DescribePeer("vm2").Gmtu is > 1300 and <= 1400;
        });
        int known = fixture.Network.DescribePeer("vm2").Gmtu;
        await fixture.ReloadAsync("""
            peers:
              vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24], keepalive: 5s}
            """);
        fixture.Network.Monitor.Turn();
        Assert.Equal("5s", fixture.Network.DescribePeer("vm2").Keepalive);
        Assert.Equal(known, fixture.Network.DescribePeer("vm2").Gmtu);
    }

    [Fact]
    public async Task NoQuestionCountsAsLostThatWasNeverSent()
    {
        const int Count = 1500;
        await using ControlFixture fixture = await ControlFixture.StartAsync("peers:\n" + string.Concat(Enumerable.Range(0, Count).Select(i =>
            $"  p{i}: {{endpoint: 10.9.{i / 250}.{(i % 250) + 1}, subnets: [10.{20 + (i / 250)}.{i % 250}.0/24], keepalive: 2s}}\n")));
        for (var watch = Stopwatch.StartNew(); watch.Elapsed < TimeSpan.FromSeconds(5); await Task.Delay(5))
        {
            while (fixture.Probes.Requests.TryTake(out ProbeRequest request))
            {
                while (!fixture.Probes.Replies[0].TryAdd(new ProbeReply(request.Peer.Target, request.Token, Math.Max(20, request.Length), 1000)))
                {
                    await Task.Delay(1);
                }
            }
        }

        Assert.All(fixture.Routing.Current.Peers, peer => Assert.Equal(0, fixture.Network.Monitor.HealthOf(peer)?.Loss));
    }

    [Fact]
    public async Task WhoIsDownStaysWithdrawnWhileThisHostsLinkFlaps()
    {
        var host = new FakeHostNetwork();
        await using ControlFixture fixture = await ControlFixture.StartAsync("""
            peers:
              first: {endpoint: 192.168.40.12, subnets: [172.17.60.0/24], keepalive: 100ms, on-down: withdraw}
              second: {endpoint: 192.168.40.13, subnets: [172.17.60.0/24], keepalive: off, on-down: withdraw}
            """, host);
        await ControlFixture.EventuallyAsync(() => fixture.Receiver("172.17.60.9")!.Settings.Name == "second");
        Func<InetAddress, HostPath?> path = host.Paths;
        host.Paths = _ => null;
        host.Change((_, _, _) => { });
        await ControlFixture.EventuallyAsync(() => !fixture.Routing.Current.Peers[0].IsReady);
        await Task.Delay(1200);
        host.Paths = path;
        host.Change((_, _, _) => { });
        await ControlFixture.EventuallyAsync(() => fixture.Routing.Current.Peers[0].IsReady);
        var seen = new HashSet<string>(StringComparer.Ordinal);
        for (var watch = Stopwatch.StartNew(); watch.Elapsed < TimeSpan.FromSeconds(3); await Task.Delay(10))
        {
            host.Change((_, _, _) => { });
            seen.Add(fixture.Receiver("172.17.60.9")?.Settings.Name ?? "nobody");
        }

        Assert.Equal(["second"], seen);
    }
}
