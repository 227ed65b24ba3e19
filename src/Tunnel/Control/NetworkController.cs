using System.Text.Json;
using Microsoft.Extensions.Logging;
using Tunnel.Control.Api;
using Tunnel.Control.Configuration;
using Tunnel.Control.Encapsulations;
using Tunnel.Control.Monitoring;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control;

/// <summary>
/// The control plane of one network: holds the configuration, turns it into routing snapshots for the packet threads and into
/// links, addresses and routes of the host, and follows what happens to those. Every change is all or nothing: where one step is
/// refused, the steps before it are taken back and nothing has changed.
/// Thread-safe: changes are serialised; descriptions are made from an immutable state and wait for nothing.
/// </summary>
internal sealed partial class NetworkController : IAsyncDisposable
{
    private static readonly TimeSpan TryAgain = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan LookAgain = TimeSpan.FromSeconds(10);

    // Names are resolved again this often; the system's resolver does not tell how long an answer holds.
    private static readonly TimeSpan ResolveAgain = TimeSpan.FromSeconds(30);

    // A name server that does not answer keeps nobody from starting; what is not resolved by then is resolved while packets flow.
    private static readonly TimeSpan PatienceAtStart = TimeSpan.FromMilliseconds(300);
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(3);
    private static readonly Dictionary<string, Resolution> NoNames = [];

    private readonly SemaphoreSlim _gate = new(1, 1);
    private readonly CancellationTokenSource _stop = new();
    private readonly NetworkParts _parts;
    private readonly PeerPreparation _preparation;
    private readonly ClaimSet _claims;
    private readonly KernelReconciler _kernel;
    private readonly FirewallKeeper _firewall;
    private readonly OffloadReport _offloads;
    private readonly EcnReport _ecn;
    private readonly ILogger _log;
    private NetworkState _state;
    private IReadOnlyList<string> _warnings;
    private volatile bool _leavesHost;
    private volatile bool _hasSuccessor;
    private readonly SemaphoreSlim _namesAwaited = new(0, 1);
    private readonly SemaphoreSlim _pathsChanged = new(0, 1);
    private readonly NetworkMonitor _monitor;
    private readonly EncapsulationChooser _chooser;
    private Task _following = Task.CompletedTask;
    private Task _resolving = Task.CompletedTask;
    private Task _reporting = Task.CompletedTask;

    /// <summary>Prepares a network; <see cref="StartAsync"/> starts it.</summary>
    /// <param name="config">The configuration, checked.</param>
    /// <param name="parts">What the network is made of.</param>
    /// <param name="log">The log.</param>
    public NetworkController(NetworkConfig config, NetworkParts parts, ILogger log)
    {
        _parts = parts;
        _log = log;
        _preparation = new PeerPreparation(parts.Host, parts.Device.Index, parts.NetworkCounters.Length, peer => _chooser!.ChoiceOf(peer));
        _claims = new ClaimSet(parts.Claims);
        _kernel = new KernelReconciler(parts.Host, parts.Device, new RepairReport(new RepairBackoff(parts.Time), parts.Events, log));
        _firewall = new FirewallKeeper(parts.Firewall, parts.Device.Name, parts.Events, parts.Time, log);
        _offloads = new OffloadReport(parts.Offloads, parts.Events, log);
        _ecn = new EcnReport(parts.Time, log);
        _warnings = parts.Warnings;
        _state = new NetworkState(config with { Peers = [] }, [], 0, null, new HashSet<InetAddress>(), [], new Dictionary<IpPrefix, string>());
        Wanted = config;
        _monitor = new NetworkMonitor(parts.Probes, () => State, parts.WakeProber, FollowPaths, parts.Events, parts.Time, log);
        _chooser = new EncapsulationChooser(
            new ChooserParts(() => State, _monitor, parts.DirectProbe, parts.Examiners?.Settings, () => _firewall.View.Table is not null, FollowPaths), parts.Events, parts.Time, log);
    }

