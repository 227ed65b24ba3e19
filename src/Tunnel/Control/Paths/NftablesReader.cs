using System.Text.Json;
using Tunnel.Wire;

namespace Tunnel.Control.Paths;

/// <summary>
/// Reads what `nft -j list ruleset` prints (libnftables-json(5)) as rules for plain GRE and for GRE-in-UDP over IPv4. Rules that certainly apply
/// to no such packet are left out; what is not known may apply. A packet's mark is 0: a rule that may set it is found before one that asks for it.
/// </summary>
internal sealed class NftablesReader
{
    // Headers that an outer packet over IPv4 has not: nft asks for the protocol before it looks at one. UDP and TCP are looked at by themselves.
    private static readonly HashSet<string> OtherHeaders = new(StringComparer.Ordinal)
    {
        "udplite", "sctp", "dccp", "icmp", "icmpv6", "igmp", "esp", "ah", "comp", "ip6", "arp",
    };

    private readonly Dictionary<string, Dictionary<string, NetfilterChain>> _tables = new(StringComparer.Ordinal);
    private readonly Dictionary<(string Table, string Name), JsonElement> _sets = [];
    private readonly HashSet<(string Table, string Name)> _changing = [];

    private NftablesReader()
    {
    }

    /// <summary>What an expression yields for a packet.</summary>
    private enum OperandKind
    {
        Unknown,

        /// <summary>The packet has no such thing, and every match of it fails.</summary>
        Absent,
        Protocol,
        Number,
        Word,
        Source,
        Destination,
        SourcePort,
        DestinationPort,
        InputName,
        OutputName,
        ConntrackState,
        ConntrackStatus,
    }

    /// <summary>Reads the base chains.</summary>
    /// <param name="text">What nft printed.</param>
    /// <param name="isReadElsewhere">Tables to leave out, by "family name".</param>
    /// <param name="protocols">The protocols of packets to read rules for.</param>
    /// <exception cref="JsonException">It is not what nft prints.</exception>
    public static IReadOnlyList<NetfilterChain> Read(string text, Func<string, bool> isReadElsewhere, IReadOnlyList<byte> protocols)
    {
        using var document = JsonDocument.Parse(text);
        if (!document.RootElement.TryGetProperty("nftables", out JsonElement list) || list.ValueKind != JsonValueKind.Array)
        {
            throw new JsonException("there is no list called nftables");
        }

        var reader = new NftablesReader();
        JsonElement[] objects = [.. list.EnumerateArray().Where(item => item.ValueKind == JsonValueKind.Object)];
        foreach (JsonElement item in objects)
        {
            reader.ReadChainOrSet(item, isReadElsewhere);
        }

        JsonElement[] rules = [.. objects.Where(item => item.TryGetProperty("rule", out _)).Select(item => item.GetProperty("rule"))];
        foreach (JsonElement rule in rules)
        {
            reader.NoteChangingSets(rule);
        }

        foreach (JsonElement rule in rules)
        {
            foreach (byte protocol in protocols)
            {
                reader.ReadRule(rule, protocol);
            }
        }

        return [.. reader._tables.Values.SelectMany(table => table.Values).Where(chain => chain.Hook is not null)];
    }

    private static string TableOf(JsonElement item) => $"{Text(item, "family")} {Text(item, "table")}";

    private static string Text(JsonElement item, string name) =>
        item.TryGetProperty(name, out JsonElement value) && value.ValueKind == JsonValueKind.String ? value.GetString()! : "";

    private static JsonElement.ArrayEnumerator Elements(JsonElement item, string name) =>
        item.TryGetProperty(name, out JsonElement value) && value.ValueKind == JsonValueKind.Array ? value.EnumerateArray() : default;

