using System.Diagnostics;
using Microsoft.Extensions.Logging;
using Tunnel.Control.Configuration;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Monitoring;

/// <summary>
/// Watches over all peers of a network: sends their questions by way of the packet threads, takes the answers, and tells what has changed: to
/// the packet threads' targets, to events and log, and to whoever makes routes. Runs on the thread pool, one turn at a time; what it says of
/// peers may be read from any thread.
/// </summary>
internal sealed partial class NetworkMonitor : IAsyncDisposable
{
    // While nothing is waited for, and while an answer is.
    private static readonly TimeSpan Pace = TimeSpan.FromMilliseconds(500);
    private static readonly TimeSpan QuickPace = TimeSpan.FromMilliseconds(50);

    private static readonly TimeSpan PingPatience = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan PingPause = TimeSpan.FromMilliseconds(2);

    // A stranger who goes on is told of again after this long, in milliseconds.
    private const long StrangerSilence = 600_000;
    private const int MostStrangers = 64;

    // How long what was dropped is remembered for whoever asks, in milliseconds.
    private const long SightingMemory = 90_000;

    private readonly ProbeExchange _probes;
    private readonly Func<NetworkState> _network;
    private readonly Action _wake;
    private readonly Action _pathsChanged;
    private readonly EventStream _events;
    private readonly TimeProvider _time;
    private readonly ILogger _log;
    private readonly Lock _lock = new();
    private readonly Dictionary<UnderlayTarget, Watched> _peers = [];
    private readonly Dictionary<InetAddress, long> _strangers = [];
    private readonly Dictionary<(DropReason, InetAddress), (Stranger Stranger, long At)> _sightings = [];
    private readonly Dictionary<ulong, TaskCompletionSource<TimeSpan>> _pings = [];
    private readonly CancellationTokenSource _stop = new();
    private NetworkState? _known;
    private Task _turning = Task.CompletedTask;
    private bool _hasAsked;

    /// <summary>Prepares to watch; <see cref="Start"/> starts.</summary>
    /// <param name="probes">Between here and the packet threads.</param>
    /// <param name="network">The network as it is now.</param>
    /// <param name="wake">Wakes the worker that sends questions.</param>
    /// <param name="pathsChanged">Is told that path MTUs or withdrawn routes differ from what is in force.</param>
    /// <param name="events">Where changes are told.</param>
    /// <param name="time">The clock.</param>
    /// <param name="log">The log.</param>
    public NetworkMonitor(
        ProbeExchange probes,
        Func<NetworkState> network,
        Action wake,
        Action pathsChanged,
        EventStream events,
        TimeProvider time,
        ILogger log)
    {
        _probes = probes;
        _network = network;
        _wake = wake;
        _pathsChanged = pathsChanged;
        _events = events;
        _time = time;
        _log = log;
    }

    /// <summary>Begins to watch.</summary>
    public void Start() => _turning = TurnAsync();

    /// <summary>What is known of a peer; null where it is not watched (yet).</summary>
    public PeerHealth? HealthOf(Peer peer)
    {
        lock (_lock)
        {
            return _peers.GetValueOrDefault(peer.Target)?.Monitor.Health(Now);
        }
    }

    /// <summary>What was dropped lately of which people should hear: for each reason and outer source the last packet.</summary>
    public IReadOnlyList<Sighting> Sightings()
    {
        lock (_lock)
        {
            TellStrangers();
            long now = Now;
            return [.. _sightings.Values.Where(seen => now - seen.At < SightingMemory).Select(seen => new Sighting(seen.Stranger, (now - seen.At) / 1000.0))];
        }
    }

    /// <summary>
    /// Tells the peers that run this program what a raw socket can receive, because none else will for a while: super-packets of datagrams would be lost.
    /// </summary>
    public void TellRawAbilities()
    {
        lock (_lock)
        {
            foreach (Peer peer in _peers.Values.Select(watched => watched.Entry.Peer).Where(peer => peer.Target is { UdpPort: 0, Abilities.IsHeard: true }))
            {
                _probes.Requests.TryAdd(new ProbeRequest(peer, ProbeKind.RawAbilities, Token: 0, Length: 0));
            }
        }

        _wake();
    }

