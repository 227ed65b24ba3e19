using Tunnel.Control.Configuration;
using Tunnel.Control.Paths;

namespace Tunnel.Control.Diagnosis;

/// <summary>The commands that mend things.</summary>
internal static class Cures
{
    /// <summary>Sets a setting until the next boot.</summary>
    /// <param name="name">Its name with slashes.</param>
    /// <param name="value">Its value.</param>
    public static string Setting(string name, int value) =>
        $"sysctl -w {(name.Contains('.', StringComparison.Ordinal) ? name : name.Replace('/', '.'))}={value}";

    /// <summary>Changes a peer.</summary>
    /// <param name="facts">The network.</param>
    /// <param name="peer">The peer.</param>
    /// <param name="options">What `tunnelctl set-peer` is given.</param>
    /// <param name="yaml">The same in the file's words, for a peer that stands there.</param>
    public static string SetPeer(Facts facts, PeerFacts peer, string options, string yaml) => peer.Entry.Config.Origin == PeerOrigin.File
        ? $"edit {facts.ConfigPath}: peers: {{{peer.Name}: {{{yaml}}}}}; then: tunnelctl -n {facts.Config.Name} reload"
        : $"tunnelctl -n {facts.Config.Name} set-peer {peer.Name} {options}";

    /// <summary>Lets packets pass a base chain, before anything else in it applies.</summary>
    /// <param name="chain">The chain.</param>
    /// <param name="nft">The packets in nft's words.</param>
    /// <param name="iptables">The packets in the words of iptables.</param>
    /// <param name="firewalld">The packets in those of firewall-cmd(1), since firewalld writes its tables anew; null where it has none.</param>
    public static string Accept(NetfilterChain chain, string nft, string iptables, string? firewalld = null)
    {
        ChainPlace place = chain.Place;
        if (place.Tool == "nft")
        {
            if (firewalld is not null && place.Table.EndsWith(" firewalld", StringComparison.Ordinal))
            {
                return $"firewall-cmd --permanent {firewalld} && firewall-cmd --reload";
            }

            return $"nft insert rule {place.Table} {place.Chain} {nft} accept";
        }

        // What Docker asks people to use; its own chains it writes anew.
        string name = place.Chain == "FORWARD" && chain.Table.ContainsKey("DOCKER-USER") ? "DOCKER-USER" : place.Chain;
        string table = place.Table == "filter" ? "" : $"-t {place.Table} ";
        return $"{place.Tool} {table}-I {name} {iptables} -j ACCEPT";
    }
}