    private void ReadChainOrSet(JsonElement item, Func<string, bool> isReadElsewhere)
    {
        if (item.TryGetProperty("chain", out JsonElement chain))
        {
            // Everything over IPv6 goes through raw or UDP sockets in any case; bridges' own rules apply to packet sockets as well.
            string tableName = TableOf(chain);
            if (Text(chain, "family") is not ("ip" or "inet" or "netdev") || isReadElsewhere(tableName))
            {
                return;
            }

            if (!_tables.TryGetValue(tableName, out Dictionary<string, NetfilterChain>? table))
            {
                table = new Dictionary<string, NetfilterChain>(StringComparer.Ordinal);
                _tables.Add(tableName, table);
            }

            string name = Text(chain, "name");
            table[name] = new NetfilterChain($"nftables: chain {name} (table {tableName})", new ChainPlace("nft", tableName, name))
            {
                Table = table,
                Hook = chain.TryGetProperty("hook", out _) ? Text(chain, "hook") : null,
                Devices = Text(chain, "dev") is { Length: > 0 } device
                    ? [device]
                    : [.. Elements(chain, "dev").Where(dev => dev.ValueKind == JsonValueKind.String).Select(dev => dev.GetString()!)],
                DropsAtEnd = Text(chain, "policy") == "drop",
                Translates = Text(chain, "type") == "nat",
                Priority = chain.TryGetProperty("prio", out JsonElement priority) && priority.TryGetInt32(out int number) ? number : 0,
            };
        }
        else if (item.TryGetProperty("set", out JsonElement set) || item.TryGetProperty("map", out set))
        {
            (string Table, string Name) key = (TableOf(set), Text(set, "name"));
            _sets[key] = set;
            if (Elements(set, "flags").Any(flag => flag.ValueKind == JsonValueKind.String && flag.GetString() is "dynamic" or "timeout"))
            {
                _changing.Add(key);
            }
        }
    }

    // Sets that packets add to.
    private void NoteChangingSets(JsonElement rule)
    {
        foreach (JsonElement statement in Elements(rule, "expr"))
        {
            if (statement.ValueKind == JsonValueKind.Object &&
                (statement.TryGetProperty("set", out JsonElement change) || statement.TryGetProperty("map", out change)) &&
                change.ValueKind == JsonValueKind.Object)
            {
                _changing.Add((TableOf(rule), (Text(change, "set") + Text(change, "map")).TrimStart('@')));
            }
        }
    }

    private void ReadRule(JsonElement rule, byte protocol)
    {
        string table = TableOf(rule);
        if (!_tables.TryGetValue(table, out Dictionary<string, NetfilterChain>? chains) ||
            !chains.TryGetValue(Text(rule, "chain"), out NetfilterChain? chain))
        {
            return;
        }

        JsonElement[] expressions = [.. Elements(rule, "expr")];
        bool decides = expressions.Any(IsDecision);
        var steps = new List<NetfilterStep>();
        for (int i = 0; i < expressions.Length; i++)
        {
            bool decidesLater = expressions[(i + 1)..].Any(IsDecision);
            NetfilterStep? step = ReadStatement(table, expressions[i], protocol, decides, decidesLater, out bool never);
            if (never)
            {
                // What stands before a condition that never holds is done all the same.
                if (!steps.Any(earlier => earlier is EffectStep or MapStep))
                {
                    return;
                }

                break;
            }

            if (step is not null)
            {
                steps.Add(step);
            }
        }

        string name = rule.TryGetProperty("handle", out JsonElement handle) ? $"handle {handle}" : "a rule";
        chain.RulesFor(protocol).Add(new NetfilterRule(name, steps));
    }

    private static bool IsDecision(JsonElement statement) =>
        statement.ValueKind == JsonValueKind.Object &&
        statement.EnumerateObject().Any(part =>
            part.Name is "accept" or "drop" or "jump" or "goto" or "return" or "continue" or "vmap" or "reject" or "queue" or
                "snat" or "dnat" or "masquerade" or "redirect" ||
            (part.Name == "xt" && part.Value.ValueKind == JsonValueKind.Object && Text(part.Value, "type") == "target"));

