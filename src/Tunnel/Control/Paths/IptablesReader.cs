using System.Globalization;
using System.Text;
using Tunnel.Wire;

namespace Tunnel.Control.Paths;

/// <summary>
/// Reads what iptables-save(8) prints as rules for plain GRE and for GRE-in-UDP. Rules that certainly apply to no such packet are left out; what
/// is not known may apply. A packet's mark is 0: a rule that may set it is found before one that asks for it.
/// </summary>
internal static class IptablesReader
{
    /// <summary>The tables that a text has, by name.</summary>
    public static IReadOnlySet<string> TablesOf(string text) =>
        text.Split('\n').Where(line => line.StartsWith('*')).Select(line => line[1..].Trim()).ToHashSet(StringComparer.Ordinal);

    /// <summary>Reads the base chains of some tables.</summary>
    /// <param name="text">What the program printed.</param>
    /// <param name="label">What goes before the chains' names: iptables.</param>
    /// <param name="protocols">The protocols of packets to read rules for.</param>
    public static IReadOnlyList<NetfilterChain> Read(string text, string label, IReadOnlyList<byte> protocols)
    {
        string tool = label == "iptables" ? "iptables-nft" : label;
        var found = new List<NetfilterChain>();
        var numbers = new Dictionary<string, int>(StringComparer.Ordinal);
        var table = new Dictionary<string, NetfilterChain>(StringComparer.Ordinal);
        string tableName = "";
        foreach (string line in text.Split('\n').Select(line => line.Trim()))
        {
            if (line.StartsWith('*'))
            {
                tableName = line[1..];
                table = new Dictionary<string, NetfilterChain>(StringComparer.Ordinal);
                numbers.Clear();
            }
            else if (line.StartsWith(':'))
            {
                string[] words = line[1..].Split(' ');
                var chain = new NetfilterChain($"{label}: chain {words[0]} (table {tableName})", new ChainPlace(tool, tableName, words[0]))
                {
                    Table = table,
                    Hook = words is [_, "-", ..] ? null : words[0].ToLowerInvariant(),
                    DropsAtEnd = words is [_, "DROP", ..],
                    Translates = tableName == "nat",
                    Priority = PriorityOf(tableName),
                };
                table[words[0]] = chain;
                found.Add(chain);
            }
            else if (line.StartsWith("-A ", StringComparison.Ordinal))
            {
                List<string> words = SplitWords(line);
                int number = numbers[words[1]] = numbers.GetValueOrDefault(words[1]) + 1;
                if (table.TryGetValue(words[1], out NetfilterChain? chain))
                {
                    foreach (byte protocol in protocols)
                    {
                        if (ReadRule(words, number, table, protocol) is NetfilterRule rule)
                        {
                            chain.RulesFor(protocol).Add(rule);
                        }
                    }
                }
            }
        }

        return [.. found.Where(chain => chain.Hook is not null)];
    }

    // Null: it applies to no outer packet of the protocol.
    private static NetfilterRule? ReadRule(List<string> words, int number, Dictionary<string, NetfilterChain> table, byte protocol)
    {
        var steps = new List<NetfilterStep>();
        string module = "";
        bool inverted = false;
        int i = 2;
        for (; i < words.Count && words[i] is not ("-j" or "-g"); i++)
        {
            string word = words[i];
            if (word == "!")
            {
                inverted = true;
                continue;
            }

            NetfilterCondition? condition = null;
            string argument = i + 1 < words.Count ? words[i + 1] : "";
            switch (word)
            {
                case "-p":
                    condition = Always(argument is "all" or "0" || IsProtocol(argument, protocol) ? Truth.Yes : Truth.No);
                    i++;
                    break;
                case "-s" or "-d":
                    condition = ReadAddress(argument, isSource: word == "-s");
                    i++;
                    break;
                case "-i" or "-o":
                    condition = ReadName(argument, isInput: word == "-i");
                    i++;
                    break;
                case "-m":
                    module = argument;
                    condition = IsUnderstood(module) ? null : Always(Truth.Maybe);
                    i++;
                    break;
                case "--comment" when module == "comment":
                    i++;
                    break;
                case "--sport" or "--dport" when module is "udp" or "tcp":
                    condition = ReadPorts(argument, asksSource: word == "--sport");
                    i++;
                    break;
                case "--sports" or "--dports" when module == "multiport":
                    condition = ReadPorts(argument, asksSource: word == "--sports");
                    i++;
                    break;
                case "--mark" when module == "mark":
                    condition = Always(ReadMark(argument));
                    i++;
                    break;
                case "--ctstate" or "--state" when module is "conntrack" or "state":
                    // What connection tracking calls invalid is damaged: it is no GRE that either kind of socket would yield, and none that is sent.
                    Truth whereNew = argument.Split(',').Contains("NEW") ? Truth.Yes : Truth.No;
                    condition = protocol == IpProtocol.Tcp ? Always(whereNew)
                        : argument == "INVALID" ? Always(Truth.No)
                        : protocol != IpProtocol.Udp ? Always(Truth.Maybe)
                        : (in OuterPacket packet) => packet.IsUnanswered ? whereNew : Truth.Maybe;
                    i++;
                    break;
                default:
                    condition = word.StartsWith('-') && module != "comment" ? Always(Truth.Maybe) : null;
                    break;
            }

            if (condition is not null)
            {
                steps.Add(new ConditionStep(inverted ? Not(condition) : condition));
            }

            inverted = false;
        }

        // Conditions that do not depend on addresses or devices answer for every packet alike.
        if (steps.Any(step => step is ConditionStep { Condition.Target: Constant { Truth: Truth.No } }))
        {
            return null;
        }

        steps.AddRange(ReadTarget(words, i, table));
        return new NetfilterRule($"rule {number}", steps);
    }

