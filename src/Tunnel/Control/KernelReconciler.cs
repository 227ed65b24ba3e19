using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control;

/// <summary>What the host is to look like: the network's device, its addresses and the routes into it.</summary>
/// <param name="Mtu">The device's MTU in bytes.</param>
/// <param name="Addresses">The device's addresses.</param>
/// <param name="Routes">The overlay prefixes to route into the device, each with the MTU of its route in bytes (0: the device's).</param>
internal sealed record KernelState(int Mtu, IReadOnlyList<IpPrefix> Addresses, IReadOnlyDictionary<IpPrefix, int> Routes)
{
    /// <summary>Those of the prefixes that are reached without the device, and how.</summary>
    public IReadOnlyDictionary<IpPrefix, DirectWay> Direct { get; init; } = new Dictionary<IpPrefix, DirectWay>();
}

/// <summary>
/// Makes the host look like the wanted <see cref="KernelState"/> and keeps it so. Only routes with our protocol number, on our device or past it with one of
/// its addresses as their source, and addresses that were added here, are ever changed or removed. Not thread-safe: its owner serialises.
/// </summary>
internal sealed class KernelReconciler
{
    /// <summary>The rtm_protocol of our routes (rtnetlink(7)): a number that nobody else uses; packaging/ gives it the name "tunnel".</summary>
    public const byte RouteProtocol = 147;

    // What IPv6 gives a route without a metric, and shows in dumps (IP6_RT_PRIO_USER).
    private const uint DefaultIpv6Metric = 1024;

    private readonly IHostNetwork _host;
    private readonly int _link;
    private readonly string _device;
    private readonly RepairReport _report;
    private readonly HashSet<IpPrefix> _ownAddresses = [];

    // What was there, or was made, at the last look, with its way; null through the device.
    private readonly Dictionary<IpPrefix, DirectWay?> _installed = [];
    private readonly Dictionary<IpPrefix, string> _routeProblems = [];
    private readonly List<string> _problems = [];
    private bool _wasUp;
    private KernelState _wanted = new(0, [], new Dictionary<IpPrefix, int>());

    /// <summary>Takes charge of a device.</summary>
    /// <param name="host">The host's kernel.</param>
    /// <param name="device">The device, which exists.</param>
    /// <param name="report">Says when to put back what others delete, and tells it.</param>
    public KernelReconciler(IHostNetwork host, HostLink device, RepairReport report)
    {
        _host = host;
        _link = device.Index;
        _device = device.Name;
        _report = report;
    }

    /// <summary>Takes charge of the addresses that the device has, but for the kernel's own: an earlier process of this network has added them.</summary>
    /// <exception cref="HostNetworkException">The kernel refused.</exception>
    public void AdoptAddresses() => _ownAddresses.UnionWith(_host.GetAddresses(_link).Where(address => !IpPrefix.Ipv6LinkLocal.Contains(address.Address)));

    /// <summary>Whether a route is some network's to a neighbour, without a tunnel.</summary>
    public static bool IsPlain(HostRoute route) => route.Protocol == RouteProtocol && !route.Gateway.IsNone;

    /// <summary>What keeps the device from being as wanted, for people; empty where all is well.</summary>
    public IReadOnlyList<string> Problems => _problems;

    /// <summary>Whether a wanted route was there, or was made, at the last look.</summary>
    public bool IsInstalled(IpPrefix prefix) => _installed.ContainsKey(prefix) && !_routeProblems.ContainsKey(prefix);

    /// <summary>Why a wanted route is not there; null where it is.</summary>
    public string? RouteProblem(IpPrefix prefix) => _routeProblems.GetValueOrDefault(prefix);

    /// <summary>The first route to exactly one of these prefixes that leads elsewhere than into our device; null where there is none.</summary>
    public HostRoute? FindForeignRoute(IReadOnlySet<IpPrefix> prefixes) => prefixes.Count == 0
        ? null
        : _host.GetRoutes().FirstOrDefault(route => route.LinkIndex != _link && !IsDirect(route) && prefixes.Contains(route.Destination));

    /// <summary>Describes a route for people.</summary>
    public string Describe(HostRoute route)
    {
        string device = route.LinkIndex == 0 ? "no single device" : $"dev {_host.FindLink(route.LinkIndex)?.Name ?? "?"}";
        return $"{route.Destination} {device} proto {route.Protocol}";
    }

