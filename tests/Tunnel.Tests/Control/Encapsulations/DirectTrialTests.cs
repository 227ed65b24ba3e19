using Tunnel.Control.Encapsulations;
using Tunnel.Wire;
using static Tunnel.TestSupport.FakeHostNetwork;

namespace Tunnel.Tests.Control.Encapsulations;

public sealed class DirectTrialTests
{
    private static readonly InetAddress Somebody = Address("172.17.52.2");
    private static readonly InetAddress Nobody = InetAddress.None;

    [Fact]
    public void Three_answers_in_a_row_lead_without_a_tunnel_and_three_misses_back()
    {
        DirectTrial trial = New();
        trial.Hear(Somebody, 1_000);
        trial.Hear(Somebody, 1_200);
        trial.Hear(Nobody, 1_400);
        Assert.False(trial.IsDirect);

        for (int i = 0; i < 3; i++)
        {
            Assert.False(trial.IsDirect);
            trial.Hear(Somebody, 10_000 + (i * 200));
        }

        Assert.True(trial.IsDirect);
        Assert.Equal(Somebody, trial.Answered);
        trial.Hear(Nobody, 12_000);
        trial.Hear(Nobody, 12_200);
        trial.Hear(Address("172.17.52.3"), 12_400);
        trial.Hear(Nobody, 14_400);
        trial.Hear(Nobody, 14_600);
        Assert.True(trial.IsDirect);
        Assert.Equal(Somebody, trial.Answered);
        trial.Hear(Nobody, 14_800);
        Assert.False(trial.IsDirect);
    }

    [Fact]
    public void It_asks_soon_to_be_sure_often_while_it_matters_and_seldom_after_a_failure()
    {
        DirectTrial trial = New();
        Assert.True(trial.IsDue(0));
        trial.Hear(Nobody, 0);
        Assert.False(trial.IsDue(4_999));
        Assert.True(trial.IsDue(5_000));
        trial.Hear(Somebody, 5_000);
        Assert.True(trial.IsDue(5_200));
        trial.Hear(Somebody, 5_200);
        trial.Hear(Somebody, 5_400);
        Assert.False(trial.IsDue(7_399));
        Assert.True(trial.IsDue(7_400));
        trial.Hear(Nobody, 7_400);
        Assert.True(trial.IsDue(7_600));
        trial.Hear(Nobody, 7_600);
        trial.Hear(Nobody, 7_800);
        Assert.False(trial.IsDue(37_799));
        Assert.True(trial.IsDue(37_800));
    }

    [Fact]
    public void Those_that_packets_went_to_last_are_asked_and_the_host_is_not()
    {
        var trial = new DirectTrial(Prefix("172.17.52.0/24"));
        Assert.False(trial.IsDue(0));
        for (int i = 1; i <= 6; i++)
        {
            trial.Note(Address($"172.17.52.{i}"));
        }

        trial.Note(Address("172.17.52.4"));
        Assert.Equal(["172.17.52.4", "172.17.52.6", "172.17.52.5", "172.17.52.3"], trial.Candidates.Select(address => address.ToString()));
        trial.NoteHost(Address("172.17.52.6"));
        trial.Note(Address("172.17.52.6"));
        Assert.Equal(["172.17.52.4", "172.17.52.5", "172.17.52.3"], trial.Candidates.Select(address => address.ToString()));
        Assert.True(trial.HasOthers);
        Assert.False(new DirectTrial(Prefix("10.0.201.2/32")).HasOthers);
    }

    private static DirectTrial New()
    {
        var trial = new DirectTrial(Prefix("172.17.52.0/24"));
        trial.Note(Somebody);
        return trial;
    }
}
