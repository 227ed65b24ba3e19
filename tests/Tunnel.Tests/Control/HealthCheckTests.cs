using Tunnel.Control;
using Tunnel.Dataplane;

namespace Tunnel.Tests.Control;

public sealed class HealthCheckTests
{
    [Fact]
    public async Task ThreadsThatGoRoundAreHealthy() =>
        Assert.Empty(await new HealthCheck([new FakeHeartbeat("tun0-0"), new FakeHeartbeat("tun0-1")], TimeProvider.System).CheckAsync(CancellationToken.None));

    [Fact]
    public async Task OneThatHangsIsNamed() =>
        Assert.Equal(
            ["packet thread tun0-1 does not go round"],
            await new HealthCheck([new FakeHeartbeat("tun0-0"), new FakeHeartbeat("tun0-1", hangs: true)], TimeProvider.System).CheckAsync(CancellationToken.None));
}

/// <summary>A packet thread that goes round when it is nudged, or hangs.</summary>
internal sealed class FakeHeartbeat(string name, bool hangs = false) : IHeartbeat
{
    public string Name => name;

    public long Beats { get; private set; }

    public void Nudge() => Beats += hangs ? 0 : 1;
}
