using Tunnel.Control.Monitoring;

namespace Tunnel.Tests.Control.Monitoring;

/// <summary>The search on a path in memory: probes up to its MTU are answered after a round trip, longer ones never.</summary>
public sealed class PathMtuSearchTests
{
    private const int Floor = 576;
    private const long Patience = 150;
    private const long RoundTrip = 20;
    private const long Step = 10;

    private readonly List<(long At, int Length)> _answers = [];
    private readonly List<int> _sent = [];
    private long _now;
    private int _path = 1500;
    private Func<int, bool> _loses = _ => false;

    [Fact]
    public void Begins_with_the_links_mtu_and_has_it_confirmed()
    {
        var search = new PathMtuSearch(1500, Floor, _now);
        Assert.Equal(1500, search.Current);
        Assert.False(search.IsConfirmed);

        Run(search, 100);

        Assert.True(search.IsConfirmed);
        Assert.Equal([1500], _sent);
    }

    [Theory]
    [InlineData(1499)]
    [InlineData(1480)]
    [InlineData(1400)]
    [InlineData(1280)]
    [InlineData(1006)]
    [InlineData(577)]
    [InlineData(576)]
    public void Finds_a_narrower_path_exactly_and_within_a_second_of_the_first_large_packet(int path)
    {
        var search = new PathMtuSearch(1500, Floor, _now);
        Run(search, 1000);
        _path = path;

        Run(search, 1500, isUsed: true);

        Assert.Equal(path, search.Current);
        Assert.True(search.IsConfirmed);
    }

    [Fact]
    public void Nothing_but_the_exact_length_comes_into_force()
    {
        var search = new PathMtuSearch(1500, Floor, _now);
        Run(search, 1000);
        _path = 1237;
        var seen = new HashSet<int>();

        Run(search, 3000, isUsed: true, each: () => seen.Add(search.Current));

        Assert.Equal([1237, 1500], seen.Order());
    }

    [Fact]
    public void Does_not_look_while_nothing_large_is_sent()
    {
        var search = new PathMtuSearch(1500, Floor, _now);
        Run(search, 1000);
        _sent.Clear();

        Run(search, PathMtuSearch.VerifyWhileIdle - 2000);

        Assert.Empty(_sent);
    }

    [Fact]
    public void A_wider_path_is_noticed_within_ten_minutes()
    {
        _path = 1400;
        var search = new PathMtuSearch(1500, Floor, _now);
        Run(search, 200_000);
        Assert.Equal(1400, search.Current);
        _path = 1500;

        Run(search, 600_000);

        Assert.Equal(1500, search.Current);
    }

    [Fact]
    public void A_single_lost_probe_changes_nothing()
    {
        var search = new PathMtuSearch(1500, Floor, _now);
        int lost = 0;
        _loses = length => length == 1500 && lost++ == 0;

        Run(search, 2000, isUsed: true);

        Assert.Equal(1500, search.Current);
        Assert.True(search.IsConfirmed);
    }

    [Fact]
    public void Where_nothing_is_answered_the_length_is_not_to_blame()
    {
        var search = new PathMtuSearch(1500, Floor, _now);
        Run(search, 1000);
        _loses = _ => true;
        _sent.Clear();

        Run(search, 20_000, isUsed: true);

        Assert.Equal(1500, search.Current);
        Assert.InRange(_sent.Count, 1, 1500);
    }

    [Fact]
    public void Where_the_path_goes_silent_in_the_middle_of_a_search_nothing_is_concluded()
    {
        var search = new PathMtuSearch(1500, Floor, _now);
        Run(search, 1000);
        _path = 1400;
        _loses = _ => _sent.Count > 30;

        Run(search, 20_000, isUsed: true);
        Assert.Equal(1500, search.Current);

        Run(search, 5_000);
        Assert.False(search.IsBusy);
    }

    [Fact]
    public void Lossy_paths_find_their_mtu_too()
    {
        var random = new Random(4);
        _loses = _ => random.Next(100) < 10;
        _path = 1420;
        var search = new PathMtuSearch(1500, Floor, _now);

        Run(search, 60_000, isUsed: true);

        Assert.InRange(search.Current, 1300, 1420);
    }

