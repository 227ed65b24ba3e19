using System.Diagnostics;
using System.Reflection;
using Tunnel.Control.Api;
using Tunnel.Control.Configuration;
using Tunnel.Control.Monitoring;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control;

/// <summary>What the control API says about the network.</summary>
internal sealed partial class NetworkController
{
    private static readonly string[] ReasonNames = Enum.GetNames<DropReason>();
    private readonly long _started = Stopwatch.GetTimestamp();

    /// <summary>This program's version.</summary>
    public static string Version { get; } =
        typeof(NetworkController).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion.Split('+')[0] ?? "0";

    /// <summary>Whether the TUN device is there and up.</summary>
    public bool IsDeviceUp => _parts.Host.FindLink(_parts.Device.Index)?.IsUp ?? false;

    /// <summary>GET /v1/network.</summary>
    public NetworkModel DescribeNetwork()
    {
        NetworkState state = State;
        UnderlayConfig underlay = state.Config.Underlay;
        FirewallView firewall = _firewall.View;
        HostLink? link = _parts.Host.FindLink(_parts.Device.Index);
        IReadOnlyList<IpPrefix> addresses = link is null ? [] : _parts.Host.GetAddresses(link.Index);
        var sent = new TrafficCount(state.Peers.Sum(p => p.Sum(c => c.SentPackets)), state.Peers.Sum(p => p.Sum(c => c.SentBytes)));
        var received = new TrafficCount(state.Peers.Sum(p => p.Sum(c => c.ReceivedPackets)), state.Peers.Sum(p => p.Sum(c => c.ReceivedBytes)));
        long drops = state.Peers.Sum(p => p.Sum(c => c.TotalDrops)) + _parts.NetworkCounters.Sum(c => c.TotalDrops) + _parts.Queues.ReceiveQueueDrops;
        return new NetworkModel(
            state.Config.Name,
            Version,
            Environment.ProcessId,
            (long)Stopwatch.GetElapsedTime(_started).TotalSeconds,
            new InterfaceModel(_parts.Device.Index, link?.IsUp ?? false, link?.Mtu ?? 0, Texts(addresses)),
            new UnderlayModel(
                Texts(underlay.Local),
                underlay.Interface,
                underlay.Encapsulation.ToWord(),
                [.. state.Config.Accepted.Select(accepted => accepted.ToWord())],
                underlay.UdpPort,
                underlay.SourcePort is int port ? port.ToString() : "flow"),
            DescribeDatapath(state.Config.Datapath),
            Texts(state.Config.Subnets),
            new NatModel(state.Config.Nat is { Masquerade: true }, state.Config.Nat is { Forward: true }, firewall.Table, firewall.ForwardRules),
            state.Peers.Count,
            new Traffic(sent, received),
            drops,
            [.. state.Problems, .. firewall.Problems, .. state.RouteProblems.Select(problem => $"no route for {problem.Key}: {problem.Value}"), .. _warnings]);
    }

    /// <summary>GET /v1/peers.</summary>
    public IReadOnlyList<PeerModel> DescribePeers()
    {
        NetworkState state = State;
        return [.. state.Peers.Select(entry => Describe(entry, state))];
    }

    /// <summary>GET /v1/peers/NAME.</summary>
    /// <exception cref="ControlException">There is no such peer.</exception>
    public PeerModel DescribePeer(string name)
    {
        NetworkState state = State;
        return Describe(state.FindPeer(name) ?? throw NoSuchPeer(name), state);
    }

    /// <summary>GET /v1/routes, in the order of the table: by prefix.</summary>
    public IReadOnlyList<RouteModel> DescribeRoutes()
    {
        NetworkState state = State;
        var owners = state.Owners.ToDictionary(owner => owner.Key, owner => owner.Value);
        return
        [
            .. from entry in state.Peers
               from prefix in entry.Config.Subnets
               orderby prefix
               let problem = Standby(entry, owners.GetValueOrDefault(prefix)) ?? state.RouteProblems.GetValueOrDefault(prefix)
               select new RouteModel(
                   prefix.ToString(), entry.Config.Name, state.RouteMtu(entry, prefix), Installed: problem is null, problem),
        ];
    }

    // Why a peer does not get the packets for a subnet of its own.
    private static string? Standby(PeerEntry entry, PeerEntry? owner) =>
        ReferenceEquals(entry, owner) ? null
            : entry.IsWithdrawn ? "withdrawn: the peer is down"
            : $"standby: peer {owner!.Config.Name} has it";