    /// <summary>Asks a peer's daemon once, beside the questions of the watch.</summary>
    /// <param name="peer">Whom to ask.</param>
    /// <param name="length">How long the question is as an inner packet, in bytes.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <returns>The round trip; null where no answer came within a second.</returns>
    public async Task<TimeSpan?> PingAsync(Peer peer, int length, CancellationToken cancellationToken)
    {
        var answer = new TaskCompletionSource<TimeSpan>(TaskCreationOptions.RunContinuationsAsynchronously);
        ulong token = (ulong)Random.Shared.NextInt64();
        lock (_lock)
        {
            _pings[token] = answer;
            _probes.Requests.TryAdd(new ProbeRequest(peer, ProbeKind.Echo, token, length));
        }

        _wake();
        try
        {
            long start = _time.GetTimestamp();
            while (!answer.Task.IsCompleted && _time.GetElapsedTime(start) < PingPatience)
            {
                await Task.Delay(PingPause, _time, cancellationToken);
                lock (_lock)
                {
                    TakeAnswers();
                }
            }

            return answer.Task.IsCompleted ? await answer.Task : null;
        }
        finally
        {
            lock (_lock)
            {
                _pings.Remove(token);
            }
        }
    }

    /// <summary>A router says that packets to an endpoint are too long.</summary>
    /// <param name="target">The peer's place.</param>
    /// <param name="mtu">What it takes, in bytes, outer header included.</param>
    public void HearTooBig(UnderlayTarget target, int mtu)
    {
        lock (_lock)
        {
            if (!_peers.TryGetValue(target, out Watched? watched))
            {
                return;
            }

            watched.Monitor.Path?.HearTooBig(mtu, Now);
            if (!watched.Monitor.HasEchoed)
            {
                // Of a peer that can't be asked the kernel's own knowledge counts, which is new.
                _pathsChanged();
            }
        }
    }

    /// <summary>A router, or the peer's host, says that packets to an endpoint do not arrive.</summary>
    /// <param name="target">The peer's place.</param>
    /// <param name="complaint">What it says, for people.</param>
    public void HearUnreachable(UnderlayTarget target, string complaint)
    {
        lock (_lock)
        {
            _peers.GetValueOrDefault(target)?.Monitor.HearUnreachable(complaint, Now);
        }
    }

    /// <summary>
    /// A peer's host says that nobody listens at its UDP port. Nothing is sent there any more until something comes from it, or somebody changes the
    /// configuration, unless that says otherwise (RFC 8086 section 9).
    /// </summary>
    /// <param name="target">The peer's place.</param>
    /// <param name="isQuestion">Whether it was a question of ours that was refused, no packet.</param>
    public void HearRefused(UnderlayTarget target, bool isQuestion)
    {
        lock (_lock)
        {
            if (!_peers.TryGetValue(target, out Watched? watched) || target.UdpPort == 0 || target.Refuses)
            {
                return;
            }

            string name = watched.Entry.Config.Name;
            watched.Monitor.HearUnreachable($"{target.Endpoint} says: nobody listens at UDP port {target.UdpPort}", Now);
            if (watched.Entry.Config.OnRefused == OnRefused.Stop && !isQuestion)
            {
                target.Refuses = true;
                watched.RefusedAt = Now;
                string detail = $"nobody listens at {target.Endpoint} port {target.UdpPort}; nothing is sent until something comes from it, or: tunnelctl reload";
                _events.Publish("peer-refuses", name, detail);
                LogRefuses(name, detail);
            }
        }
    }

    /// <summary>One look at everything. For the loop, and for tests.</summary>
    /// <returns>Whether an answer is waited for, so that the next turn should come soon.</returns>
    public bool Turn()
    {
        lock (_lock)
        {
            Follow(_network());
            TakeAnswers();
            TellStrangers();
            bool isBusy = false;
            bool changed = false;
            _hasAsked = false;
            foreach (Watched watched in _peers.Values)
            {
                changed |= Advance(watched);
                isBusy |= watched.Monitor.IsBusy;
            }

            if (_hasAsked)
            {
                _wake();
            }

            if (changed)
            {
                _pathsChanged();
            }

            return isBusy;
        }
    }

