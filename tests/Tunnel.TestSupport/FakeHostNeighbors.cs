using System.Threading.Channels;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.TestSupport;

/// <summary>
/// A host's next hops and neighbours in memory: everything is on the link of eth0 (index 2) unless a test says otherwise, and nobody is
/// known. Thread-safe.
/// </summary>
public sealed class FakeHostNeighbors : IHostNeighbors
{
    private readonly Lock _gate = new();
    private readonly Dictionary<(int, InetAddress), HostNeighbor> _neighbors = [];
    private readonly List<(int Link, InetAddress Address)> _uses = [];
    private readonly Channel<HostNeighbor?> _changes = Channel.CreateUnbounded<HostNeighbor?>();
    private readonly Channel<bool> _routes = Channel.CreateUnbounded<bool>();
    private Func<InetAddress, HostNextHop?> _hops = destination => new HostNextHop(2, "eth0", IsEthernet: true, destination, CarriesUdpTunnels: true, CarriesGre: true);
    private int _lists;
    private int _hopRequests;

    /// <summary>What the kernel was asked to find out or confirm, in order.</summary>
    public IReadOnlyList<(int Link, InetAddress Address)> Uses
    {
        get
        {
            lock (_gate)
            {
                return [.. _uses];
            }
        }
    }

    /// <summary>How often all neighbours were listed.</summary>
    public int Lists => Volatile.Read(ref _lists);

    /// <summary>How often next hops were asked for, however many at once.</summary>
    public int HopRequests => Volatile.Read(ref _hopRequests);

    /// <summary>What happens when next hops are asked for: a test makes it fail.</summary>
    public Action OnGetNextHops { get; set; } = () => { };

    /// <summary>The routes change, and that is told.</summary>
    public void ChangeRoutes(Func<InetAddress, HostNextHop?> hops)
    {
        lock (_gate)
        {
            _hops = hops;
        }

        _routes.Writer.TryWrite(true);
    }

    /// <summary>A neighbour changes, and that is told.</summary>
    public void Change(InetAddress address, ulong linkAddress, bool isUsable = true, bool isStale = false, int link = 2, bool isTold = true)
    {
        var neighbor = new HostNeighbor(link, address, linkAddress, isUsable, isStale);
        lock (_gate)
        {
            _neighbors[(link, address)] = neighbor;
        }

        if (isTold)
        {
            _changes.Writer.TryWrite(neighbor);
        }
    }

    /// <summary>The notifications of routes fail once.</summary>
    public void FailToFollowRoutes() => _routes.Writer.TryWrite(false);

    /// <summary>Notifications are lost.</summary>
    public void Lose() => _changes.Writer.TryWrite(null);

    /// <inheritdoc/>
    public IReadOnlyList<HostNextHop?> GetNextHops(IReadOnlyList<(InetAddress Destination, InetAddress Source)> flows)
    {
        Interlocked.Increment(ref _hopRequests);
        OnGetNextHops();
        lock (_gate)
        {
            return [.. flows.Select(flow => _hops(flow.Destination))];
        }
    }

    /// <inheritdoc/>
    public IReadOnlyList<HostNeighbor> GetNeighbors()
    {
        Interlocked.Increment(ref _lists);
        lock (_gate)
        {
            return [.. _neighbors.Values];
        }
    }

    /// <inheritdoc/>
    public void UseNeighbor(int linkIndex, InetAddress address)
    {
        lock (_gate)
        {
            _uses.Add((linkIndex, address));
        }
    }

    /// <inheritdoc/>
    public async Task<IReadOnlyList<HostNeighbor>?> ReadNeighborChangesAsync(CancellationToken cancellationToken) =>
        await _changes.Reader.ReadAsync(cancellationToken) is HostNeighbor change ? [change] : null;

    /// <inheritdoc/>
    public async Task WaitForRouteChangeAsync(CancellationToken cancellationToken)
    {
        if (!await _routes.Reader.ReadAsync(cancellationToken))
        {
            throw new HostNetworkException("receive notifications", 105, "No buffer space available");
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
    }
}