    private static IEnumerable<NetfilterStep> ReadTarget(List<string> words, int index, Dictionary<string, NetfilterChain> table)
    {
        if (index + 1 >= words.Count)
        {
            return [new EffectStep("counter", OnlyObserves: true)];
        }

        string target = words[index + 1];
        return target switch
        {
            "ACCEPT" => [new VerdictStep(new Verdict(VerdictKind.Accept))],
            "DROP" => [new VerdictStep(new Verdict(VerdictKind.Drop))],
            "RETURN" => [new VerdictStep(new Verdict(VerdictKind.Return))],
            "LOG" or "NFLOG" or "ULOG" or "TRACE" or "AUDIT" => [new EffectStep(target, OnlyObserves: true)],

            // What passes a packet socket is not tracked anyway.
            "NOTRACK" => [],
            "CT" when words is [.., "--notrack"] => [],
            _ when table.ContainsKey(target) =>
                [new VerdictStep(new Verdict(words[index] == "-g" ? VerdictKind.Goto : VerdictKind.Jump, target))],
            _ => [new EffectStep(target, OnlyObserves: false)],
        };
    }

    // Modules whose options are all looked at one by one, or say nothing.
    private static bool IsUnderstood(string module) => module is "comment" or "mark" or "conntrack" or "state" or "tcp" or "udp" or "multiport";

    private static bool IsProtocol(string word, byte protocol) =>
        protocol switch
        {
            IpProtocol.Udp => word is "udp" or "17",
            IpProtocol.Tcp => word is "tcp" or "6",
            _ => word is "gre" or "47",
        };

    // Where the kernel's own tables have their base chains (nf_ip_hook_priorities); nat's is that of POSTROUTING.
    private static int PriorityOf(string table) => table switch
    {
        "raw" => -300,
        "mangle" => -150,
        "nat" => 100,
        "security" => 50,
        _ => 0,
    };

    // Ports and ranges of ports: 53,4000:4999. Only rules with -p udp or -p tcp have them, among those that are kept.
    private static NetfilterCondition ReadPorts(string text, bool asksSource)
    {
        var ranges = new List<(ushort First, ushort Last)>();
        foreach (string part in text.Split(','))
        {
            string[] ends = part.Split(':');
            if (ends.Length > 2 || !ushort.TryParse(ends[0], CultureInfo.InvariantCulture, out ushort first) ||
                !ushort.TryParse(ends[^1], CultureInfo.InvariantCulture, out ushort last))
            {
                return Always(Truth.Maybe);
            }

            ranges.Add((first, last));
        }

        return (in OuterPacket packet) =>
        {
            PortRange ports = asksSource ? packet.SourcePorts : packet.DestinationPorts;
            var truth = Truth.No;
            foreach ((ushort first, ushort last) in ranges)
            {
                Truth one = ports.IsWithin(first, last);
                truth = one > truth ? one : truth;
            }

            return truth;
        };
    }

    private static Truth ReadMark(string text)
    {
        string value = text.Split('/')[0];
        bool isHexadecimal = value.StartsWith("0x", StringComparison.Ordinal);
        return uint.TryParse(
            isHexadecimal ? value[2..] : value,
            isHexadecimal ? NumberStyles.HexNumber : NumberStyles.None,
            CultureInfo.InvariantCulture,
            out uint mark) ? mark == 0 ? Truth.Yes : Truth.No : Truth.Maybe;
    }

    private static NetfilterCondition ReadAddress(string text, bool isSource)
    {
        string whole = text.Contains('/', StringComparison.Ordinal) ? text : text + "/32";
        if (!IpPrefix.TryParse(whole, out IpPrefix prefix))
        {
            return Always(Truth.Maybe);
        }

        return (in OuterPacket packet) => prefix.Contains(isSource ? packet.Source : packet.Destination) ? Truth.Yes : Truth.No;
    }

    // A packet that has no such device has one without a name.
    private static NetfilterCondition ReadName(string text, bool isInput)
    {
        bool isBeginning = text.EndsWith('+');
        string name = isBeginning ? text[..^1] : text;
        return (in OuterPacket packet) =>
        {
            string device = isInput ? packet.InputName : packet.OutputName;
            return (isBeginning ? device.StartsWith(name, StringComparison.Ordinal) : device == name) ? Truth.Yes : Truth.No;
        };
    }

    private static NetfilterCondition Always(Truth truth) => new Constant(truth).Hold;

    private static NetfilterCondition Not(NetfilterCondition condition) =>
        condition.Target is Constant constant
            ? Always(Opposite(constant.Truth))
            : (in OuterPacket packet) => Opposite(condition(packet));

    private static Truth Opposite(Truth truth) => (Truth)((int)Truth.Yes - (int)truth);

    private static List<string> SplitWords(string line)
    {
        var words = new List<string>();
        var word = new StringBuilder();
        bool isQuoted = false;
        for (int i = 0; i < line.Length; i++)
        {
            char letter = line[i];
            if (letter == '"')
            {
                isQuoted = !isQuoted;
            }
            else if (letter == '\\' && isQuoted && i + 1 < line.Length)
            {
                word.Append(line[++i]);
            }
            else if (letter == ' ' && !isQuoted)
            {
                words.Add(word.ToString());
                word.Clear();
            }
            else
            {
                word.Append(letter);
            }
        }

        words.Add(word.ToString());
        return words;
    }

    private sealed class Constant(Truth truth)
    {
        public Truth Truth { get; } = truth;

        public Truth Hold(in OuterPacket packet) => Truth;
    }
}
