using System.CommandLine;
using Tunnel.Ctl;

namespace Tunnel.Tests.Ctl;

/// <summary>docs/tunnelctl.md against the program: its commands and options, and the output of its examples.</summary>
public sealed class DocumentationTests
{
    private static readonly string Page = File.ReadAllText(Path.Combine(RepositoryRoot(), "docs", "tunnelctl.md"));

    private static readonly string[] PageLines = Page.Split('\n');

    private static readonly RootCommand Root = new CommandTree(new Surroundings(TextWriter.Null, TextWriter.Null, _ => null)).Root;

    [Fact]
    public void Every_command_has_a_section_and_every_section_a_command()
    {
        string[] sections = [.. PageLines.Where(line => line.StartsWith("## ", StringComparison.Ordinal)).Select(line => line[3..])];
        string[] others = ["Options of every command", "Exit codes", "For scripts"];

        Assert.Equal(Root.Subcommands.Select(command => command.Name), sections.Except(others));
    }

    [Fact]
    public void Every_section_has_the_usage_of_its_command()
    {
        Assert.Contains($"```text\n{Help.Usage(Root)}\n```", Page, StringComparison.Ordinal);
        Assert.All(Root.Subcommands, command =>
            Assert.Contains($"```text\n{Help.Usage(command)}\n```", Section(command.Name), StringComparison.Ordinal));
    }

    [Fact]
    public void Every_table_of_options_has_the_options_of_its_command()
    {
        Assert.Equal(Forms(Root), Table(Section("Options of every command")));
        Assert.All(Root.Subcommands, command => Assert.Equal(Forms(command), Table(Section(command.Name))));
    }

    [Fact]
    public void Every_option_that_is_mentioned_exists()
    {
        HashSet<string> known = [.. Root.Subcommands.Append<Command>(Root).SelectMany(command => command.Options).SelectMany(option => option.Aliases.Append(option.Name))];
        known.Add("--config");

        string[] mentioned =
        [
            .. Page.Split([' ', '\n', '`', '[', ']', '(', ')', ',', '.', ';', '=', '|'])
                .Where(word => word.Length > 1 && word[0] == '-' && word.TrimStart('-') is [>= 'a' and <= 'z', ..]),
        ];

        Assert.Contains("--subnet", mentioned);
        Assert.Empty(mentioned.Except(known));
    }

    [Fact]
    public void Every_example_prints_what_the_page_says()
    {
        using CtlHarness ctl = new();
        using FakeDaemon daemon = new(ctl.SocketPath());
        (string CommandLine, string Output)[] examples = [.. Examples()];

        Assert.True(examples.Length > 10, $"only {examples.Length} examples were found");
        Assert.All(examples, example =>
        {
            CtlResult result = ctl.Run(example.CommandLine.Split(' '));

            Assert.Equal(example.Output, (result.Output + result.Error).Replace(ctl.RunDirectory, "/run/tunnel", StringComparison.Ordinal));
        });
    }

    [Theory]
    [InlineData("show", "GET /v1/network")]
    [InlineData("add-peer", "PUT /v1/peers/vm2")]
    [InlineData("set-peer", "PATCH /v1/peers/vm2")]
    [InlineData("remove-peer", "DELETE /v1/peers/vm2")]
    [InlineData("routes", "GET /v1/routes")]
    [InlineData("drops", "GET /v1/drops")]
    [InlineData("explain", "GET /v1/explain?source=172.17.51.2&destination=172.17.52.2")]
    [InlineData("ping", "POST /v1/peers/vm2/ping")]
    [InlineData("doctor", "GET /v1/doctor")]
    [InlineData("capture", "GET /v1/capture?peer=vm2")]
    [InlineData("top", "GET /v1/peers")]
    [InlineData("docker-config", "GET /v1/network")]
    [InlineData("attach", "GET /v1/network")]
    [InlineData("reload", "POST /v1/reload")]
    public void The_example_in_a_commands_help_works(string name, string request)
    {
        CtlCommand command = Assert.IsType<CtlCommand>(Root.Subcommands.Single(c => c.Name == name));
        using CtlHarness ctl = new();
        using FakeDaemon daemon = new(ctl.SocketPath());
        daemon.Answers[request] = (200, CannedAnswers.Vm2);
        CtlResult result = ctl.Run(command.Example.Split(' ')[1..]);

        Assert.True(result.ExitCode is 0 or 1 && daemon.Requests.Count > 0, result.Error);
    }

    private static string[] Forms(Command command) => [.. command.Options.Where(option => !option.Hidden).Select(Help.Form)];

    // The first cells of the rows that begin with an option: | `--key N\|IN:OUT` | ...
    private static string[] Table(string section) =>
    [
        .. section.Split('\n').Where(line => line.StartsWith("| `-", StringComparison.Ordinal))
            .Select(line => line.Split('`')[1].Replace("\\|", "|", StringComparison.Ordinal)),
    ];

    // In ```console blocks: "$ tunnelctl ..." and the lines up to the next one.
    private static IEnumerable<(string CommandLine, string Output)> Examples()
    {
        const string Prompt = "$ tunnelctl ";
        string? commandLine = null;
        string output = "";
        bool inside = false;
        foreach (string line in PageLines)
        {
            bool ends = inside && line == "```";
            bool begins = inside && line.StartsWith(Prompt, StringComparison.Ordinal);
            if ((ends || begins) && commandLine is not null)
                yield return (commandLine, output);

            if (ends || begins)
                (commandLine, output) = (begins ? line[Prompt.Length..] : null, "");
            else if (inside)
                output += line + "\n";

            inside = line == "```console" || (inside && !ends);
        }
    }

    private static string Section(string heading)
    {
        int begin = Page.IndexOf($"\n## {heading}\n", StringComparison.Ordinal);
        Assert.True(begin >= 0, $"no section {heading}");
        int end = Page.IndexOf("\n## ", begin + 1, StringComparison.Ordinal);
        return end < 0 ? Page[begin..] : Page[begin..end];
    }

    private static string RepositoryRoot()
    {
        DirectoryInfo? directory = new(AppContext.BaseDirectory);
        while (directory is not null && !File.Exists(Path.Combine(directory.FullName, "Tunnel.sln")))
            directory = directory.Parent;

        return directory?.FullName ?? throw new InvalidOperationException("the tests do not run inside the repository");
    }
}
