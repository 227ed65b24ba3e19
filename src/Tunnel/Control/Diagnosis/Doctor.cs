using Tunnel.Control.Monitoring;
using Tunnel.Control.Paths;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Diagnosis;

/// <summary>What is needed to examine the host.</summary>
/// <param name="Settings">The kernel's settings.</param>
/// <param name="Neighbors">Next hops and neighbours.</param>
/// <param name="OpenPolicies">Makes a reader of the rules; each is used once.</param>
internal sealed record HostExaminers(IHostSettings Settings, IHostNeighbors Neighbors, Func<IHostPolicies> OpenPolicies);

/// <summary>Gathers the facts about host, network and peers, and lets the checks judge them. Changes nothing but asks peers some questions.</summary>
/// <param name="state">The network at this moment.</param>
/// <param name="parts">What it is made of.</param>
/// <param name="monitor">Who watches over the peers.</param>
/// <param name="host">How the host is looked at.</param>
internal sealed class Doctor(NetworkState state, NetworkParts parts, NetworkMonitor monitor, HostExaminers host)
{
    // A question is answered within this, or not.
    private static readonly TimeSpan PingPatience = TimeSpan.FromSeconds(1);
    private const int Questions = 2;

    // More peers than this are asked only where something seems wrong with them: the packet threads take so many questions at once.
    private const int MostAsked = 64;

    // What a peer said longer ago than it pauses between two questions holds no more. In milliseconds.
    private const long HearingMemory = 75_000;

    // In the order in which causes are told; those that explain a peer's silence come before the one that looks for what is left.
    private static readonly ICheck[] Checks =
    [
        new NetworkCheck(),
        new ForwardingCheck(),
        new ForwardRulesCheck(),
        new MasqueradeCheck(),
        new OverlapCheck(),
        new ReversePathCheck(),
        new UnderlaySourceCheck(),
        new EndpointCheck(),
        new OuterRulesCheck(),
        new KeyCheck(),
        new BlockedCheck(),
        new PathMtuCheck(),
        new KernelGreCheck(),
        new LegacyTablesCheck(),
    ];

    /// <summary>Judges facts.</summary>
    public static IReadOnlyList<Finding> Judge(Facts facts)
    {
        var findings = new List<Finding>();
        foreach (ICheck check in Checks)
        {
            findings.AddRange([.. check.Look(facts, findings)]);
        }

        return [.. findings.OrderBy(finding => finding.Severity)];
    }

    /// <summary>Examines everything, or what concerns one peer.</summary>
    /// <param name="only">The peer; null for all.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="HostNetworkException">The kernel refused to say something.</exception>
    public async Task<IReadOnlyList<Finding>> ExamineAsync(PeerEntry? only, CancellationToken cancellationToken)
    {
        PeerEntry[] entries = only is null ? [.. state.Peers] : [only];
        Task<NetfilterRules> rules = Task.Run(ReadRules, cancellationToken);
        PeerFacts[] peers = await Task.WhenAll(entries.Select(entry => AskAsync(entry, entries.Length, cancellationToken)));
        NetfilterRules read = await rules;
        return Judge(GatherAbout(WithWays(peers), read));
    }

    private NetfilterRules ReadRules()
    {
        using IHostPolicies policies = host.OpenPolicies();
        return policies.ReadNetfilterRules();
    }

    private async Task<PeerFacts> AskAsync(PeerEntry entry, int count, CancellationToken cancellationToken)
    {
        PeerHealth? health = monitor.HealthOf(entry.Peer);
        var facts = new PeerFacts(entry, health);
        if (!entry.Peer.IsReady)
        {
            return facts;
        }

        if (count > MostAsked && health is { State: PeerState.Up, RoundTrip: not null })
        {
            return facts with { Answers = true };
        }

        Task<bool?> reached = host.Settings.AnswersAsync(entry.Address, PingPatience);
        bool answers = false;
        for (int i = 0; i < Questions && !answers; i++)
        {
            answers = await monitor.PingAsync(entry.Peer, EchoMessage.Length, cancellationToken) is not null;
        }

        // Whether long packets pass may have changed since somebody sent one.
        bool isLongLost = false;
        if (answers && entry.FollowsPathMtu)
        {
            entry.Peer.Target.NoteLarge();
            isLongLost = await monitor.PingAsync(entry.Peer, entry.Peer.Gmtu, cancellationToken) is null;
        }

        // Routers' answers are the watch's own.
        answers |= entry.Config.Keepalive.Kind == ProbeKind.ReturnPacket && health is { State: PeerState.Up };
        long now = Environment.TickCount64;
        UnderlayTarget target = entry.Peer.Target;
        long heard = entry.Peer.LastHeard;
        return facts with
        {
            Health = monitor.HealthOf(entry.Peer),
            Answers = answers,
            IsLongLost = isLongLost,
            HostAnswers = await reached,
            HeardSeconds = heard == 0 ? null : (now - heard) / 1000.0,
            IsDaemon = target.Abilities.IsHeard,
            IsShared = parts.Claims.IsShared(entry.Peer.Settings.Local, entry.Address),
            Hearing = target.TryGetHearing(out Hearing hearing, out long at) && now - at < HearingMemory ? hearing : null,
            WrongKeySeconds = target.HasWrongKey(now) && target.WrongKeyAt > heard ? (now - target.WrongKeyAt) / 1000.0 : null,
        };
    }

