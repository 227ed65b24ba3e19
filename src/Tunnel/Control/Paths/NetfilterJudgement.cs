using System.Text.Json;
using Tunnel.Dataplane;

namespace Tunnel.Control.Paths;

/// <summary>
/// Turns what the netfilter tools print into rules that can be asked about plain GRE and GRE-in-UDP. Errs on the side of "a rule applies": then
/// raw or UDP sockets are used, which are right in any case.
/// </summary>
internal static class NetfilterJudgement
{
    /// <summary>Reads rules. What can't be read counts as a rule that applies.</summary>
    /// <param name="rules">What the tools print.</param>
    /// <param name="protocols">The protocols of packets to read them for; null for those of outer packets.</param>
    public static NetfilterRuleset Read(NetfilterRules rules, IReadOnlyList<byte>? protocols = null)
    {
        protocols ??= NetfilterChain.OuterProtocols;
        var chains = new List<NetfilterChain>();
        var unreadable = new List<string>(rules.Unreadable);
        string compatible = rules.Compatible is string text && !text.Contains("incompatible", StringComparison.Ordinal) &&
            !text.Contains("[unsupported", StringComparison.Ordinal) ? text : "";
        IReadOnlySet<string> elsewhere = IptablesReader.TablesOf(compatible);
        try
        {
            if (rules.Nftables is string nftables)
            {
                chains.AddRange(NftablesReader.Read(nftables, table => table.StartsWith("ip ", StringComparison.Ordinal) && elsewhere.Contains(table[3..]), protocols));
            }
        }
        catch (Exception failure) when (failure is JsonException or InvalidOperationException or FormatException or KeyNotFoundException)
        {
            unreadable.Add($"nftables: what nft printed can't be read ({failure.Message})");
        }

        chains.AddRange(IptablesReader.Read(compatible, "iptables", protocols));
        chains.AddRange(IptablesReader.Read(rules.Legacy ?? "", "iptables-legacy", protocols));
        return new NetfilterRuleset(chains, unreadable);
    }
}