    // What a statement is to an outer packet of the protocol; null for nothing.
    private NetfilterStep? ReadStatement(
        string table, JsonElement statement, byte protocol, bool decides, bool decidesLater, out bool never)
    {
        never = false;
        if (statement.ValueKind != JsonValueKind.Object)
        {
            return new EffectStep($"an unknown statement ({statement})", OnlyObserves: false);
        }

        JsonProperty part = statement.EnumerateObject().First();
        switch (part.Name)
        {
            case "match":
                NetfilterCondition? condition = ReadMatch(table, part.Value, protocol, out never);
                return condition is null ? null : new ConditionStep(condition);
            case "vmap":
                return ReadVerdictMap(table, part.Value, protocol, out never);
            case "accept" or "drop" or "jump" or "goto" or "return" or "continue":
                return new VerdictStep(ReadVerdict(part));
            case "limit" or "ct count" or "quota" or "meter":
                return new ConditionStep(Always(Truth.Maybe));
            case "counter":
                // A rule's own counter is housekeeping, unless there is nothing else to the rule, or others share it.
                return decides && part.Value.ValueKind != JsonValueKind.String ? null : new EffectStep("counter", OnlyObserves: true);
            case "log" or "last":
                return new EffectStep(part.Name, OnlyObserves: true);
            case "set" or "map":
                return new EffectStep($"{part.Name} update", OnlyObserves: true);
            case "snat" when IsToItself(part.Value):
                return new EffectStep(NetfilterFate.SnatToItself, OnlyObserves: false);
            case "notrack":
                // What passes a packet socket is not tracked anyway.
                return null;
            case "xt":
                return ReadExtension(part.Value, protocol, decidesLater, out never);
            default:
                return new EffectStep(part.Name, OnlyObserves: false);
        }
    }

    // snat ip to ip saddr: the address stays, and nobody else translates it.
    private static bool IsToItself(JsonElement translation) =>
        translation.ValueKind == JsonValueKind.Object && !translation.TryGetProperty("port", out _) &&
        translation.TryGetProperty("addr", out JsonElement address) && address.ValueKind == JsonValueKind.Object &&
        address.TryGetProperty("payload", out JsonElement field) && (Text(field, "protocol"), Text(field, "field")) == ("ip", "saddr");

    // An extension of iptables, of which nft tells the name at most.
    private static NetfilterStep? ReadExtension(JsonElement extension, byte protocol, bool decidesLater, out bool never)
    {
        never = false;
        (string type, string name) = extension.ValueKind == JsonValueKind.Object ? (Text(extension, "type"), Text(extension, "name")) : ("", "");
        switch (type)
        {
            case "match" when name is "udplite" or "sctp" or "dccp" or "icmp" or "esp" or "ah" ||
                (name == "tcp" && protocol != IpProtocol.Tcp) || (name == "udp" && protocol != IpProtocol.Udp) ||
                (name == "multiport" && protocol == IpProtocol.Gre):
                never = true;
                return null;
            case "match":
                return name == "comment" ? null : new ConditionStep(Always(Truth.Maybe));
            case "target" or "watcher" when name is "LOG" or "NFLOG":
                return new EffectStep(name, OnlyObserves: true);
            case "target" or "watcher":
                return new EffectStep(name, OnlyObserves: false);

            // In iptables a rule ends with its target.
            default:
                return decidesLater ? new ConditionStep(Always(Truth.Maybe)) : new EffectStep("an extension of iptables", OnlyObserves: false);
        }
    }

    private static Verdict ReadVerdict(JsonProperty part) => part.Name switch
    {
        "accept" => new Verdict(VerdictKind.Accept),
        "drop" => new Verdict(VerdictKind.Drop),
        "return" => new Verdict(VerdictKind.Return),
        "jump" => new Verdict(VerdictKind.Jump, Text(part.Value, "target")),
        "goto" => new Verdict(VerdictKind.Goto, Text(part.Value, "target")),
        "continue" => new Verdict(VerdictKind.Continue),

        // Leads nowhere, and so counts as unknown.
        _ => new Verdict(VerdictKind.Goto, part.Name),
    };

    private static NetfilterCondition Always(Truth truth) => (in OuterPacket _) => truth;

    // Null: it always holds.
    private NetfilterCondition? ReadMatch(string table, JsonElement match, byte protocol, out bool never)
    {
        never = false;
        if (!match.TryGetProperty("left", out JsonElement left) || !match.TryGetProperty("right", out JsonElement right))
        {
            return Always(Truth.Maybe);
        }

        Operand[] operands = ReadOperands(left, protocol);
        never = operands.Any(operand => operand.Kind == OperandKind.Absent);
        if (never)
        {
            return null;
        }

        string op = Text(match, "op");
        NetfilterCondition condition = op switch
        {
            "==" or "in" or "" => Compile(table, operands, right),
            "!=" => Not(Compile(table, operands, right)),
            _ => operands.Length == 1 ? Compare(op, operands[0], right) : Always(Truth.Maybe),
        };

        // What does not depend on the packet's addresses and device is known already.
        if (operands.All(operand => operand.IsConstant))
        {
            Truth truth = condition(default);
            never = truth == Truth.No;
            return truth == Truth.Yes ? null : condition;
        }

        return Guarded(operands, condition);
    }

