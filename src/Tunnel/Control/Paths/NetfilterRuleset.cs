using Tunnel.Wire;

namespace Tunnel.Control.Paths;

/// <summary>Whether a condition holds for a packet, as far as can be known.</summary>
internal enum Truth
{
    /// <summary>It certainly does not.</summary>
    No,

    /// <summary>It may.</summary>
    Maybe,

    /// <summary>It certainly does.</summary>
    Yes,
}

/// <summary>
/// A packet over IPv4 that meets netfilter: an outer one of plain GRE or GRE-in-UDP, or an inner one that this host forwards, the first of a TCP
/// connection.
/// </summary>
/// <param name="IsReceived">Whether it comes by <paramref name="LinkName"/>, rather than leave by it.</param>
/// <param name="Source">Its source.</param>
/// <param name="Destination">Its destination.</param>
/// <param name="LinkName">The device that it comes by, or leaves by.</param>
/// <param name="Protocol">GRE, UDP or TCP (<see cref="IpProtocol"/>).</param>
/// <param name="SourcePorts">The ports of which it has one as source; meaningless for GRE.</param>
/// <param name="DestinationPort">Its UDP destination port; 0 for GRE, and for TCP, where it is not known.</param>
/// <param name="ForwardedTo">The device that it leaves by, where it comes by one and leaves by another; else empty.</param>
/// <param name="IsUnanswered">Whether certainly nothing goes from its destination to its source by the same ports, so that connection tracking calls it new.</param>
internal readonly record struct OuterPacket(
    bool IsReceived,
    InetAddress Source,
    InetAddress Destination,
    string LinkName,
    byte Protocol = IpProtocol.Gre,
    PortRange SourcePorts = default,
    ushort DestinationPort = 0,
    string ForwardedTo = "",
    bool IsUnanswered = false)
{
    /// <summary>The device that it comes by; empty where it has none.</summary>
    public string InputName => IsReceived ? LinkName : "";

    /// <summary>The device that it leaves by; empty where it has none, or none yet.</summary>
    public string OutputName => ForwardedTo is { Length: > 0 } ? ForwardedTo : IsReceived ? "" : LinkName;

    /// <summary>The ports of which it has one as destination.</summary>
    public PortRange DestinationPorts => Protocol == IpProtocol.Tcp ? PortRange.Any : PortRange.Of(DestinationPort);
}

/// <summary>A condition of a rule.</summary>
internal delegate Truth NetfilterCondition(in OuterPacket packet);

/// <summary>What becomes of a packet in a chain.</summary>
internal enum VerdictKind
{
    /// <summary>The next rule.</summary>
    Continue,

    /// <summary>Nothing further in this base chain.</summary>
    Accept,

    /// <summary>The packet's end.</summary>
    Drop,

    /// <summary>Another chain, and back.</summary>
    Jump,

    /// <summary>Another chain, not back.</summary>
    Goto,

    /// <summary>Back to where the chain was jumped to from.</summary>
    Return,
}

/// <summary>A verdict.</summary>
internal readonly record struct Verdict(VerdictKind Kind, string Target = "");

/// <summary>A part of a rule: taken one after the other while conditions hold.</summary>
internal abstract record NetfilterStep;

/// <summary>The rule goes on only where the condition holds.</summary>
internal sealed record ConditionStep(NetfilterCondition Condition) : NetfilterStep;

/// <summary>A verdict for whatever comes here.</summary>
internal sealed record VerdictStep(Verdict Verdict) : NetfilterStep;

/// <summary>A verdict map: at most one entry applies; the last may be for all others.</summary>
internal sealed record MapStep(IReadOnlyList<(NetfilterCondition Condition, Verdict Verdict)> Entries, Verdict? Otherwise) : NetfilterStep;

/// <summary>Something that is done to the packet, or because of it.</summary>
/// <param name="What">What, in the tool's own words: masquerade, MARK.</param>
/// <param name="OnlyObserves">Whether it leaves the packet alone: a counter, a log.</param>
internal sealed record EffectStep(string What, bool OnlyObserves) : NetfilterStep;

/// <summary>A rule.</summary>
/// <param name="Name">How people find it: "handle 7", "rule 3".</param>
/// <param name="Steps">Its parts.</param>
internal sealed record NetfilterRule(string Name, IReadOnlyList<NetfilterStep> Steps);

/// <summary>Where a chain is.</summary>
/// <param name="Tool">The program that changes it: nft, iptables-nft, iptables-legacy.</param>
/// <param name="Table">Its table, in the tool's words: "inet fw", "nat".</param>
/// <param name="Chain">Its name.</param>
internal readonly record struct ChainPlace(string Tool, string Table, string Chain);

