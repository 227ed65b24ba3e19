using Tunnel.Control.Paths;
using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Control.Paths;

public sealed class XfrmJudgementTests
{
    private static readonly UnderlayFlow Flow = new(FakeHostNetwork.Address("192.168.40.11"), FakeHostNetwork.Address("192.168.40.12"), "eth0");

    [Theory]
    [InlineData(XfrmDirection.Out, "192.168.40.11/32", "192.168.40.12/32", 47, false, true, "IPsec: a policy covers 192.168.40.11 -> 192.168.40.12 (ip xfrm policy)")]
    [InlineData(XfrmDirection.In, "192.168.40.12/32", "192.168.40.11/32", 47, false, true, "IPsec: a policy covers 192.168.40.12 -> 192.168.40.11 (ip xfrm policy)")]
    [InlineData(XfrmDirection.Out, "192.168.40.11/32", "192.168.40.12/32", 47, true, false, "IPsec: a policy blocks 192.168.40.11 -> 192.168.40.12 (ip xfrm policy)")]
    [InlineData(XfrmDirection.Out, "0.0.0.0/0", "192.168.0.0/16", 0, false, true, "IPsec: a policy covers 192.168.40.11 -> 192.168.40.12 (ip xfrm policy)")]
    [InlineData(XfrmDirection.Out, "192.168.40.11/32", "192.168.40.12/32", 47, false, false, null)]
    [InlineData(XfrmDirection.Out, "192.168.40.11/32", "192.168.40.12/32", 6, false, true, null)]
    [InlineData(XfrmDirection.Out, "192.168.40.11/32", "192.168.40.13/32", 47, false, true, null)]
    [InlineData(XfrmDirection.Out, "192.168.40.10/32", "192.168.40.12/32", 47, false, true, null)]
    [InlineData(XfrmDirection.In, "192.168.40.11/32", "192.168.40.12/32", 47, false, true, null)]
    public void APolicyCountsWhereItAppliesAndDoesSomething(
        XfrmDirection direction, string source, string destination, byte protocol, bool blocks, bool hasTemplates, string? expected)
    {
        var policy = new XfrmPolicy(direction, FakeHostNetwork.Prefix(source), FakeHostNetwork.Prefix(destination), protocol, blocks, hasTemplates);
        Assert.Equal(expected, XfrmJudgement.FindHindrance(new XfrmPolicies([policy], false, false), Flow));
    }

    [Theory]
    [InlineData(17, true, false)]
    [InlineData(47, false, true)]
    [InlineData(0, true, true)]
    [InlineData(6, false, false)]
    public void APolicyCountsForItsProtocol(byte protocol, bool countsForUdp, bool countsForGre)
    {
        var policy = new XfrmPolicy(
            XfrmDirection.Out, FakeHostNetwork.Prefix("192.168.40.0/24"), FakeHostNetwork.Prefix("192.168.40.12/32"), protocol, false, true);
        var policies = new XfrmPolicies([policy], false, false);
        Assert.Equal(countsForUdp, XfrmJudgement.FindHindrance(policies, Flow with { UdpPort = 4754 }) is not null);
        Assert.Equal(countsForGre, XfrmJudgement.FindHindrance(policies, Flow) is not null);
    }

    [Fact]
    public void TheDefaultPolicyCounts()
    {
        Assert.Null(XfrmJudgement.FindHindrance(XfrmPolicies.None, Flow));
        Assert.Equal(
            "IPsec: the default policy blocks what this host receives (ip xfrm policy getdefault)",
            XfrmJudgement.FindHindrance(new XfrmPolicies([], true, false), Flow));
        Assert.Equal(
            "IPsec: the default policy blocks what this host sends (ip xfrm policy getdefault)",
            XfrmJudgement.FindHindrance(new XfrmPolicies([], false, true), Flow));
    }
}