    private static NetfilterCondition Not(NetfilterCondition condition) =>
        (in OuterPacket packet) => (Truth)((int)Truth.Yes - (int)condition(packet));

    // A packet that is sent has come by no device, and one that is received leaves by none. The name of none is empty, so that a rule for every
    // device but one goes on; in kernels before 5.4 it ended there.
    private static NetfilterCondition Guarded(Operand[] operands, NetfilterCondition condition)
    {
        bool asksInput = operands.Any(operand => operand.Kind == OperandKind.InputName);
        bool asksOutput = operands.Any(operand => operand.Kind == OperandKind.OutputName);
        return (in OuterPacket packet) => ((asksOutput && packet.OutputName.Length == 0) || (asksInput && packet.InputName.Length == 0)) && condition(packet) != Truth.No
            ? Truth.Maybe
            : condition(packet);
    }

    private MapStep? ReadVerdictMap(string table, JsonElement map, byte protocol, out bool never)
    {
        Operand[] operands = map.TryGetProperty("key", out JsonElement key) ? ReadOperands(key, protocol) : [];
        never = operands.Any(operand => operand.Kind == OperandKind.Absent);
        if (never)
        {
            return null;
        }

        if (operands.Length == 0 || !map.TryGetProperty("data", out JsonElement data) ||
            FindElements(table, data, out bool isChanging) is not IReadOnlyList<JsonElement> entries || isChanging)
        {
            return new MapStep([(Always(Truth.Maybe), new Verdict(VerdictKind.Goto, "a verdict map that changes"))], null);
        }

        var compiled = new List<(NetfilterCondition, Verdict)>();
        Verdict? otherwise = null;
        foreach (JsonElement entry in entries.Where(entry => entry.ValueKind == JsonValueKind.Array && entry.GetArrayLength() == 2))
        {
            JsonElement verdict = entry[1];
            Verdict then = verdict.ValueKind == JsonValueKind.Object
                ? ReadVerdict(verdict.EnumerateObject().First())
                : new Verdict(VerdictKind.Goto, verdict.ToString());
            if (entry[0].ValueKind == JsonValueKind.String && entry[0].GetString() == "*")
            {
                otherwise = then;
                continue;
            }

            NetfilterCondition condition = Guarded(operands, CompileElement(operands, entry[0]));
            if (!operands.All(operand => operand.IsConstant) || condition(default) != Truth.No)
            {
                compiled.Add((condition, then));
            }
        }

        return new MapStep(compiled, otherwise);
    }

    private IReadOnlyList<JsonElement>? FindElements(string table, JsonElement data, out bool isChanging)
    {
        isChanging = false;
        if (data.ValueKind == JsonValueKind.Object && data.TryGetProperty("set", out JsonElement set))
        {
            return set.ValueKind == JsonValueKind.Array ? [.. set.EnumerateArray()] : [set];
        }

        if (data.ValueKind != JsonValueKind.String || !data.GetString()!.StartsWith('@'))
        {
            return null;
        }

        (string Table, string Name) key = (table, data.GetString()![1..]);
        isChanging = _changing.Contains(key);
        return _sets.TryGetValue(key, out JsonElement named) ? [.. Elements(named, "elem")] : null;
    }

    private static Operand[] ReadOperands(JsonElement left, byte protocol) =>
        left.ValueKind == JsonValueKind.Object && left.TryGetProperty("concat", out JsonElement parts) && parts.ValueKind == JsonValueKind.Array
            ? [.. parts.EnumerateArray().Select(part => ReadOperand(part, protocol))]
            : [ReadOperand(left, protocol)];