/// <summary>A chain of one table.</summary>
/// <param name="name">How people find it: "nftables: chain input (table inet fw)".</param>
/// <param name="place">Where it is.</param>
internal sealed class NetfilterChain(string name, ChainPlace place)
{
    private readonly List<NetfilterRule> _greRules = [];
    private readonly List<NetfilterRule> _udpRules = [];
    private readonly List<NetfilterRule> _tcpRules = [];

    /// <summary>Where it is.</summary>
    public ChainPlace Place => place;

    /// <summary>How people find it.</summary>
    public string Name { get; } = name;

    /// <summary>The protocols of outer packets. Rules are read for each by itself: so those that concern neither cost nothing later.</summary>
    public static IReadOnlyList<byte> OuterProtocols { get; } = [IpProtocol.Gre, IpProtocol.Udp];

    /// <summary>Those, and that of inner packets.</summary>
    public static IReadOnlyList<byte> AllProtocols { get; } = [.. OuterProtocols, IpProtocol.Tcp];

    /// <summary>All chains of the table, by name.</summary>
    public required IReadOnlyDictionary<string, NetfilterChain> Table { get; init; }

    /// <summary>The hook of a base chain, in nft's words; null for others.</summary>
    public string? Hook { get; set; }

    /// <summary>Whether a base chain is one of those that translate addresses (type nat).</summary>
    public bool Translates { get; set; }

    /// <summary>A base chain's place among those of its hook: the lowest comes first.</summary>
    public int Priority { get; set; }

    /// <summary>The devices of a base chain at ingress; empty where they are not known.</summary>
    public IReadOnlyList<string> Devices { get; set; } = [];

    /// <summary>Whether a base chain drops what reaches its end.</summary>
    public bool DropsAtEnd { get; set; }

    /// <summary>Its rules, but for those that apply to no packet of a protocol.</summary>
    /// <param name="protocol">One of <see cref="AllProtocols"/>.</param>
    public List<NetfilterRule> RulesFor(byte protocol) => protocol switch
    {
        IpProtocol.Udp => _udpRules,
        IpProtocol.Tcp => _tcpRules,
        _ => _greRules,
    };
}

/// <summary>
/// The netfilter rules that outer packets over IPv4 may meet, and the question what they may do to them that would be gone around: by a packet
/// socket, or where GRE-in-UDP is encapsulated behind the TUN device. On receiving the packet passes the rules all the same, and only its
/// copy goes around them: what merely counts or logs still does.
/// Immutable once read; may be asked from any thread.
/// </summary>
internal sealed class NetfilterRuleset(IReadOnlyList<NetfilterChain> baseChains, IReadOnlyList<string> unreadable)
{
    /// <summary>How deep chains may jump to one another before that is taken for a mistake: the kernel allows 16, and no circles.</summary>
    public const int MaxDepth = 64;

    /// <summary>The base chains.</summary>
    public IReadOnlyList<NetfilterChain> BaseChains => baseChains;

    /// <summary>Finds the first thing that may happen to packets of a flow; null where nothing does.</summary>
    /// <returns>One line for people.</returns>
    public string? FindHindrance(UnderlayFlow flow)
    {
        if (unreadable.Count > 0)
        {
            return unreadable[0];
        }

        var received = new OuterPacket(IsReceived: true, flow.Endpoint, flow.Local, flow.LinkName);
        var sent = new OuterPacket(
            IsReceived: false, flow.Local, flow.Endpoint, flow.LinkName, flow.Protocol, flow.SourcePorts, flow.UdpPort);

        // UDP sockets receive behind all rules.
        Walk? walkReceived = flow.Protocol == IpProtocol.Gre ? new Walk(received) : null;
        var walkSent = new Walk(sent);
        foreach (NetfilterChain chain in baseChains)
        {
            Walk? walk = chain.Hook switch
            {
                "prerouting" or "input" => walkReceived,
                "ingress" when chain.Devices.Count == 0 || chain.Devices.Contains(flow.LinkName) => walkReceived,
                "output" or "postrouting" => walkSent,

                // Forwarding is not ours; at egress packet sockets' packets are met as well.
                _ => null,
            };
            if (walk?.FindHindrance(chain) is string hindrance)
            {
                return hindrance;
            }
        }

        return null;
    }

    /// <summary>One packet's way through the chains.</summary>
    private sealed class Walk(OuterPacket packet)
    {
        // Whether the packet is certainly accepted there: chains that were walked without finding a hindrance.
        private readonly Dictionary<NetfilterChain, bool> _known = [];
        private string? _hindrance;

        /// <summary>How a rule ends the way through its chain.</summary>
        private enum End
        {
            /// <summary>Not: the next rule is reached.</summary>
            None,

