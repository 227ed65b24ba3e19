using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Tunnel.Control.Configuration;
using Tunnel.Control.Monitoring;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Encapsulations;

/// <summary>What the choice for a peer has come to.</summary>
/// <param name="IsDirect">Whether packets go without a tunnel, where the peer's host is on a link.</param>
/// <param name="IsUdp">Whether what goes through the tunnel goes by GRE-in-UDP.</param>
/// <param name="Reason">Why, for people.</param>
internal sealed record EncapsulationChoice(bool IsDirect, bool IsUdp, string Reason)
{
    /// <summary>Before anything has been tried.</summary>
    public static readonly EncapsulationChoice None = new(IsDirect: false, IsUdp: false, "nothing has been tried yet");
}

/// <summary>What the choice needs of the network.</summary>
/// <param name="Network">The network as it is now.</param>
/// <param name="Monitor">Who knows whether peers answer.</param>
/// <param name="Probe">Asks without a tunnel; null where nobody can.</param>
/// <param name="Settings">The kernel's settings; null where they can't be read.</param>
/// <param name="Changed">Is told that something else has been chosen.</param>
internal sealed record ChooserParts(
    Func<NetworkState> Network, NetworkMonitor Monitor, IDirectProbe? Probe, IHostSettings? Settings, Action Changed);

/// <summary>
/// Chooses for the peers whose encapsulation is `auto`, and tries from time to time whether something better works. Runs on the thread pool, one turn at
/// a time; <see cref="ChoiceOf"/> from any thread.
/// </summary>
internal sealed partial class EncapsulationChooser(ChooserParts parts, EventStream events, TimeProvider time, ILogger log) : IAsyncDisposable
{
    private static readonly TimeSpan Pace = TimeSpan.FromMilliseconds(200);

    // A neighbour answers at once.
    private static readonly TimeSpan Patience = TimeSpan.FromMilliseconds(500);

    // What is asked at a time; those that packets went to last.
    private const int MostCandidates = 4;

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
        PeerEntry[] entries = [.. state.Peers.Where(entry => entry.Peer.IsReady && state.Config.ConfiguredFor(entry.Config) == Encapsulation.Auto)];
        foreach (string gone in _ways.Keys.Except(entries.Select(entry => entry.Config.Name), StringComparer.Ordinal).ToArray())
        {
            _ways.Remove(gone);
            _choices.TryRemove(gone, out _);
        }

        bool isStrict = entries.Length > 0 && IsReversePathStrict(state.Config.Name);
        Way[] ways = [.. entries.Select(WayOf)];
        await Task.WhenAll(ways.Select(way => LookAsync(way, state.Config, isStrict)));
        bool changed = false;
        foreach (Way way in ways)
        {
            changed |= Publish(way, state.Config, isStrict);
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
            way = new Way(new AutoEncapsulation(Now), entry);
            _ways[name] = way;
        }

