using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Tunnel.Dataplane;
using static Tmds.Linux.LibC;
using static Tunnel.Linux.Uapi;

namespace Tunnel.Linux;

/// <summary>
/// Netfilter rules by way of the system's own programs, nft(8) and iptables(8), and nftables' chains and notifications over netlink, of the network
/// namespace of the thread that makes the object.
/// </summary>
internal sealed class HostFirewall : IHostFirewall
{
    // Somebody who changes a peer may be waiting for it.
    private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(5);

    // Indexed by NFPROTO_INET's hook numbers, which ip and ip6 share: linux/netfilter.h.
    private static readonly string[] Hooks = ["prerouting", "input", "forward", "output", "postrouting", "ingress"];

    private readonly NetlinkSocket? _netfilter;
    private readonly NetlinkMonitor? _changes;

    /// <summary>Opens the sockets; changes are remembered from here on.</summary>
    /// <exception cref="HostNetworkException">The kernel refused.</exception>
    public HostFirewall()
    {
        try
        {
            _netfilter = new NetlinkSocket(NETLINK_NETFILTER, []);
            _changes = new NetlinkMonitor(NETLINK_NETFILTER, [NFNLGRP_NFTABLES]);
        }
        catch (HostNetworkException absent) when (absent.Errno == EPROTONOSUPPORT)
        {
            // A kernel without netfilter has no rules, and never gets any.
            return;
        }
        catch
        {
            Dispose();
            throw;
        }

        _changes.Start();
    }

    /// <inheritdoc/>
    public IReadOnlyList<FirewallChain> GetChains()
    {
        var chains = new List<FirewallChain>();
        if (_netfilter is null)
        {
            return chains;
        }

        var request = NetlinkRequest.Begin(
            stackalloc byte[NetlinkRequest.MaxLength], (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETCHAIN, NLM_F_DUMP, default(nfgenmsg));
        try
        {
            NetlinkResult result = NetlinkList.Read(_netfilter.Exchange, request.Finish(), TryParseChain, chains);
            bool isAbsent = result.Errno == EINVAL || result.Errno == EOPNOTSUPP;
            return result.Errno == 0 || isAbsent ? chains : throw new HostFirewallException($"nftables' chains can't be listed: {result.Reason}");
        }
        catch (HostNetworkException failure)
        {
            throw new HostFirewallException($"nftables' chains can't be listed: {failure.Message}");
        }
    }

    /// <inheritdoc/>
    public bool MayHaveLegacyTable(string table) => FindLegacyTable(table, "ip") != false || FindLegacyTable(table, "ip6") != false;

    /// <inheritdoc/>
    public string? PrintTable(string fullTable)
    {
        // Without counters. A table that is not there is the one thing that may fail here.
        ProgramResult result = HostProgram.Run([Nft(), "--stateless", "list", "table", .. fullTable.Split(' ')], "", Deadline);
        return result.Failure is null || result.Failure.Contains("No such file", StringComparison.Ordinal)
            ? result.Output
            : throw new HostFirewallException($"nft list table {fullTable} {result.Failure}");
    }

    /// <inheritdoc/>
    public void WriteTable(NatTable table) => RunScript(table.Name, NftablesScript.Replace(table));

    /// <inheritdoc/>
    public void RemoveTable(string name) => RunScript(name, NftablesScript.Remove(name));

    /// <inheritdoc/>
    public IReadOnlyList<string> FindIptablesFilters()
    {
        IReadOnlyList<FirewallChain> chains = GetChains();
        bool HasCompatible(string family) => chains.Any(chain => chain is { Table: "filter", Name: "FORWARD" or "DOCKER-USER" } && chain.Family == family);

        // To list a legacy table is to make it, so that is done only where it is there.
        (string Program, bool Exists)[] filters =
        [
            ("iptables-nft", HasCompatible("ip")),
            ("ip6tables-nft", HasCompatible("ip6")),
            ("iptables-legacy", FindLegacyTable("filter", "ip") == true),
            ("ip6tables-legacy", FindLegacyTable("filter", "ip6") == true),
        ];
        return [.. filters.Where(filter => filter.Exists).Select(filter => filter.Program)];
    }

    /// <inheritdoc/>
    public IReadOnlyList<string> ListRules(string program) =>
        RunIptables(program, ["-S"]).Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);

