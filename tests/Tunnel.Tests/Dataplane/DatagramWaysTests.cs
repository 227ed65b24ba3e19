using Tunnel.Dataplane;

namespace Tunnel.Tests.Dataplane;

/// <summary>Which way flows of datagrams go where the kernel cuts them.</summary>
public sealed class DatagramWaysTests
{
    private const uint Flow = 7;
    private const uint Other = 8;
    private const long Start = 1_000_000;

    private readonly DatagramWays _ways = new();

    [Fact]
    public void A_flow_begins_together_and_stays_while_it_pays()
    {
        for (int i = 0; i < DatagramWays.Patience; i++)
        {
            Assert.True(_ways.GoesUncut(Flow, Start));
            _ways.Note(Flow, i % 3 == 0 ? DatagramWays.WorthIt : DatagramWays.WorthIt - 1);
        }
    }

    [Fact]
    public void After_enough_short_runs_it_goes_singly_and_others_do_not()
    {
        GiveUp(Flow);
        Assert.False(_ways.GoesUncut(Flow, Start));
        Assert.True(_ways.GoesUncut(Other, Start));
    }

    [Fact]
    public void A_long_run_now_and_then_is_not_enough()
    {
        for (int i = 0; i < DatagramWays.Patience; i++)
        {
            _ways.GoesUncut(Flow, Start);
            _ways.Note(Flow, i % 4 == 0 ? DatagramWays.WorthIt : DatagramWays.WorthIt - 1);
        }

        Assert.False(_ways.GoesUncut(Flow, Start));
    }

    [Fact]
    public void Only_a_pause_lets_it_begin_anew()
    {
        GiveUp(Flow);
        long now = Start;
        for (int i = 0; i < 100; i++)
        {
            now += DatagramWays.Pause - 1;
            Assert.False(_ways.GoesUncut(Flow, now));
        }

        Assert.True(_ways.GoesUncut(Flow, now + DatagramWays.Pause));
    }

    private void GiveUp(uint flow)
    {
        for (int i = 0; i < DatagramWays.Patience; i++)
        {
            Assert.True(_ways.GoesUncut(flow, Start));
            _ways.Note(flow, 1);
        }
    }
}
