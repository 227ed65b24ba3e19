using Microsoft.Extensions.Logging;
using Tunnel.Control.Configuration;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control;

/// <summary>What of the host's firewall is the network's.</summary>
/// <param name="Table">Its table in nftables, "inet tunnel_tun0"; null where there is none.</param>
/// <param name="ForwardRules">The programs of iptables in whose chain DOCKER-USER its rule stands: iptables-nft and so on.</param>
/// <param name="Problems">What is not as wanted, one line each, for people.</param>
internal sealed record FirewallView(string? Table, IReadOnlyList<string> ForwardRules, IReadOnlyList<string> Problems);

/// <summary>
/// Keeps the network's part of the host's firewall as it is to be: a table of its own in nftables, and with `forward: true` one rule in the chain
/// that Docker leaves to others. Nothing else is ever changed; what others take away is put back (docs/decisions/0022). Thread-safe.
/// </summary>
internal sealed partial class FirewallKeeper : IAsyncDisposable
{
    private const string Docker = "DOCKER-USER";

    // How problems begin that are failures of a program, or of the kernel.
    private const string Failed = "nat: ";

    // Rules that change all the time cost a sixth of a processor at most.
    private const int PauseFactor = 5;
    private static readonly TimeSpan LeastPause = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan MostPause = TimeSpan.FromSeconds(5);

    // For what nobody tells: rules of iptables-legacy, a program that has been installed.
    private static readonly TimeSpan LookAgain = TimeSpan.FromSeconds(10);

    // While somebody else changes nftables all the time.
    private const int MostWrites = 3;
    private static readonly TimeSpan WhileOthersAreBusy = TimeSpan.FromSeconds(1);

    private readonly IHostFirewall _firewall;
    private readonly string _device;
    private readonly string _name;
    private readonly TimeProvider _time;
    private readonly ILogger _log;
    private readonly RepairReport _report;
    private readonly CancellationTokenSource _stop = new();
    private readonly SemaphoreSlim _wake = new(0, 1);
    private readonly Lock _gate = new();

    // Under the gate.
    private readonly HashSet<string> _ruled = new(StringComparer.Ordinal);
    private NatConfig? _nat;
    private IReadOnlyList<IpPrefix>? _overlay;
    private IReadOnlyList<IpPrefix> _local = [];
    private NatTable? _written;
    private string? _printed;
    private bool _mayHaveRules = true;
    private bool _hadLegacy;
    private bool _isFailing;
    private TimeSpan? _again;

    private volatile bool _leaves;
    private FirewallView _view = new(null, [], []);
    private Task _running = Task.CompletedTask;

    /// <summary>Prepares; nothing is changed before <see cref="Apply"/>.</summary>
    /// <param name="firewall">The host's firewall.</param>
    /// <param name="network">The network's name, which is its device's too.</param>
    /// <param name="events">Where repairs and problems are told.</param>
    /// <param name="time">The clock.</param>
    /// <param name="log">The log.</param>
    public FirewallKeeper(IHostFirewall firewall, string network, EventStream events, TimeProvider time, ILogger log)
    {
        _firewall = firewall;
        _device = network;
        _name = $"tunnel_{network}";
        _time = time;
        _log = log;
        _report = new RepairReport(new RepairBackoff(time), events, log);
    }

    /// <summary>What is in force. Waits for nothing.</summary>
    public FirewallView View => Volatile.Read(ref _view);

    private string FullName => $"inet {_name}";

    // As `iptables -S` prints it.
    private string[] Rule => ["-i", _device, "-m", "comment", "--comment", _name, "-j", "ACCEPT"];

    /// <summary>Begins to follow the host's changes.</summary>
    public void Start() => _running = Task.Run(FollowAsync);

