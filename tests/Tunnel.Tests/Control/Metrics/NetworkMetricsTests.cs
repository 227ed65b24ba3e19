using System.Text.RegularExpressions;
using Tunnel.Control.Metrics;
using Tunnel.Dataplane;
using static Tunnel.Tests.Control.Configuration.ConfigTesting;

namespace Tunnel.Tests.Control.Metrics;

public sealed partial class NetworkMetricsTests
{
    private const string Yaml = """
        peers:
          vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24]}
        """;

    [Fact]
    public void Label_values_are_escaped() =>
        Assert.Equal(
            "# HELP a_total Why.\n# TYPE a_total counter\na_total{x=\"\\\\ \\\" \\n\",y=\"2\"} 1.5\na_total 3\n",
            new MetricsText().Counter("a_total", "Why.").Sample(1.5, "x", "\\ \" \n", "y", "2").Sample(3).ToString());

    [Fact]
    public async Task What_is_counted_is_told()
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(Yaml);
        fixture.Queues.QueueDepths = [new QueueDepth(700, 800)];
        PeerCounters counters = fixture.Routing.Current.Peers[0].Counters[0];
        counters.CountSent(3, 300);
        counters.CountReceived(2, 200, Environment.TickCount64);
        counters.CountDrops(DropReason.ExceedsGmtu, 5);
        string text = NetworkMetrics.Write(fixture.Network, fixture.Queues);

        string[] samples =
        [
            "tunnel_peer_sent_packets_total{peer=\"vm2\"} 3",
            "tunnel_peer_sent_bytes_total{peer=\"vm2\"} 300",
            "tunnel_peer_received_packets_total{peer=\"vm2\"} 2",
            "tunnel_peer_received_bytes_total{peer=\"vm2\"} 200",
            "tunnel_peer_dropped_packets_total{peer=\"vm2\",reason=\"ExceedsGmtu\"} 5",
            "tunnel_dropped_packets_total{reason=\"UnknownPeer\"} 0",
            "tunnel_receive_queue_bytes{worker=\"0\"} 700",
            "tunnel_send_queue_bytes{worker=\"0\"} 800",
            "tunnel_peers 1",
        ];
        Assert.All(samples, sample => Assert.Contains($"\n{sample}\n", text, StringComparison.Ordinal));
        Assert.DoesNotContain("reason=\"ExceedsGmtu\"} 0", text.Replace("tunnel_dropped_packets_total{reason=\"ExceedsGmtu\"} 0", "", StringComparison.Ordinal), StringComparison.Ordinal);
        Assert.Single(StateOne().Matches(text));
    }

    // The document and the dashboard name what is there, and the document all of it.
    [Fact]
    public async Task Document_and_dashboard_name_the_metrics()
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync(Yaml);
        string text = NetworkMetrics.Write(fixture.Network, fixture.Queues);
        string[] told = [.. MetricType().Matches(text).Select(match => match.Groups["name"].Value)];
        string page = await File.ReadAllTextAsync(Path.Combine(RepositoryRoot(), "docs", "metrics.md"));
        string dashboard = await File.ReadAllTextAsync(Path.Combine(RepositoryRoot(), "packaging", "grafana-dashboard.json"));

        Assert.Equal(told.Order(StringComparer.Ordinal), DocumentedName().Matches(page).Select(match => match.Groups["name"].Value).Distinct().Order(StringComparer.Ordinal));
        Assert.Empty(UsedName().Matches(dashboard).Select(match => match.Value).Except(told));
        Assert.All(told, name => Assert.Contains($"# HELP {name} ", text, StringComparison.Ordinal));
    }

    [GeneratedRegex("tunnel_peer_state\\{peer=\"vm2\",state=\"[a-z]+\"\\} 1\n", RegexOptions.None, matchTimeoutMilliseconds: 1000)]
    private static partial Regex StateOne();

    [GeneratedRegex("^# TYPE (?<name>[a-z_]+) (counter|gauge)$", RegexOptions.Multiline | RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex MetricType();

    [GeneratedRegex("`(?<name>(tunnel|process)_[a-z_]+)`", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex DocumentedName();

    [GeneratedRegex("\\b(tunnel|process)_[a-z_]+", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex UsedName();
}