    private static Operand ReadOperand(JsonElement left, byte protocol)
    {
        if (left.ValueKind != JsonValueKind.Object)
        {
            return default;
        }

        JsonProperty part = left.EnumerateObject().First();
        switch (part.Name)
        {
            case "meta":
                return Text(part.Value, "key") switch
                {
                    "l4proto" => new Operand(OperandKind.Protocol, Protocol: protocol),
                    "mark" => new Operand(OperandKind.Number),
                    "nfproto" => new Operand(OperandKind.Word, Word: "ipv4"),
                    "protocol" => new Operand(OperandKind.Word, Word: "ip"),
                    "iif" or "iifname" => new Operand(OperandKind.InputName),
                    "oif" or "oifname" => new Operand(OperandKind.OutputName),
                    _ => default,
                };
            case "payload" when part.Value.ValueKind == JsonValueKind.Object && !part.Value.TryGetProperty("tunnel", out _):
                return (Text(part.Value, "protocol"), Text(part.Value, "field")) switch
                {
                    ("ip", "protocol") => new Operand(OperandKind.Protocol, Protocol: protocol),
                    ("ip", "saddr") => new Operand(OperandKind.Source),
                    ("ip", "daddr") => new Operand(OperandKind.Destination),
                    ("udp", _) when protocol != IpProtocol.Udp => new Operand(OperandKind.Absent),
                    ("tcp", _) when protocol != IpProtocol.Tcp => new Operand(OperandKind.Absent),
                    ("udp" or "tcp" or "th", "sport") when protocol != IpProtocol.Gre => new Operand(OperandKind.SourcePort),
                    ("udp" or "tcp" or "th", "dport") when protocol != IpProtocol.Gre => new Operand(OperandKind.DestinationPort),
                    (string header, _) when OtherHeaders.Contains(header) => new Operand(OperandKind.Absent),
                    _ => default,
                };
            case "ct":
                return Text(part.Value, "key") switch
                {
                    "state" => new Operand(OperandKind.ConntrackState, Protocol: protocol),
                    "status" => new Operand(OperandKind.ConntrackStatus, Protocol: protocol),
                    "protocol" => new Operand(OperandKind.Protocol, Protocol: protocol),
                    _ => default,
                };
            case "tcp option" when protocol == IpProtocol.Tcp:
                return default;
            case "tcp option" or "sctp chunk" or "dccp option":
                return new Operand(OperandKind.Absent);
            case "&" when part.Value.ValueKind == JsonValueKind.Array && part.Value.GetArrayLength() == 2:
                // A mark of 0 stays 0 under any mask.
                Operand masked = ReadOperand(part.Value[0], protocol);
                return masked.Kind is OperandKind.Number or OperandKind.Absent ? masked : default;
            default:
                return default;
        }
    }

    // Whether the operands are, or are among, what stands on the right.
    private NetfilterCondition Compile(string table, Operand[] operands, JsonElement right)
    {
        if (FindElements(table, right, out bool isChanging) is not IReadOnlyList<JsonElement> elements)
        {
            // A list of flags: any of them.
            return right.ValueKind == JsonValueKind.Array
                ? Any([.. right.EnumerateArray().Select(flag => CompileElement(operands, flag))])
                : IsReference(right) ? Always(Truth.Maybe) : CompileElement(operands, right);
        }

        return isChanging ? Always(Truth.Maybe) : Any([.. elements.Select(element => CompileElement(operands, element))]);
    }

    private static bool IsReference(JsonElement right) => right.ValueKind == JsonValueKind.String && right.GetString()!.StartsWith('@');

    private static NetfilterCondition Any(NetfilterCondition[] conditions) => (in OuterPacket packet) =>
    {
        var truth = Truth.No;
        foreach (NetfilterCondition condition in conditions)
        {
            Truth one = condition(packet);
            if (one == Truth.Yes)
            {
                return Truth.Yes;
            }

            truth = one > truth ? one : truth;
        }

        return truth;
    };

    private static NetfilterCondition CompileElement(Operand[] operands, JsonElement element)
    {
        // An element of a set may carry a comment, a counter, a time that it is there for.
        if (element.ValueKind == JsonValueKind.Object && element.TryGetProperty("elem", out JsonElement detailed) &&
            detailed.TryGetProperty("val", out JsonElement value))
        {
            NetfilterCondition inner = CompileElement(operands, value);
            return !detailed.TryGetProperty("timeout", out _) && !detailed.TryGetProperty("expires", out _)
                ? inner
                : (in OuterPacket packet) => inner(packet) == Truth.No ? Truth.No : Truth.Maybe;
        }

        if (element.ValueKind == JsonValueKind.String && element.GetString() == "*")
        {
            return Always(Truth.Yes);
        }

        JsonElement[] parts = element.ValueKind == JsonValueKind.Object && element.TryGetProperty("concat", out JsonElement concat)
            ? [.. concat.EnumerateArray()]
            : [element];
        if (parts.Length != operands.Length)
        {
            return Always(Truth.Maybe);
        }

        NetfilterCondition[] conditions = [.. operands.Zip(parts, CompileValue)];
        return conditions.Length == 1 ? conditions[0] : (in OuterPacket packet) =>
        {
            var truth = Truth.Yes;
            foreach (NetfilterCondition condition in conditions)
            {
                Truth one = condition(packet);
                truth = one < truth ? one : truth;
            }

            return truth;
        };
    }