    /// <summary>
    /// Makes the firewall as wanted. Returns when it is so, that no packet of a new peer is masqueraded; where something was amiss before, it is
    /// tried without making anybody wait. Never throws: what fails is among the problems of <see cref="View"/>.
    /// </summary>
    /// <param name="config">The configuration that comes into force.</param>
    public void Apply(NetworkConfig config)
    {
        IEnumerable<IpPrefix> own = config.Interface.Addresses.Select(address => new IpPrefix(address.Address, address.MaxLength)).Concat(config.Subnets);
        IpPrefix[] overlay = Outermost(own.Concat(config.Peers.SelectMany(peer => peer.Subnets)));
        IpPrefix[] local = config.Subnets.Count > 0 ? Outermost(own) : [];
        lock (_gate)
        {
            if (_overlay is not null && _nat == config.Nat && _overlay.SequenceEqual(overlay) && _local.SequenceEqual(local))
            {
                return;
            }

            (_nat, _overlay, _local) = (config.Nat, overlay, local);
            if (!_isFailing)
            {
                Reconcile();
            }
            else if (_wake.CurrentCount == 0)
            {
                _wake.Release();
            }
        }
    }

    /// <summary>Leaves everything in place at the end, for a next process to go on with.</summary>
    public void Leave() => _leaves = true;

    /// <summary>Stops following, and removes what is ours, unless it is to be left.</summary>
    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await _running;
        lock (_gate)
        {
            if (!_leaves)
            {
                RemoveAll();
            }
        }

