namespace Tunnel.Control.Paths;

/// <summary>What may become of a packet at a hook, or in a chain: several at once where that is not known.</summary>
[Flags]
internal enum Fates
{
    /// <summary>Nothing yet.</summary>
    None = 0,

    /// <summary>It goes on as it is.</summary>
    Passes = 1,

    /// <summary>It is dropped or rejected.</summary>
    Dropped = 2,

    /// <summary>Its source becomes another.</summary>
    Translated = 4,

    /// <summary>It goes on as it is, and no later chain translates its source.</summary>
    Kept = 8,
}

/// <summary>What becomes of a packet for certain, and through what.</summary>
/// <param name="Chain">The base chain.</param>
/// <param name="By">How people find what does it: chain and rule.</param>
internal sealed record NetfilterVerdict(NetfilterChain Chain, string By);

/// <summary>
/// Asks a ruleset what certainly becomes of a packet, where <see cref="NetfilterRuleset.FindHindrance"/> asks what may: a rule of which it is not known
/// whether it applies decides nothing.
/// </summary>
/// <param name="rules">The rules.</param>
internal sealed class NetfilterFate(NetfilterRuleset rules)
{
    /// <summary>What the readers call a source translation that leaves the address as it is.</summary>
    public const string SnatToItself = "snat to its own source";

    // Chains that jump to one another in many ways are not followed for ever.
    private const int MostRules = 200_000;

    /// <summary>Finds what certainly drops a packet at one of some hooks; null where nothing does.</summary>
    public NetfilterVerdict? FindDrop(in OuterPacket packet, params ReadOnlySpan<string> hooks)
    {
        foreach (NetfilterChain chain in rules.BaseChains)
        {
            if (!chain.Translates && chain.Hook is string hook && hooks.Contains(hook))
            {
                var walk = new Walk(packet);
                if (walk.Follow(chain) == Fates.Dropped)
                {
                    return new NetfilterVerdict(chain, walk.Dropped ?? $"{chain.Name} has policy drop");
                }
            }
        }

        return null;
    }

    /// <summary>Finds what certainly gives a packet that leaves another source; null where nothing does.</summary>
    public NetfilterVerdict? FindTranslation(in OuterPacket packet)
    {
        foreach (NetfilterChain chain in rules.BaseChains.Where(chain => chain is { Translates: true, Hook: "postrouting" }).OrderBy(chain => chain.Priority))
        {
            var walk = new Walk(packet);
            switch (walk.Follow(chain))
            {
                case Fates.Translated:
                    return new NetfilterVerdict(chain, walk.Translated!);
                case Fates.Passes:
                    continue;
                default:
                    return null;
            }
        }

        return null;
    }

    private sealed class Walk(OuterPacket packet)
    {
        private int _left = MostRules;

        /// <summary>How people find what drops it first, if a rule does.</summary>
        public string? Dropped { get; private set; }

        /// <summary>The same for what translates its source.</summary>
        public string? Translated { get; private set; }

        public Fates Follow(NetfilterChain chain)
        {
            (Fates ends, bool goesOn) = Follow(chain, 0);
            return goesOn ? ends | (chain.DropsAtEnd ? Fates.Dropped : Fates.Passes) : ends;
        }

        // How the way may end here, and whether it may go back to where it came from, or to the policy.
        private (Fates Ends, bool GoesOn) Follow(NetfilterChain chain, int depth)
        {
            var ends = Fates.None;
            bool returns = false;
            foreach (NetfilterRule rule in chain.RulesFor(packet.Protocol))
            {
                if (--_left < 0 || depth > NetfilterRuleset.MaxDepth)
                {
                    return (Fates.Passes | Fates.Dropped | Fates.Translated, true);
                }

                Outcome outcome = Apply(chain, rule, depth);
                ends |= outcome.Ends;
                returns |= outcome.Returns;
                if (!outcome.GoesOn)
                {
                    return (ends, returns);
                }
            }

            return (ends, true);
        }

