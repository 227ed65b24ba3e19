using Tunnel.Control.Configuration;
using Tunnel.Control.Monitoring;
using Tunnel.Dataplane;

namespace Tunnel.Tests.Control.Monitoring;

public sealed class PeerMonitorTests
{
    private const long Step = 50;

    private readonly List<(ProbeKind Kind, ulong Token, long At)> _asked = [];
    private bool _answers = true;
    private double _roundTrip = 5;
    private long _now = 1_000;
    private long _lastHeard = -1;
    private (long SaidAt, long HeardAt)? _account;

    [Fact]
    public void Who_answers_is_up_with_a_round_trip_and_no_loss()
    {
        PeerMonitor monitor = Monitor(Keepalive.Auto);

        Run(monitor, 30_000);

        PeerHealth health = monitor.Health(_now);
        Assert.Equal(PeerState.Up, health.State);
        Assert.Equal(5, health.RoundTrip!.Value.TotalMilliseconds, 3);
        Assert.Equal(0, health.Loss);
        Assert.Equal(6, _asked.Count);
    }

    [Fact]
    public void Who_stops_answering_is_degraded_and_then_down_and_up_again_with_the_first_answer()
    {
        PeerMonitor monitor = Monitor(new Keepalive(1000));
        Run(monitor, 3_000);
        _answers = false;
        var seen = new List<PeerState>();

        Run(monitor, 4_000, each: () => seen.Add(monitor.State));
        Assert.Equal([PeerState.Up, PeerState.Degraded, PeerState.Down], seen.Distinct());

        _answers = true;
        Run(monitor, 1_200);
        Assert.Equal(PeerState.Up, monitor.State);
    }

    [Fact]
    public void Whose_packets_arrive_is_not_down_though_it_does_not_answer()
    {
        PeerMonitor monitor = Monitor(new Keepalive(1000));
        Run(monitor, 3_000);
        _answers = false;

        Run(monitor, 10_000, each: () => _lastHeard = _now);

        Assert.Equal(PeerState.Degraded, monitor.State);
    }

    [Fact]
    public void Who_hears_nothing_of_this_host_is_down_though_its_packets_arrive()
    {
        // It says so every second, or five, in whole seconds, and for longer than it can say exactly; wherever its clock is.
        foreach ((int keepalive, int theirs) in new[] { (1000, 5000), (100, 1000), (200, 5000), (5000, 1000) })
        {
            for (int phase = 0; phase < 1_000; phase += 250)
            {
                (_answers, _lastHeard, _account) = (true, -1, null);
                PeerMonitor monitor = Monitor(new Keepalive(keepalive));
                Run(monitor, 7_000 + phase);
                _answers = false;
                long deafSince = _now;
                var seen = new List<(PeerState State, bool IsDeaf)>();
                Run(monitor, 400_000, each: () =>
                {
                    Say(deafSince, theirs, phase);
                    seen.Add((monitor.State, monitor.Health(_now).HearsNothing));
                });
                Assert.Equal(PeerState.Down, monitor.State);
                Assert.Contains("gets nothing", Assert.Single(monitor.Health(_now).Problems), StringComparison.Ordinal);
                Assert.Empty(monitor.Health(_now).Complaints);

                // Once, and for good.
                int found = seen.FindIndex(one => one.IsDeaf);
                Assert.InRange(found * Step, 0, 20_000);
                Assert.All(seen.Skip(found), one => Assert.Equal((PeerState.Down, true), one));

                // Answers are lost, questions are not.
                Run(monitor, 20_000, each: () => Say(_now, theirs, phase));
                Assert.Equal(PeerState.Degraded, monitor.State);
                Assert.Empty(monitor.Health(_now).Problems);

                // Dead, after all.
                Run(monitor, 20_000);
                Assert.Equal(PeerState.Down, monitor.State);

                _answers = true;
                Run(monitor, 200_000, each: () => Say(_now, theirs, phase));
                Assert.Equal(PeerState.Up, monitor.State);
            }
        }
    }

