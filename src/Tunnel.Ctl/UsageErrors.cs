using System.CommandLine;
using System.CommandLine.Parsing;

namespace Tunnel.Ctl;

/// <summary>Says in one line what is wrong with a command line, and what the right form is.</summary>
internal static class UsageErrors
{
    /// <summary>Explains the first error.</summary>
    /// <param name="parsed">A command line with at least one error.</param>
    public static Failure Explain(ParseResult parsed)
    {
        Command command = parsed.CommandResult.Command;
        string usage = $"usage: {Help.Usage(command)}";

        // What stands on the command line comes before what is missing from it: the one is often the cause of the other.
        foreach (ParseError error in parsed.Errors)
        {
            if (Owner(error.SymbolResult) is { Implicit: false } option)
                return new Failure(ExitCode.Usage, OptionError(option, error), Help.Form(option.Option));

            if (error.SymbolResult is ArgumentResult { Tokens: [{ Value: var value }, ..] })
                return IsOption(value) ? Unmatched(value, command, usage) : new Failure(ExitCode.Usage, error.Message, usage);
        }

        if (parsed.UnmatchedTokens.Count > 0)
            return Unmatched(parsed.UnmatchedTokens[0], command, usage);

        foreach (Argument argument in command.Arguments)
        {
            if (argument.Arity.MinimumNumberOfValues > 0 && parsed.GetResult(argument) is not { Tokens.Count: > 0 })
                return new Failure(ExitCode.Usage, $"{argument.Name} is missing", usage);
        }

        foreach (Option option in command.Options)
        {
            if (option.Required && parsed.GetResult(option) is null or { Implicit: true })
                return new Failure(ExitCode.Usage, $"{option.Name} is missing", usage);
        }

        return new Failure(ExitCode.Usage, parsed.Errors[0].Message, usage);
    }

    /// <summary>Refuses what no peer can be called: it would be another path of the API, or is a mistyped option.</summary>
    public static void CheckPeerName(ArgumentResult result)
    {
        string? name = result.Tokens.Count > 0 ? result.Tokens[0].Value : null;
        if (name is "" or "." or ".." || (name is not null && IsOption(name)))
            result.AddError($"no peer is called '{name}'");
    }

    /// <summary>Refuses what nothing can be called, or what is a mistyped option.</summary>
    /// <param name="result">The argument.</param>
    /// <param name="what">What it names.</param>
    public static void CheckName(ArgumentResult result, string what)
    {
        string? name = result.Tokens.Count > 0 ? result.Tokens[0].Value : null;
        if (name is "" || (name is not null && IsOption(name)))
            result.AddError($"no {what} is called '{name}'");
    }

    /// <summary>Refuses an option as another option's value: the value was forgotten.</summary>
    public static void CheckValue(OptionResult result)
    {
        if (result.Tokens.Any(token => IsOption(token.Value)))
            result.AddError(NeedsValue(result.Option));
    }

    private static string NeedsValue(Option option) => $"{option.Name} needs a value";

    private static OptionResult? Owner(SymbolResult? result) => result as OptionResult ?? result?.Parent as OptionResult;

    private static string OptionError(OptionResult result, ParseError error)
    {
        Option option = result.Option;
        if (result.Tokens.Count < option.Arity.MinimumNumberOfValues)
            return NeedsValue(option);

        bool once = result.Tokens.Count <= option.Arity.MaximumNumberOfValues;
        return once ? error.Message : $"{option.Name} is given more than once";
    }

    private static Failure Unmatched(string word, Command command, string usage)
    {
        if (IsOption(word))
        {
            string name = word.Split('=')[0];
            IEnumerable<string> known = Known(command);
            return new Failure(ExitCode.Usage, $"unknown option {name}", DidYouMean(name, known, usage));
        }

        if (command.Subcommands.Count > 0)
        {
            string hint = DidYouMean(word, command.Subcommands.Select(c => c.Name), $"{Help.ProgramName} --help lists the commands");
            return new Failure(ExitCode.Usage, $"unknown command '{word}'", hint);
        }

        return new Failure(ExitCode.Usage, $"unexpected argument '{word}'", usage);
    }

    private static bool IsOption(string word) => word.Length > 1 && word[0] == '-';

    private static IEnumerable<string> Known(Command command) =>
        command.Options.Concat(command.Parents.OfType<Command>().SelectMany(parent => parent.Options.Where(o => o.Recursive))).Select(o => o.Name)
            .Where(name => name.StartsWith("--", StringComparison.Ordinal));

    private static string DidYouMean(string word, IEnumerable<string> known, string otherwise)
    {
        (string Name, int Distance) nearest = known.Select(name => (name, Distance(word, name))).MinBy(candidate => candidate.Item2);
        string? prefixed = known.FirstOrDefault(name => word.Length > 1 && name.StartsWith(word, StringComparison.Ordinal));
        string? meant = prefixed ?? (nearest.Distance <= Math.Max(1, word.Length / 3) ? nearest.Name : null);
        return meant is null ? otherwise : $"did you mean {meant}? {otherwise}";
    }

    // Optimal string alignment: insert, delete, replace or swap neighbours, each for 1.
    private static int Distance(string a, string b)
    {
        int[,] d = new int[a.Length + 1, b.Length + 1];
        for (int i = 0; i <= a.Length; i++)
            d[i, 0] = i;

        for (int j = 0; j <= b.Length; j++)
            d[0, j] = j;

        for (int i = 1; i <= a.Length; i++)
        {
            for (int j = 1; j <= b.Length; j++)
            {
                int replace = d[i - 1, j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
                d[i, j] = Math.Min(replace, Math.Min(d[i - 1, j], d[i, j - 1]) + 1);
                if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                    d[i, j] = Math.Min(d[i, j], d[i - 2, j - 2] + 1);
            }
        }

        return d[a.Length, b.Length];
    }
}