            /// <summary>The packet is accepted for certain.</summary>
            Accepted,

            /// <summary>It goes back to where the chain was jumped to from, or to the policy, for certain.</summary>
            Returned,

            /// <summary>It may go back; or reach the next rule.</summary>
            MayReturn,
        }

        private string Flow => packet.IsReceived
            ? $"GRE from {packet.Source}"
            : $"{(packet.Protocol == IpProtocol.Gre ? "GRE" : "GRE-in-UDP")} to {packet.Destination}";

        public string? FindHindrance(NetfilterChain chain)
        {
            if (!Accepts(chain, 0) && _hindrance is null && chain.DropsAtEnd)
            {
                _hindrance = $"{chain.Name} has policy drop, which {Flow} may reach";
            }

            return _hindrance;
        }

        // Whether the packet certainly goes no further than this chain. False also where a hindrance was found.
        private bool Accepts(NetfilterChain chain, int depth)
        {
            if (_known.TryGetValue(chain, out bool accepts))
            {
                return accepts;
            }

            if (depth > MaxDepth)
            {
                _hindrance = $"{chain.Name} is too deep to follow";
                return false;
            }

            var end = End.None;
            bool mayReturn = false;
            List<NetfilterRule> rules = chain.RulesFor(packet.Protocol);
            for (int i = 0; i < rules.Count && end is End.None or End.MayReturn; i++)
            {
                end = Apply(chain, rules[i], depth);
                mayReturn |= end == End.MayReturn;
                if (_hindrance is not null)
                {
                    return false;
                }
            }

            _known[chain] = end == End.Accepted && !mayReturn;
            return _known[chain];
        }

        private End Apply(NetfilterChain chain, NetfilterRule rule, int depth)
        {
            var truth = Truth.Yes;
            foreach (NetfilterStep step in rule.Steps)
            {
                switch (step)
                {
                    case ConditionStep condition:
                        truth = Min(truth, condition.Condition(packet));
                        if (truth == Truth.No)
                        {
                            return End.None;
                        }

                        break;
                    case EffectStep effect when !effect.OnlyObserves || !packet.IsReceived:
                        _hindrance = $"{chain.Name}, {rule.Name}: {effect.What} may apply to {Flow}";
                        return End.None;
                    case VerdictStep verdict:
                        return Weaken(Follow(chain, rule, verdict.Verdict, depth), truth);
                    case MapStep map:
                        return FollowMap(chain, rule, map, truth, depth);
                }
            }

            return End.None;
        }

        private End FollowMap(NetfilterChain chain, NetfilterRule rule, MapStep map, Truth truth, int depth)
        {
            bool mayReturn = false;
            foreach ((NetfilterCondition condition, Verdict verdict) in map.Entries)
            {
                Truth entry = condition(packet);
                if (entry == Truth.No)
                {
                    continue;
                }

                End end = Weaken(Follow(chain, rule, verdict, depth), Min(truth, entry));
                if (_hindrance is not null || entry == Truth.Yes)
                {
                    return mayReturn && end == End.None ? End.MayReturn : end;
                }

                mayReturn |= end == End.MayReturn;
                truth = Truth.Maybe;
            }

            End otherwise = map.Otherwise is Verdict rest ? Weaken(Follow(chain, rule, rest, depth), truth) : End.None;
            return mayReturn && otherwise == End.None ? End.MayReturn : otherwise;
        }

        // What happens only perhaps ends nothing.
        private static End Weaken(End end, Truth truth) =>
            truth == Truth.Yes ? end : end is End.Returned or End.MayReturn ? End.MayReturn : End.None;

        private End Follow(NetfilterChain chain, NetfilterRule rule, Verdict verdict, int depth)
        {
            switch (verdict.Kind)
            {
                case VerdictKind.Accept:
                    return End.Accepted;
                case VerdictKind.Return:
                    return End.Returned;
                case VerdictKind.Drop:
                    _hindrance = $"{chain.Name}, {rule.Name}: drop may apply to {Flow}";
                    return End.None;
                case VerdictKind.Jump or VerdictKind.Goto:
                    if (!chain.Table.TryGetValue(verdict.Target, out NetfilterChain? target))
                    {
                        _hindrance = $"{chain.Name}, {rule.Name}: {verdict.Target} may apply to {Flow}";
                        return End.None;
                    }

                    bool accepts = Accepts(target, depth + 1);
                    return accepts ? End.Accepted : verdict.Kind == VerdictKind.Goto ? End.Returned : End.None;
                default:
                    return End.None;
            }
        }

        private static Truth Min(Truth one, Truth other) => one < other ? one : other;
    }
}