    /// <summary>Ends.</summary>
    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await _turning;
        _stop.Dispose();
    }

    private long Now => (long)_time.GetElapsedTime(0).TotalMilliseconds;

    private async Task TurnAsync()
    {
        using var timer = new PeriodicTimer(Pace, _time);
        try
        {
            do
            {
                timer.Period = TryTurn() ? QuickPace : Pace;
            }
            while (await timer.WaitForNextTickAsync(_stop.Token));
        }
        catch (OperationCanceledException)
        {
            // The network stops.
        }
    }

    private bool TryTurn()
    {
        try
        {
            return Turn();
        }
#pragma warning disable CA1031 // A bug here must not end the watch for the rest of the process's life.
        catch (Exception bug)
#pragma warning restore CA1031
        {
            LogBug(bug);
            return false;
        }
    }

    // Who is watched, and with what settings.
    private void Follow(NetworkState state)
    {
        if (ReferenceEquals(state, _known))
        {
            return;
        }

        bool isDecided = !ReferenceEquals(state.Config, _known?.Config);
        _known = state;
        var gone = new HashSet<UnderlayTarget>(_peers.Keys);
        foreach (PeerEntry entry in state.Peers)
        {
            UnderlayTarget target = entry.Peer.Target;
            gone.Remove(target);
            Watched? before = _peers.GetValueOrDefault(target);
            if (before is null || !before.IsSame(entry, state.Config))
            {
                _peers[target] = Watch(entry, state.Config);
            }
            else
            {
                if (entry.Config.EffectiveKeepalive != before.Entry.Config.EffectiveKeepalive)
                {
                    before.Monitor.Use(entry.Config.EffectiveKeepalive, Now);
                }

                before.Entry = entry;
                if (entry.Peer.IsReady)
                {
                    before.Monitor.Path?.SetCeiling(entry.LinkMtu, Now);
                    before.FollowKernel(entry.LearntMtu, Now);
                }
            }

            // Somebody has looked at the configuration.
            target.Refuses &= !isDecided;
        }

        foreach (UnderlayTarget target in gone)
        {
            _peers.Remove(target);
        }
    }

    private Watched Watch(PeerEntry entry, NetworkConfig config)
    {
        UnderlayTarget target = entry.Peer.Target;
        target.PathMtu = 0;
        target.IsDown = false;
        long now = Now;
        int overhead = entry.Peer.Settings.Overhead;
        PathMtuSearch? search = entry.Peer.IsReady && entry.FollowsPathMtu
            ? new PathMtuSearch(entry.LinkMtu, config.Interface.PathMtuFloor + overhead, now)
            : null;
        if (search is not null && entry.LearntMtu > 0)
        {
            search.HearTooBig(entry.LearntMtu, now);
        }

        ulong firstToken = (ulong)Random.Shared.NextInt64();
        var monitor = new PeerMonitor(entry.Config.EffectiveKeepalive, search, firstToken, now, (kind, token, length) => Ask(target, kind, token, length));
        return new Watched(entry, monitor, config.Interface.PathMtuFloor);
    }

    private bool Ask(UnderlayTarget target, ProbeKind kind, ulong token, int length)
    {
        Peer peer = _peers[target].Entry.Peer;
        int inner = length == 0 ? 0 : length - peer.Settings.Overhead;
        bool isAdded = _probes.Requests.TryAdd(new ProbeRequest(peer, kind, token, inner));
        _hasAsked |= isAdded;
        return isAdded;
    }

    private void TakeAnswers()
    {
        foreach (HandoverRing<ProbeReply> replies in _probes.Replies)
        {
            while (replies.TryTake(out ProbeReply reply))
            {
                double roundTrip = (double)reply.RoundTrip / Stopwatch.Frequency * 1000;
                if (_pings.TryGetValue(reply.Token, out TaskCompletionSource<TimeSpan>? ping))
                {
                    ping.TrySetResult(TimeSpan.FromMilliseconds(roundTrip));
                    continue;
                }

                _peers.GetValueOrDefault(reply.Target)?.Monitor.HearAnswer(reply.Token, reply.Length, roundTrip, Now);
            }
        }
    }

    // Returns whether routes or lengths are to change.
    private bool Advance(Watched watched)
    {
        PeerMonitor monitor = watched.Monitor;
        Peer peer = watched.Entry.Peer;
        if (!peer.IsReady)
        {
            return false;
        }

        long now = Now;
        PeerState before = monitor.State;
        long lastHeard = peer.LastHeard is long last and not 0 ? OnThisClock(last, now) : -1;
        peer.Target.Refuses &= lastHeard <= watched.RefusedAt;
        monitor.Advance(now, lastHeard, peer.Target.TakeLarge(), AccountOf(peer.Target, now));
        if (monitor.State != before)
        {
            Tell(watched.Entry, before, monitor, now);
        }

        bool isDown = monitor.State == PeerState.Down;
        bool routesChange = isDown != peer.Target.IsDown && watched.Entry.Config.OnDown == OnDown.Withdraw;
        peer.Target.IsDown = isDown;

        // Of a peer that can't be asked the kernel knows more.
        int mtu = monitor.HasEchoed && monitor.Path is PathMtuSearch path ? path.Current : 0;
        int mtuBefore = peer.Target.PathMtu;
        peer.Target.PathMtu = mtu;
        if (mtuBefore != mtu && mtuBefore != 0)
        {
            string detail = $"{mtuBefore} to {mtu} bytes: inner packets of at most {mtu - peer.Settings.Overhead}";
            _events.Publish("path-mtu", peer.Settings.Name, detail);
            LogPathMtu(peer.Settings.Name, detail);
        }

        return routesChange || mtuBefore != mtu;
    }

    private void Tell(PeerEntry entry, PeerState before, PeerMonitor monitor, long now)
    {
        PeerHealth health = monitor.Health(now);
        string detail = health.State switch
        {
            PeerState.Up when before is PeerState.Down or PeerState.Degraded => $"after {before.ToWord()}",
            PeerState.Up => $"endpoint {entry.Address}",
            PeerState.Degraded => health.Loss > 0 ? $"{health.Loss:P0} of the last questions were not answered" : "no answers",
            PeerState.Down when health.HearsNothing => $"endpoint {entry.Address} sends but does not answer",
            PeerState.Down => $"endpoint {entry.Address} neither answers nor sends",
            _ => "never answered",
        };
        detail = string.Join("; ", health.Problems.Prepend(detail));
        string what = $"peer-{health.State.ToWord()}";
        _events.Publish(what, entry.Config.Name, detail);
        if (health.State == PeerState.Up)
        {
            LogUp(entry.Config.Name, detail);
        }
        else
        {
            LogState(entry.Config.Name, health.State.ToWord(), detail);
        }
    }

    // The packet threads' clock is the system's, whatever the clock here is.
    private static long OnThisClock(long time, long now) => now - (Environment.TickCount64 - time);

    private static (long SaidAt, long HeardAt)? AccountOf(UnderlayTarget target, long now)
    {
        if (!target.TryGetHearing(out Hearing hearing, out long at))
        {
            return null;
        }

        // It says whole seconds, rounded down.
        long saidAt = OnThisClock(at, now);
        return (saidAt, hearing.Seconds == Hearing.Never ? long.MinValue : saidAt - (hearing.Seconds * 1000L));
    }

    // A peer whose address has changed is told of, never followed: whoever has the key would be the peer.
    private void TellStrangers()
    {
        foreach (HandoverRing<Stranger> unknown in _probes.Unknown)
        {
            while (unknown.TryTake(out Stranger stranger))
            {
                if (_sightings.Count >= MostStrangers)
                {
                    _sightings.Clear();
                }

                _sightings[(stranger.Reason, stranger.Source)] = (stranger, Now);
                if (stranger.Reason == DropReason.UnknownPeer)
                {
                    TellStranger(stranger);
                }
            }
        }
    }

    /// <summary>Whose packet it could be: the peer with its key that has its inner source, or else the only one that has its key; null where there is none.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="stranger">A packet of nobody's.</param>
    public static PeerConfig? PeerLike(NetworkConfig config, Stranger stranger)
    {
        PeerConfig? peer = config.FindSubnet(stranger.InnerSource)?.Peer ??
            (stranger.HasKey && config.Peers.Where(one => one.Key?.In == stranger.Key).Take(2).ToArray() is [PeerConfig only] ? only : null);
        bool hasItsKey = peer?.Key?.In is uint key ? stranger.HasKey && key == stranger.Key : !stranger.HasKey;
        return hasItsKey ? peer : null;
    }

    private void TellStranger(Stranger stranger)
    {
        long now = Now;
        if (_known is null || (_strangers.TryGetValue(stranger.Source, out long until) && now < until) ||
            PeerLike(_known.Config, stranger) is not PeerConfig peer)
        {
            return;
        }

        if (_strangers.Count >= MostStrangers)
        {
            _strangers.Clear();
        }

        _strangers[stranger.Source] = now + StrangerSilence;
        string detail = $"packets like this peer's come from {stranger.Source} and are dropped; its endpoint is {peer.Endpoint}";
        _events.Publish("peer-moved", peer.Name, detail);
        LogMoved(peer.Name, detail);
    }

    [LoggerMessage(Level = LogLevel.Information, Message = "peer {Peer} is up: {Detail}")]
    private partial void LogUp(string peer, string detail);

    [LoggerMessage(Level = LogLevel.Warning, Message = "peer {Peer} is {State}: {Detail}")]
    private partial void LogState(string peer, string state, string detail);

    [LoggerMessage(Level = LogLevel.Information, Message = "path MTU to peer {Peer}: {Detail}")]
    private partial void LogPathMtu(string peer, string detail);

    [LoggerMessage(Level = LogLevel.Warning, Message = "peer {Peer} may have moved: {Detail}")]
    private partial void LogMoved(string peer, string detail);

    [LoggerMessage(Level = LogLevel.Warning, Message = "peer {Peer} refuses: {Detail}")]
    private partial void LogRefuses(string peer, string detail);

    [LoggerMessage(Level = LogLevel.Error, Message = "a bug in watching over the peers, will try again")]
    private partial void LogBug(Exception bug);

    /// <summary>A packet that was dropped.</summary>
    /// <param name="Packet">The packet.</param>
    /// <param name="AgeSeconds">How long ago, in seconds.</param>
    internal sealed record Sighting(Stranger Packet, double AgeSeconds);

    private sealed class Watched(PeerEntry entry, PeerMonitor monitor, int floor)
    {
        private readonly PeerEntry _begun = entry;
        private int _learntMtu = entry.LearntMtu;

        public PeerEntry Entry { get; set; } = entry;

        public PeerMonitor Monitor { get; } = monitor;

        public long RefusedAt { get; set; }

        // Whether what was found out still holds. It does while this host has no way to the peer, and after, if the way is the same.
        public bool IsSame(PeerEntry now, NetworkConfig config) =>
            !now.Peer.IsReady || (now.Config.Keepalive.IsOff == _begun.Config.Keepalive.IsOff && now.FollowsPathMtu == _begun.FollowsPathMtu &&
            config.Interface.PathMtuFloor == floor && now.Peer.Settings.Local == _begun.Peer.Settings.Local);

        // What the kernel has learnt counts when it learns it; it forgets later than we do.
        public void FollowKernel(int learntMtu, long now)
        {
            if (learntMtu != _learntMtu)
            {
                _learntMtu = learntMtu;
                if (learntMtu > 0)
                {
                    Monitor.Path?.HearTooBig(learntMtu, now);
                }
            }
        }
    }
}