        way.Entry = entry;
        return way;
    }

    private async Task LookAsync(Way way, NetworkConfig config, bool isStrict)
    {
        PeerEntry entry = way.Entry;
        if (parts.Probe is not IDirectProbe probe || entry.OnLink is not DirectWay link || isStrict)
        {
            way.Auto.LeaveDirect();
        }
        else
        {
            FollowDestinations(way);
            if (way.Candidates.Count > 0 && way.Auto.IsDirectDue(Now))
            {
                way.Auto.HearDirect(await AskAsync(probe, way, link, SourceFor(config, entry)), Now);
            }
        }

        bool isHeard = entry.Config.Keepalive == Keepalive.Off || parts.Monitor.HealthOf(entry.Peer) is not PeerHealth health ||
            health.State == PeerState.Up || (health.State == PeerState.Degraded && health.RoundTrip is not null);
        way.Auto.LookAtTunnel(isHeard, config.Underlay.AllowUdp, Now);
        if (isHeard && way.Auto.IsPlainDue(Now))
        {
            var plain = new Peer(entry.Peer.Settings with { UdpPort = 0 }, entry.Peer.Counters, entry.Peer.Sequences);
            way.Auto.HearPlain(await parts.Monitor.PingAsync(plain, EchoMessage.Length, _stop.Token) is not null, Now);
        }
    }

    // Whoever packets go to is there, most likely. The packet threads say so when asked to.
    private static void FollowDestinations(Way way)
    {
        UnderlayTarget target = way.Entry.Peer.Target;
        if (target.TryTakeDestination(out InetAddress destination) && destination.IsIpv4 == way.Entry.Address.IsIpv4 && !way.Hosts.Contains(destination))
        {
            way.Candidates.Remove(destination);
            way.Candidates.Insert(0, destination);
            way.Candidates.RemoveRange(Math.Min(way.Candidates.Count, MostCandidates), Math.Max(0, way.Candidates.Count - MostCandidates));
        }

        target.SeekDestination();
    }

    // The peer's host itself proves nothing for those behind it: their packets are forwarded, through its firewall.
    private async Task<bool> AskAsync(IDirectProbe probe, Way way, DirectWay link, InetAddress source)
    {
        bool hasMore = way.Entry.Config.Subnets.Any(subnet => subnet.Address.IsIpv4 == source.IsIpv4 && subnet.Length < subnet.MaxLength);
        Task<bool> Ask(InetAddress candidate, byte timeToLive) => probe.AnswersAsync(link.Gateway, source, candidate, timeToLive, Patience, _stop.Token);
        (InetAddress Address, bool IsHost, bool Answers)[] asked = await Task.WhenAll(way.Candidates.ToArray().Select(async candidate =>
        {
            Task<bool> isHost = hasMore && !way.Auto.IsDirect ? Ask(candidate, 1) : Task.FromResult(false);
            bool answers = await Ask(candidate, 64);
            return (candidate, await isHost, answers);
        }));
        way.Hosts.UnionWith(asked.Where(one => one.IsHost).Select(one => one.Address));
        way.Candidates.RemoveAll(way.Hosts.Contains);
        InetAddress first = asked.FirstOrDefault(one => one is { Answers: true, IsHost: false }).Address;
        way.Answering = first.IsNone ? way.Answering : first;
        return !first.IsNone;
    }

    private static InetAddress SourceFor(NetworkConfig config, PeerEntry entry) =>
        config.Interface.Addresses.Select(address => address.Address).FirstOrDefault(address => address.IsIpv4 == entry.Address.IsIpv4);

    // Answers may come through the tunnel: what comes another way than it would go is dropped then (ip-sysctl, rp_filter).
    private bool IsReversePathStrict(string device) =>
        new[] { "all", device }.Max(name => parts.Settings?.Read($"net/ipv4/conf/{name}/rp_filter")) == "1";

    // Returns whether something else is chosen than before.
    private bool Publish(Way way, NetworkConfig config, bool isStrict)
    {
        string name = way.Entry.Config.Name;
        EncapsulationChoice before = ChoiceOf(name);
        var choice = new EncapsulationChoice(way.Auto.IsDirect, way.Auto.IsUdp, Reason(way, config, isStrict));
        _choices[name] = choice;
        if (before.IsDirect != choice.IsDirect || before.IsUdp != choice.IsUdp)
        {
            string detail = $"{(choice.IsDirect ? "direct" : choice.IsUdp ? "gre-udp" : "gre")}: {choice.Reason}";
            events.Publish("encapsulation-changed", name, detail);
            LogChosen(name, detail);
        }

        return before != choice;
    }

    private static string Reason(Way way, NetworkConfig config, bool isStrict)
    {
        PeerEntry entry = way.Entry;
        string direct = entry.OnLink is null ? $"{entry.Address} is not a neighbour on a link of this host"
            : way.Auto.IsDirect ? $"{entry.Address} is a neighbour, and {way.Answering} behind it answers without a tunnel"
            : isStrict ? $"rp_filter is strict on {config.Name}, so nothing may come another way than it goes"
            : way.Auto.HasMissed ? $"{string.Join(", ", way.Candidates)} behind it did not answer without a tunnel"
            : way.Candidates.Count > 0 ? "a way without a tunnel is being tried"
            : "a way without a tunnel is tried once packets go to somebody behind it";
        return way.Auto.IsUdp ? $"{direct}; plain GRE was not answered" : direct;
    }

    [LoggerMessage(Level = LogLevel.Information, Message = "peer {Peer} is reached by {Detail}")]
    private partial void LogChosen(string peer, string detail);

    [LoggerMessage(Level = LogLevel.Error, Message = "a bug in choosing encapsulations, will try again")]
    private partial void LogBug(Exception bug);

    private sealed class Way(AutoEncapsulation auto, PeerEntry entry)
    {
        public AutoEncapsulation Auto { get; } = auto;

        public PeerEntry Entry { get; set; } = entry;

        public List<InetAddress> Candidates { get; } = [];

        // Addresses that are the peer's host itself.
        public HashSet<InetAddress> Hosts { get; } = [];

        public InetAddress Answering { get; set; }
    }
}
