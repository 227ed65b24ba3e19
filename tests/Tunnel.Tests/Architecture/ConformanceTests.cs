using System.Text.RegularExpressions;

namespace Tunnel.Tests.Architecture;

/// <summary>docs/conformance.md names tests that exist, for every line of the list.</summary>
public sealed partial class ConformanceTests
{
    private static readonly string[] Ids =
    [
        "H1", "H2", "H3", "H4", "H5", "H6", "H7", "H8", "S1", "S2", "S3", "S4", "S5", "V1", "V2", "V3", "V4", "F1", "F2", "F3", "F4", "F5", "F6",
        "I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "ECN", "U1", "U2", "U3", "U4", "U5", "U7", "U9",
    ];

    private static readonly string Root = Repository.Root;
    private static readonly string[] Lines = File.ReadAllLines(Path.Combine(Root, "docs", "conformance.md"));

    [Fact]
    public void Every_id_has_its_line_and_each_line_names_a_test_or_a_document()
    {
        string[][] rows = [.. Lines.Where(line => line.StartsWith("| ", StringComparison.Ordinal)).Select(line => line.Split(" | ")).Where(cells => IdPattern().IsMatch(cells[0]))];
        Assert.Equal(Ids, rows.Select(cells => cells[0].TrimStart('|', ' ')));
        Assert.All(rows, cells => Assert.True(TestPattern().IsMatch(cells[2]) || cells[2].Contains("docs/", StringComparison.Ordinal), cells[0]));
    }

    [Fact]
    public void Every_test_that_is_named_exists()
    {
        Dictionary<string, string[]> sources = Directory.GetFiles(Path.Combine(Root, "tests"), "*Tests.cs", SearchOption.AllDirectories)
            .GroupBy(file => Path.GetFileNameWithoutExtension(file)!, StringComparer.Ordinal)
            .ToDictionary(files => files.Key, files => files.Select(File.ReadAllText).ToArray(), StringComparer.Ordinal);
        (string Class, string Method)[] named =
            [.. Lines.SelectMany(line => TestPattern().Matches(line)).Select(match => (match.Groups["class"].Value, match.Groups["method"].Value))];

        Assert.NotEmpty(named);
        Assert.All(named, one => Assert.True(
            sources.GetValueOrDefault(one.Class, []).Any(text => Regex.IsMatch(text, $@"\b{one.Method}\(", RegexOptions.None, TimeSpan.FromSeconds(1))),
            $"docs/conformance.md names {one.Class}.{one.Method}, which does not exist"));
    }

    [Fact]
    public void Every_document_that_is_named_exists()
    {
        string[] documents = [.. Lines.SelectMany(line => DocumentPattern().Matches(line)).Select(match => match.Value).Distinct(StringComparer.Ordinal)];
        Assert.All(documents, document => Assert.True(
            File.Exists(Path.Combine(Root, document)) ||
            Directory.GetFiles(Path.Combine(Root, Path.GetDirectoryName(document)!), Path.GetFileName(document) + "-*.md").Length == 1,
            $"docs/conformance.md names {document}, which does not exist"));
    }

    [GeneratedRegex(@"^\| [A-Z]+\d*$", RegexOptions.None, matchTimeoutMilliseconds: 1000)]
    private static partial Regex IdPattern();

    [GeneratedRegex(@"`(?<class>\w+Tests)\.(?<method>\w+)`", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex TestPattern();

    [GeneratedRegex(@"docs/(decisions/\d{4}|[a-z-]+\.md)", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex DocumentPattern();
}
