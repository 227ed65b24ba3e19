using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Tunnel.Control.Configuration;
using Tunnel.Control.Monitoring;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Encapsulations;

/// <summary>What the choice for a peer has come to.</summary>
/// <param name="Direct">The peer's subnets to which packets go without a tunnel, where its host is a neighbour; in the peer's order.</param>
/// <param name="IsUdp">Whether what goes through the tunnel goes by GRE-in-UDP.</param>
/// <param name="Reason">Why, for people.</param>
internal sealed record EncapsulationChoice(EquatableList<IpPrefix> Direct, bool IsUdp, string Reason)
{
    /// <summary>Before anything has been tried.</summary>
    public static readonly EncapsulationChoice None = new([], IsUdp: false, "nothing has been tried yet");
}

/// <summary>What the choice needs of the network.</summary>
/// <param name="Network">The network as it is now.</param>
/// <param name="Monitor">Who knows whether peers answer.</param>
/// <param name="Probe">Asks without a tunnel; null where nobody can.</param>
/// <param name="Settings">The kernel's settings; null where they can't be read.</param>
/// <param name="HasSourceNat">Whether somebody on this host changes the sources of packets.</param>
/// <param name="Changed">Is told that something else has been chosen.</param>
internal sealed record ChooserParts(
    Func<NetworkState> Network, NetworkMonitor Monitor, IDirectProbe? Probe, IHostSettings? Settings, Func<bool> HasSourceNat, Action Changed);

/// <summary>
/// Chooses for the peers whose encapsulation is `auto`, and tries from time to time whether something better works. Runs on the thread pool, one turn at
/// a time; <see cref="ChoiceOf"/> from any thread.
/// </summary>
internal sealed partial class EncapsulationChooser(ChooserParts parts, EventStream events, TimeProvider time, ILogger log) : IAsyncDisposable
{
    // With something to choose, and without.
    private static readonly TimeSpan Pace = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan IdlePace = TimeSpan.FromSeconds(1);

    // A neighbour answers at once.
    private static readonly TimeSpan Patience = TimeSpan.FromMilliseconds(500);

    private readonly ConcurrentDictionary<string, EncapsulationChoice> _choices = new(StringComparer.Ordinal);
    private readonly Dictionary<string, Way> _ways = new(StringComparer.Ordinal);
    private readonly CancellationTokenSource _stop = new();
    private Task _running = Task.CompletedTask;

    /// <summary>What is chosen for a peer.</summary>
    public EncapsulationChoice ChoiceOf(string peer) => _choices.GetValueOrDefault(peer, EncapsulationChoice.None);

    /// <summary>Begins to try.</summary>
    public void Start() => _running = RunAsync();