        _wake.Dispose();
        _stop.Dispose();
    }

    /// <summary>Sorts prefixes, and leaves out those within others: intervals of a set must not overlap.</summary>
    internal static IpPrefix[] Outermost(IEnumerable<IpPrefix> prefixes)
    {
        var outermost = new List<IpPrefix>();
        foreach (IpPrefix prefix in prefixes.Order())
        {
            // Whatever holds it begins at the same address or before, and so is the last one kept.
            if (outermost.Count == 0 || !outermost[^1].Contains(prefix))
            {
                outermost.Add(prefix);
            }
        }

        return [.. outermost];
    }

    private async Task FollowAsync()
    {
        Task? change = null;
        Task? wake = null;
        while (!_stop.IsCancellationRequested)
        {
            long start = 0;
            try
            {
                change ??= _firewall.WaitForChangeAsync(_stop.Token);
                wake ??= _wake.WaitAsync(_stop.Token);
                Task timer = Task.Delay(NextLook(), _time, _stop.Token);
                Task first = await Task.WhenAny(change, wake, timer);
                change = first == change ? null : change;
                wake = first == wake ? null : wake;
                await first;
                start = _time.GetTimestamp();
                lock (_gate)
                {
                    if (first != timer || IsWorthALook())
                    {
                        Reconcile();
                    }
                }
            }
            catch (OperationCanceledException) when (_stop.IsCancellationRequested)
            {
                return;
            }
            catch (HostNetworkException blind)
            {
                // Without notifications it is looked at now and then.
                LogBlind(blind.Message);
                change = Task.Delay(Timeout.Infinite, _stop.Token);
            }
#pragma warning disable CA1031 // A bug here must not end the repair of the table for the rest of the process's life.
            catch (Exception bug)
#pragma warning restore CA1031
            {
                LogBug(bug);
            }

            TimeSpan pause = start == 0 ? LookAgain : _time.GetElapsedTime(start) * PauseFactor;
            await Task.Delay(pause < LeastPause ? LeastPause : pause > MostPause ? MostPause : pause, _time, _stop.Token)
                .ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private TimeSpan NextLook()
    {
        lock (_gate)
        {
            return _again is TimeSpan soon && soon < LookAgain ? soon : LookAgain;
        }
    }

    private bool IsWorthALook()
    {
        bool hasLegacy = HasLegacy();
        return _again is not null || View.Problems.Count > 0 || hasLegacy != _hadLegacy || (hasLegacy && _nat is { Forward: true });
    }

    private bool HasLegacy() => _firewall.MayHaveLegacyTable("nat") || _firewall.MayHaveLegacyTable("filter");

    // Compares the firewall with what is wanted and mends the difference.
    private void Reconcile()
    {
        var problems = new List<string>();
        var ruled = new List<string>();
        IReadOnlyList<FirewallChain> chains = [];
        bool hasTable = false;
        _again = null;
        _hadLegacy = HasLegacy();
        Attempt(problems, () =>
        {
            chains = _firewall.GetChains();
            hasTable = ReconcileTable(chains, problems);
        });
        if (_nat is { Forward: true })
        {
            ReconcileRules(ruled, problems);
            Attempt(problems, () => FindOtherDrops(chains, problems));
            Attempt(problems, () => FindDirectDrops(problems));
        }
        else
        {
            RemoveRules();
        }

        _isFailing = problems.Exists(problem => problem.StartsWith(Failed, StringComparison.Ordinal));
        Volatile.Write(ref _view, new FirewallView(hasTable ? FullName : null, ruled, problems));
        _report.TellNewProblems(problems);
    }

    // Whether the table is there and as wanted.
    private bool ReconcileTable(IReadOnlyList<FirewallChain> chains, List<string> problems)
    {
        bool isThere = chains.Any(chain => chain.FullTable == FullName);
        if (_nat is null && !HasSourceNat(chains))
        {
            _written = null;
            if (isThere)
            {
                _firewall.RemoveTable(_name);
            }

            return false;
        }

        var wanted = new NatTable(_name, _device, _overlay!, _local, _nat is { Masquerade: true });
        if (wanted == _written)
        {
            if (isThere && _firewall.PrintTable(FullName) == _printed)
            {
                return true;
            }

            if (!_report.MayRestore($"table {FullName}", ref _again))
            {
                problems.Add($"somebody keeps changing the table {FullName}; it will be put back later");
                return false;
            }
        }

        _written = null;
        for (int i = 0; i < MostWrites && _written is null; i++)
        {
            _printed = _firewall.WriteTable(wanted);
            _written = _printed is null ? null : wanted;
        }

        // Others are busy; whether the table is still as it was written is not known.
        if (_written is null)
        {
            _again = _again < WhileOthersAreBusy ? _again : WhileOthersAreBusy;
        }

        return true;
    }

    // Whether anybody may change packets' sources: without that there is nothing to keep, and nothing in nftables that has connections tracked.
    private bool HasSourceNat(IReadOnlyList<FirewallChain> chains) =>
        chains.Any(chain => chain is { Type: "nat", Hook: "postrouting" } && !IsOfANetwork(chain)) || _firewall.MayHaveLegacyTable("nat");

    // Those of two networks on one host must not keep each other alive.
    private static bool IsOfANetwork(FirewallChain chain) =>
        chain.Family == "inet" && chain.Table.StartsWith("tunnel_", StringComparison.Ordinal);

    private void ReconcileRules(List<string> ruled, List<string> problems)
    {
        _mayHaveRules = true;
        string[] programs = [];
        Attempt(problems, () => programs = [.. _firewall.FindIptables("filter", "FORWARD")]);
        foreach (string program in programs)
        {
            Attempt(problems, () => ReconcileRule(program, ruled, problems));
        }

        // Where the table itself has gone, and Docker with it, there is nothing to put back.
        _ruled.IntersectWith(programs);
    }

    private void ReconcileRule(string program, List<string> ruled, List<string> problems)
    {
        IReadOnlyList<string> rules = _firewall.ListRules(program, "filter");
        if (!rules.Contains($"-N {Docker}"))
        {
            if (rules.Contains("-P FORWARD DROP") && !rules.Any(Mentions))
            {
                problems.Add(
                    $"forward: the chain FORWARD of {program} drops by policy, and there is no {Docker} to accept in: " +
                    $"{program} -I FORWARD -i {_device} -j ACCEPT; {program} -I FORWARD -o {_device} -j ACCEPT");
            }

            return;
        }

        // Behind a rule for everything it would mean nothing.
        if (rules.SkipWhile(rule => !rule.StartsWith($"-A {Docker}", StringComparison.Ordinal))
            .TakeWhile(rule => !rule.StartsWith($"-A {Docker} -j", StringComparison.Ordinal)).Any(IsOurs))
        {
            ruled.Add(program);
            _ruled.Add(program);
            return;
        }

        if (_ruled.Contains(program) && !_report.MayRestore($"rule {_name} in {Docker} of {program}", ref _again))
        {
            problems.Add($"forward: somebody keeps deleting the rule {_name} in {Docker} of {program}; it will be put back later");
            return;
        }

        DeleteRules(program, rules);
        _firewall.InsertRule(program, Docker, Rule);
        ruled.Add(program);
        _ruled.Add(program);
    }

    // An accept of ours would not stop another chain's drop, so all that can be done is to say how it is done there.
    private void FindOtherDrops(IReadOnlyList<FirewallChain> chains, List<string> problems)
    {
        foreach (FirewallChain chain in chains)
        {
            bool isOfIptables = chain is { Family: "ip" or "ip6", Table: "filter", Name: "FORWARD" };
            if (chain is { Type: "filter", Hook: "forward", DropsAtEnd: true } && !isOfIptables &&
                _firewall.PrintTable(chain.FullTable) is string text && !text.Contains($"\"{_device}\"", StringComparison.Ordinal))
            {
                problems.Add(
                    $"forward: the chain {chain.Name} of table {chain.FullTable} drops by policy: nft insert rule {chain.FullTable} {chain.Name} iifname {_device} accept; " +
                    $"nft insert rule {chain.FullTable} {chain.Name} oifname {_device} accept");
            }
        }
    }

    // Docker 28 and later drop what comes to a container by another device than its bridge, before any chain that forwards. A rule with a protocol is
    // about a port that is published at one address only.
    private void FindDirectDrops(List<string> problems)
    {
        foreach (string program in _firewall.FindIptables("raw", "PREROUTING"))
        {
            foreach (string rule in _firewall.ListRules(program, "raw"))
            {
                string[] words = rule.Split(' ');
                if (words is ["-A", "PREROUTING", "-d", string text, "!", "-i", string bridge, .., "-j", "DROP"] && !words.Contains("-p") && bridge != _device &&
                    IpPrefix.TryParse(text, out IpPrefix container) && _overlay!.Any(prefix => prefix.Contains(container)))
                {
                    problems.Add(
                        $"forward: Docker drops what comes to {container.Address} by another device than {bridge}, in the table raw of {program}: " +
                        "set \"allow-direct-routing\": true in daemon.json (Docker 28.2 or later), and restart Docker");
                    return;
                }
            }
        }
    }

    // What a process that was killed, or a former configuration, has left. Nobody is told where that can't be found out.
    private void RemoveRules()
    {
        if (!_mayHaveRules)
        {
            return;
        }

        var ignored = new List<string>();
        string[] programs = [];
        Attempt(ignored, () => programs = [.. _firewall.FindIptables("filter", "FORWARD")]);
        foreach (string program in programs)
        {
            Attempt(ignored, () => DeleteRules(program, _firewall.ListRules(program, "filter")));
        }

        _ruled.Clear();
        _mayHaveRules = false;
    }

    private void DeleteRules(string program, IReadOnlyList<string> rules)
    {
        for (int i = rules.Count(IsOurs); i > 0; i--)
        {
            _firewall.DeleteRule(program, Docker, Rule);
        }
    }

    private bool IsOurs(string rule) => rule.Replace("\"", "", StringComparison.Ordinal) == $"-A {Docker} {string.Join(' ', Rule)}";

    private bool Mentions(string rule) =>
        rule.Contains($"-i {_device} ", StringComparison.Ordinal) || rule.Contains($"-o {_device} ", StringComparison.Ordinal);

    private void RemoveAll()
    {
        var problems = new List<string>();
        Attempt(problems, () =>
        {
            if (_firewall.GetChains().Any(chain => chain.FullTable == FullName))
            {
                _firewall.RemoveTable(_name);
            }
        });
        RemoveRules();
        _report.TellNewProblems(problems);
    }

    private static void Attempt(List<string> problems, Action step)
    {
        try
        {
            step();
        }
        catch (HostFirewallException refused)
        {
            problems.Add($"{Failed}{refused.Message}");
        }
    }

    [LoggerMessage(Level = LogLevel.Warning, Message = "changes of nftables can't be followed, so the network's table is looked at every 10 seconds: {Reason}")]
    private partial void LogBlind(string reason);

    [LoggerMessage(Level = LogLevel.Error, Message = "a bug in following the host's firewall, will try again")]
    private partial void LogBug(Exception bug);
}
