using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control;

/// <summary>What the host is to look like: the network's device, its addresses and the routes into it.</summary>
/// <param name="Mtu">The device's MTU in bytes.</param>
/// <param name="Addresses">The device's addresses.</param>
/// <param name="Routes">The overlay prefixes to route into the device, each with the MTU of its route in bytes (0: the device's).</param>
internal sealed record KernelState(int Mtu, IReadOnlyList<IpPrefix> Addresses, IReadOnlyDictionary<IpPrefix, int> Routes);

/// <summary>
/// Makes the host look like the wanted <see cref="KernelState"/> and keeps it so. Only routes with our protocol number on our
/// device, and addresses that were added here, are ever changed or removed. Not thread-safe: its owner serialises.
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
    private readonly HashSet<IpPrefix> _installedRoutes = [];
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

    /// <summary>What keeps the device from being as wanted, for people; empty where all is well.</summary>
    public IReadOnlyList<string> Problems => _problems;

    /// <summary>Whether a wanted route was there, or was made, at the last look.</summary>
    public bool IsInstalled(IpPrefix prefix) => _installedRoutes.Contains(prefix) && !_routeProblems.ContainsKey(prefix);

    /// <summary>Why a wanted route is not there; null where it is.</summary>
    public string? RouteProblem(IpPrefix prefix) => _routeProblems.GetValueOrDefault(prefix);

    /// <summary>The first route to exactly one of these prefixes that leads elsewhere than into our device; null where there is none.</summary>
    public HostRoute? FindForeignRoute(IReadOnlySet<IpPrefix> prefixes) => prefixes.Count == 0
        ? null
        : _host.GetRoutes().FirstOrDefault(route => route.LinkIndex != _link && prefixes.Contains(route.Destination));

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
        _installedRoutes.IntersectWith(wanted.Routes.Keys);
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
            _installedRoutes.Clear();
            TellNewProblems();
            return null;
        }

        TimeSpan? again = null;
        Attempt(() => ReconcileMtu(link));
        Attempt(() => ReconcileUp(link, ref again));
        Attempt(() => ReconcileAddresses(ref again));
        Attempt(() => ReconcileRoutes(ref again));
        TellNewProblems();
        return again;
    }

    /// <summary>Removes our routes and addresses; the device itself goes with its last descriptor, unless somebody made it before us.</summary>
    public void RemoveAll()
    {
        _wanted = _wanted with { Addresses = [], Routes = new Dictionary<IpPrefix, int>() };
        TimeSpan? again = null;
        Attempt(() => ReconcileRoutes(ref again));
        Attempt(() => ReconcileAddresses(ref again));
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

    private void ReconcileAddresses(ref TimeSpan? again)
    {
        IReadOnlyList<IpPrefix> present = _host.GetAddresses(_link);
        foreach (IpPrefix unwanted in _ownAddresses.Except(_wanted.Addresses).ToArray())
        {
            Remove(() => _host.RemoveAddress(_link, unwanted));
            _ownAddresses.Remove(unwanted);
        }

        foreach (IpPrefix missing in _wanted.Addresses.Except(present))
        {
            if (MayRestore(RepairBackoff.Address(missing), wasThere: _ownAddresses.Contains(missing), ref again))
            {
                AttemptAddress(missing);
            }
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
        var present = new Dictionary<IpPrefix, HostRoute>();
        var foreign = new Dictionary<IpPrefix, HostRoute>();
        foreach (HostRoute route in _host.GetRoutes())
        {
            bool isWanted = _wanted.Routes.ContainsKey(route.Destination);
            if (route.LinkIndex == _link && route.Protocol == RouteProtocol && !isWanted)
            {
                Remove(() => _host.RemoveRoute(route));
            }
            else if (route.LinkIndex == _link && isWanted)
            {
                // Whoever installed it: it leads where it is to lead.
                present[route.Destination] = route;
            }
            else if (isWanted)
            {
                foreign[route.Destination] = route;
            }
        }

        foreach ((IpPrefix prefix, int mtu) in _wanted.Routes)
        {
            if (present.TryGetValue(prefix, out HostRoute? route))
            {
                _installedRoutes.Add(prefix);
                if (route.Protocol == RouteProtocol && route.Mtu != mtu)
                {
                    Attempt(() => _host.ReplaceRoute(route with { Mtu = mtu }));
                }
            }
            else if (foreign.TryGetValue(prefix, out HostRoute? other))
            {
                NoteForeign(prefix, other);
            }
            else if (MayRestore(RepairBackoff.Route(prefix), wasThere: _installedRoutes.Contains(prefix), ref again))
            {
                AttemptRoute(NewRoute(prefix, mtu));
            }
            else
            {
                _routeProblems[prefix] = "somebody keeps deleting this route; it will be put back later";
            }
        }
    }

    private void NoteForeign(IpPrefix prefix, HostRoute other)
    {
        _routeProblems[prefix] = $"a route that tunneld did not install is in the way: {Describe(other)}";
        _installedRoutes.Remove(prefix);
    }

    private void AttemptRoute(HostRoute route)
    {
        try
        {
            _host.AddRoute(route);
            _installedRoutes.Add(route.Destination);
        }
        catch (HostNetworkException refused)
        {
            _routeProblems[route.Destination] = refused.Message;
        }
    }

    // A thing that was never there is simply made; one that was there has been taken away by somebody.
    private bool MayRestore(string thing, bool wasThere, ref TimeSpan? again) => !wasThere || _report.MayRestore(thing, ref again, place: $" on {_device}");

    private void TellNewProblems() =>
        _report.TellNewProblems([.. _problems, .. _routeProblems.Select(problem => $"no route for {problem.Key}: {problem.Value}")]);

    private HostRoute NewRoute(IpPrefix prefix, int mtu) =>
        new(prefix, _link, RouteProtocol, prefix.Address.IsIpv4 ? 0 : DefaultIpv6Metric, mtu);

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