    /// <summary>GET /v1/drops: every reason, the zeros too, so that a script finds each name.</summary>
    public DropsModel DescribeDrops()
    {
        var network = new Dictionary<string, long>(StringComparer.Ordinal);
        var peers = new Dictionary<string, IReadOnlyDictionary<string, long>>(StringComparer.Ordinal);
        for (int i = 0; i < ReasonNames.Length; i++)
        {
            var reason = (DropReason)i;
            long kernel = reason == DropReason.ReceiveQueueFull ? _parts.Queues.ReceiveQueueDrops : 0;
            network[ReasonNames[i]] = kernel + _parts.NetworkCounters.Sum(c => c.Drops(reason));
        }

        foreach (PeerEntry entry in State.Peers)
        {
            peers[entry.Config.Name] = Enumerable.Range(0, ReasonNames.Length)
                .ToDictionary(i => ReasonNames[i], i => entry.Sum(c => c.Drops((DropReason)i)), StringComparer.Ordinal);
        }

        return new DropsModel(network, peers);
    }

    private DatapathModel DescribeDatapath(DatapathConfig config)
    {
        (UnderlayPath receive, UnderlayPath send) = _parts.Paths.Paths;
        return new DatapathModel(
            _parts.NetworkCounters.Length,
            receive.ToWord(),
            send.ToWord(),
            new DatapathSettingsModel(
                config.Receive?.ToWord() ?? UnderlayPathWords.Auto,
                config.Send?.ToWord() ?? UnderlayPathWords.Auto,
                config.Workers?.ToString() ?? "auto",
                config.Pin,
                config.BusyPollText),
            _parts.PathReasons(),
            OffloadWords.All(_parts.Offloads.Active),
            [.. _parts.Offloads.Refused.Select(refused => new RefusedOffloadModel(OffloadWords.Of(refused.Offload), refused.Reason))]);
    }

    private PeerModel Describe(PeerEntry entry, NetworkState state)
    {
        PeerHealth? health = _monitor.HealthOf(entry.Peer);
        PeerConfig config = entry.Config;
        long lastReceived = entry.Peer.Counters.Max(c => c.LastReceived);
        object? key = config.Key is not GreKeys pair ? null : pair.In == pair.Out ? pair.In : new KeyPairModel(pair.In, pair.Out);
        IEnumerable<string> routes = config.Subnets
            .Where(state.RouteProblems.ContainsKey)
            .Select(prefix => $"no route for {prefix}: {state.RouteProblems[prefix]}");
        bool isRefused = entry.DirectSubnets.Count > 0 && entry.DirectSubnets.All(state.RouteProblems.ContainsKey);
        return new PeerModel(
            config.Name,
            config.Endpoint.ToString(),
            Texts(config.Subnets),
            (isRefused ? state.Config.EncapsulationOf(config) : entry.Encapsulation).ToWord(),
            key,
            config.Checksum,
            config.Sequence,
            config.Outer.Dscp is byte dscp ? dscp : OuterHeaderWords.Copy,
            config.Outer.Ecn.ToWord(),
            config.Outer.TimeToLive is byte timeToLive ? timeToLive : OuterHeaderWords.Inherit,
            config.Outer.DiscoversPathMtu,
            config.Strict,
            Word(config.Origin),
            entry.Address.IsNone ? null : entry.Address.ToString(),
            entry.Peer.Settings.Local.IsNone ? null : entry.Peer.Settings.Local.ToString(),
            entry.Peer.Settings.Gmtu,
            [.. entry.Problems, .. health?.Problems ?? [], .. routes],
            new Traffic(
                new TrafficCount(entry.Sum(c => c.SentPackets), entry.Sum(c => c.SentBytes)),
                new TrafficCount(entry.Sum(c => c.ReceivedPackets), entry.Sum(c => c.ReceivedBytes))),
            lastReceived == 0 ? null : Math.Round((Environment.TickCount64 - lastReceived) / 1000.0, 1),
            entry.Sum(c => c.TotalDrops),
            entry.Sum(c => c.EcnAnomalies),
            config.Keepalive.ToString(),
            config.OnDown.ToWord(),
            config.OnRefused.ToWord(),
            (health?.State ?? PeerState.Unknown).ToWord(),
            health is null ? null : Math.Round(health.SinceSeconds, 1),
            health?.RoundTrip is TimeSpan roundTrip ? Math.Round(roundTrip.TotalMilliseconds, 3) : null,
            health?.Loss is double loss ? Math.Round(loss * 100, 1) : null,
            entry.Peer.Settings.Gmtu + entry.Peer.Settings.Overhead,
            health?.IsPathMtuConfirmed ?? false,
            isRefused ? "the host would not take the plain route" : entry.EncapsulationReason);
    }

    private static IReadOnlyList<string> Texts<T>(IEnumerable<T> values)
        where T : notnull => [.. values.Select(value => value.ToString()!)];

    private static string Word(PeerOrigin origin) => origin switch
    {
        PeerOrigin.File => "file",
        PeerOrigin.Stored => "stored",
        _ => "ephemeral",
    };
}
