using Microsoft.Extensions.Logging;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Paths;

/// <summary>
/// Decides by which way plain GRE over IPv4 goes, raw or packet sockets, and keeps the next hops that packet sockets need. Left to
/// itself it uses packet sockets unless something would be gone around that way: a netfilter rule, an IPsec policy. It follows the host's
/// notifications. What it can't find out counts as a reason for raw sockets, which are right in any case. For GRE-in-UDP over IPv4 it keeps
/// the next hops of those targets whose super-packets may go around the UDP sockets; the others stay with those, which is told nobody.
/// Thread-safe; the decisions are made one after the other.
/// </summary>
internal sealed partial class PathChooser : IAsyncDisposable
{
    // Rules are read again at most this often, and neighbours and routes are looked at again at most so often.
    private static readonly TimeSpan PolicyPause = TimeSpan.FromMilliseconds(500);
    private static readonly TimeSpan LookPause = TimeSpan.FromMilliseconds(20);
    private static readonly TimeSpan LongestPolicyPause = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan LongestLookPause = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan Round = TimeSpan.FromSeconds(10);

    // Work that takes long is followed by a pause of so many times its length.
    private const int PauseFactor = 5;

    // Enough for people; the rest is usually the same for other peers.
    private const int MostReasons = 5;

    private readonly Func<IReadOnlyList<Peer>> _peers;
    private readonly Func<(UnderlayPath? Receive, UnderlayPath? Send)> _configured;
    private readonly IUnderlayPaths _paths;
    private readonly IHostPolicies _policies;
    private readonly IHostNeighbors _neighbors;
    private readonly PortRange _sourcePorts;
    private readonly EventStream _events;
    private readonly TimeProvider _time;
    private readonly ILogger _log;
    private readonly CancellationTokenSource _stop = new();
    private readonly SemaphoreSlim _wake = new(0, 1);
    private readonly Lock _gate = new();

    // Under the gate: what has happened since the last decision.
    private readonly List<HostNeighbor> _neighborChanges = [];
    private bool _neighborsLost = true;
    private bool _routesChanged = true;
    private bool _peersChanged = true;
    private HostRules? _rules;
    private string? _blind;

    // Of the deciding loop alone.
    private readonly Dictionary<UnderlayTarget, TargetState> _targets = [];
    private readonly Dictionary<(int Link, InetAddress Address), HopState> _hops = [];
    private HostRules? _judgedRules;
    private (UnderlayPath Receive, UnderlayPath Send)? _told;
    private IReadOnlyList<string> _reasons = ["the host's rules are not read yet"];
    private IReadOnlyList<string> _hindrances = [];
    private bool _receiveHindered = true;
    private bool _sendHindered = true;
    private Task? _policyChange;
    private Task _running = Task.CompletedTask;

    /// <summary>Prepares; <see cref="Start"/> begins. Until then nothing is changed.</summary>
    /// <param name="peers">The peers as they are now; called from any thread.</param>
    /// <param name="configured">The ways that the configuration pins; null where it leaves them open.</param>
    /// <param name="paths">What is told the ways.</param>
    /// <param name="policies">The host's IPsec policies and netfilter rules.</param>
    /// <param name="neighbors">The host's next hops and neighbours.</param>
    /// <param name="sourcePorts">The UDP ports that GRE-in-UDP may be sent from.</param>
    /// <param name="events">Where changes are told.</param>
    /// <param name="time">The clock.</param>
    /// <param name="log">The log.</param>
    public PathChooser(
        Func<IReadOnlyList<Peer>> peers,
        Func<(UnderlayPath? Receive, UnderlayPath? Send)> configured,
        IUnderlayPaths paths,
        IHostPolicies policies,
        IHostNeighbors neighbors,
        PortRange sourcePorts,
        EventStream events,
        TimeProvider time,
        ILogger log)
    {
        _peers = peers;
        _configured = configured;
        _paths = paths;
        _policies = policies;
        _neighbors = neighbors;
        _sourcePorts = sourcePorts;
        _events = events;
        _time = time;
        _log = log;
    }

