using System.CommandLine;
using System.CommandLine.Completions;
using System.CommandLine.Invocation;

namespace Tunnel.Ctl;

/// <summary>
/// What the shells ask for completion: <c>tunnelctl "[complete]" "tunnelctl show v"</c> prints what may stand in place of the line's last
/// word, one candidate a line, with a tab and its description where it has one. The scripts in packaging/completion call it.
/// </summary>
internal sealed class Completion : SynchronousCommandLineAction
{
    /// <summary>How long a shell waits for the daemon before it goes without the names of its peers.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(1);

    private readonly TextWriter _output;

    private Completion(TextWriter output) => _output = output;

    /// <inheritdoc/>
    public override bool ClearsParseErrors => true;

    /// <summary>Makes the directive.</summary>
    /// <param name="output">Where the candidates go.</param>
    public static Directive Directive(TextWriter output) => new("complete") { Action = new Completion(output) };

    /// <summary>The names of a daemon's peers; none where it does not answer.</summary>
    /// <param name="connect">Makes a client.</param>
    public static IEnumerable<CompletionItem> Peers(Func<ControlClient> connect)
    {
        try
        {
            using ControlClient client = connect();
            return
            [
                .. client.Send(HttpMethod.Get, "v1/peers").EnumerateArray()
                    .Select(peer => new CompletionItem(peer.Member("name").Text()!, detail: peer.Member("endpoint").Text())),
            ];
        }
        catch (Exception failure) when (failure is Failure or InvalidOperationException)
        {
            return [];
        }
    }

    /// <inheritdoc/>
    public override int Invoke(ParseResult parseResult)
    {
        string line = parseResult.Tokens.LastOrDefault(token => token.Type != System.CommandLine.Parsing.TokenType.Directive)?.Value ?? "";
        ParseResult typed = parseResult.CommandResult.Command.Parse(line);

        // System.CommandLine offers what has the word anywhere in it; a shell puts it in the word's place, so the beginning must stay.
        string word = line[(line.LastIndexOf(' ') + 1)..];
        foreach (CompletionItem item in typed.GetCompletions(line.Length).Where(item => item.Label.StartsWith(word, StringComparison.Ordinal)))
            _output.WriteLine(string.IsNullOrEmpty(item.Detail) ? item.Label : $"{item.Label}\t{item.Detail}");

        return ExitCode.Done;
    }
}
