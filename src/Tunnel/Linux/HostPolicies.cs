using System.Runtime.InteropServices;
using Tunnel.Dataplane;
using static Tmds.Linux.LibC;
using static Tunnel.Linux.Uapi;

namespace Tunnel.Linux;

/// <summary>
/// XFRM policies over NETLINK_XFRM, and netfilter rules as nft(8) and iptables print them, of the network namespace of the thread that makes
/// the object. A kernel that has none of these has no policies.
/// </summary>
internal sealed class HostPolicies : IHostPolicies
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    private readonly string _legacyNames;
    private readonly string[] _enter;
    private readonly NetlinkSocket? _xfrm;
    private readonly NetlinkSocket? _netfilter;
    private readonly NetlinkMonitor? _xfrmChanges;
    private readonly NetlinkMonitor? _netfilterChanges;

    // The waits that a caller has begun and that go on after it was told of a change of the other kind.
    private Task? _xfrmChange;
    private Task? _netfilterChange;

    /// <summary>Opens the sockets; changes are remembered from here on.</summary>
    /// <param name="procNet">Where proc(5) shows the network namespace.</param>
    /// <param name="enter">The command line that runs a program in the network namespace, where that is not the process's own: nsenter(1).</param>
    /// <exception cref="HostNetworkException">The kernel refused.</exception>
    public HostPolicies(string procNet = "/proc/net", params string[] enter)
    {
        _legacyNames = Path.Combine(procNet, "ip_tables_names");
        _enter = enter;
        try
        {
            _xfrm = OpenUnlessAbsent(() => new NetlinkSocket(NETLINK_XFRM, []));
            _netfilter = OpenUnlessAbsent(() => new NetlinkSocket(NETLINK_NETFILTER, []));
            _xfrmChanges = _xfrm is null ? null : new NetlinkMonitor(NETLINK_XFRM, [XFRMNLGRP_POLICY, XFRMNLGRP_EXPIRE]);
            _netfilterChanges = _netfilter is null ? null : new NetlinkMonitor(NETLINK_NETFILTER, [NFNLGRP_NFTABLES]);
        }
        catch
        {
            Dispose();
            throw;
        }

        _xfrmChanges?.Start();
        _netfilterChanges?.Start();
    }

    /// <inheritdoc/>
    public bool HasLegacyTables => ReadLegacyNames() is not { Length: 0 };

    /// <inheritdoc/>
    public XfrmPolicies ReadXfrmPolicies()
    {
        if (_xfrm is null)
        {
            return XfrmPolicies.None;
        }

        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength], XFRM_MSG_GETPOLICY, NLM_F_DUMP, default(xfrm_userpolicy_id));
        var policies = new List<XfrmPolicy>();
        NetlinkResult result = NetlinkList.Read(
            _xfrm.Exchange,
            request.Finish(),
            (NetlinkMessage message, out XfrmPolicy policy) =>
            {
                XfrmPolicy? found = null;
                bool isOne = message.Header.nlmsg_type == XFRM_MSG_NEWPOLICY && NetlinkRecords.TryParsePolicy(message.Payload, out found);
                policy = found!;
                return isOne;
            },
            policies);
        if (result.Errno != 0)
        {
            throw new HostNetworkException("list the IPsec policies", result.Errno, result.Reason);
        }

        // Kernels before 5.14 have no default policy and refuse the question.
        var defaults = default(xfrm_userpolicy_default);
        var question = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength], XFRM_MSG_GETDEFAULT, NLM_F_ACK, default(xfrm_userpolicy_default));
        _xfrm.Exchange(question.Finish(), reply => MemoryMarshal.TryRead(reply.Payload, out defaults));
        return new XfrmPolicies(policies, defaults.@in == XFRM_USERPOLICY_BLOCK, defaults.@out == XFRM_USERPOLICY_BLOCK);
    }

    /// <inheritdoc/>
    public NetfilterRules ReadNetfilterRules()
    {
        var unreadable = new List<string>();
        string? nftables = HasTables() ? Print(["nft", "-j", "list", "ruleset"], "nftables tables exist", unreadable) : null;

        // nft names the extensions of iptables that it has no expression for, but not what they are told to do.
        string? compatible = nftables?.Contains("\"xt\"", StringComparison.Ordinal) == true && HostProgram.Find("iptables-nft-save") is not null
            ? Print(["iptables-nft-save"], "tables of iptables-nft exist", [])
            : null;
        return new NetfilterRules(nftables, compatible, PrintLegacy(unreadable), unreadable);
    }

    /// <inheritdoc/>
    public async Task WaitForChangeAsync(CancellationToken cancellationToken)
    {
        _xfrmChange ??= _xfrmChanges?.WaitForChangeAsync(CancellationToken.None) ?? Task.Delay(Timeout.Infinite, CancellationToken.None);
        _netfilterChange ??= _netfilterChanges?.WaitForChangeAsync(CancellationToken.None) ?? Task.Delay(Timeout.Infinite, CancellationToken.None);
        Task first = await Task.WhenAny(_xfrmChange, _netfilterChange).WaitAsync(cancellationToken);
        _xfrmChange = first == _xfrmChange ? null : _xfrmChange;
        _netfilterChange = first == _netfilterChange ? null : _netfilterChange;
        await first;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _xfrmChanges?.Dispose();
        _netfilterChanges?.Dispose();
        _xfrm?.Dispose();
        _netfilter?.Dispose();
    }

    private static NetlinkSocket? OpenUnlessAbsent(Func<NetlinkSocket> open)
    {
        try
        {
            return open();
        }
        catch (HostNetworkException absent) when (absent.Errno == EPROTONOSUPPORT)
        {
            return null;
        }
    }

    // Whether there is a table that packets of IPv4 can meet. A kernel without nf_tables refuses the question.
    private bool HasTables()
    {
        if (_netfilter is null)
        {
            return false;
        }

        bool hasTables = false;
        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength],
            (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETTABLE,
            NLM_F_DUMP,
            default(nfgenmsg));
        NetlinkResult result = _netfilter.Exchange(request.Finish(), reply =>
            hasTables |= MemoryMarshal.TryRead(reply.Payload, out nfgenmsg head) &&
                head.nfgen_family is NFPROTO_INET or NFPROTO_IPV4 or NFPROTO_NETDEV);
        bool isAbsent = result.Errno == EINVAL || result.Errno == EOPNOTSUPP;
        return hasTables || result.Interrupted || (result.Errno != 0 && !isAbsent);
    }

    // The names of the legacy tables; null where they are not for this user's eyes (the file is root's) and there may be some.
    private string[]? ReadLegacyNames()
    {
        try
        {
            return File.Exists(_legacyNames) ? File.ReadAllText(_legacyNames).Split('\n', StringSplitOptions.RemoveEmptyEntries) : [];
        }
        catch (Exception refused) when (refused is IOException or UnauthorizedAccessException)
        {
            // Each table is a module of its own; where even the first of them is built in, nothing can be seen.
            bool isModule = Directory.Exists("/sys/module/ip_tables");
            return isModule && Directory.GetDirectories("/sys/module", "iptable_*").Length == 0 ? [] : null;
        }
    }

    private string? PrintLegacy(List<string> unreadable)
    {
        string[]? names = ReadLegacyNames();
        if (names is null)
        {
            unreadable.Add($"legacy iptables tables may exist, and {_legacyNames} can't be read by this user (only root and its group can)");
        }

        return names is { Length: > 0 }
            ? Print(["iptables-legacy-save"], $"legacy iptables tables exist ({string.Join(", ", names)})", unreadable)
            : null;
    }

    private string? Print(string[] command, string because, List<string> unreadable)
    {
        if (HostProgram.Find(command[0]) is not string program)
        {
            unreadable.Add($"{because}, and {command[0]} is not installed to read them");
            return null;
        }

        ProgramResult result = HostProgram.Run([.. _enter, program, .. command[1..]], "", Patience);
        if (result.Failure is not null)
        {
            unreadable.Add($"{because}, and {command[0]} {result.Failure}");
        }

        return result.Output;
    }
}