    [Fact]
    public void A_routers_word_is_believed_at_once_but_never_below_the_floor()
    {
        var search = new PathMtuSearch(1500, Floor, _now);
        Run(search, 1000);

        search.HearTooBig(1300, _now);
        Assert.Equal(1300, search.Current);

        search.HearTooBig(100, _now);
        Assert.Equal(Floor, search.Current);
    }

    [Fact]
    public void A_forged_word_does_not_last()
    {
        var search = new PathMtuSearch(1500, Floor, _now);
        Run(search, 1000);
        search.HearTooBig(600, _now);

        Run(search, 2500);

        Assert.Equal(1500, search.Current);
    }

    [Fact]
    public void A_longer_word_than_what_is_in_force_is_no_news()
    {
        _path = 1300;
        var search = new PathMtuSearch(1500, Floor, _now);
        Run(search, 2000, isUsed: true);

        search.HearTooBig(1400, _now);

        Assert.Equal(1300, search.Current);
    }

    [Fact]
    public void A_narrower_link_counts_at_once_and_a_wider_one_once_it_is_answered()
    {
        _path = 9000;
        var search = new PathMtuSearch(1500, Floor, _now);
        Run(search, 1000);

        search.SetCeiling(1400, _now);
        Assert.Equal(1400, search.Current);

        search.SetCeiling(9000, _now);
        Assert.Equal(1400, search.Current);
        Run(search, 1000);
        Assert.Equal(9000, search.Current);
    }

    [Fact]
    public void A_link_narrower_than_the_floor_counts()
    {
        Assert.Equal(500, new PathMtuSearch(500, Floor, _now).Current);
    }

    private void Run(PathMtuSearch search, long milliseconds, bool isUsed = false, Action? each = null)
    {
        for (long end = _now + milliseconds; _now < end; _now += Step)
        {
            foreach ((long _, int length) in _answers.Where(answer => answer.At <= _now))
            {
                search.HearAnswer(length);
            }

            _answers.RemoveAll(answer => answer.At <= _now);
            search.Advance(_now, Patience, isUsed, Send);
            each?.Invoke();
        }
    }

    private void Send(int length)
    {
        _sent.Add(length);
        if (length <= _path && !_loses(length))
        {
            _answers.Add((_now + RoundTrip, length));
        }
    }

    [Theory]
    [InlineData(600)]
    [InlineData(700)]
    [InlineData(800)]
    [InlineData(900)]
    public void A_link_that_shrinks_in_the_middle_of_a_search_is_the_limit_at_once(int shrinkAt)
    {
        long now = 0;
        int path = 9000;
        var answers = new List<(long At, int Length)>();
        var search = new PathMtuSearch(9000, 576, now);
        for (; now < 6_000; now += 10)
        {
            if (now == 1_000)
            {
                path = 5000;
            }

            foreach ((_, int length) in answers.Where(answer => answer.At <= now))
            {
                search.HearAnswer(length);
            }

            answers.RemoveAll(answer => answer.At <= now);
            if (now >= 1_000 + shrinkAt)
            {
                search.SetCeiling(1500, now);
                path = 1500;
            }

            search.Advance(now, 150, isUsed: true, length =>
            {
                if (length <= path)
                {
                    answers.Add((now + 20, length));
                }
            });
            Assert.True(now < 1_000 + shrinkAt || search.Current <= 1500, $"{search.Current} at {now}, confirmed {search.IsConfirmed}");
        }
    }

    [Fact]
    public void A_link_below_the_floor_is_no_length_that_is_confirmed()
    {
        long now = 0;
        var search = new PathMtuSearch(1500, 1304, now);
        search.SetCeiling(1200, now);
        var answers = new List<(long At, int Length)>();
        for (; now < 6_000; now += 10)
        {
            foreach ((_, int length) in answers.Where(answer => answer.At <= now))
            {
                search.HearAnswer(length);
            }

            answers.RemoveAll(answer => answer.At <= now);
            search.Advance(now, 150, isUsed: true, length =>
            {
                if (length <= 1100)
                {
                    answers.Add((now + 20, length));
                }
            });
            Assert.False(search.IsConfirmed && search.Current > 1100, $"{search.Current} at {now} is said to be confirmed");
        }
    }
}
