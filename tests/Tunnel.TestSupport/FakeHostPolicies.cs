using Tunnel.Dataplane;

namespace Tunnel.TestSupport;

/// <summary>A host's IPsec policies and netfilter rules in memory. Thread-safe.</summary>
public sealed class FakeHostPolicies : IHostPolicies
{
    private readonly Lock _gate = new();
    private XfrmPolicies _xfrm = XfrmPolicies.None;
    private NetfilterRules _netfilter = NetfilterRules.None;
    private TaskCompletionSource _change = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private int _reads;

    /// <summary>What happens when the IPsec policies are read: a test makes it fail.</summary>
    public Action OnRead { get; set; } = () => { };

    /// <summary>How often the netfilter rules were read.</summary>
    public int Reads => Volatile.Read(ref _reads);

    /// <inheritdoc/>
    public bool HasLegacyTables => false;

    /// <summary>Somebody changes the rules: the change is made, then told.</summary>
    public void Change(XfrmPolicies? xfrm = null, NetfilterRules? netfilter = null)
    {
        lock (_gate)
        {
            _xfrm = xfrm ?? _xfrm;
            _netfilter = netfilter ?? _netfilter;
            _change.TrySetResult();
        }
    }

    /// <inheritdoc/>
    public XfrmPolicies ReadXfrmPolicies()
    {
        OnRead();
        lock (_gate)
        {
            return _xfrm;
        }
    }

    /// <inheritdoc/>
    public NetfilterRules ReadNetfilterRules()
    {
        Interlocked.Increment(ref _reads);
        lock (_gate)
        {
            return _netfilter;
        }
    }

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
            _change = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
    }
}
