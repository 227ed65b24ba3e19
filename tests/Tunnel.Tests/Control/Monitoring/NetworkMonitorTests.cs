using System.Diagnostics;
using Tunnel.Control.Api;
using Tunnel.Control.Configuration;
using Tunnel.Control.Monitoring;
using Tunnel.Dataplane;
using Tunnel.Tests.Control.Configuration;
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

            return fixture.Network.DescribePeer("vm2") is { Gmtu: > 1300 and <= 1400, State: "up" };
        });
        PeerModel known = fixture.Network.DescribePeer("vm2");
        await fixture.ReloadAsync("""
            peers:
              vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24], keepalive: 5s}
            """);
        fixture.Network.Monitor.Turn();
        PeerModel now = fixture.Network.DescribePeer("vm2");
        Assert.Equal(("5s", "up", known.Gmtu), (now.Keepalive, now.State, now.Gmtu));
        Assert.NotNull(now.RttMs);
    }

    [Theory]
    [InlineData("172.17.53.9", 7u, "vm3")]
    [InlineData("172.17.53.9", 9u, null)]
    [InlineData("172.17.53.9", null, null)]
    [InlineData("172.17.54.9", null, "vm4")]
    [InlineData(null, 9u, "vm5")]
    [InlineData(null, 7u, null)] // two have it
    [InlineData(null, null, null)]
    public void AStrangerIsWhomItsSourceOrElseItsKeyNames(string? source, uint? key, string? name)
    {
        NetworkConfig config = ConfigTesting.Network("""
            peers:
              vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24], key: 7}
              vm3: {endpoint: 192.168.40.13, subnets: [172.17.53.0/24], key: 7}
              vm4: {endpoint: 192.168.40.14, subnets: [172.17.54.0/24]}
              vm5: {endpoint: 192.168.40.15, subnets: [172.17.55.0/24], key: 9}
            """);
        var stranger = new Stranger(
            Overlay.Address("192.168.40.77"), key is not null, key.GetValueOrDefault(), source is null ? InetAddress.None : Overlay.Address(source));
        Assert.Equal(name, NetworkMonitor.PeerLike(config, stranger)?.Name);
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