    // After they were asked, so that the kernel has looked for who is on the way.
    private PeerFacts[] WithWays(PeerFacts[] peers)
    {
        (InetAddress, InetAddress)[] flows =
            [.. peers.Where(peer => IsIpv4(peer.Entry)).Select(peer => (peer.Entry.Address, peer.Entry.Peer.Settings.Local))];
        IReadOnlyList<HostNextHop?> hops = host.Neighbors.GetNextHops(flows);
        HashSet<(int, InetAddress)> failed =
            [.. host.Neighbors.GetNeighbors().Where(neighbor => !neighbor.IsUsable).Select(neighbor => (neighbor.LinkIndex, neighbor.Address))];
        int next = 0;
        return [.. peers.Select(peer =>
        {
            HostNextHop? hop = IsIpv4(peer.Entry) ? hops[next++] : null;
            return peer with
            {
                Hop = hop,
                HopFailed = hop is not null && failed.Contains((hop.LinkIndex, hop.Address)),
                Path = peer.Entry.Peer.IsReady ? Attempt(() => parts.Host.GetPath(peer.Entry.Address, peer.Entry.Peer.Settings.Local)) : null,
                KernelSource = peer.Entry.Peer.IsReady ? Attempt(() => parts.Host.GetPath(peer.Entry.Address, InetAddress.None))?.Source ?? InetAddress.None : InetAddress.None,
            };
        })];
    }

    private Facts GatherAbout(PeerFacts[] peers, NetfilterRules rules) => new()
    {
        Config = state.Config,
        ConfigPath = parts.ConfigPath,
        Device = parts.Device,
        NetworkProblems = state.Problems,
        RouteProblems = state.RouteProblems,
        Peers = peers,
        Sightings = monitor.Sightings(),
        ReceivesRaw = parts.Paths.Paths.Receive == UnderlayPath.Raw,
        Links = [.. parts.Host.GetLinks().Select(Describe)],
        Routes = parts.Host.GetRoutes(),
        RouteLinks = peers.SelectMany(peer => peer.Entry.Config.Subnets).Distinct()
            .ToDictionary(subnet => subnet, subnet => Attempt(() => parts.Host.GetPath(Facts.AddressIn(subnet), InetAddress.None))?.LinkIndex ?? 0),
        ForwardsIpv4 = IsOn("net/ipv4/ip_forward"),
        Rules = new NetfilterFate(NetfilterJudgement.Read(rules, NetfilterChain.AllProtocols)),
        UnreadableRules = rules.Unreadable,
        HasLegacyTables = rules.Legacy is not null,
    };

    private LinkFacts Describe(HostLink link) => new(
        link,
        parts.Host.GetAddresses(link.Index),
        IsOn($"net/ipv4/conf/{link.Name}/forwarding"),
        IsOn("net/ipv6/conf/all/forwarding") || IsOn($"net/ipv6/conf/{link.Name}/force_forwarding"),
        Math.Max(Number("net/ipv4/conf/all/rp_filter"), Number($"net/ipv4/conf/{link.Name}/rp_filter")));

    private static bool IsIpv4(PeerEntry entry) => entry.Peer.IsReady && entry.Address.IsIpv4;

    private bool IsOn(string name) => Number(name) > 0;

    private int Number(string name) => int.TryParse(host.Settings.Read(name), out int number) ? number : 0;

    // What the kernel does not say is not known.
    private static T? Attempt<T>(Func<T?> ask)
        where T : class
    {
        try
        {
            return ask();
        }
        catch (HostNetworkException)
        {
            return null;
        }
    }
}
