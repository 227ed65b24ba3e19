using Tunnel.Control;
using Tunnel.Control.Api;
using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Control;

/// <summary>explain and ping.</summary>
public sealed class QuestionTests
{
    private const string Yaml = """
        interface: {addresses: [10.0.201.1/24]}
        peers:
          vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24, "fd00:52::/64"], key: 7}
          vm3: {endpoint: nowhere.invalid, subnets: [172.17.53.0/24]}
        """;

    private static readonly FakeHostNetwork Host = new()
    {
        Paths = to => to.ToString() switch
        {
            "192.168.40.12" => new HostPath(FakeHostNetwork.Address("192.168.40.11"), 2, 1500),
            "172.17.99.9" => null,
            "172.17.51.2" => new HostPath(FakeHostNetwork.Address("172.17.51.1"), 2, 1500),
            _ => new HostPath(FakeHostNetwork.Address("10.0.201.1"), 7, 1472),
        },
    };

    [Theory]
    [InlineData("172.17.51.2", "172.17.52.2", null, "sent", null, "host route, overlay route, peer, size, encapsulation")]
    [InlineData("172.17.51.2", "172.17.52.2", "1500", "sent", null, "host route, overlay route, peer, size, encapsulation")]
    [InlineData("fd00:51::2", "fd00:52::2", "1500", "dropped", "ExceedsGmtu", "host route, overlay route, peer, size")]
    [InlineData("172.17.51.2", "172.17.53.2", null, "dropped", "PeerNotReady", "host route, overlay route, peer")]
    [InlineData("192.168.40.11", "172.17.52.2", null, "dropped", "InnerSourceIsEndpoint", "host route, overlay route, peer, source")]
    [InlineData("172.17.52.2", "172.17.51.2", null, "delivered", null, "source, host route")]
    [InlineData("172.17.52.2", "192.168.40.12", null, "dropped", "InnerDestinationIsEndpoint", "source, destination")]
    [InlineData("172.17.52.2", "172.17.99.9", null, "dropped", null, "source, host route")]
    [InlineData("172.17.51.2", "8.8.8.8", null, "elsewhere", null, "overlay route")]
    public async Task APacketsWayIsExplained(string source, string destination, string? length, string verdict, string? reason, string steps)
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(Yaml, Host);
        ExplanationModel explanation = fixture.Network.Explain(source, destination, length);

        Assert.Equal((verdict, reason), (explanation.Verdict, explanation.Reason));
        Assert.Equal(steps, string.Join(", ", explanation.Steps.Select(step => step.Step)));
        Assert.Equal(verdict is "sent" or "delivered", explanation.Steps.All(step => step.Ok));
    }

    [Theory]
    [InlineData("x", "172.17.52.2", null, "source")]
    [InlineData("172.17.51.2", null, null, "destination")]
    [InlineData("172.17.51.2", "fd00:52::2", null, "destination")]
    [InlineData("172.17.51.2", "172.17.52.2", "19", "length")]
    public async Task WhatCantBeExplainedIsRefused(string? source, string? destination, string? length, string field)
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(Yaml, Host);
        ControlException refused = Assert.Throws<ControlException>(() => fixture.Network.Explain(source, destination, length));
        Assert.Equal((ControlErrorKind.Invalid, field), (refused.Kind, refused.Field));
        Assert.NotNull(refused.Hint);
    }

    [Fact]
    public async Task APingIsAnsweredOrNot()
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(Yaml, Host);
        Task<PingModel> asked = fixture.Network.PingAsync("vm2", "1000", CancellationToken.None);
        ProbeRequest question = default;
        await ControlFixture.EventuallyAsync(() =>
        {
            while (fixture.Probes.Requests.TryTake(out ProbeRequest next))
            {
                question = next.Length == 1000 ? next : question;
            }

            return question.Length == 1000;
        });
        fixture.Probes.Replies[0].TryAdd(new ProbeReply(question.Peer.Target, question.Token, 1000, System.Diagnostics.Stopwatch.Frequency / 1000));
        Assert.Equal(new PingModel("vm2", "192.168.40.12", 1000, 1), await asked);

        Assert.Null((await fixture.Network.PingAsync("vm2", null, CancellationToken.None)).RttMs);
        ControlException notReady = await Assert.ThrowsAsync<ControlException>(() => fixture.Network.PingAsync("vm3", null, CancellationToken.None));
        Assert.Equal(ControlErrorKind.Conflict, notReady.Kind);
        await Assert.ThrowsAsync<ControlException>(() => fixture.Network.PingAsync("vm9", null, CancellationToken.None));
        await Assert.ThrowsAsync<ControlException>(() => fixture.Network.PingAsync("vm2", "70000", CancellationToken.None));
    }
}