    /// <summary>The configuration to start with.</summary>
    private NetworkConfig Wanted { get; }

    /// <summary>Who watches over the peers.</summary>
    public NetworkMonitor Monitor => _monitor;

    private NetworkState State => Volatile.Read(ref _state);

    /// <summary>
    /// Brings the network up. A peer that can't be reached, or a route that is in the way, is a problem of that peer and keeps
    /// nobody else down; a claim on the same sender by another tunneld is refused.
    /// </summary>
    /// <param name="onRouting">Is called once packets can be carried: the workers know the peers. Those that an earlier process has left need wait no longer.</param>
    /// <exception cref="ClaimConflictException">
    /// Another tunneld in this namespace receives from the same endpoint under the same key, or at the same UDP port.
    /// </exception>
    /// <exception cref="UnderlayException">What is to be received can't be: another process has the UDP port.</exception>
    public async Task StartAsync(Action? onRouting = null)
    {
        _offloads.Start();
        if (_parts.InheritsDevice)
        {
            _kernel.AdoptAddresses();
        }

        IReadOnlyDictionary<string, Resolution> names = await _preparation.ResolveAsync(Wanted, Wanted.Peers, PatienceAtStart, _stop.Token);
        NetworkState next = Prepare(Wanted, names);
        _claims.Replace(next);
        _parts.Reception.Accept(next.AcceptsGre, next.AcceptsGreUdp);
        TimeSpan? again = Enact(next, onRouting);
        _firewall.Start();
        _following = FollowHostAsync(again);
        _resolving = ResolveNamesAsync();
        _reporting = _ecn.RunAsync(() => State.Peers, _stop.Token);
        _monitor.Start();
        _chooser.Start();
    }

    /// <summary>Creates or replaces a peer.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="body">What would stand under peers.NAME.</param>
    /// <param name="createOnly">Whether to refuse where there is one already.</param>
    /// <param name="cancellationToken">Gives up the wait for other changes; a change that has begun is finished.</param>
    /// <returns>Whether the peer is new, and the peer.</returns>
    /// <exception cref="ControlException">Refused; nothing has changed.</exception>
    public async Task<(bool IsNew, PeerModel Peer)> PutPeerAsync(
        string name, JsonElement body, bool createOnly, CancellationToken cancellationToken = default)
    {
        PeerConfig peer = Checked(PeerReader.Put(name, body));
        IReadOnlyDictionary<string, Resolution> names = await _preparation.ResolveAsync(State.Config, [peer], Patience, cancellationToken);
        return await SerialisedAsync(
            () =>
            {
                PeerConfig? existing = State.Config.FindPeer(name);
                if (existing is not null && createOnly)
                {
                    throw new ControlException(ControlErrorKind.Conflict, $"peer {name} exists already", $"change it with: tunnelctl set-peer {name}");
                }

                RefuseUnreadFile(existing, name);
                ChangePeer(peer, existing, names);
                Tell(existing is null ? "peer-added" : "peer-changed", name, Summary(peer));
                return (existing is null, DescribePeer(name));
            },
            cancellationToken);
    }

    /// <summary>Changes a peer in place: only what the body names.</summary>
    /// <exception cref="ControlException">Refused; nothing has changed.</exception>
    public async Task<PeerModel> PatchPeerAsync(string name, JsonElement body, CancellationToken cancellationToken = default)
    {
        PeerConfig drafted = Checked(PeerReader.Patch(Existing(name), body));
        IReadOnlyDictionary<string, Resolution> names = await _preparation.ResolveAsync(State.Config, [drafted], Patience, cancellationToken);
        return await SerialisedAsync(
            () =>
            {
                PeerConfig existing = Existing(name);
                PeerConfig peer = Checked(PeerReader.Patch(existing, body));
                ChangePeer(peer, existing, names);
                Tell("peer-changed", name, Summary(peer));
                return DescribePeer(name);
            },
            cancellationToken);
    }