    /// <summary>
    /// Why raw sockets are in use where packet sockets would be faster, or what a pinned packet socket goes around, one line each, for people;
    /// empty where nothing is in the way.
    /// </summary>
    public IReadOnlyList<string> Reasons => Volatile.Read(ref _reasons);

    /// <summary>Begins to decide.</summary>
    public void Start() => _running = Task.WhenAll(
        Task.Run(() => GuardAsync(FollowPoliciesAsync, FallBackForPolicies)),
        Task.Run(() => GuardAsync(FollowRoutesAsync, FallBackForEvents)),
        Task.Run(() => GuardAsync(FollowNeighborsAsync, FallBackForEvents)),
        Task.Run(() => GuardAsync(DecideAsync, FallBackForDecision)));

    /// <summary>Says that the peers, or the configured ways, have changed. Returns at once.</summary>
    public void Changed() => Note(() => _peersChanged = true);

    /// <summary>Stops deciding; the ways stay as they are.</summary>
    public async Task StopAsync()
    {
        await _stop.CancelAsync();
        await _running;
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await StopAsync();
        lock (_gate)
        {
            _wake.Dispose();
        }

        _stop.Dispose();
    }

    private void Note(Action change)
    {
        lock (_gate)
        {
            change();
            if (!_stop.IsCancellationRequested && _wake.CurrentCount == 0)
            {
                _wake.Release();
            }
        }
    }

