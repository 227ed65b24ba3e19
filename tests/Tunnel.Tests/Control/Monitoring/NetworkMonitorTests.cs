using Tunnel.Dataplane;
using Tunnel.TestSupport;

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
}
