using System.Text.Json;
using Microsoft.Extensions.Logging;
using Tunnel.Control.Configuration;
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
    private static readonly TimeSpan ResolveAgain = TimeSpan.FromSeconds(10);

    private readonly SemaphoreSlim _gate = new(1, 1);
    private readonly CancellationTokenSource _stop = new();
    private readonly NetworkParts _parts;
    private readonly PeerPreparation _preparation;
    private readonly ClaimSet _claims;
    private readonly KernelReconciler _kernel;
    private readonly ILogger _log;
    private NetworkState _state;
    private Task _following = Task.CompletedTask;

    /// <summary>Prepares a network; <see cref="StartAsync"/> starts it.</summary>
    /// <param name="config">The configuration, checked.</param>
    /// <param name="parts">What the network is made of.</param>
    /// <param name="log">The log.</param>
    public NetworkController(NetworkConfig config, NetworkParts parts, ILogger log)
    {
        _parts = parts;
        _log = log;
        _preparation = new PeerPreparation(parts.Host, parts.Device.Index, parts.NetworkCounters.Length);
        _claims = new ClaimSet(parts.Claims);
        _kernel = new KernelReconciler(parts.Host, parts.Device, parts.Events, new RepairBackoff(parts.Time), log);
        _state = new NetworkState(config with { Peers = [] }, [], 0, null, [], new Dictionary<IpPrefix, string>());
        Wanted = config;
    }

    /// <summary>The configuration to start with.</summary>
    private NetworkConfig Wanted { get; }

    private NetworkState State => Volatile.Read(ref _state);

    /// <summary>
    /// Brings the network up. A peer that can't be reached, or a route that is in the way, is a problem of that peer and keeps
    /// nobody else down; a claim on the same sender by another tunneld is refused.
    /// </summary>
    /// <exception cref="ClaimConflictException">Another tunneld in this namespace receives from the same endpoint under the same key.</exception>
    public async Task StartAsync()
    {
        NetworkState next = await PrepareAsync(Wanted, resolveAll: true);
        _claims.Replace(next.Peers);
        TimeSpan? again = Enact(next);
        _following = FollowHostAsync(again);
    }

    /// <summary>Creates or replaces a peer.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="body">What would stand under peers.NAME.</param>
    /// <param name="createOnly">Whether to refuse where there is one already.</param>
    /// <returns>Whether the peer is new.</returns>
    /// <exception cref="ControlException">Refused; nothing has changed.</exception>
    public Task<bool> PutPeerAsync(string name, JsonElement body, bool createOnly) => SerialisedAsync(async () =>
    {
        PeerConfig? existing = State.Config.FindPeer(name);
        if (existing is not null && createOnly)
        {
            throw new ControlException(ControlErrorKind.Conflict, $"peer {name} exists already", $"change it with: tunnelctl set-peer {name}");
        }

        PeerConfig peer = Checked(PeerReader.Put(name, body));
        await ChangePeerAsync(peer, existing);
        Tell(existing is null ? "peer-added" : "peer-changed", name, Summary(peer));
        return existing is null;
    });

    /// <summary>Changes a peer in place: only what the body names.</summary>
    /// <exception cref="ControlException">Refused; nothing has changed.</exception>
    public Task PatchPeerAsync(string name, JsonElement body) => SerialisedAsync(async () =>
    {
        PeerConfig existing = Existing(name);
        PeerConfig peer = Checked(PeerReader.Patch(existing, body));
        await ChangePeerAsync(peer, existing);
        Tell("peer-changed", name, Summary(peer));
        return true;
    });

    /// <summary>Removes a peer.</summary>
    /// <exception cref="ControlException">Refused; nothing has changed.</exception>
    public Task RemovePeerAsync(string name) => SerialisedAsync(async () =>
    {
        PeerConfig existing = Existing(name);
        NetworkConfig next = Checked(State.Config.WithoutPeer(name));
        await ChangeAsync(next, () => ForgetStored(existing));
        Tell("peer-removed", name, Summary(existing));
        return true;
    });

    /// <summary>Reads the configuration again and changes what differs. Ephemeral peers stay.</summary>
    /// <exception cref="ControlException">Refused; nothing has changed.</exception>
    public Task<ReloadResult> ReloadAsync() => SerialisedAsync(async () =>
    {
        NetworkConfig current = State.Config;
        NetworkConfig next = Checked(ConfigReader.Load(_parts.ConfigPath));
        if (!next.Underlay.Local.SequenceEqual(current.Underlay.Local))
        {
            throw new ControlException(
                ControlErrorKind.Conflict,
                "underlay.local has changed, and the sockets are bound to it",
                $"restart the daemon: systemctl restart tunneld@{current.Name}",
                "underlay.local");
        }

        next = Checked(next.WithEphemeral(current.Peers.Where(peer => peer.Origin == PeerOrigin.Ephemeral)));
        await ChangeAsync(next, commit: null, resolveAll: true);
        ReloadResult result = Difference(current, next);
        Tell("reloaded", null, $"{result.Added.Count} peers added, {result.Changed.Count} changed, {result.Removed.Count} removed");
        return result;
    });

    /// <summary>Stops following the host and removes our routes and addresses.</summary>
    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await _following;
        await _gate.WaitAsync();
        _kernel.RemoveAll();
        _claims.Dispose();
        _gate.Dispose();
        _stop.Dispose();
    }

    private static ReloadResult Difference(NetworkConfig before, NetworkConfig after)
    {
        Dictionary<string, PeerConfig> old = before.Peers.ToDictionary(peer => peer.Name, StringComparer.Ordinal);
        return new ReloadResult(
            [.. after.Peers.Where(peer => !old.ContainsKey(peer.Name)).Select(peer => peer.Name)],
            [.. after.Peers.Where(peer => old.TryGetValue(peer.Name, out PeerConfig? was) && was != peer).Select(peer => peer.Name)],
            [.. old.Keys.Except(after.Peers.Select(peer => peer.Name), StringComparer.Ordinal)]);
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
        State.Config.FindPeer(name) ??
        throw new ControlException(ControlErrorKind.NotFound, $"no peer is called {name}", "list them with: tunnelctl show");

    private async Task ChangePeerAsync(PeerConfig peer, PeerConfig? existing)
    {
        NetworkConfig next = Checked(State.Config.WithPeer(peer));
        await ChangeAsync(next, () =>
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
    }

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
    private async Task ChangeAsync(NetworkConfig config, Action? commit, bool resolveAll = false)
    {
        NetworkState before = State;
        NetworkState next = await PrepareAsync(config, resolveAll);
        RefuseForeignRoutes(before, next);
        RefuseUnresolvable(before, next);
        try
        {
            _claims.Extend(next.Peers);
        }
        catch (ClaimConflictException conflict)
        {
            throw new ControlException(ControlErrorKind.Conflict, conflict.Message, conflict.Hint, "endpoint", conflict);
        }

        try
        {
            Enact(next);
            RefuseFailedRoutes(before, next);
            commit?.Invoke();
        }
        catch
        {
            Enact(before);
            _claims.Replace(before.Peers);
            throw;
        }

        _claims.Replace(next.Peers);
    }

    private async Task<NetworkState> PrepareAsync(NetworkConfig config, bool resolveAll)
    {
        IReadOnlyList<PeerEntry> peers = await _preparation.PrepareAsync(config, State.Peers, resolveAll);
        int mtu = config.Interface.Mtu ?? _preparation.AutomaticMtu(config, peers);
        string? coalescer = _parts.Host.FindUdpCoalescingLink(_parts.Device.Index)?.Name;
        return new NetworkState(config, peers, mtu, coalescer, [], new Dictionary<IpPrefix, string>());
    }

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

    private static void RefuseUnresolvable(NetworkState before, NetworkState next)
    {
        foreach (PeerEntry entry in next.Peers)
        {
            bool isNew = before.FindPeer(entry.Config.Name)?.Config.Endpoint != entry.Config.Endpoint;
            if (isNew && entry.Address.IsNone)
            {
                throw new ControlException(ControlErrorKind.Invalid, entry.Problems[0], "use an address, or mend the name", "endpoint");
            }
        }
    }

    // The kernel may refuse a route for reasons of its own (a race with somebody else's, a subnet it can't route).
    private void RefuseFailedRoutes(NetworkState before, NetworkState next)
    {
        foreach (IpPrefix prefix in next.Prefixes.Except(before.Prefixes))
        {
            if (_kernel.RouteProblem(prefix) is string problem)
            {
                throw new ControlException(ControlErrorKind.Conflict, $"no route for {prefix}: {problem}", field: "subnets");
            }
        }
    }

    // Publishes to the packet threads first and routes afterwards, so that no packet is led to where nobody knows it.
    private TimeSpan? Enact(NetworkState next)
    {
        _parts.Routing.Current = next.ToSnapshot();
        TimeSpan? again = _kernel.Apply(next.ToKernelState());
        Publish(next);
        return again;
    }

    private void Publish(NetworkState next)
    {
        var routeProblems = next.Prefixes
            .Select(prefix => (prefix, problem: _kernel.RouteProblem(prefix)))
            .Where(route => route.problem is not null)
            .ToDictionary(route => route.prefix, route => route.problem!);
        IEnumerable<string> coalescing = next.UdpCoalescer is string device
            ? [$"{device} coalesces UDP, so the kernel may glue datagrams together, which are then dropped (CoalescedUdp): " +
               $"ethtool -K {device} rx-udp-gro-forwarding off rx-gro-list off"]
            : [];
        Volatile.Write(ref _state, next with { Problems = [.. _kernel.Problems, .. coalescing], RouteProblems = routeProblems });
    }

    // Follows the host's notifications for as long as the network lives. Nothing is polled; a deadline is set only while something
    // is left alone for a while, or a name waits to be resolved.
    private async Task FollowHostAsync(TimeSpan? again)
    {
        try
        {
            Task change = _parts.Host.WaitForChangeAsync(_stop.Token);
            while (true)
            {
                TimeSpan? deadline = State.Peers.Any(peer => peer.Address.IsNone) && !(again < ResolveAgain) ? ResolveAgain : again;
                Task timer = Task.Delay(deadline ?? Timeout.InfiniteTimeSpan, _parts.Time, _stop.Token);
                Task first = await Task.WhenAny(change, timer);
                await first;
                if (first == change)
                {
                    change = _parts.Host.WaitForChangeAsync(_stop.Token);
                }

                again = await SerialisedAsync(RefreshAsync);
            }
        }
        catch (OperationCanceledException) when (_stop.IsCancellationRequested)
        {
            // The network stops.
        }
    }

    private async Task<TimeSpan?> RefreshAsync()
    {
        NetworkState before = State;
        NetworkState next;
        try
        {
            next = await PrepareAsync(before.Config, resolveAll: false);
        }
        catch (HostNetworkException refused)
        {
            LogRefused(refused.Message);
            return ResolveAgain;
        }

        if (next.LooksLike(before))
        {
            TimeSpan? again = _kernel.Apply(before.ToKernelState());
            Publish(before);
            return again;
        }

        try
        {
            _claims.Replace(next.Peers);
        }
        catch (ClaimConflictException conflict)
        {
            LogConflict(conflict.Message);
            return ResolveAgain;
        }

        LogPathsChanged();
        return Enact(next);
    }

    private async Task<T> SerialisedAsync<T>(Func<Task<T>> change)
    {
        await _gate.WaitAsync(_stop.Token);
        try
        {
            return await change();
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

    [LoggerMessage(Level = LogLevel.Error, Message = "{Conflict}")]
    private partial void LogConflict(string conflict);
}