    /// <summary>Makes the host look as wanted, from now on.</summary>
    /// <param name="wanted">How it is to look.</param>
    /// <returns>When to look again because something is left alone for a while; null where nothing is.</returns>
    public TimeSpan? Apply(KernelState wanted)
    {
        // What is no longer wanted is not to be missed.
        _wanted = wanted;
        foreach (IpPrefix unwanted in _installed.Keys.Where(prefix => !wanted.Routes.ContainsKey(prefix)).ToArray())
        {
            _installed.Remove(unwanted);
        }

        return Reconcile();
    }

    /// <summary>Compares the host with what is wanted and mends the difference.</summary>
    /// <returns>When to look again because something is left alone for a while; null where nothing is.</returns>
    public TimeSpan? Reconcile()
    {
        _problems.Clear();
        _routeProblems.Clear();
        HostLink? link = null;
        Attempt(() => link = _host.FindLink(_link));
        if (link is null)
        {
            _problems.Add($"device {_device} is gone");
            _installed.Clear();
            TellNewProblems();
            return null;
        }

        TimeSpan? again = null;
        Attempt(() => ReconcileMtu(link));
        Attempt(() => ReconcileUp(link, ref again));

        // With an address the kernel removes the routes that have it as their source.
        Attempt(() => AddAddresses(ref again));
        Attempt(() => ReconcileRoutes(ref again));
        RemoveAddresses();
        TellNewProblems();
        return again;
    }

    /// <summary>Removes our routes and addresses; the device itself goes with its last descriptor, unless somebody made it before us.</summary>
    public void RemoveAll()
    {
        TimeSpan? again = null;
        _wanted = _wanted with { Routes = new Dictionary<IpPrefix, int>() };
        Attempt(() => ReconcileRoutes(ref again));
        _wanted = _wanted with { Addresses = [] };
        RemoveAddresses();
    }

    /// <summary>Leads everything into the device, with which our routes go.</summary>
    public void LeaveDirect()
    {
        TimeSpan? again = null;
        _wanted = _wanted with { Direct = new Dictionary<IpPrefix, DirectWay>() };
        Attempt(() => ReconcileRoutes(ref again));
    }

    private void ReconcileMtu(HostLink link)
    {
        if (link.Mtu != _wanted.Mtu && _wanted.Mtu > 0)
        {
            _host.SetMtu(_link, _wanted.Mtu);
        }
    }

    private void ReconcileUp(HostLink link, ref TimeSpan? again)
    {
        if (!link.IsUp && MayRestore("link up", wasThere: _wasUp, ref again))
        {
            _host.SetUp(_link);
            _wasUp = true;
        }
    }

    private void AddAddresses(ref TimeSpan? again)
    {
        foreach (IpPrefix missing in _wanted.Addresses.Except(_host.GetAddresses(_link)))
        {
            if (MayRestore(RepairBackoff.Address(missing), wasThere: _ownAddresses.Contains(missing), ref again))
            {
                AttemptAddress(missing);
            }
        }
    }

    private void RemoveAddresses()
    {
        foreach (IpPrefix unwanted in _ownAddresses.Except(_wanted.Addresses).ToArray())
        {
            Remove(() => _host.RemoveAddress(_link, unwanted));
            _ownAddresses.Remove(unwanted);
        }
    }

    private void AttemptAddress(IpPrefix address)
    {
        try
        {
            _host.AddAddress(_link, address);
            _ownAddresses.Add(address);
        }
        catch (HostNetworkException refused)
        {
            // Somebody else may have added it between the look and now; then it is there, and it is theirs.
            if (!refused.AlreadyExists)
            {
                _problems.Add(refused.Message);
            }
        }
    }

    private void ReconcileRoutes(ref TimeSpan? again)
    {
        ILookup<IpPrefix, HostRoute> present = _host.GetRoutes().ToLookup(route => route.Destination);
        foreach (HostRoute route in present.SelectMany(routes => routes))
        {
            if (!_wanted.Routes.ContainsKey(route.Destination) && (IsOwn(route) || IsDirect(route)))
            {
                Remove(() => _host.RemoveRoute(route));
            }
        }

        foreach ((IpPrefix prefix, int mtu) in _wanted.Routes)
        {
            ReconcileRoute(WantedRoute(prefix, mtu), present[prefix], ref again);
        }
    }