    private static NetfilterCondition CompileValue(Operand operand, JsonElement value)
    {
        switch (operand.Kind)
        {
            case OperandKind.Source or OperandKind.Destination:
                if (!TryReadAddresses(value, out uint first, out uint last))
                {
                    return Always(value.ValueKind == JsonValueKind.String && value.GetString()!.Contains(':', StringComparison.Ordinal)
                        ? Truth.No
                        : Truth.Maybe);
                }

                bool isSource = operand.Kind == OperandKind.Source;
                return (in OuterPacket packet) => (isSource ? packet.Source : packet.Destination).Ipv4 is uint address && address >= first && address <= last
                    ? Truth.Yes
                    : Truth.No;
            case OperandKind.SourcePort or OperandKind.DestinationPort:
                return TryReadPorts(value, out long lowest, out long highest) ? ComparePort(operand, lowest, highest) : Always(Truth.Maybe);
            case OperandKind.InputName or OperandKind.OutputName:
                return value.ValueKind == JsonValueKind.String ? CompileName(value.GetString()!, operand.Kind == OperandKind.InputName) : Always(Truth.Maybe);
            case OperandKind.Protocol:
                return Always(MatchProtocol(value, operand.Protocol));
            case OperandKind.Number:
                return Always(MatchZero(value));
            case OperandKind.Word:
                return Always(value.ValueKind != JsonValueKind.String ? Truth.Maybe : value.GetString() == operand.Word ? Truth.Yes : Truth.No);
            case OperandKind.ConntrackStatus:
                // Nothing has been done yet to the first packet of a connection; what publishes ports is not looked at.
                return operand.Protocol == IpProtocol.Tcp ? Always(Truth.No) : (in OuterPacket packet) => packet.IsUnanswered ? Truth.No : Truth.Maybe;
            case OperandKind.ConntrackState:
                // What connection tracking calls invalid is damaged: it is no GRE that either kind of socket would yield, and none that is sent.
                string state = value.ValueKind == JsonValueKind.String ? value.GetString()! : "";
                Truth whereNew = state == "new" ? Truth.Yes : Truth.No;
                return operand.Protocol == IpProtocol.Tcp ? Always(whereNew) : state switch
                {
                    "" => Always(Truth.Maybe),
                    "invalid" => Always(Truth.No),
                    _ => (in OuterPacket packet) => packet.IsUnanswered ? whereNew : Truth.Maybe,
                };
            default:
                return Always(Truth.Maybe);
        }
    }

    // A name may end with a wildcard; an asterisk of its own is escaped.
    private static NetfilterCondition CompileName(string name, bool isInput)
    {
        if (name.EndsWith('*') && !name.EndsWith("\\*", StringComparison.Ordinal))
        {
            string beginning = name[..^1];
            return (in OuterPacket packet) => DeviceOf(packet, isInput).StartsWith(beginning, StringComparison.Ordinal) ? Truth.Yes : Truth.No;
        }

        return (in OuterPacket packet) => DeviceOf(packet, isInput) == name ? Truth.Yes : Truth.No;
    }

    private static string DeviceOf(in OuterPacket packet, bool isInput) => isInput ? packet.InputName : packet.OutputName;

    private static Truth MatchProtocol(JsonElement value, byte protocol)
    {
        switch (value.ValueKind)
        {
            case JsonValueKind.Number:
                return value.TryGetInt64(out long number) && number == protocol ? Truth.Yes : Truth.No;
            case JsonValueKind.String:
                bool isIt = protocol switch
                {
                    IpProtocol.Udp => value.GetString() is "udp" or "17",
                    IpProtocol.Tcp => value.GetString() is "tcp" or "6",
                    _ => value.GetString() is "gre" or "47",
                };
                return isIt ? Truth.Yes : Truth.No;
            case JsonValueKind.Object when value.TryGetProperty("range", out JsonElement range) && range.GetArrayLength() == 2:
                return range[0].ValueKind == JsonValueKind.Number && range[1].ValueKind == JsonValueKind.Number
                    ? range[0].GetInt64() <= protocol && range[1].GetInt64() >= protocol ? Truth.Yes : Truth.No
                    : Truth.Maybe;
            default:
                return Truth.Maybe;
        }
    }

