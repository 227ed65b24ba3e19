using System.Text;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Linux;

/// <summary>Writes a network's own table in the language of nft(8).</summary>
internal static class NftablesScript
{
    /// <summary>
    /// Replaces the table, whether there is one or not. `nft -f` makes one transaction of it: no packet sees the table missing or half done.
    /// </summary>
    public static string Replace(NatTable table)
    {
        var script = new StringBuilder(Remove(table.Name));
        script.Append($"table inet {table.Name} {{\n");
        AppendSets(script, "overlay", table.Overlay);
        if (table.Local.Count > 0)
        {
            AppendSets(script, "local", table.Local);
        }

        // Ahead of Docker's chains, which have priority srcnat: what has a source here is not given another there. Groups and neighbours on
        // the link are nobody's elsewhere.
        script.Append("\tchain postrouting {\n\t\ttype nat hook postrouting priority srcnat - 10; policy accept;\n");
        if (table.Masquerades)
        {
            script.Append("\t\tip saddr @overlay4 ip daddr != @overlay4 ip daddr != { 224.0.0.0/4, 255.255.255.255 } masquerade\n");
            script.Append("\t\tip6 saddr @overlay6 ip6 daddr != @overlay6 ip6 daddr != { fe80::/10, ff00::/8 } masquerade\n");
        }

        // A container that reaches one beside it, or itself, by a published port needs the bridge's address as its source, which Docker sees to.
        if (table.Local.Count > 0)
        {
            script.Append("\t\tip saddr @local4 ip daddr @local4 ct status dnat return\n");
            script.Append("\t\tip6 saddr @local6 ip6 daddr @local6 ct status dnat return\n");
        }

        script.Append("\t\tip saddr @overlay4 ip daddr @overlay4 snat ip to ip saddr\n");
        script.Append("\t\tip6 saddr @overlay6 ip6 daddr @overlay6 snat ip6 to ip6 saddr\n");
        if (table.Local.Count == 0)
        {
            script.Append($"\t\toifname \"{table.Device}\" ip daddr @overlay4 snat ip to ip saddr\n");
            script.Append($"\t\toifname \"{table.Device}\" ip6 daddr @overlay6 snat ip6 to ip6 saddr\n");
            script.Append($"\t\tiifname \"{table.Device}\" ip saddr @overlay4 snat ip to ip saddr\n");
            script.Append($"\t\tiifname \"{table.Device}\" ip6 saddr @overlay6 snat ip6 to ip6 saddr\n");
        }

        return script.Append("\t}\n}\n").ToString();
    }

    /// <summary>Removes the table, whether there is one or not: nft 1.0.7's `destroy` in older words.</summary>
    public static string Remove(string name) => $"table inet {name}\ndelete table inet {name}\n";

    private static void AppendSets(StringBuilder script, string name, IReadOnlyList<IpPrefix> prefixes)
    {
        AppendSet(script, $"{name}4", "ipv4_addr", prefixes.Where(prefix => prefix.Address.IsIpv4));
        AppendSet(script, $"{name}6", "ipv6_addr", prefixes.Where(prefix => prefix.Address.IsIpv6));
    }

    private static void AppendSet(StringBuilder script, string name, string type, IEnumerable<IpPrefix> prefixes)
    {
        string elements = string.Join(", ", prefixes);
        script.Append($"\tset {name} {{\n\t\ttype {type}\n\t\tflags interval\n");
        script.Append(elements.Length == 0 ? "\t}\n" : $"\t\telements = {{ {elements} }}\n\t}}\n");
    }
}