    /// <summary>Removes a peer.</summary>
    /// <exception cref="ControlException">Refused; nothing has changed.</exception>
    public Task RemovePeerAsync(string name, CancellationToken cancellationToken = default) => SerialisedAsync(
        () =>
        {
            PeerConfig existing = Existing(name);
            NetworkConfig next = Checked(State.Config.WithoutPeer(name));
            Change(next, NoNames, () => ForgetStored(existing));
            Tell("peer-removed", name, Summary(existing));
            return true;
        },
        cancellationToken);

    /// <summary>Reads the configuration again and changes what differs. Ephemeral peers stay.</summary>
    /// <exception cref="ControlException">Refused; nothing has changed.</exception>
    public async Task<ReloadResult> ReloadAsync(CancellationToken cancellationToken = default)
    {
        ConfigResult<NetworkConfig> read = ConfigReader.Load(_parts.ConfigPath);
        NetworkConfig wanted = Checked(read);
        IReadOnlyDictionary<string, Resolution> names = await _preparation.ResolveAsync(wanted, wanted.Peers, Patience, cancellationToken);
        return await SerialisedAsync(
            () =>
            {
                NetworkConfig current = State.Config;
                RefuseWhatNeedsARestart(current, wanted);
                NetworkConfig next = Checked(wanted.WithEphemeral(current.Peers.Where(peer => peer.Origin == PeerOrigin.Ephemeral)));
                Change(next, names, commit: null);
                _warnings = [.. read.Warnings.Select(warning => warning.ToString())];
                ReloadResult result = Difference(current, next);
                Tell("reloaded", null, $"{result.Added.Count} peers added, {result.Changed.Count} changed, {result.Removed.Count} removed");
                return result;
            },
            cancellationToken);
    }

    /// <summary>Leaves routes and addresses in place at the end: a next process goes on with the device, or the device goes with them.</summary>
    /// <param name="hasSuccessor">
    /// Whether a next process is sure to come, so that what does not go with the device is left too: the network's part of the firewall, and routes
    /// without a tunnel. Where that is not sure, these lead into the device from now on.
    /// </param>
    public void LeaveHost(bool hasSuccessor)
    {
        _leavesHost = true;
        _hasSuccessor = hasSuccessor;
        if (hasSuccessor)
        {
            _firewall.Leave();
        }
    }

    /// <summary>Stops following the host and removes our routes and addresses, unless they are to be left.</summary>
    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await _chooser.DisposeAsync();
        await _monitor.DisposeAsync();
        await Task.WhenAll(_following, _resolving, _reporting);
        await _gate.WaitAsync();
        if (!_leavesHost)
        {
            _kernel.RemoveAll();
        }
        else if (!_hasSuccessor)
        {
            _kernel.LeaveDirect();
        }

