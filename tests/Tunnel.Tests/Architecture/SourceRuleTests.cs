using System.Text.RegularExpressions;
using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Architecture;

/// <summary>Rules of the house that readers rely on.</summary>
public sealed partial class SourceRuleTests
{
    [Theory]
    [InlineData("Outbound", "read", "send")]
    [InlineData("Inbound", "receive", "write")]
    public void The_packets_way_opens_with_its_numbered_flow(string name, string first, string last)
    {
        string text = Source($"src/Tunnel/Dataplane/{name}.cs");
        string opening = text[..text.IndexOf($"public sealed class {name}", StringComparison.Ordinal)];
        (int Number, string Step)[] flow = [.. FlowStep().Matches(opening).Select(m => (int.Parse(m.Groups["number"].Value), m.Groups["step"].Value))];
        Assert.True(flow.Length >= 6);
        Assert.Equal(Enumerable.Range(1, flow.Length), flow.Select(step => step.Number));
        Assert.StartsWith(first, flow[0].Step, StringComparison.Ordinal);
        Assert.StartsWith(last, flow[^1].Step, StringComparison.Ordinal);

        // The methods stand in that order: the numbers that their comments open with never go back, and reach the end.
        int[] numbers = [.. MethodStep().Matches(text[opening.Length..]).Select(m => int.Parse(m.Groups["number"].Value))];
        Assert.Equal(numbers.Order(), numbers);
        Assert.Equal(2, numbers[0]);
        Assert.Equal(flow.Length, numbers[^1]);
    }

    [Fact]
    public void No_type_is_called_Tunnel()
    {
        Assert.Equal([], Repository.Sources("src").Concat(Repository.Sources("tests"))
            .Where(source => TypeCalledTunnel().IsMatch(Repository.CodeOf(source.Text)))
            .Select(source => source.Path));
        Assert.DoesNotContain(
            typeof(Peer).Assembly.GetTypes().Concat(typeof(Packets).Assembly.GetTypes()).Concat(typeof(SourceRuleTests).Assembly.GetTypes()),
            type => type.Name is "Tunnel");
    }

    [Fact]
    public void Every_drop_reason_says_what_it_means()
    {
        string text = Source("src/Tunnel/Dataplane/DropReason.cs");
        Dictionary<string, string> meanings = ExplainedReason().Matches(text)
            .ToDictionary(m => m.Groups["reason"].Value, m => m.Groups["meaning"].Value, StringComparer.Ordinal);
        Assert.Equal(Enum.GetNames<DropReason>(), meanings.Keys);
        Assert.All(meanings.Values, meaning => Assert.True(meaning.Length > 20 && meaning[^1] == '.', $"not a sentence: {meaning}"));
    }

    [Fact]
    public void Packet_threads_are_never_put_to_sleep() =>
        Assert.Equal([], Repository.Sources("src")
            .Where(source => Repository.CodeOf(source.Text).Contains("Thread.Sleep", StringComparison.Ordinal))
            .Select(source => source.Path));

    [Fact]
    public void The_lower_rooms_do_no_input_or_output_and_Wire_knows_no_clock()
    {
        string[] input = ["System.IO", "System.Net.Http", "System.Net.Sockets", "Microsoft"];
        string[] clocks = ["System.Environment", "System.DateTime", "System.DateTimeOffset", "System.TimeProvider", "System.Diagnostics.Stopwatch"];
        bool IsForbidden(string room, TypeUse use) =>
            (Array.Exists(input, name => $"{use.ToNamespace}.".StartsWith($"{name}.", StringComparison.Ordinal)) &&
                use.To != "System.Net.Sockets.AddressFamily") ||
            use.To is "System.Console" or "System.Diagnostics.Process" ||
            (room == "Wire" && clocks.Contains(use.To));

        MetadataReferences daemon = MetadataReferences.Read(typeof(Peer).Assembly.Location);
        Assert.Equal([], daemon.Uses
            .Where(use => Rooms.Of(use.FromNamespace) is ("Wire" or "Dataplane") and string room && IsForbidden(room, use))
            .Select(use => $"{use.From}.{use.Member} -> {use.To}")
            .Order());
    }

    private static string Source(string path) => File.ReadAllText(Path.Combine(Repository.Root, path));

    [GeneratedRegex(@"^/// (?<number>\d+)  (?<step>\w.*)$", RegexOptions.Multiline, matchTimeoutMilliseconds: 10_000)]
    private static partial Regex FlowStep();

    [GeneratedRegex(@"^    // (?<number>\d+): ", RegexOptions.Multiline, matchTimeoutMilliseconds: 10_000)]
    private static partial Regex MethodStep();

    [GeneratedRegex(@"\b(class|struct|record|interface|enum)\s+Tunnel\b", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 10_000)]
    private static partial Regex TypeCalledTunnel();

    [GeneratedRegex(@"^    /// <summary>(?<meaning>.+)</summary>\n    (?<reason>\w+),$", RegexOptions.Multiline, matchTimeoutMilliseconds: 10_000)]
    private static partial Regex ExplainedReason();
}