    [Fact]
    public void Who_never_answered_and_hears_nothing_is_down_though_it_sends()
    {
        _answers = false;
        PeerMonitor monitor = Monitor(Keepalive.Auto);
        Run(monitor, 400_000, each: () => Say(null, 5_000, 0));
        Assert.Equal(PeerState.Down, monitor.State);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Who_starts_late_or_anew_has_heard_nothing_and_is_up_with_its_first_answer(bool wasThere)
    {
        PeerMonitor monitor = Monitor(Keepalive.Auto);
        _answers = wasThere;
        Run(monitor, 20_000);
        _answers = false;
        Run(monitor, 40_000);

        var seen = new List<PeerState>();
        PeerState before = monitor.State;
        _answers = true;
        Run(monitor, 500, each: () =>
        {
            _lastHeard = _now;
            _account ??= (_now, long.MinValue);
            seen.Add(monitor.State);
        });
        Assert.Equal(wasThere ? PeerState.Down : PeerState.Unknown, before);
        Assert.Contains(monitor.State, new[] { PeerState.Up, PeerState.Degraded });
        Assert.DoesNotContain(PeerState.Down, seen.Skip(2));
    }

    // The peer's daemon says now and then when it has heard this host last; null: never.
    private void Say(long? heardAt, int interval, int phase)
    {
        if ((_now + phase) % interval >= Step)
        {
            return;
        }

        _lastHeard = _now;
        long seconds = Math.Min((_now - heardAt) / 1000 ?? 255, 255);
        _account = (_now, seconds == 255 ? long.MinValue : _now - (seconds * 1000));
    }

    [Fact]
    public void Who_went_down_while_asked_how_long_packets_may_be_is_not_waited_for()
    {
        // Wherever in its course the search is when that comes.
        for (long extra = 0; extra < 1_000; extra += Step)
        {
            var path = new PathMtuSearch(1500, 576, _now);
            PeerMonitor monitor = Monitor(new Keepalive(1000), path);
            _answers = true;
            Run(monitor, 3_000 + extra, isUsed: true);
            _answers = false;
            Run(monitor, 5_000, isUsed: true);
            Assert.Equal(PeerState.Down, monitor.State);

            // The question of each second is waited for until the next one.
            int busy = 0;
            Run(monitor, 20_000, each: () => busy += monitor.IsBusy ? 1 : 0, isUsed: true);
            Assert.InRange(busy, 1, 20_000 / (int)Step * 3 / 4);
        }
    }

    [Fact]
    public void Who_never_answered_is_unknown_unless_it_must_answer()
    {
        _answers = false;
        PeerMonitor lenient = Monitor(Keepalive.Auto);
        Run(lenient, 60_000);
        Assert.Equal(PeerState.Unknown, lenient.State);

        PeerMonitor demanding = Monitor(new Keepalive(5000));
        Run(demanding, 10_000);
        Assert.Equal(PeerState.Down, demanding.State);
    }

    [Fact]
    public void Complaints_of_questions_to_who_does_not_answer_are_no_reason_for_more_questions()
    {
        _answers = false;
        PeerMonitor quiet = Monitor(Keepalive.Auto);
        Run(quiet, 600_000);
        int expected = _asked.Count;

        // A neighbour that isn't there is given up after three seconds (ARP).
        _asked.Clear();
        PeerMonitor complained = Monitor(Keepalive.Auto);
        Run(complained, 600_000, each: () =>
        {
            if (_asked.Exists(question => question.At == _now - 3_000))
            {
                complained.HearUnreachable("no route to host", _now);
            }
        });
        Assert.InRange(_asked.Count, 1, expected + 1);
    }

    [Fact]
    public void A_router_that_returns_packets_is_not_asked_how_long_they_may_be()
    {
        var path = new PathMtuSearch(1500, 576, _now);
        PeerMonitor monitor = Monitor(new Keepalive(1000, ProbeKind.ReturnPacket), path);

        Run(monitor, 150_000, answers: kind => kind == ProbeKind.ReturnPacket);

        Assert.Equal(PeerState.Up, monitor.State);
        Assert.True(monitor.HasAnswered);
        Assert.False(monitor.HasEchoed);
        // Once a minute whether it runs this program by now.
        Assert.Equal(3, _asked.Count(question => question.Kind == ProbeKind.Echo));
    }

    [Fact]
    public void Who_returns_packets_and_runs_this_program_is_asked_how_long_they_may_be()
    {
        var path = new PathMtuSearch(1500, 576, _now);
        PeerMonitor monitor = Monitor(new Keepalive(1000, ProbeKind.ReturnPacket), path);

        Run(monitor, 5_000);

        Assert.True(monitor.HasEchoed);
        Assert.True(path.IsConfirmed);
    }

    [Theory]
    [InlineData(20)]
    [InlineData(150)]
    [InlineData(300)]
    [InlineData(450)]
    public void A_path_that_shrinks_is_recovered_within_three_seconds_however_long_the_way(int roundTrip)
    {
        int longest = 1500;
        var onTheWay = new Queue<(ulong Token, int Length, long At)>();
        var path = new PathMtuSearch(1500, 576, _now);
        var monitor = new PeerMonitor(Keepalive.Auto, path, firstToken: 77, _now, (_, token, length) =>
        {
            if (length <= longest)
            {
                onTheWay.Enqueue((token, length, _now + roundTrip));
            }

            return true;
        });
        Go(60_000);
        Assert.True(path.IsConfirmed);

        longest = 1100;
        Go(3_000);
        Assert.InRange(path.Current, 1000, 1100);

        // Turns come twice a second where nothing is waited for, else every 50 ms.
        void Go(long milliseconds)
        {
            for (long end = _now + milliseconds; _now < end; _now += monitor.IsBusy ? 50 : 500)
            {
                while (onTheWay.TryPeek(out (ulong Token, int Length, long At) answer) && answer.At <= _now)
                {
                    onTheWay.Dequeue();
                    monitor.HearAnswer(answer.Token, answer.Length, roundTrip, _now);
                }

                monitor.Advance(_now, _now, isUsed: true);
            }
        }
    }

    [Fact]
    public void Who_is_asked_in_another_way_is_still_who_it_was()
    {
        PeerMonitor monitor = Monitor(new Keepalive(1000));
        Run(monitor, 3_000);
        _answers = false;
        Run(monitor, 6_000);
        Assert.Equal(PeerState.Down, monitor.State);

        monitor.Use(Keepalive.Auto, _now);
        Run(monitor, 20_000);
        Assert.Equal(PeerState.Down, monitor.State);

        // What was lost is among the last 20 questions for a while.
        _answers = true;
        Run(monitor, 10_000);
        Assert.Equal(PeerState.Degraded, monitor.State);
        Run(monitor, 120_000);
        Assert.Equal(PeerState.Up, monitor.State);
    }

    [Fact]
    public void Who_never_answered_but_sends_is_up()
    {
        _answers = false;
        PeerMonitor monitor = Monitor(Keepalive.Auto);

        Run(monitor, 10_000, each: () => _lastHeard = _now);
        Assert.Equal(PeerState.Up, monitor.State);

        Run(monitor, 40_000);
        Assert.Equal(PeerState.Unknown, monitor.State);
    }

    [Fact]
    public void Who_never_answered_is_asked_less_and_less()
    {
        _answers = false;
        PeerMonitor monitor = Monitor(Keepalive.Auto);
        Run(monitor, 600_000);

        Assert.InRange(_asked.Count(question => question.At > 300_000), 1, 6);
    }

    [Fact]
    public void Loss_is_of_the_last_questions_and_makes_degraded()
    {
        PeerMonitor monitor = Monitor(new Keepalive(1000));
        var random = new Random(5);
        Run(monitor, 60_000, each: () => _answers = random.Next(100) < 75);

        Assert.InRange(monitor.Health(_now).Loss!.Value, 0.05, 0.6);
        Assert.Equal(PeerState.Degraded, monitor.State);
    }

    [Fact]
    public void Nobody_is_asked_where_keepalives_are_off()
    {
        PeerMonitor monitor = Monitor(Keepalive.Off);
        Run(monitor, 60_000);

        Assert.Empty(_asked);
        Assert.Equal(PeerState.Unknown, monitor.State);
    }

    [Fact]
    public void A_routers_kind_is_asked_with_what_returns()
    {
        PeerMonitor monitor = Monitor(new Keepalive(1000, ProbeKind.ReturnPacket));
        Run(monitor, 3_000);

        Assert.All(_asked, question => Assert.Equal(ProbeKind.ReturnPacket, question.Kind));
        Assert.Equal(PeerState.Up, monitor.State);
    }

    [Fact]
    public void An_answer_that_was_not_asked_for_says_nothing()
    {
        _answers = false;
        PeerMonitor monitor = Monitor(Keepalive.Auto);
        monitor.Advance(_now, -1, isUsed: false);
        ulong token = _asked[0].Token;

        monitor.HearAnswer(token + 1, 20, 1, _now);
        Assert.False(monitor.HasAnswered);

        monitor.HearAnswer(token, 20, 1, _now);
        Assert.True(monitor.HasAnswered);
    }

    [Fact]
    public void A_round_trip_longer_than_the_wait_is_not_believed()
    {
        PeerMonitor monitor = Monitor(Keepalive.Auto);
        _roundTrip = 1e9;
        Run(monitor, 5_000);

        Assert.Null(monitor.Health(_now).RoundTrip);
        Assert.Equal(PeerState.Up, monitor.State);
    }

    [Fact]
    public void A_complaint_is_shown_for_a_while_and_has_the_peer_asked_at_once()
    {
        PeerMonitor monitor = Monitor(new Keepalive(10_000));
        Run(monitor, 5_000);
        int before = _asked.Count;
        _answers = false;

        monitor.HearUnreachable("192.0.2.1 says: host unreachable", _now);
        Run(monitor, 100);
        Assert.True(_asked.Count > before);
        Assert.Equal(["192.0.2.1 says: host unreachable"], monitor.Health(_now).Problems);

        Run(monitor, 31_000);
        Assert.Empty(monitor.Health(_now).Problems);
    }

    [Fact]
    public void Only_who_answers_is_probed_for_its_path_mtu()
    {
        _answers = false;
        var path = new PathMtuSearch(1500, 576, _now);
        PeerMonitor monitor = Monitor(Keepalive.Auto, path);
        Run(monitor, 2_000);
        Assert.False(path.IsConfirmed);

        _answers = true;
        Run(monitor, 20_000);
        Assert.True(path.IsConfirmed);
    }

    private PeerMonitor Monitor(Keepalive keepalive, PathMtuSearch? path = null) =>
        new(keepalive, path, firstToken: 77, _now, (kind, token, _) =>
        {
            _asked.Add((kind, token, _now));
            return true;
        });

    private void Run(PeerMonitor monitor, long milliseconds, Action? each = null, Func<ProbeKind, bool>? answers = null, bool isUsed = false)
    {
        for (long end = _now + milliseconds; _now < end; _now += Step)
        {
            int before = _asked.Count;
            monitor.Advance(_now, _lastHeard, isUsed, _account);
            if (_answers)
            {
                foreach ((_, ulong token, _) in _asked.Skip(before).Where(question => answers?.Invoke(question.Kind) ?? true).ToArray())
                {
                    monitor.HearAnswer(token, 20, _roundTrip, _now + Step);
                }
            }

            each?.Invoke();
        }
    }

    [Fact]
    public void Who_begins_to_send_after_a_long_silence_is_asked_soon()
    {
        var asked = new List<long>();
        long now = 1_000;
        var monitor = new PeerMonitor(Keepalive.Auto, null, 77, now, (_, _, _) =>
        {
            asked.Add(now);
            return true;
        });
        for (; now < 601_000; now += 50)
        {
            monitor.Advance(now, -1, isUsed: false);
        }

        // Just after a question, when the next one is furthest away.
        for (int count = asked.Count; asked.Count == count; now += 50)
        {
            monitor.Advance(now, -1, isUsed: false);
        }

        long start = now += 2_000;
        int before = asked.Count;
        for (; asked.Count == before; now += 50)
        {
            monitor.Advance(now, start, isUsed: true);
        }

        Assert.InRange(asked[^1] - start, 0, 1_500);
    }
}
