using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Linux;

/// <summary>The network's table as nft is given it.</summary>
public sealed class NftablesScriptTests
{
    [Fact]
    public void Sources_are_kept_within_the_overlay()
    {
        var table = new NatTable(
            "tunnel_tun0",
            "tun0",
            [FakeHostNetwork.Prefix("10.0.201.1/32"), FakeHostNetwork.Prefix("172.17.51.0/24"), FakeHostNetwork.Prefix("fd17:51::/64")],
            [FakeHostNetwork.Prefix("172.17.51.0/24")],
            Masquerades: false);

        Assert.Equal(
            """
            table inet tunnel_tun0
            delete table inet tunnel_tun0
            table inet tunnel_tun0 {
            	set overlay4 {
            		type ipv4_addr
            		flags interval
            		elements = { 10.0.201.1/32, 172.17.51.0/24 }
            	}
            	set overlay6 {
            		type ipv6_addr
            		flags interval
            		elements = { fd17:51::/64 }
            	}
            	set local4 {
            		type ipv4_addr
            		flags interval
            		elements = { 172.17.51.0/24 }
            	}
            	set local6 {
            		type ipv6_addr
            		flags interval
            	}
            	chain postrouting {
            		type nat hook postrouting priority srcnat - 10; policy accept;
            		ip saddr @local4 ip daddr @local4 ct status dnat return
            		ip6 saddr @local6 ip6 daddr @local6 ct status dnat return
            		ip saddr @overlay4 ip daddr @overlay4 snat ip to ip saddr
            		ip6 saddr @overlay6 ip6 daddr @overlay6 snat ip6 to ip6 saddr
            	}
            }

            """.ReplaceLineEndings("\n"),
            NftablesScript.Replace(table));
    }

    [Fact]
    public void To_elsewhere_the_overlay_is_masqueraded_where_that_is_wanted()
    {
        string script = NftablesScript.Replace(new NatTable("tunnel_tun0", "tun0", [], [], Masquerades: true));

        Assert.Contains(
            "\t\tip saddr @overlay4 ip daddr != @overlay4 ip daddr != { 224.0.0.0/4, 255.255.255.255 } masquerade\n" +
            "\t\tip6 saddr @overlay6 ip6 daddr != @overlay6 ip6 daddr != { fe80::/10, ff00::/8 } masquerade\n",
            script,
            StringComparison.Ordinal);
    }

    [Fact]
    public void Where_this_hosts_subnets_are_not_known_the_device_tells()
    {
        string script = NftablesScript.Replace(new NatTable("tunnel_tun0", "tun0", [], [], Masquerades: false));

        Assert.Contains("\t\toifname \"tun0\" ip daddr @overlay4 snat ip to ip saddr\n", script, StringComparison.Ordinal);
        Assert.Contains("\t\tiifname \"tun0\" ip6 saddr @overlay6 snat ip6 to ip6 saddr\n", script, StringComparison.Ordinal);
    }

    // nft takes no empty list of elements.
    [Fact]
    public void A_set_without_elements_names_none() =>
        Assert.DoesNotContain("elements", NftablesScript.Replace(new NatTable("tunnel_tun0", "tun0", [], [], Masquerades: false)), StringComparison.Ordinal);

    [Fact]
    public void Removing_works_whether_the_table_is_there_or_not() =>
        Assert.Equal("table inet tunnel_a.b-c\ndelete table inet tunnel_a.b-c\n", NftablesScript.Remove("tunnel_a.b-c"));
}