        await _firewall.DisposeAsync();
        _claims.Dispose();
        _gate.Dispose();
        _namesAwaited.Dispose();
        _pathsChanged.Dispose();
        _stop.Dispose();
    }

    // What sockets and threads were made for at the start.
    private static void RefuseWhatNeedsARestart(NetworkConfig current, NetworkConfig wanted)
    {
        const string Bound = "the sockets are bound to it";
        const string Made = "the packet threads were started with it";
        (string Field, object? Now, object? Wanted, string Reason)[] settings =
        [
            ("underlay.local", current.Underlay.Local, wanted.Underlay.Local, Bound),
            ("underlay.udp-port", current.Underlay.UdpPort, wanted.Underlay.UdpPort, Bound),
            ("underlay.source-port", current.Underlay.SourcePort, wanted.Underlay.SourcePort, Bound),
            ("control.metrics", current.Control.Metrics, wanted.Control.Metrics, "it is listened there"),
            ("datapath.workers", current.Datapath.Workers, wanted.Datapath.Workers, Made),
            ("datapath.pin", current.Datapath.Pin, wanted.Datapath.Pin, Made),
            ("datapath.busy-poll", current.Datapath.BusyPollMicroseconds, wanted.Datapath.BusyPollMicroseconds, Made),
        ];
        foreach ((string field, object? now, object? then, string reason) in settings)
        {
            if (!Equals(now, then))
            {
                throw new ControlException(
                    ControlErrorKind.Conflict,
                    $"{field} has changed, and {reason}",
                    $"restart the daemon: systemctl restart tunneld@{current.Name}",
                    field);
            }
        }
    }

    private static ReloadResult Difference(NetworkConfig before, NetworkConfig after)
    {
        Dictionary<string, PeerConfig> old = before.Peers.ToDictionary(peer => peer.Name, StringComparer.Ordinal);
        return new ReloadResult(
            [.. after.Peers.Where(peer => !old.ContainsKey(peer.Name)).Select(peer => peer.Name)],
            [.. after.Peers.Where(peer => old.TryGetValue(peer.Name, out PeerConfig? was) && was != peer).Select(peer => peer.Name)],
            [.. old.Keys.Except(after.Peers.Select(peer => peer.Name), StringComparer.Ordinal)],
            before with { Peers = [] } != after with { Peers = [] });
    }

    private static string Summary(PeerConfig peer) => $"{peer.Endpoint}, {string.Join(' ', peer.Subnets)}";

    private void Tell(string what, string? peer, string detail)
    {
        _parts.Events.Publish(what, peer, detail);
        LogChange(what, peer is null ? "" : $" {peer}", detail);
    }

    private static T Checked<T>(ConfigResult<T> result)
        where T : class
    {
        if (result.Value is T value)
        {
            return value;
        }

        ConfigError first = result.Errors[0];
        string message = first.Place.IsNone ? first.Message : $"{first.Place}: {first.Message}";
        string more = result.Errors.Count > 1 ? $" (and {result.Errors.Count - 1} more)" : "";
        ControlErrorKind kind = first.Kind == ConfigErrorKind.Conflict ? ControlErrorKind.Conflict : ControlErrorKind.Invalid;

        // In a request's body the key is what the client wrote; in a file its whole path tells more.
        throw new ControlException(kind, message + more, first.Hint, first.Place.IsNone ? first.Key : first.Field);
    }

    private PeerConfig Existing(string name) =>
        State.Config.FindPeer(name) ?? throw NoSuchPeer(name);

    private static ControlException NoSuchPeer(string name) =>
        new(ControlErrorKind.NotFound, $"no peer is called {ConfigText.OneLine(name)}", "list them with: tunnelctl show");

    // A file that was put beside the others by hand, and not read yet, is somebody's work.
    private void RefuseUnreadFile(PeerConfig? existing, string name)
    {
        string file = Path.Combine(PeerStore.DirectoryOf(_parts.ConfigPath), name + PeerStore.Extension);
        if (existing is null && File.Exists(file))
        {
            throw new ControlException(ControlErrorKind.Conflict, $"{file} exists, but has not been read", "read it first: tunnelctl reload");
        }
    }

    private void ChangePeer(PeerConfig peer, PeerConfig? existing, IReadOnlyDictionary<string, Resolution> names) =>
        Change(Checked(State.Config.WithPeer(peer)), names, () =>
        {
            if (peer.Origin == PeerOrigin.Stored)
            {
                Store(peer);
            }
            else if (existing is not null)
            {
                ForgetStored(existing);
            }
        });

    private void Store(PeerConfig peer)
    {
        try
        {
            _parts.Store.Save(peer);
        }
        catch (PeerStoreException failure)
        {
            throw new ControlException(ControlErrorKind.Failed, failure.Message, failure.Hint, inner: failure);
        }
    }

    private void ForgetStored(PeerConfig peer)
    {
        if (peer.Origin != PeerOrigin.Stored)
        {
            return;
        }

        try
        {
            _parts.Store.Remove(peer.Name);
        }
        catch (PeerStoreException failure)
        {
            throw new ControlException(ControlErrorKind.Failed, failure.Message, failure.Hint, inner: failure);
        }
    }

    // One change from the decision to the disk. The disk comes last: it is what can't be taken back.
    private void Change(NetworkConfig config, IReadOnlyDictionary<string, Resolution> names, Action? commit)
    {
        NetworkState before = State;
        NetworkState next = Prepare(config, names);
        RefuseSequences(next);
        RefuseForeignRoutes(before, next);
        RefuseUselessEndpoints(before, next);
        try
        {
            _claims.Extend(next);
        }
        catch (ClaimConflictException conflict)
        {
            throw new ControlException(ControlErrorKind.Conflict, conflict.Message, conflict.Hint, conflict.Field, conflict);
        }

        try
        {
            Widen(before, next);
            Enact(next);
            RefuseHalfDone(before, next);
            commit?.Invoke();
        }
        catch
        {
            Enact(before);
            _parts.Reception.Accept(before.AcceptsGre, before.AcceptsGreUdp);
            _claims.Replace(before);
            throw;
        }

        _parts.Reception.Accept(next.AcceptsGre, next.AcceptsGreUdp);
        _claims.Replace(next);
    }

    // What a peer has sent already by its former encapsulation still arrives while the change goes on.
    private void Widen(NetworkState before, NetworkState next)
    {
        try
        {
            _parts.Reception.Accept(before.AcceptsGre || next.AcceptsGre, before.AcceptsGreUdp || next.AcceptsGreUdp);
        }
        catch (UnderlayException refused)
        {
            throw new ControlException(ControlErrorKind.Conflict, refused.Message, refused.Hint, "underlay.udp-port", refused);
        }
    }

    // They are taken and checked by one thread, in the packets' order.
    private void RefuseSequences(NetworkState next)
    {
        int workers = _parts.NetworkCounters.Length;
        if (workers > 1 && next.Config.Peers.FirstOrDefault(peer => peer.Sequence) is PeerConfig peer)
        {
            throw new ControlException(
                ControlErrorKind.Conflict,
                $"sequence numbers of peer {peer.Name} need one worker, and {workers} are running",
                $"set datapath: {{workers: 1}} in the file, then: systemctl restart tunneld@{next.Config.Name}",
                "sequence");
        }
    }

    private NetworkState Prepare(NetworkConfig config, IReadOnlyDictionary<string, Resolution> names)
    {
        IReadOnlyList<PeerEntry> peers = _preparation.Prepare(config, State.Peers, names);
        int mtu = config.Interface.Mtu ?? _preparation.AutomaticMtu(config, peers);
        string? coalescer = _parts.Host.FindUdpCoalescingLink(_parts.Device.Index)?.Name;
        return new NetworkState(config, peers, mtu, coalescer, OwnAddresses(config), [], new Dictionary<IpPrefix, string>());
    }

    // A raw socket bound to an address gets its packets only; an unbound one those of every local address.
    private HashSet<InetAddress> OwnAddresses(NetworkConfig config) =>
        config.Underlay.Local.Count > 0 ? config.Underlay.Local.ToHashSet()
            : _parts.Host.GetOwnAddresses().Except(config.Interface.Addresses.Select(address => address.Address)).ToHashSet();

    // New routes are refused where somebody else's lead elsewhere; routes that we had before are not judged again.
    private void RefuseForeignRoutes(NetworkState before, NetworkState next)
    {
        if (_kernel.FindForeignRoute(next.Prefixes.Except(before.Prefixes).ToHashSet()) is HostRoute foreign)
        {
            throw new ControlException(
                ControlErrorKind.Conflict,
                $"{foreign.Destination} already has a route that tunneld did not install: {_kernel.Describe(foreign)}",
                $"remove it first: ip route del {foreign.Destination}, or choose other subnets",
                "subnets");
        }
    }

    private static void RefuseUselessEndpoints(NetworkState before, NetworkState next)
    {
        foreach (PeerEntry entry in next.Peers.Where(entry => entry.Address.IsNone))
        {
            if (before.FindPeer(entry.Config.Name)?.Config.Endpoint == entry.Config.Endpoint && !entry.IsClash)
            {
                continue;
            }

            throw entry.IsClash
                ? new ControlException(ControlErrorKind.Conflict, entry.Problems[0], "choose another endpoint or key", "endpoint")
                : new ControlException(ControlErrorKind.Invalid, entry.Problems[0], "use an address, or mend the name", "endpoint");
        }
    }

    // The kernel may refuse for reasons of its own: a race with somebody else, a subnet or an address that it can't have.
    private void RefuseHalfDone(NetworkState before, NetworkState next)
    {
        foreach (IpPrefix prefix in next.Prefixes.Except(before.Prefixes))
        {
            if (!_kernel.IsInstalled(prefix))
            {
                string problem = _kernel.RouteProblem(prefix) ?? _kernel.Problems.FirstOrDefault("the kernel did not take it");
                throw new ControlException(ControlErrorKind.Conflict, $"no route for {prefix}: {problem}", field: "subnets");
            }
        }

        if (_kernel.Problems.Except(before.Problems).FirstOrDefault() is string refusal)
        {
            throw new ControlException(ControlErrorKind.Failed, $"the kernel refused: {refusal}");
        }
    }

    // Publishes to the packet threads and the firewall first and routes afterwards, so that no packet is led to where nobody knows it.
    private TimeSpan? Enact(NetworkState next, Action? onRouting = null)
    {
        _parts.Routing.Current = next.ToSnapshot();
        onRouting?.Invoke();
        _firewall.Apply(next.Config);
        TimeSpan? again = _kernel.Apply(next.ToKernelState());
        Publish(next);
        _parts.Changed?.Invoke(next.Config);
        return again;
    }

    private void Publish(NetworkState next)
    {
        var routeProblems = next.Prefixes
            .Select(prefix => (prefix, problem: _kernel.RouteProblem(prefix) ?? (_kernel.IsInstalled(prefix) ? null : "not installed")))
            .Where(route => route.problem is not null)
            .ToDictionary(route => route.prefix, route => route.problem!);
        IEnumerable<string> coalescing = next.UdpCoalescer is string device
            ? [$"{device} coalesces UDP, so the kernel may glue datagrams together, which are then dropped (CoalescedUdp): " +
               $"ethtool -K {device} rx-udp-gro-forwarding off rx-gro-list off"]
            : [];
        if (next.Peers.Any(entry => entry.AwaitsName) && _namesAwaited.CurrentCount == 0)
        {
            _namesAwaited.Release();
        }

        Volatile.Write(ref _state, next with { Problems = [.. _kernel.Problems, .. coalescing], RouteProblems = routeProblems });
    }

    // Is told by the monitor, whose findings stand in the peers' targets, and by the chooser, who is asked. Any thread.
    private void FollowPaths()
    {
        lock (_pathsChanged)
        {
            if (_pathsChanged.CurrentCount == 0)
            {
                _pathsChanged.Release();
            }
        }
    }

    // Follows the host's notifications, and what the monitor finds out, for as long as the network lives. What routers have told the kernel comes
    // without a notification, so that is looked at now and then; sooner while something that others keep deleting is left alone for a while.
    private async Task FollowHostAsync(TimeSpan? again)
    {
        try
        {
            Task change = _parts.Host.WaitForChangeAsync(_stop.Token);
            Task paths = _pathsChanged.WaitAsync(_stop.Token);
            while (true)
            {
                Task timer = Task.Delay(again is TimeSpan soon && soon < LookAgain ? soon : LookAgain, _parts.Time, _stop.Token);
                Task first = await Task.WhenAny(change, paths, timer);
                await first;
                if (first == change)
                {
                    change = _parts.Host.WaitForChangeAsync(_stop.Token);
                }
                else if (first == paths)
                {
                    paths = _pathsChanged.WaitAsync(_stop.Token);
                }

                again = await SerialisedAsync(() => Refresh(NoNames), _stop.Token);
            }
        }
        catch (OperationCanceledException) when (_stop.IsCancellationRequested)
        {
            // The network stops.
        }
    }

    // Resolves names: at once where one has no address yet, and all of them again and again, since a host may move. A name that comes to no usable
    // address is awaited again with every change of state, so there is a pause whatever woke this.
    private async Task ResolveNamesAsync()
    {
        try
        {
            while (true)
            {
                await _namesAwaited.WaitAsync(ResolveAgain, _stop.Token);
                PeerConfig[] named = [.. State.Peers.Where(entry => entry.Config.Endpoint.IsName).Select(entry => entry.Config)];
                if (named.Length == 0)
                {
                    continue;
                }

                IReadOnlyDictionary<string, Resolution> names = await _preparation.ResolveAsync(State.Config, named, Patience, _stop.Token);
                await SerialisedAsync(() => Refresh(names), _stop.Token);
                if (State.Peers.Any(entry => entry.AwaitsName))
                {
                    await Task.Delay(TryAgain, _parts.Time, _stop.Token);
                }
            }
        }
        catch (OperationCanceledException) when (_stop.IsCancellationRequested)
        {
            // The network stops.
        }
    }

    // Looks at the host anew. Whatever goes wrong is logged and tried again: the network goes on as it is.
    private TimeSpan? Refresh(IReadOnlyDictionary<string, Resolution> names)
    {
        try
        {
            NetworkState before = State;
            NetworkState next = Prepare(before.Config, names);
            if (next.LooksLike(before))
            {
                TimeSpan? again = _kernel.Apply(before.ToKernelState());
                Publish(before);
                return again;
            }

            _claims.Replace(next);
            TellMoved(before, next);
            LogPathsChanged();
            return Enact(next);
        }
        catch (Exception failure) when (failure is HostNetworkException or ClaimConflictException or IOException)
        {
            LogRefused(failure.Message);
            return TryAgain;
        }
#pragma warning disable CA1031 // A bug here must not end the repair of routes for the rest of the process's life.
        catch (Exception bug)
#pragma warning restore CA1031
        {
            LogBug(bug);
            return TryAgain;
        }
    }

    private void TellMoved(NetworkState before, NetworkState next)
    {
        foreach ((PeerEntry was, PeerEntry now) in before.Peers.Zip(next.Peers))
        {
            if (was.Address != now.Address && !now.Address.IsNone)
            {
                Tell("endpoint-changed", now.Config.Name, $"{now.Config.Endpoint} is {now.Address} now");
            }
        }
    }

    private async Task<T> SerialisedAsync<T>(Func<T> change, CancellationToken cancellationToken)
    {
        using var either = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken, _stop.Token);
        await _gate.WaitAsync(either.Token);
        try
        {
            return change();
        }
        finally
        {
            _gate.Release();
        }
    }

    [LoggerMessage(Level = LogLevel.Information, Message = "{What}{Peer}: {Detail}")]
    private partial void LogChange(string what, string peer, string detail);

    [LoggerMessage(Level = LogLevel.Warning, Message = "could not follow the host's changes, will try again: {Reason}")]
    private partial void LogRefused(string reason);

    [LoggerMessage(Level = LogLevel.Information, Message = "paths to peers have changed; following")]
    private partial void LogPathsChanged();

    [LoggerMessage(Level = LogLevel.Error, Message = "a bug in following the host's changes, will try again")]
    private partial void LogBug(Exception bug);
}
