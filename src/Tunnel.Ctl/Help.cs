using System.CommandLine;
using System.CommandLine.Invocation;

namespace Tunnel.Ctl;

/// <summary>Writes --help, and the usage lines that error messages end with. All of it is read from the command tree.</summary>
internal static class Help
{
    /// <summary>The program's name; System.CommandLine would take the process's.</summary>
    public const string ProgramName = "tunnelctl";

    /// <summary>The command's form in one line: "tunnelctl add-peer PEER --endpoint ADDRESS ...".</summary>
    public static string Usage(Command command)
    {
        if (command is RootCommand)
            return $"{ProgramName} [-n NETWORK | --socket PATH] [--json] COMMAND";

        IEnumerable<string> arguments = command.Arguments.Select(a => a.Arity.MinimumNumberOfValues > 0 ? a.Name : $"[{a.Name}]");
        IEnumerable<string> options = command.Options.Select(o => o.Required ? Form(o) : $"[{Form(o)}]");
        return string.Join(' ', [ProgramName, command.Name, .. arguments, .. options]);
    }

    /// <summary>The option with its value: "--subnet CIDR...", "--checksum [true|false]", "-h, --help".</summary>
    public static string Form(Option option)
    {
        string names = string.Join(", ", new[] { option.Name }.Concat(option.Aliases).OrderBy(name => name.Length));
        return option switch
        {
            { HelpName: null } => names,
            { Arity.MinimumNumberOfValues: 0 } => $"{names} [{option.HelpName}]",
            { Arity.MaximumNumberOfValues: > 1 } => $"{names} {option.HelpName}...",
            _ => $"{names} {option.HelpName}",
        };
    }

    private static void Write(Command command, TextWriter output)
    {
        output.WriteLine(command.Description);
        output.WriteLine();
        output.WriteLine($"Usage: {Usage(command)}");
        Section(output, "Arguments", command.Arguments.Select(a => (a.Name, a.Description)));
        Section(output, "Commands", command.Subcommands.Select(c => (c.Name, c.Description)));
        Section(output, "Options", Options(command).Select(o => (Form(o), o.Description)));
        if (Root(command) is { } root)
            Section(output, "Options of every command", Options(root).Where(o => o.Recursive).Select(o => (Form(o), o.Description)));

        output.WriteLine();
        output.WriteLine("Example:");
        output.WriteLine($"  {(command as CtlCommand)?.Example ?? "tunnelctl -n tun0 show"}");
        if (command is RootCommand)
        {
            output.WriteLine();
            output.WriteLine("Exit codes: 0 done; 1 refused or failed; 2 usage; 3 daemon not reachable; 4 doctor found something.");
            output.WriteLine($"{ProgramName} COMMAND --help says more about a command.");
        }
    }

    private static void Section(TextWriter output, string title, IEnumerable<(string Form, string? Description)> rows)
    {
        (string Form, string? Description)[] all = [.. rows];
        if (all.Length == 0)
            return;

        output.WriteLine();
        output.WriteLine($"{title}:");
        int width = all.Max(row => row.Form.Length);
        foreach ((string form, string? description) in all)
            output.WriteLine($"  {form.PadRight(width)}  {description}");
    }

    private static IEnumerable<Option> Options(Command command) => command.Options.Where(o => !o.Hidden);

    private static RootCommand? Root(Command command) => command.Parents.OfType<RootCommand>().FirstOrDefault();

    /// <summary>What --help does.</summary>
    internal sealed class Action : SynchronousCommandLineAction
    {
        /// <inheritdoc/>
        public override bool ClearsParseErrors => true;

        /// <inheritdoc/>
        public override int Invoke(ParseResult parseResult)
        {
            Write(parseResult.CommandResult.Command, parseResult.InvocationConfiguration.Output);
            return ExitCode.Done;
        }
    }
}
