using Tunnel.Dataplane;

namespace Tunnel.TestSupport;

/// <summary>A host's firewall in memory. Thread-safe.</summary>
public sealed class FakeHostFirewall : IHostFirewall
{
    private readonly Lock _gate = new();
    private readonly List<FirewallChain> _chains = [];
    private readonly Dictionary<string, string> _texts = new(StringComparer.Ordinal);
    private readonly Dictionary<string, List<string>> _iptables = new(StringComparer.Ordinal);
    private readonly List<string> _calls = [];
    private TaskCompletionSource _change = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Why every program fails; null where they work.</summary>
    public string? Failure { get; set; }

    /// <summary>The legacy tables.</summary>
    public IReadOnlyList<string> Legacy { get; set; } = [];

    /// <summary>The network's table as it was last written; null where there is none.</summary>
    public NatTable? Written { get; private set; }

    /// <summary>What was changed through the contract, in order.</summary>
    public IReadOnlyList<string> Calls => Locked(() => (string[])[.. _calls]);

    /// <summary>Somebody else changes the firewall: the change is made, then told.</summary>
    /// <param name="change">Gets chains, the texts of tables by their full names, and the rules by programs of iptables.</param>
    public void Change(Action<List<FirewallChain>, Dictionary<string, string>, Dictionary<string, List<string>>> change) => Locked(() =>
    {
        change(_chains, _texts, _iptables);
        return _change.TrySetResult();
    });

    /// <summary>`nft flush ruleset`.</summary>
    public void Flush() => Change((chains, texts, iptables) =>
    {
        chains.Clear();
        texts.Clear();
        iptables.Clear();
    });

    /// <summary>A program of iptables has such rules.</summary>
    public void SetRules(string program, params string[] rules) => Change((_, _, iptables) => iptables[program] = [.. rules]);

    /// <summary>A program's rules.</summary>
    public IReadOnlyList<string> RulesOf(string program) => Locked(() => (string[])[.. _iptables.GetValueOrDefault(program) ?? []]);

    /// <inheritdoc/>
    public IReadOnlyList<FirewallChain> GetChains() => Locked(() => (FirewallChain[])[.. _chains]);

    /// <inheritdoc/>
    public bool MayHaveLegacyTable(string table) => Legacy.Contains(table);

    /// <inheritdoc/>
    public string? PrintTable(string fullTable) => Run(() => _texts.GetValueOrDefault(fullTable));

    /// <inheritdoc/>
    public void WriteTable(NatTable table) => Run(() =>
    {
        _calls.Add($"write {string.Join(' ', table.Overlay)}{(table.Masquerades ? " masquerade" : "")}{(table.Local.Count > 0 ? "" : $" dev {table.Device}")}");
        Written = table;
        string name = $"inet {table.Name}";
        _chains.RemoveAll(chain => chain.FullTable == name);
        _chains.Add(new FirewallChain("inet", table.Name, "postrouting", "nat", "postrouting"));
        _texts[name] = _calls[^1];
        return _change.TrySetResult();
    });

    /// <inheritdoc/>
    public void RemoveTable(string name) => Run(() =>
    {
        _calls.Add("remove");
        Written = null;
        _chains.RemoveAll(chain => chain.FullTable == $"inet {name}");
        _texts.Remove($"inet {name}");
        return _change.TrySetResult();
    });

    /// <inheritdoc/>
    public IReadOnlyList<string> FindIptablesFilters() => Locked(() => (string[])[.. _iptables.Keys]);

    /// <inheritdoc/>
    public IReadOnlyList<string> ListRules(string program) => Run(() => (string[])[.. _iptables[program]]);

    /// <inheritdoc/>
    public void InsertRule(string program, string chain, IReadOnlyList<string> rule) => Run(() =>
    {
        _calls.Add($"{program} -I {chain}");
        int first = _iptables[program].FindIndex(line => line.StartsWith($"-A {chain} ", StringComparison.Ordinal));
        _iptables[program].Insert(first < 0 ? _iptables[program].Count : first, $"-A {chain} {string.Join(' ', rule)}");
        return _change.TrySetResult();
    });

    /// <inheritdoc/>
    public void DeleteRule(string program, string chain, IReadOnlyList<string> rule) => Run(() =>
    {
        _calls.Add($"{program} -D {chain}");
        return _iptables[program].Remove($"-A {chain} {string.Join(' ', rule)}") ? _change.TrySetResult() : throw new HostFirewallException("no such rule");
    });

    /// <inheritdoc/>
    public async Task WaitForChangeAsync(CancellationToken cancellationToken)
    {
        await Locked(() => _change.Task).WaitAsync(cancellationToken);
        Locked(() => _change = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
    }

    private T Run<T>(Func<T> work) => Locked(() => Failure is null ? work() : throw new HostFirewallException(Failure));

    private T Locked<T>(Func<T> work)
    {
        lock (_gate)
        {
            return work();
        }
    }
}