    // Each loop goes on until the end, whatever goes wrong in between. While the host can't be followed, raw sockets are right.
    private async Task GuardAsync(Func<Task> loop, Action<string> fallBack)
    {
        while (!_stop.IsCancellationRequested)
        {
            try
            {
                await loop();
            }
            catch (OperationCanceledException) when (_stop.IsCancellationRequested)
            {
                return;
            }
            catch (Exception refused) when (refused is HostNetworkException or UnderlayException)
            {
                LogRefused(refused.Message);
                fallBack(refused.Message);
            }
#pragma warning disable CA1031 // A bug here must not end the choice for the rest of the process's life.
            catch (Exception bug)
#pragma warning restore CA1031
            {
                LogBug(bug);
                fallBack(bug.Message);
            }

            await Task.Delay(Round, _time, _stop.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private void FallBackForPolicies(string reason) =>
        Note(() => _rules = new HostRules(XfrmPolicies.None, new NetfilterRuleset([], [$"the host's rules can't be read: {reason}"]), IsXfrmKnown: false));

    // Without notifications a look would soon be out of date, so raw sockets it is from now on.
    private void FallBackForEvents(string reason) => Note(() => _blind = $"the host's changes can't be followed: {reason}");

    // It may be a pinned way that was refused, and then it is refused here too. Raw sockets never are.
    private void FallBackForDecision(string reason)
    {
        (UnderlayPath? receive, UnderlayPath? send) = _configured();
        try
        {
            _paths.UsePaths(receive ?? UnderlayPath.Raw, send ?? UnderlayPath.Raw);
        }
        catch (UnderlayException)
        {
            _paths.UsePaths(UnderlayPath.Raw, UnderlayPath.Raw);
        }

        foreach (UnderlayTarget target in _targets.Keys.Where(IsUdp))
        {
            target.Neighbor = null;
        }

        Volatile.Write(ref _reasons, [$"the ways can't be chosen: {reason}"]);
        _told = null;
        Note(() => _neighborsLost = _routesChanged = _peersChanged = true);
    }

    private async Task FollowPoliciesAsync()
    {
        while (true)
        {
            Task change = _policyChange ??= _policies.WaitForChangeAsync(_stop.Token);
            long start = _time.GetTimestamp();
            var rules = new HostRules(_policies.ReadXfrmPolicies(), NetfilterJudgement.Read(_policies.ReadNetfilterRules()));
            Note(() => _rules = rules);
            await PauseAsync(start, PolicyPause, LongestPolicyPause);

            // Nobody tells of changes to tables of iptables-legacy; where there are none, only whether some have come is looked at.
            bool hadLegacy = _policies.HasLegacyTables;
            while (await Task.WhenAny(change, Task.Delay(Round, _time, _stop.Token)) != change && !hadLegacy && !_policies.HasLegacyTables)
            {
                _stop.Token.ThrowIfCancellationRequested();
            }

            _stop.Token.ThrowIfCancellationRequested();
            if (change.IsCompleted)
            {
                _policyChange = null;
                await change;
            }
        }
    }

    private async Task FollowRoutesAsync()
    {
        while (true)
        {
            await _neighbors.WaitForRouteChangeAsync(_stop.Token);
            Note(() => _routesChanged = true);
        }
    }

    private async Task FollowNeighborsAsync()
    {
        while (true)
        {
            IReadOnlyList<HostNeighbor>? changes = await _neighbors.ReadNeighborChangesAsync(_stop.Token);

            // Links may have thousands of neighbours that are no next hop of ours: those wake nobody.
            lock (_gate)
            {
                HostNeighbor[] ours = [.. (changes ?? []).Where(change => _hops.ContainsKey((change.LinkIndex, change.Address)))];
                if (changes is null || ours.Length > 0)
                {
                    Note(() =>
                    {
                        _neighborChanges.AddRange(ours);
                        _neighborsLost |= changes is null;
                    });
                }
            }
        }
    }

    private async Task DecideAsync()
    {
        bool isFirst = true;
        long lastRound = _time.GetTimestamp();
        while (true)
        {
            long start = _time.GetTimestamp();
            Decide();
            if (_time.GetElapsedTime(lastRound) >= Round)
            {
                lastRound = start;
                ConfirmStale();
            }

            await PauseAsync(start, LookPause, isFirst ? LookPause : LongestLookPause);
            isFirst = false;
            await WaitAsync(Round - _time.GetElapsedTime(lastRound));
        }
    }

    private async Task WaitAsync(TimeSpan longest)
    {
        using var either = CancellationTokenSource.CreateLinkedTokenSource(_stop.Token);
        Task wake = _wake.WaitAsync(either.Token);
        await Task.WhenAny(wake, Task.Delay(longest > TimeSpan.Zero ? longest : TimeSpan.Zero, _time, either.Token));
        await either.CancelAsync();
        await wake.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        _stop.Token.ThrowIfCancellationRequested();
    }

    private Task PauseAsync(long start, TimeSpan least, TimeSpan most)
    {
        TimeSpan share = _time.GetElapsedTime(start) * PauseFactor;
        return Task.Delay(share < least ? least : share > most ? most : share, _time, _stop.Token);
    }

    // One decision, from what has happened to what the packet threads are told.
    private void Decide()
    {
        HostNeighbor[] changes;
        bool lost;
        bool routes;
        bool peers;
        HostRules? rules;
        lock (_gate)
        {
            changes = [.. _neighborChanges];
            _neighborChanges.Clear();
            (lost, routes, peers) = (_neighborsLost, _routesChanged, _peersChanged);
            rules = _blind is null || _rules is null ? _rules : _rules with { Netfilter = new NetfilterRuleset([], [_blind]), IsBlind = true };
            _neighborsLost = _routesChanged = _peersChanged = false;
        }

        bool sameTargets = !peers || !FindTargets();
        if (!sameTargets || routes)
        {
            lost |= FindHops();
        }

        ApplyNeighbors(changes, lost);
        bool newRules = rules != _judgedRules;
        _judgedRules = rules;
        if (!sameTargets || routes || newRules)
        {
            Judge(rules);
        }

        if (peers || newRules)
        {
            JudgeFragments(rules);
        }

        Enact();
    }

    // Whether the targets are others now, or have other sources.
    private bool FindTargets()
    {
        bool changed = false;
        var wanted = new HashSet<UnderlayTarget>();
        foreach (Peer peer in _peers())
        {
            UnderlayTarget target = peer.Target;
            if (!peer.IsReady || !target.Endpoint.IsIpv4)
            {
                continue;
            }

            wanted.Add(target);
            if (!_targets.TryGetValue(target, out TargetState? state))
            {
                _targets.Add(target, new TargetState { Peer = peer });
                changed = true;
            }
            else
            {
                changed |= state.Peer.Settings.Local != peer.Settings.Local;
                state.Peer = peer;
            }
        }

        foreach (UnderlayTarget gone in _targets.Keys.Where(target => !wanted.Contains(target)).ToArray())
        {
            gone.Neighbor = null;
            _targets.Remove(gone);
            changed = true;
        }

        return changed;
    }

    // Asks for every target's next hop anew. Whether there are next hops now that were not there before.
    private bool FindHops()
    {
        TargetState[] states = [.. _targets.Values];
        IReadOnlyList<HostNextHop?> hops = _neighbors.GetNextHops(
            [.. states.Select(state => (state.Peer.Target.Endpoint, state.Peer.Settings.Local))]);
        var wanted = new HashSet<(int, InetAddress)>();
        bool added = false;
        for (int i = 0; i < states.Length; i++)
        {
            // Where GRE-in-UDP would be cut before the link, UDP sockets are faster.
            states[i].Hop = IsUdp(states[i].Peer.Target) && hops[i] is { CarriesUdpTunnels: false } ? null : hops[i];
            if (states[i].Hop is { IsEthernet: true, Address.IsNone: false } hop)
            {
                (int, InetAddress) key = (hop.LinkIndex, hop.Address);
                wanted.Add(key);
                added |= !_hops.ContainsKey(key);
            }
        }

        lock (_gate)
        {
            foreach ((int, InetAddress) key in wanted)
            {
                _hops.TryAdd(key, new HopState());

                // A link may have another address of its own now, and who uses a next hop looks at that once.
                _hops[key].Known = null;
            }

            foreach ((int, InetAddress) key in _hops.Keys.Where(key => !wanted.Contains(key)).ToArray())
            {
                _hops.Remove(key);
            }
        }

        return added;
    }

    private void ApplyNeighbors(HostNeighbor[] changes, bool lost)
    {
        HopState[] usable = [.. _hops.Values.Where(hop => hop.Neighbor is { IsUsable: true })];
        if (lost)
        {
            foreach (HopState hop in _hops.Values)
            {
                hop.Neighbor = null;
            }

            changes = [.. _hops.Count == 0 ? [] : _neighbors.GetNeighbors()];
        }

        foreach (HostNeighbor change in changes)
        {
            if (_hops.TryGetValue((change.LinkIndex, change.Address), out HopState? hop))
            {
                hop.Neighbor = change;
            }
        }

        // A link that went down and came up again has lost them, and no packet may go there that would make the kernel ask.
        foreach (HopState hop in usable.Where(hop => hop.Neighbor is not { IsUsable: true }))
        {
            hop.IsAsked = false;
            hop.LastUse = null;
        }
    }

    private void Judge(HostRules? rules)
    {
        var hindrances = new List<string>();
        _receiveHindered = _sendHindered = rules is null;
        if (rules is null)
        {
            hindrances.Add("the host's rules are not read yet");
        }

        foreach (TargetState state in rules is null ? Enumerable.Empty<TargetState>() : _targets.Values)
        {
            state.IsHindered = false;
            if (state.Hop is not HostNextHop hop)
            {
                continue;
            }

            UnderlayTarget target = state.Peer.Target;
            var flow = new UnderlayFlow(state.Peer.Settings.Local, target.Endpoint, hop.LinkName, target.UdpPort, _sourcePorts);
            if (IsUdp(target))
            {
                // Its sockets need no telling, and concern no other peer.
                state.IsHindered =
                    XfrmJudgement.FindHindrance(rules!.Xfrm, flow) is not null || rules.Netfilter.FindHindrance(flow) is not null;
                continue;
            }

            if (!hop.IsEthernet)
            {
                Add($"{hop.LinkName}, the way to {flow.Endpoint}, is no Ethernet device");
            }

            // An IPsec policy concerns the sending to its own peer only; but nobody can tell packet sockets to leave out one sender.
            if (XfrmJudgement.FindHindrance(rules!.Xfrm, flow) is string policy)
            {
                state.IsHindered = true;
                Add(policy);
            }

            // A rule may rely on connection tracking, which must see both directions.
            if (!_sendHindered && rules.Netfilter.FindHindrance(flow) is string rule)
            {
                _sendHindered = true;
                Add(rule);
            }
        }

        _hindrances = hindrances;

        void Add(string hindrance)
        {
            _receiveHindered = true;
            if (hindrances.Count < MostReasons && !hindrances.Contains(hindrance))
            {
                hindrances.Add(hindrance);
            }
        }
    }

    // GRE-in-UDP of either family, with a next hop or not. A raw socket tells the kernel no ports, so a policy for some would be missed.
    private void JudgeFragments(HostRules? rules)
    {
        foreach (Peer peer in _peers().Where(peer => peer.IsReady && IsUdp(peer.Target)))
        {
            var flow = new UnderlayFlow(peer.Settings.Local, peer.Target.Endpoint, LinkName: "", peer.Target.UdpPort, _sourcePorts);
            peer.Target.TakesRawFragments = rules is { IsXfrmKnown: true } && XfrmJudgement.FindHindrance(rules.Xfrm, flow) is null;
        }
    }

    // What leads to raw sockets is told to the underlays before the next hops are taken away, and what leads to packet sockets after
    // they are given. A target without a next hop is sent to by a raw socket in any case. Targets of GRE-in-UDP have no ways: a next hop or none
    // is all that they are told.
    private void Enact()
    {
        (UnderlayPath? pinnedReceive, UnderlayPath? pinnedSend) = _configured();
        bool isIdle = _targets.Keys.All(IsUdp);
        UnderlayPath receive = pinnedReceive ?? (_receiveHindered || isIdle ? UnderlayPath.Raw : UnderlayPath.Packet);
        UnderlayPath send = pinnedSend ?? (_sendHindered || isIdle ? UnderlayPath.Raw : UnderlayPath.Packet);
        var next = (receive, send);
        (UnderlayPath Receive, UnderlayPath Send) now = _paths.Paths;
        (UnderlayPath, UnderlayPath) both = (receive < now.Receive ? receive : now.Receive, send < now.Send ? send : now.Send);
        if (both != now)
        {
            _paths.UsePaths(both.Item1, both.Item2);
        }

        GiveNextHops(isUdp: false, send == UnderlayPath.Raw, pinnedSend is not null);
        if (next != both)
        {
            _paths.UsePaths(receive, send);
        }

        GiveNextHops(isUdp: true, pinnedSend is UnderlayPath.Raw || _judgedRules is not { IsBlind: false }, pinnedSend is not null);
        Tell(_paths.Paths, pinnedReceive is UnderlayPath.Raw && pinnedSend is UnderlayPath.Raw
            ? ["the configuration pins datapath.receive and datapath.send to raw"]
            : _hindrances);
    }

    private void GiveNextHops(bool isUdp, bool isNone, bool isPinned)
    {
        foreach ((UnderlayTarget target, TargetState state) in _targets)
        {
            if (IsUdp(target) != isUdp)
            {
                continue;
            }

            LinkNeighbor? neighbor = isNone || (state.IsHindered && !isPinned) ? null : Resolve(state.Hop);
            if (!ReferenceEquals(target.Neighbor, neighbor))
            {
                target.Neighbor = neighbor;
            }
        }
    }

    private LinkNeighbor? Resolve(HostNextHop? hop)
    {
        if (hop is null || !_hops.TryGetValue((hop.LinkIndex, hop.Address), out HopState? state))
        {
            return null;
        }

        if (state.Neighbor is not { IsUsable: true } neighbor)
        {
            // Once; what answers nobody is asked for again by packets that the raw socket sends.
            if (!state.IsAsked)
            {
                state.IsAsked = true;
                Use(hop, state);
            }

            return null;
        }

        if (state.Known is not LinkNeighbor known || known.Address != neighbor.LinkAddress)
        {
            state.Known = new LinkNeighbor(hop.LinkIndex, neighbor.LinkAddress, hop.CarriesGre);
        }

        return state.Known;
    }

    // What the kernel would do with the first packet to a stale neighbour: those that packets were sent to are confirmed.
    private void ConfirmStale()
    {
        foreach ((UnderlayTarget target, TargetState state) in _targets)
        {
            long sent = state.Peer.Counters.Sum(counters => counters.SentPackets);
            bool isUsed = sent != state.Sent;
            state.Sent = sent;
            if (isUsed && target.Neighbor is not null && state.Hop is HostNextHop hop &&
                _hops.TryGetValue((hop.LinkIndex, hop.Address), out HopState? known) && known.Neighbor is { IsStale: true })
            {
                Use(hop, known);
            }
        }
    }

    private void Use(HostNextHop hop, HopState state)
    {
        // A gateway is next hop to many.
        if (state.LastUse is long last && _time.GetElapsedTime(last) < Round / 2)
        {
            return;
        }

        state.LastUse = _time.GetTimestamp();
        try
        {
            _neighbors.UseNeighbor(hop.LinkIndex, hop.Address);
        }
        catch (HostNetworkException)
        {
            // The device has just gone or is down, which is notified.
        }
    }

    private void Tell((UnderlayPath Receive, UnderlayPath Send) paths, IReadOnlyList<string> reasons)
    {
        bool sameReasons = reasons.SequenceEqual(Reasons);
        Volatile.Write(ref _reasons, reasons);
        bool isFirst = _told is null;
        if (_told == paths && (sameReasons || reasons.Count == 0))
        {
            return;
        }

        // At the start nothing has been read yet, and raw is what everything began with.
        _told = paths;
        if (isFirst && _judgedRules is null)
        {
            return;
        }

        string detail = $"receive {Word(paths.Receive)}, send {Word(paths.Send)}{(reasons.Count == 0 ? "" : ": " + string.Join("; ", reasons))}";
        _events.Publish("datapath-changed", detail: detail);
        LogChosen(detail);
    }

    private static bool IsUdp(UnderlayTarget target) => target.UdpPort != 0;

    private static string Word(UnderlayPath path) => path == UnderlayPath.Packet ? "packet" : "raw";

    [LoggerMessage(Level = LogLevel.Information, Message = "datapath: {Paths}")]
    private partial void LogChosen(string paths);

    [LoggerMessage(Level = LogLevel.Warning, Message = "could not follow the host's paths, uses raw sockets and will try again: {Reason}")]
    private partial void LogRefused(string reason);

    [LoggerMessage(Level = LogLevel.Error, Message = "a bug in following the host's paths, uses raw sockets and will try again")]
    private partial void LogBug(Exception bug);

    private sealed record HostRules(XfrmPolicies Xfrm, NetfilterRuleset Netfilter, bool IsBlind = false, bool IsXfrmKnown = true);

    private sealed class TargetState
    {
        public required Peer Peer { get; set; }

        /// <summary>Null where there is none that its packets could be handed to directly.</summary>
        public HostNextHop? Hop { get; set; }

        /// <summary>Whether an IPsec policy covers it, or with GRE-in-UDP a netfilter rule may apply.</summary>
        public bool IsHindered { get; set; }

        /// <summary>Packets sent at the last round.</summary>
        public long Sent { get; set; }
    }

    private sealed class HopState
    {
        public HostNeighbor? Neighbor { get; set; }

        public LinkNeighbor? Known { get; set; }

        public bool IsAsked { get; set; }

        public long? LastUse { get; set; }
    }
}