    private static Truth MatchZero(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Number => value.TryGetInt64(out long number) && number == 0 ? Truth.Yes : Truth.No,
        JsonValueKind.Object when value.TryGetProperty("range", out JsonElement range) && range.GetArrayLength() == 2 &&
            range[0].ValueKind == JsonValueKind.Number => range[0].GetInt64() == 0 ? Truth.Yes : Truth.No,
        _ => Truth.Maybe,
    };

    // Of what is ordered only ports are known, and the mark, which is 0.
    private static NetfilterCondition Compare(string op, Operand operand, JsonElement right)
    {
        if (operand.Kind is not (OperandKind.Number or OperandKind.SourcePort or OperandKind.DestinationPort) ||
            right.ValueKind != JsonValueKind.Number || !right.TryGetInt64(out long number))
        {
            return Always(Truth.Maybe);
        }

        (long First, long Last)? range = op switch
        {
            "<" => (0, number - 1),
            "<=" => (0, number),
            ">" => (number + 1, long.MaxValue),
            ">=" => (number, long.MaxValue),
            _ => null,
        };
        return range is not (long first, long last) ? Always(Truth.Maybe)
            : operand.Kind == OperandKind.Number ? Always(first <= 0 && last >= 0 ? Truth.Yes : Truth.No)
            : ComparePort(operand, first, last);
    }

    private static NetfilterCondition ComparePort(Operand operand, long first, long last)
    {
        bool asksSource = operand.Kind == OperandKind.SourcePort;
        return (in OuterPacket packet) => (asksSource ? packet.SourcePorts : packet.DestinationPorts).IsWithin(first, last);
    }

    // A service's name is not looked up.
    private static bool TryReadPorts(JsonElement value, out long first, out long last)
    {
        first = last = 0;
        if (value.ValueKind == JsonValueKind.Number)
        {
            bool isOne = value.TryGetInt64(out first);
            last = first;
            return isOne;
        }

        return value.ValueKind == JsonValueKind.Object && value.TryGetProperty("range", out JsonElement range) &&
            range.ValueKind == JsonValueKind.Array && range.GetArrayLength() == 2 &&
            range[0].ValueKind == JsonValueKind.Number && range[0].TryGetInt64(out first) &&
            range[1].ValueKind == JsonValueKind.Number && range[1].TryGetInt64(out last);
    }

    private static bool TryReadAddresses(JsonElement value, out uint first, out uint last)
    {
        first = last = 0;
        if (value.ValueKind == JsonValueKind.String)
        {
            bool isOne = TryReadIpv4(value, out first);
            last = first;
            return isOne;
        }

        if (value.ValueKind != JsonValueKind.Object)
        {
            return false;
        }

        if (value.TryGetProperty("prefix", out JsonElement prefix) && prefix.TryGetProperty("addr", out JsonElement address) &&
            prefix.TryGetProperty("len", out JsonElement length) && length.TryGetInt32(out int bits) && bits is >= 0 and <= 32 &&
            TryReadIpv4(address, out first))
        {
            uint host = bits == 0 ? uint.MaxValue : uint.MaxValue >> bits;
            host = bits == 32 ? 0 : host;
            first &= ~host;
            last = first | host;
            return true;
        }

        return value.TryGetProperty("range", out JsonElement range) && range.GetArrayLength() == 2 &&
            TryReadIpv4(range[0], out first) && TryReadIpv4(range[1], out last);
    }

    private static bool TryReadIpv4(JsonElement value, out uint address)
    {
        address = 0;
        if (value.ValueKind != JsonValueKind.String || !InetAddress.TryParse(value.GetString(), out InetAddress parsed) || !parsed.IsIpv4)
        {
            return false;
        }

        address = parsed.Ipv4;
        return true;
    }

    private readonly record struct Operand(OperandKind Kind, string Word = "", byte Protocol = 0)
    {
        public bool IsConstant => Kind is OperandKind.Protocol or OperandKind.Number or OperandKind.Word ||
            (Kind is OperandKind.ConntrackState or OperandKind.ConntrackStatus && Protocol != IpProtocol.Udp);
    }
}