    /// <summary>Ends.</summary>
    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await _running;
        _stop.Dispose();
    }

    /// <summary>One look at all peers. For the loop, and for tests.</summary>
    public async Task LookAsync()
    {
        NetworkState state = parts.Network();
        PeerEntry[] entries = [.. state.Peers.Where(entry => state.Config.ConfiguredFor(entry.Config) == Encapsulation.Auto)];
        foreach (string gone in _ways.Keys.Except(entries.Select(entry => entry.Config.Name), StringComparer.Ordinal).ToArray())
        {
            _ways.Remove(gone);
            _choices.TryRemove(gone, out _);
        }

        // What was found out of a peer that can't be reached for a moment still holds.
        Way[] ways = [.. entries.Where(entry => entry.Peer.IsReady).Select(WayOf)];
        bool isStrict = ways.Length > 0 && IsReversePathStrict(state.Config.Name);
        await Task.WhenAll(ways.Select(way => LookAsync(way, state, isStrict)));
        bool changed = false;
        foreach (Way way in ways)
        {
            changed |= Publish(way);
        }

        if (changed)
        {
            parts.Changed();
        }
    }

    private long Now => (long)time.GetElapsedTime(0).TotalMilliseconds;

    private async Task RunAsync()
    {
        using var timer = new PeriodicTimer(Pace, time);
        try
        {
            while (await timer.WaitForNextTickAsync(_stop.Token))
            {
                await TryLookAsync();
                timer.Period = _ways.Count > 0 ? Pace : IdlePace;
            }
        }
        catch (OperationCanceledException)
        {
            // The network stops.
        }
    }

    private async Task TryLookAsync()
    {
        try
        {
            await LookAsync();
        }
#pragma warning disable CA1031 // A bug here must not end the choice for the rest of the process's life.
        catch (Exception bug) when (bug is not OperationCanceledException)
#pragma warning restore CA1031
        {
            LogBug(bug);
        }
    }

    // What was found out holds as long as both ends are the same.
    private Way WayOf(PeerEntry entry)
    {
        string name = entry.Config.Name;
        if (!_ways.TryGetValue(name, out Way? way) || way.Entry.Address != entry.Address || way.Entry.Peer.Settings.Local != entry.Peer.Settings.Local)
        {
            way = new Way(new TunnelChoice(Now), entry);
            _ways[name] = way;
        }

        way.Entry = entry;
        return way;
    }

    private async Task LookAsync(Way way, NetworkState state, bool isStrict)
    {
        PeerEntry entry = way.Entry;
        way.Hindrance = FindHindrance(entry, state.Config, isStrict);
        FollowDestinations(way);
        foreach (DirectTrial trial in way.Trials)
        {
            if (way.Hindrance is not null)
            {
                trial.Leave();
            }
            else if (trial.IsDue(Now))
            {
                trial.Hear(await AskAsync(trial, entry.OnLink!), Now);
            }
        }

        // A peer whose subnets another one has taken over is not tried anew: they would come back to it.
        bool isReplaced = entry.IsWithdrawn && !entry.Config.Subnets.Except(state.Prefixes).Any();
        bool isHeard = isReplaced || entry.Config.Keepalive.IsOff || parts.Monitor.HealthOf(entry.Peer) is not PeerHealth health ||
            health.State == PeerState.Up || (health.State == PeerState.Degraded && health.RoundTrip is not null);
        way.Tunnel.Look(isHeard, state.Config.Underlay.AllowUdp, Now);
        if (isHeard && way.Tunnel.IsPlainDue(Now))
        {
            var plain = new Peer(entry.Peer.Settings with { UdpPort = 0 }, entry.Peer.Counters, entry.Peer.Sequences);
            way.Tunnel.HearPlain(await parts.Monitor.PingAsync(plain, EchoMessage.Length, _stop.Token) is not null, Now);
        }
    }

    // Why there is no way without a tunnel, for people; null where there may be.
    private string? FindHindrance(PeerEntry entry, NetworkConfig config, bool isStrict) =>
        entry.OnLink is null ? $"{entry.Address} is not a neighbour on a link of this host, or this host has no overlay address of its family"
        : parts.Probe is null ? "nobody can be asked without a tunnel"

        // Answers may come through the tunnel: what comes another way than it would go is dropped then (ip-sysctl).
        : entry.Address.IsIpv4 && isStrict ? $"rp_filter is strict on {config.Name}, so nothing may come another way than it goes"

        // Whose sources to keep is told by the device then (docs/decisions/0022).
        : config.Subnets.Count == 0 && parts.HasSourceNat() ? "this host masquerades, and subnets does not say whose sources are to be kept"
        : null;

    // Whoever packets go to is there, most likely. The packet threads say so when asked to.
    private static void FollowDestinations(Way way)
    {
        EquatableList<IpPrefix> subnets = way.Entry.Config.Subnets;
        way.Trials.RemoveAll(trial => !subnets.Contains(trial.Subnet));
        UnderlayTarget target = way.Entry.Peer.Target;
        if (target.TryTakeDestination(out InetAddress destination) && destination.IsIpv4 == way.Entry.Address.IsIpv4)
        {
            IpPrefix subnet = subnets.Where(subnet => subnet.Contains(destination)).MaxBy(subnet => subnet.Length);
            if (subnet != default && !way.Trials.Exists(trial => trial.Subnet == subnet))
            {
                way.Trials.Add(new DirectTrial(subnet));
            }

            way.Trials.Find(trial => trial.Subnet == subnet)?.Note(destination);
        }

        target.SeekDestination();
    }

    // The peer's host itself proves nothing for those behind it: their packets are forwarded, through its firewall.
    private async Task<InetAddress> AskAsync(DirectTrial trial, DirectWay way)
    {
        Task<bool> Ask(InetAddress candidate, byte timeToLive) => parts.Probe!.AnswersAsync(way, candidate, timeToLive, Patience, _stop.Token);
        (InetAddress Address, bool IsHost, bool Answers)[] asked = await Task.WhenAll(trial.Candidates.ToArray().Select(async candidate =>
        {
            Task<bool> isHost = trial is { HasOthers: true, IsDirect: false } ? Ask(candidate, 1) : Task.FromResult(false);
            bool answers = await Ask(candidate, 64);
            return (candidate, await isHost, answers);
        }));
        foreach ((InetAddress address, _, _) in asked.Where(one => one.IsHost))
        {
            trial.NoteHost(address);
        }

        return asked.FirstOrDefault(one => one is { Answers: true, IsHost: false }).Address;
    }

    private bool IsReversePathStrict(string device) =>
        new[] { "all", device }.Max(name => parts.Settings?.Read($"net/ipv4/conf/{name}/rp_filter")) == "1";

    // Returns whether something else is chosen than before.
    private bool Publish(Way way)
    {
        string name = way.Entry.Config.Name;
        EncapsulationChoice before = ChoiceOf(name);
        EquatableList<IpPrefix> direct = [.. way.Entry.Config.Subnets.Where(subnet => way.Trials.Exists(trial => trial.IsDirect && trial.Subnet == subnet))];
        var choice = new EncapsulationChoice(direct, way.Tunnel.IsUdp, Reason(way));
        _choices[name] = choice;
        if (!before.Direct.Equals(choice.Direct) || before.IsUdp != choice.IsUdp)
        {
            string detail = $"{(direct.Count > 0 ? "direct" : choice.IsUdp ? "gre-udp" : "gre")}: {choice.Reason}";
            events.Publish("encapsulation-changed", name, detail);
            LogChosen(name, detail);
        }

        return before != choice;
    }

    private static string Reason(Way way)
    {
        DirectTrial[] direct = [.. way.Trials.Where(trial => trial.IsDirect)];
        string left = string.Join(", ", way.Entry.Config.Subnets.Except(direct.Select(trial => trial.Subnet)));
        string reason = way.Hindrance
            ?? (direct.Length > 0 ? $"{way.Entry.Address} is a neighbour, and {string.Join(", ", direct.Select(trial => trial.Answered))} behind it answered without a tunnel"
            : way.Trials.Exists(trial => trial.HasMissed) ? "nobody behind it answered without a tunnel"
            : way.Trials.Count > 0 ? "a way without a tunnel is being tried"
            : "a way without a tunnel is tried once packets go to somebody behind it");
        reason += direct.Length > 0 && left.Length > 0 ? $"; through the tunnel: {left}" : "";
        return way.Tunnel.IsUdp ? $"{reason}; plain GRE was not answered" : reason;
    }

    [LoggerMessage(Level = LogLevel.Information, Message = "peer {Peer} is reached by {Detail}")]
    private partial void LogChosen(string peer, string detail);

    [LoggerMessage(Level = LogLevel.Error, Message = "a bug in choosing encapsulations, will try again")]
    private partial void LogBug(Exception bug);

    private sealed class Way(TunnelChoice tunnel, PeerEntry entry)
    {
        public TunnelChoice Tunnel { get; } = tunnel;

        public PeerEntry Entry { get; set; } = entry;

        public List<DirectTrial> Trials { get; } = [];

        // Why there is no way without a tunnel.
        public string? Hindrance { get; set; }
    }
}