    private void ReconcileRoute(HostRoute wanted, IEnumerable<HostRoute> present, ref TimeSpan? again)
    {
        IpPrefix prefix = wanted.Destination;
        DirectWay? way = _wanted.Direct.GetValueOrDefault(prefix);

        // Through the device, whoever installed it: it leads where it is to lead.
        HostRoute? right = present.FirstOrDefault(route =>
            way is null ? route.LinkIndex == _link : IsDirect(route) && route.LinkIndex == way.LinkIndex && route.Gateway == way.Gateway);
        HostRoute? other = present.FirstOrDefault(route => route != right && (IsOwn(route) || IsDirect(route)));
        if (right is not null)
        {
            _installed[prefix] = way;
            if (other is not null)
            {
                Remove(() => _host.RemoveRoute(other));
            }

            if (right.Protocol == RouteProtocol && (right.Mtu, right.Source) != (wanted.Mtu, wanted.Source))
            {
                Attempt(() => _host.ReplaceRoute(wanted with { Metric = right.Metric }));
            }
        }
        else if (other is not null)
        {
            TryInstall(prefix, way, () => _host.SwitchRoute(other, wanted with { Metric = other.Metric }));
        }
        else if (present.FirstOrDefault() is HostRoute foreign)
        {
            NoteForeign(prefix, foreign);
        }
        else if (MayRestore(RepairBackoff.Route(prefix), wasThere: _installed.TryGetValue(prefix, out DirectWay? before) && before == way, ref again))
        {
            if (!TryInstall(prefix, way, () => _host.AddRoute(wanted)) && way is not null)
            {
                // Better through the tunnel than not at all.
                Attempt(() => _host.AddRoute(NewRoute(prefix, 0)));
            }
        }
        else
        {
            _routeProblems[prefix] = "somebody keeps deleting this route; it will be put back later";
        }
    }

    private bool IsOwn(HostRoute route) => route.LinkIndex == _link && route.Protocol == RouteProtocol;

    // Past the device. Another network's have another source; IPv6 forgets the source with the address, so what is as it is to be is ours.
    private bool IsDirect(HostRoute route) =>
        route.LinkIndex != _link && IsPlain(route) &&
        (_wanted.Addresses.Concat(_ownAddresses).Any(own => own.Address == route.Source) ||
        (route.Source.IsNone && _wanted.Direct.TryGetValue(route.Destination, out DirectWay? way) && (way.LinkIndex, way.Gateway) == (route.LinkIndex, route.Gateway)));

    private void NoteForeign(IpPrefix prefix, HostRoute other)
    {
        _routeProblems[prefix] = $"a route that tunneld did not install is in the way: {Describe(other)}";
        _installed.Remove(prefix);
    }

    private bool TryInstall(IpPrefix prefix, DirectWay? way, Action change)
    {
        try
        {
            change();
            _installed[prefix] = way;
            return true;
        }
        catch (HostNetworkException refused)
        {
            _routeProblems[prefix] = refused.Message;
            return false;
        }
    }

    // A thing that was never there is simply made; one that was there has been taken away by somebody.
    private bool MayRestore(string thing, bool wasThere, ref TimeSpan? again) => !wasThere || _report.MayRestore(thing, ref again, place: $" on {_device}");

    private void TellNewProblems() =>
        _report.TellNewProblems([.. _problems, .. _routeProblems.Select(problem => $"no route for {problem.Key}: {problem.Value}")]);

    private HostRoute WantedRoute(IpPrefix prefix, int mtu) =>
        _wanted.Direct.GetValueOrDefault(prefix) is DirectWay way
            ? new HostRoute(prefix, way.LinkIndex, RouteProtocol, MetricOf(prefix), mtu, way.Gateway) { Source = way.Source }
            : NewRoute(prefix, mtu);

    private HostRoute NewRoute(IpPrefix prefix, int mtu) =>
        new(prefix, _link, RouteProtocol, MetricOf(prefix), mtu);

    private static uint MetricOf(IpPrefix prefix) => prefix.Address.IsIpv4 ? 0 : DefaultIpv6Metric;

    // What somebody else has removed already needs no removing.
    private void Remove(Action removal) => Attempt(() =>
    {
        try
        {
            removal();
        }
        catch (HostNetworkException refused) when (refused.NotFound)
        {
        }
    });

    private void Attempt(Action step)
    {
        try
        {
            step();
        }
        catch (HostNetworkException refused)
        {
            // Each step stands for itself. What changed underneath is notified, and that brings us back here.
            _problems.Add(refused.Message);
        }
    }
}
