using Tunnel.Dataplane;

namespace Tunnel.Tests.Dataplane;

/// <summary>RFC 2890 section 2.2; the ids S1 to S5 are those of docs/conformance.md.</summary>
public sealed class SequenceStateTests
{
    private const uint Half = 0x8000_0000;

    [Fact]
    public void S1_the_first_number_sent_is_0_and_each_next_one_is_one_more()
    {
        var state = new SequenceState();
        Assert.Equal([0u, 1u, 2u], [state.NextToSend(), state.NextToSend(), state.NextToSend()]);
    }

    [Theory]
    [InlineData(0u)]
    [InlineData(1u)]
    [InlineData(12_345u)]
    [InlineData(uint.MaxValue)]
    public void S1_the_first_number_received_is_accepted_whatever_it_is(uint first)
    {
        var state = new SequenceState();
        Assert.True(state.Accept(first));
        Assert.False(state.Accept(first));
        Assert.True(state.Accept(first + 1));
    }

    [Theory]
    [InlineData(1000u)]
    [InlineData(0u)]
    [InlineData(uint.MaxValue)]
    [InlineData(Half)]
    [InlineData(Half - 1)]
    public void S2_a_number_from_last_back_to_half_the_space_is_old(uint last)
    {
        foreach (uint behind in (uint[])[0, 1, 2, 100, Half - 2, Half - 1])
        {
            SequenceState state = After(last);
            Assert.False(state.Accept(last - behind));
            Assert.True(state.Accept(last + 1), "an old number must not move the window");
        }

        foreach (uint ahead in (uint[])[1, 2, 100, Half - 1, Half])
        {
            Assert.True(After(last).Accept(last + ahead));
        }
    }

    [Fact]
    public void S3_numbers_in_order_are_accepted_over_the_wrap()
    {
        SequenceState state = After(uint.MaxValue - 2);
        Assert.True(state.Accept(uint.MaxValue - 1));
        Assert.True(state.Accept(uint.MaxValue));
        Assert.True(state.Accept(0));
        Assert.False(state.Accept(uint.MaxValue));
        Assert.True(state.Accept(1));
    }

    [Fact]
    public void S4_a_gap_is_accepted_at_once_and_what_fills_it_is_old()
    {
        SequenceState state = After(10);
        Assert.True(state.Accept(20));
        for (uint late = 11; late < 20; late++)
        {
            Assert.False(state.Accept(late));
        }

        Assert.True(state.Accept(21));
    }

    [Theory]
    [InlineData(1000u)]
    [InlineData(70u)]
    [InlineData(1_000_000_000u)]
    public void S5_a_restarted_sender_is_heard_from_its_fourth_packet_on(uint last)
    {
        SequenceState state = After(last);
        Assert.Equal([false, false, false, true, true, true], Accept(state, 0, 1, 2, 3, 4, 5));
        Assert.False(state.Accept(3));
    }

    // So few packets were received before that waiting for the old number costs less than a rule would.
    [Fact]
    public void S5_a_sender_that_restarts_early_is_heard_once_it_passes_its_old_number()
    {
        SequenceState state = After(40);
        for (uint i = 0; i <= 40; i++)
        {
            Assert.False(state.Accept(i));
        }

        Assert.True(state.Accept(41));
    }

    [Fact]
    public void S5_repeated_or_scattered_old_numbers_are_no_restart()
    {
        SequenceState state = After(10_000);
        Assert.DoesNotContain(true, Accept(state, 5, 5, 5, 5, 5, 5));
        Assert.DoesNotContain(true, Accept(state, 10, 12, 14, 16, 18, 20));
        Assert.DoesNotContain(true, Accept(state, 30, 31, 32, 99, 33, 34, 35, 99));
        Assert.DoesNotContain(true, Accept(state, 50, 49, 48, 47, 46, 45));
        Assert.True(state.Accept(10_001));
    }

    [Fact]
    public void S5_an_accepted_packet_ends_a_run_of_old_ones()
    {
        SequenceState state = After(10_000);
        Assert.Equal([false, false, false, true, false, false, false, true], Accept(state, 5, 6, 7, 10_001, 8, 9, 10, 11));
    }

    [Fact]
    public void S5_a_run_just_behind_is_no_restart()
    {
        SequenceState state = After(10_000);
        for (uint i = 10_000 - 63; i <= 10_000; i++)
        {
            Assert.False(state.Accept(i));
        }

        Assert.True(state.Accept(10_001));
    }

    private static SequenceState After(uint last)
    {
        var state = new SequenceState();
        Assert.True(state.Accept(last));
        return state;
    }

    private static bool[] Accept(SequenceState state, params uint[] numbers) => [.. numbers.Select(state.Accept)];
}
