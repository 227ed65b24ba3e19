using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.TestSupport;

/// <summary>A host's links, addresses and routes in memory, with the kernel's manners that matter here. Thread-safe.</summary>
public sealed class FakeHostNetwork : IHostNetwork
{
    private readonly Lock _gate = new();
    private readonly List<HostLink> _links = [];
    private readonly List<(int Link, IpPrefix Address)> _addresses = [];
    private readonly List<HostRoute> _routes = [];
    private TaskCompletionSource _change = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Makes a host with a TUN device (index 7, down) and an underlay device eth0 (index 2, 192.168.40.11/24, MTU 1500).</summary>
    public FakeHostNetwork()
    {
        _links.Add(new HostLink(2, "eth0", 1500, IsUp: true));
        _links.Add(new HostLink(7, "tun0", 1500, IsUp: false));
        _addresses.Add((2, Prefix("192.168.40.11/24")));
    }

    /// <summary>What <see cref="GetPath"/> answers; by default everything is reached by eth0 from 192.168.40.11.</summary>
    public Func<InetAddress, HostPath?> Paths { get; set; } = _ => new HostPath(Address("192.168.40.11"), 2, 1500);

    /// <summary>A route that the kernel refuses to add; none by default.</summary>
    public Func<HostRoute, bool> RefusesRoute { get; set; } = _ => false;

    /// <summary>An address that the kernel refuses to add; none by default.</summary>
    public Func<IpPrefix, bool> RefusesAddress { get; set; } = _ => false;

    /// <summary>What happens just before a route is removed: somebody else may be quicker.</summary>
    public Action OnRemoveRoute { get; set; } = () => { };

    /// <summary>The device that coalesces UDP.</summary>
    public HostLink? UdpCoalescer { get; set; }

    /// <summary>How often a route was added.</summary>
    public int RoutesAdded { get; private set; }

    /// <summary>Parses an address that is known to be good.</summary>
    public static InetAddress Address(string text) => InetAddress.TryParse(text, out InetAddress address) ? address : throw new FormatException(text);

    /// <summary>Parses a prefix that is known to be good.</summary>
    public static IpPrefix Prefix(string text) => IpPrefix.TryParse(text, out IpPrefix prefix) ? prefix : throw new FormatException(text);

    /// <summary>Somebody else changes the host: the change is made, then told.</summary>
    public void Change(Action<List<HostLink>, List<(int Link, IpPrefix Address)>, List<HostRoute>> change)
    {
        lock (_gate)
        {
            change(_links, _addresses, _routes);
            Tell();
        }
    }

    /// <inheritdoc/>
    public HostLink? FindLink(string name) => Locked(() => _links.Find(link => link.Name == name));

    /// <inheritdoc/>
    public HostLink? FindLink(int index) => Locked(() => _links.Find(link => link.Index == index));

    /// <inheritdoc/>
    public IReadOnlyList<HostLink> GetLinks() => Locked(_links.ToArray);

    /// <inheritdoc/>
    public HostLink? FindLinkWithAddress(InetAddress address) => Locked(() =>
    {
        int index = _addresses.Find(entry => entry.Address.Address == address).Link;
        return _links.Find(link => link.Index == index);
    });

    /// <inheritdoc/>
    public HostLink? FindUdpCoalescingLink(int exceptLinkIndex) => UdpCoalescer;

    /// <inheritdoc/>
    public void SetMtu(int linkIndex, int mtu) => ChangeLink(linkIndex, link => link with { Mtu = mtu });

    /// <inheritdoc/>
    public void SetUp(int linkIndex) => ChangeLink(linkIndex, link => link with { IsUp = true });

    /// <inheritdoc/>
    public IReadOnlyList<IpPrefix> GetAddresses(int linkIndex) =>
        Locked(() => _addresses.Where(entry => entry.Link == linkIndex).Select(entry => entry.Address).ToArray());

    /// <inheritdoc/>
    public IReadOnlySet<InetAddress> GetOwnAddresses() => Locked(() => _addresses.Select(entry => entry.Address.Address).ToHashSet());

    /// <inheritdoc/>
    public void AddAddress(int linkIndex, IpPrefix address) => Locked(() =>
    {
        if (RefusesAddress(address))
        {
            throw new HostNetworkException($"add address {address}", 13, "refused by the test");
        }

        _addresses.Add((linkIndex, address));
        Tell();
        return true;
    });

    /// <inheritdoc/>
    public void RemoveAddress(int linkIndex, IpPrefix address) => Locked(() =>
    {
        Tell();
        return _addresses.Remove((linkIndex, address)) ? true : throw new HostNetworkException("remove address", 99, "not there");
    });

    /// <inheritdoc/>
    public IReadOnlyList<HostRoute> GetRoutes() => Locked(_routes.ToArray);

    /// <inheritdoc/>
    public void AddRoute(HostRoute route) => Locked(() =>
    {
        if (RefusesRoute(route))
        {
            throw new HostNetworkException($"add route {route.Destination}", 22, "refused by the test");
        }

        if (!_links.Exists(link => link.Index == route.LinkIndex && link.IsUp))
        {
            throw new HostNetworkException($"add route {route.Destination}", 100, "Network is down");
        }

        if (_routes.Exists(other => other.Destination == route.Destination && other.Metric == route.Metric))
        {
            throw new HostNetworkException($"add route {route.Destination}", 17, "File exists");
        }

        _routes.Add(route);
        RoutesAdded++;
        Tell();
        return true;
    });

    /// <inheritdoc/>
    public void ReplaceRoute(HostRoute route) => Locked(() =>
    {
        int index = _routes.FindIndex(other => other with { Mtu = route.Mtu, Source = route.Source } == route);
        _routes[index] = route;
        Tell();
        return true;
    });

    /// <inheritdoc/>
    public void SwitchRoute(HostRoute from, HostRoute to) => Locked(() =>
    {
        if (RefusesRoute(to))
        {
            throw new HostNetworkException($"change route {from.Destination}", 22, "refused by the test");
        }

        _routes[_routes.IndexOf(from)] = to;
        Tell();
        return true;
    });

    /// <inheritdoc/>
    public void RemoveRoute(HostRoute route) => Locked(() =>
    {
        OnRemoveRoute();
        Tell();
        return _routes.Remove(route) ? true : throw new HostNetworkException("remove route", 3, "No such process");
    });

    /// <inheritdoc/>
    public HostPath? GetPath(InetAddress destination, InetAddress source) => Paths(destination);

    /// <inheritdoc/>
    public async Task WaitForChangeAsync(CancellationToken cancellationToken)
    {
        Task change;
        lock (_gate)
        {
            change = _change.Task;
        }

        await change.WaitAsync(cancellationToken);
        lock (_gate)
        {
            if (_change.Task.IsCompleted)
            {
                _change = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
    }

    private void ChangeLink(int index, Func<HostLink, HostLink> change) => Locked(() =>
    {
        int i = _links.FindIndex(link => link.Index == index);
        _links[i] = change(_links[i]);
        Tell();
        return true;
    });

    private void Tell() => _change.TrySetResult();

    private T Locked<T>(Func<T> work)
    {
        lock (_gate)
        {
            return work();
        }
    }
}