    /// <inheritdoc/>
    public void InsertRule(string program, string chain, IReadOnlyList<string> rule) => RunIptables(program, ["-I", chain, "1", .. rule]);

    /// <inheritdoc/>
    public void DeleteRule(string program, string chain, IReadOnlyList<string> rule) => RunIptables(program, ["-D", chain, .. rule]);

    /// <inheritdoc/>
    public Task WaitForChangeAsync(CancellationToken cancellationToken) =>
        _changes?.WaitForChangeAsync(cancellationToken) ?? Task.Delay(Timeout.Infinite, cancellationToken);

    /// <inheritdoc/>
    public void Dispose()
    {
        _changes?.Dispose();
        _netfilter?.Dispose();
    }

    /// <summary>Parses NFT_MSG_NEWCHAIN; false for other families.</summary>
    internal static unsafe bool TryParseChain(NetlinkMessage message, out FirewallChain chain)
    {
        chain = null!;
        if (!MemoryMarshal.TryRead(message.Payload, out nfgenmsg head) ||
            head.nfgen_family switch { NFPROTO_INET => "inet", NFPROTO_IPV4 => "ip", NFPROTO_IPV6 => "ip6", _ => null } is not string family)
        {
            return false;
        }

        string table = "", name = "";
        string? type = null, hook = null;
        bool drops = false;
        var attributes = new NetlinkReader(message.Payload[sizeof(nfgenmsg)..]);
        while (attributes.TryReadAttribute(out ushort attribute, out ReadOnlySpan<byte> value))
        {
            switch (attribute)
            {
                case NFTA_CHAIN_TABLE:
                    table = NetlinkReader.ReadString(value);
                    break;
                case NFTA_CHAIN_NAME:
                    name = NetlinkReader.ReadString(value);
                    break;
                case NFTA_CHAIN_TYPE:
                    type = NetlinkReader.ReadString(value);
                    break;
                case NFTA_CHAIN_POLICY:
                    drops = BinaryPrimitives.TryReadUInt32BigEndian(value, out uint policy) && policy == NF_DROP;
                    break;
                case NFTA_CHAIN_HOOK:
                    hook = ReadHook(value);
                    break;
            }
        }

        chain = new FirewallChain(family, table, name, type, hook, drops && hook is not null);
        return true;
    }

    private static string? ReadHook(ReadOnlySpan<byte> nested)
    {
        var attributes = new NetlinkReader(nested);
        while (attributes.TryReadAttribute(out ushort type, out ReadOnlySpan<byte> value))
        {
            if (type == NFTA_HOOK_HOOKNUM && BinaryPrimitives.TryReadUInt32BigEndian(value, out uint number))
            {
                return number < Hooks.Length ? Hooks[number] : null;
            }
        }

        return null;
    }

    // The list of tables is root's. Where this user may not read it, the table's module tells; null where it is built in.
    private static bool? FindLegacyTable(string table, string family)
    {
        string names = $"/proc/net/{family}_tables_names";
        try
        {
            return File.Exists(names) && File.ReadAllText(names).Split('\n').Contains(table, StringComparer.Ordinal);
        }
        catch (Exception refused) when (refused is IOException or UnauthorizedAccessException)
        {
            return Directory.Exists($"/sys/module/{family}table_{table}") ? true : Directory.Exists($"/sys/module/{family}_tables") ? false : null;
        }
    }

    private static string Nft() =>
        HostProgram.Find("nft") ?? throw new HostFirewallException("the program nft is missing: install the package nftables");

    private static void RunScript(string table, string script)
    {
        ProgramResult result = HostProgram.Run([Nft(), "-f", "-"], script, Deadline);
        if (result.Failure is string failure)
        {
            throw new HostFirewallException($"table inet {table} can't be changed: nft {failure}");
        }
    }

    // Distributions with one flavour only call it iptables.
    private static string RunIptables(string program, IReadOnlyList<string> words)
    {
        string path = HostProgram.Find(program) ?? HostProgram.Find(program.Split('-')[0]) ??
            throw new HostFirewallException($"the program {program} is missing: install the package iptables");
        ProgramResult result = HostProgram.Run([path, "-w", "3", .. words], "", Deadline);
        return result.Output ?? throw new HostFirewallException($"{program} {string.Join(' ', words)} {result.Failure}");
    }
}