        private Outcome Apply(NetfilterChain chain, NetfilterRule rule, int depth)
        {
            bool mayNotApply = false;
            foreach (NetfilterStep step in rule.Steps)
            {
                Outcome? outcome = null;
                switch (step)
                {
                    case ConditionStep condition:
                        Truth truth = condition.Condition(packet);
                        if (truth == Truth.No)
                        {
                            return new Outcome(Fates.None, GoesOn: true, Returns: false);
                        }

                        mayNotApply |= truth == Truth.Maybe;
                        break;
                    case EffectStep effect:
                        outcome = EffectOf(effect, $"{chain.Name}, {rule.Name}: {effect.What}");
                        break;
                    case VerdictStep verdict:
                        outcome = Decide(chain, rule, verdict.Verdict, depth);
                        break;
                    case MapStep map:
                        outcome = Decide(chain, rule, map, depth);
                        break;
                }

                if (outcome is Outcome decided)
                {
                    return decided with { GoesOn = decided.GoesOn || mayNotApply };
                }
            }

            return new Outcome(Fates.None, GoesOn: true, Returns: false);
        }

        private Outcome? EffectOf(EffectStep effect, string by)
        {
            switch (effect.What)
            {
                case "reject" or "REJECT":
                    Dropped ??= by;
                    return new Outcome(Fates.Dropped, GoesOn: false, Returns: false);
                case "masquerade" or "MASQUERADE" or "snat" or "SNAT":
                    Translated ??= by;
                    return new Outcome(Fates.Translated, GoesOn: false, Returns: false);
                case SnatToItself:
                    return new Outcome(Fates.Kept, GoesOn: false, Returns: false);
                case "queue" or "NFQUEUE":
                    return new Outcome(Fates.Passes | Fates.Dropped, GoesOn: false, Returns: false);
                default:
                    return null;
            }
        }

        private Outcome Decide(NetfilterChain chain, NetfilterRule rule, Verdict verdict, int depth)
        {
            switch (verdict.Kind)
            {
                case VerdictKind.Accept:
                    return new Outcome(Fates.Passes, GoesOn: false, Returns: false);
                case VerdictKind.Drop:
                    Dropped ??= $"{chain.Name}, {rule.Name}: drop";
                    return new Outcome(Fates.Dropped, GoesOn: false, Returns: false);
                case VerdictKind.Return:
                    return new Outcome(Fates.None, GoesOn: false, Returns: true);
                case VerdictKind.Jump or VerdictKind.Goto when chain.Table.TryGetValue(verdict.Target, out NetfilterChain? target):
                    (Fates ends, bool goesOn) = Follow(target, depth + 1);
                    bool comesBack = verdict.Kind == VerdictKind.Jump;
                    return new Outcome(ends, goesOn && comesBack, goesOn && !comesBack);
                case VerdictKind.Jump or VerdictKind.Goto:
                    return new Outcome(Fates.Passes | Fates.Dropped, GoesOn: true, Returns: false);
                default:
                    return new Outcome(Fates.None, GoesOn: true, Returns: false);
            }
        }

        private Outcome Decide(NetfilterChain chain, NetfilterRule rule, MapStep map, int depth)
        {
            var all = new Outcome(Fates.None, GoesOn: false, Returns: false);
            foreach ((NetfilterCondition condition, Verdict verdict) in map.Entries)
            {
                Truth truth = condition(packet);
                if (truth == Truth.No)
                {
                    continue;
                }

                Outcome one = Decide(chain, rule, verdict, depth);
                all = new Outcome(all.Ends | one.Ends, all.GoesOn || one.GoesOn, all.Returns || one.Returns);
                if (truth == Truth.Yes)
                {
                    return all;
                }
            }

            Outcome rest = map.Otherwise is Verdict otherwise ? Decide(chain, rule, otherwise, depth) : new Outcome(Fates.None, GoesOn: true, Returns: false);
            return new Outcome(all.Ends | rest.Ends, all.GoesOn || rest.GoesOn, all.Returns || rest.Returns);
        }

        private readonly record struct Outcome(Fates Ends, bool GoesOn, bool Returns);
    }
}
