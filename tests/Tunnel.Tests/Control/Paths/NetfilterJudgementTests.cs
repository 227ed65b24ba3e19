using Tunnel.Control.Paths;
using Tunnel.Dataplane;
using Tunnel.Tests.Architecture;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Control.Paths;

/// <summary>The judgement on rulesets as `nft -j list ruleset` and iptables-save print them.</summary>
public sealed class NetfilterJudgementTests
{
    private static readonly UnderlayFlow Flow = new(FakeHostNetwork.Address("192.168.40.11"), FakeHostNetwork.Address("192.168.40.12"), "eth0");
    private static readonly UnderlayFlow Udp = Flow with { UdpPort = 4754, SourcePorts = PortRange.Ephemeral };

    [Theory]
    [InlineData("docker")]
    [InlineData("docker-nft")]
    [InlineData("kube-proxy")]
    [InlineData("firewalld-like-gre")]
    [InlineData("server")]
    public void UsualRulesetsThatLetGrePassAreHarmless(string name) =>
        Assert.Null(Judge(new NetfilterRules(Ruleset(name + ".json"), null, null, [])));

    [Fact]
    public void ARulesetThatRefusesIsFound() => Assert.Equal(
        "nftables: chain filter_INPUT (table inet firewalld), handle 41: reject may apply to GRE from 192.168.40.12",
        Judge(new NetfilterRules(Ruleset("firewalld-like.json"), null, null, [])));

    [Theory]
    [InlineData("docker")]
    [InlineData("docker-nft")]
    [InlineData("kube-proxy")]
    [InlineData("firewalld-like")]
    [InlineData("firewalld-like-gre")]
    [InlineData("server")]
    [InlineData("ufw-like")]
    public void UsualRulesetsLetGreInUdpOut(string name) =>
        Assert.Null(Judge(new NetfilterRules(Ruleset(name + ".json"), null, null, []), Udp));

    // Docker's published port in these rules: it may be this host's own address that is meant, so another port than ours is what lets it pass.
    [Theory]
    [InlineData("docker.json")]
    [InlineData("docker-nft.json")]
    [InlineData("docker.iptables")]
    public void APublishedPortCountsForItself(string file)
    {
        string text = Ruleset(file);
        NetfilterRules rules = file.EndsWith(".json", StringComparison.Ordinal) ? new(text, null, null, []) : new(null, null, text, []);
        Assert.Null(Judge(rules, Udp));
        Assert.NotNull(Judge(rules, Udp with { UdpPort = 5353 }));
        Assert.Null(Judge(rules, Udp with { UdpPort = 8080 }));
        Assert.Null(Judge(rules, Flow));
    }

    [Theory]
    [InlineData("docker", true)]
    [InlineData("kube-proxy", true)]
    [InlineData("ufw-like", true)]
    public void TheSameByIptables(string name, bool isHarmless)
    {
        string text = Ruleset(name + ".iptables");
        Assert.Equal(isHarmless, Judge(new NetfilterRules(null, null, text, [])) is null);
        Assert.Equal(isHarmless, Judge(new NetfilterRules(Ruleset(name + ".json"), text, null, [])) is null);
        Assert.Null(Judge(new NetfilterRules(null, null, text, []), Udp));
        Assert.Null(Judge(new NetfilterRules(Ruleset(name + ".json"), text, null, []), Udp));
    }

    [Fact]
    public void WhatNftCantTellOfIptablesCounts()
    {
        // nft says "a match called conntrack" of the rule that drops what is INVALID.
        string json = Ruleset("ufw-like.json");
        Assert.StartsWith("nftables: chain checks (table ip filter)", Judge(new NetfilterRules(json, null, null, [])), StringComparison.Ordinal);
        Assert.StartsWith("nftables:", Judge(new NetfilterRules(json, "# Table `filter' is incompatible, use 'nft' tool.", null, [])), StringComparison.Ordinal);
    }

    [Fact]
    public void AnotherPeerIsJudgedByItself()
    {
        UnderlayFlow stranger = Flow with { Endpoint = FakeHostNetwork.Address("203.0.113.9") };
        Assert.Equal(
            "nftables: chain input (table inet fw) has policy drop, which GRE from 203.0.113.9 may reach",
            Judge(new NetfilterRules(Ruleset("server.json"), null, null, []), stranger));
        Assert.Equal(
            "iptables-legacy: chain INPUT (table filter) has policy drop, which GRE from 203.0.113.9 may reach",
            Judge(new NetfilterRules(null, null, Ruleset("ufw-like.iptables"), []), stranger));
    }

    [Fact]
    public void NoRulesAreHarmless()
    {
        Assert.Null(Judge(NetfilterRules.None));
        Assert.Null(JudgeRules("input", "accept"));
        Assert.Null(JudgeRules("forward", "drop", """{"drop": null}"""));
        Assert.Null(JudgeRules("egress", "drop", """{"drop": null}"""));
    }

    [Fact]
    public void WhatCantBeReadCounts()
    {
        Assert.Equal("no nft", Judge(new NetfilterRules(null, null, null, ["no nft"])));
        Assert.Equal("no nft", Judge(new NetfilterRules(null, null, null, ["no nft"]), Udp));
        Assert.StartsWith("nftables: what nft printed can't be read", Judge(new NetfilterRules("{", null, null, [])), StringComparison.Ordinal);
        Assert.StartsWith("nftables: what nft printed can't be read", Judge(new NetfilterRules("{}", null, null, [])), StringComparison.Ordinal);
        Assert.StartsWith("nftables: what nft printed can't be read", Judge(new NetfilterRules("[]", null, null, [])), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("prerouting")]
    [InlineData("input")]
    [InlineData("output")]
    [InlineData("postrouting")]
    [InlineData("ingress")]
    public void ADroppingPolicyIsFoundAtEveryHook(string hook)
    {
        string gre = hook is "output" or "postrouting" ? "GRE to 192.168.40.12" : "GRE from 192.168.40.12";
        Assert.Equal($"nftables: chain base (table inet t) has policy drop, which {gre} may reach", JudgeRules(hook, "drop"));
        Assert.Null(JudgeRules(hook, "drop", """{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "gre"}}, {"accept": null}"""));
    }

    // UDP sockets receive behind all rules.
    [Theory]
    [InlineData("prerouting", false)]
    [InlineData("input", false)]
    [InlineData("output", true)]
    [InlineData("postrouting", true)]
    [InlineData("ingress", false)]
    [InlineData("forward", false)]
    public void GreInUdpMeetsOnlyTheHooksOfSending(string hook, bool counts)
    {
        Assert.Equal(
            counts ? "nftables: chain base (table inet t) has policy drop, which GRE-in-UDP to 192.168.40.12 may reach" : null,
            JudgeRulesFor(Udp, hook, "drop"));
        Assert.Null(JudgeRulesFor(Udp, hook, "drop", """{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 4754}}, {"accept": null}"""));
        Assert.Equal(
            counts,
            JudgeRulesFor(Udp, hook, "drop", """{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "gre"}}, {"accept": null}""") is not null);
    }

    // Each condition before a drop, on sending: whether the drop counts for GRE-in-UDP, and for GRE.
    [Theory]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "udp"}}""", true, false)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": 17}}""", true, false)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"range": [17, 20]}}}""", true, false)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": ["tcp", "udp"]}}}""", true, false)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": ["tcp", "gre"]}}}""", false, true)]
    [InlineData("""{"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "protocol"}}, "right": "udp"}}""", false, true)]
    [InlineData("""{"match": {"op": "!=", "left": {"ct": {"key": "protocol"}}, "right": "gre"}}""", true, false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 4754}}""", true, false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 4755}}""", false, false)]
    [InlineData("""{"match": {"op": "!=", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 4754}}""", false, false)]
    [InlineData("""{"match": {"op": "!=", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": {"set": [53, {"range": [4000, 4753]}]}}}""", true, false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": {"set": [53, {"range": [4000, 4754]}]}}}""", true, false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": {"range": [4755, 65535]}}}""", false, false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": "gre-in-udp"}}""", true, false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": "@ports"}}""", true, false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": "@others"}}""", false, false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": "@missing"}}""", true, false)]
    [InlineData("""{"match": {"op": "<", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 4754}}""", false, false)]
    [InlineData("""{"match": {"op": "<=", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 4754}}""", true, false)]
    [InlineData("""{"match": {"op": ">=", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 4754}}""", true, false)]
    [InlineData("""{"match": {"op": ">", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 4754}}""", false, false)]
    [InlineData("""{"match": {"op": "==", "left": {"&": [{"payload": {"protocol": "udp", "field": "dport"}}, 1]}, "right": 1}}""", true, false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "length"}}, "right": 8}}""", true, false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "th", "field": "dport"}}, "right": 4754}}""", true, true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "th", "field": "dport"}}, "right": 53}}""", false, true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"base": "th", "offset": 16, "len": 16}}, "right": 53}}""", true, true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "sport"}}, "right": 49151}}""", false, false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "sport"}}, "right": 49152}}""", true, false)]
    [InlineData("""{"match": {"op": "!=", "left": {"payload": {"protocol": "udp", "field": "sport"}}, "right": 50000}}""", true, false)]
    [InlineData("""{"match": {"op": "!=", "left": {"payload": {"protocol": "udp", "field": "sport"}}, "right": {"range": [49152, 65535]}}}""", false, false)]
    [InlineData("""{"match": {"op": "<", "left": {"payload": {"protocol": "th", "field": "sport"}}, "right": 49152}}""", false, true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 4754}}""", false, false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "udplite", "field": "dport"}}, "right": 4754}}""", false, false)]
    [InlineData("""{"match": {"op": "==", "left": {"concat": [{"meta": {"key": "l4proto"}}, {"payload": {"protocol": "th", "field": "dport"}}]}, "right": {"set": [{"concat": ["udp", 4754]}, {"concat": ["tcp", 80]}]}}}""", true, false)]
    [InlineData("""{"match": {"op": "==", "left": {"concat": [{"meta": {"key": "l4proto"}}, {"payload": {"protocol": "th", "field": "dport"}}]}, "right": {"set": [{"concat": ["udp", 53]}, {"concat": ["tcp", 4754]}]}}}""", false, false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "192.168.40.12"}}""", true, true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "192.168.40.13"}}""", false, false)]
    [InlineData("""{"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "docker0"}}""", true, true)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}}""", false, false)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "skuid"}}, "right": 0}}""", true, true)]
    [InlineData("""{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}""", false, false)]
    [InlineData("""{"xt": {"type": "match", "name": "udp"}}""", true, false)]
    [InlineData("""{"xt": {"type": "match", "name": "multiport"}}""", true, false)]
    [InlineData("""{"xt": {"type": "match", "name": "tcp"}}""", false, false)]
    public void ADropOnSendingCountsForItsProtocol(string condition, bool countsForUdp, bool countsForGre)
    {
        const string Sets = """
            {"set": {"family": "inet", "name": "ports", "table": "t", "type": "inet_service", "handle": 4, "flags": ["interval"], "elem": [53, {"range": [4700, 4800]}]}},
            {"set": {"family": "inet", "name": "others", "table": "t", "type": "inet_service", "handle": 5, "elem": [53, 4755]}},
            """;
        var rules = new NetfilterRules(Json("inet", "output", "accept", [condition + """, {"drop": null}"""], Sets), null, null, []);
        Assert.Equal((countsForUdp, countsForGre), (Judge(rules, Udp) is not null, Judge(rules) is not null));
    }

    [Fact]
    public void WhereTheSourcePortIsNotKnownItMayBeAny()
    {
        const string Rule = """{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "sport"}}, "right": 53}}, {"drop": null}""";
        Assert.Null(JudgeRulesFor(Udp, "output", "accept", Rule));
        Assert.NotNull(JudgeRulesFor(Udp with { SourcePorts = PortRange.Any }, "output", "accept", Rule));
        const string Text = "*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p udp -m udp --sport 53 -j DROP\nCOMMIT\n";
        Assert.Null(Judge(new NetfilterRules(null, null, Text, []), Udp));
        Assert.NotNull(Judge(new NetfilterRules(null, null, Text, []), Udp with { SourcePorts = PortRange.Any }));
    }

    [Fact]
    public void WhatIsDoneBeforeAConditionCounts()
    {
        const string Mark = """{"mangle": {"key": {"meta": {"key": "mark"}}, "value": 1}}, {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 22}}, {"accept": null}""";
        Assert.NotNull(JudgeRulesFor(Udp, "output", "accept", Mark));
        Assert.NotNull(JudgeRulesFor(Flow, "output", "accept", Mark));
        Assert.NotNull(JudgeRulesFor(Flow, "output", "accept", Mark.Replace("mangle", "log", StringComparison.Ordinal)));
        Assert.Null(JudgeRulesFor(Flow, "input", "accept", Mark.Replace("mangle", "log", StringComparison.Ordinal)));
        Assert.Null(JudgeRulesFor(Udp, "output", "accept", Mark.Replace("mangle", "counter", StringComparison.Ordinal)));

        // And what stands behind it does not.
        Assert.Null(JudgeRulesFor(Flow, "input", "drop", Mark.Replace("mangle", "log", StringComparison.Ordinal), "{\"accept\": null}"));
    }

    [Theory]
    [InlineData(true, "4754", "accept")]
    [InlineData(false, "4755", "accept")]
    [InlineData(false, "4754", "drop")]
    public void AVerdictMapOfPortsIsFollowed(bool passes, string port, string verdict) => Assert.Equal(
        passes,
        JudgeRulesFor(Udp, "output", "drop", $$"""{"vmap": {"key": {"payload": {"protocol": "udp", "field": "dport"} }, "data": {"set": [[53, {"accept": null}], [{{port}}, {"{{verdict}}": null}]]} } }""") is null);

    [Fact]
    public void AnotherFamilyIsNotOurs()
    {
        Assert.Null(Judge(new NetfilterRules(Json("ip6", "input", "drop"), null, null, [])));
        Assert.Null(Judge(new NetfilterRules(Json("arp", "input", "drop"), null, null, [])));
        Assert.NotNull(Judge(new NetfilterRules(Json("ip", "input", "drop"), null, null, [])));
    }

    [Fact]
    public void IngressOfAnotherDeviceIsNotOurs()
    {
        const string Chain = """
            {"nftables": [{"chain": {"family": "netdev", "table": "t", "name": "base", "handle": 1, "dev": DEVICE,
            "type": "filter", "hook": "ingress", "prio": 0, "policy": "drop"}}]}
            """;
        Assert.NotNull(Judge(new NetfilterRules(Chain.Replace("DEVICE", "\"eth0\"", StringComparison.Ordinal), null, null, [])));
        Assert.NotNull(Judge(new NetfilterRules(Chain.Replace("DEVICE", "[\"eth1\", \"eth0\"]", StringComparison.Ordinal), null, null, [])));
        Assert.Null(Judge(new NetfilterRules(Chain.Replace("DEVICE", "\"eth1\"", StringComparison.Ordinal), null, null, [])));
    }

    // Each condition before a drop, on receiving: whether the drop counts.
    [Theory]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "gre"}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": 47}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": 6}}""", false)]
    [InlineData("""{"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "protocol"}}, "right": "gre"}}""", false)]
    [InlineData("""{"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "protocol"}}, "right": "tcp"}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": ["tcp", "gre"]}}}""", true)]
    [InlineData("""{"match": {"op": "!=", "left": {"meta": {"key": "l4proto"}}, "right": {"set": ["tcp", "gre"]}}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": ["tcp", "udp"]}}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"set": [22, {"range": [80, 90]}]}}}""", false)]
    [InlineData("""{"match": {"op": "!=", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 22}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "icmp", "field": "type"}}, "right": "echo-request"}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "th", "field": "dport"}}, "right": 22}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip6", "field": "saddr"}}, "right": "::1"}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "192.168.40.12"}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "192.168.40.11"}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "192.168.40.11"}}""", true)]
    [InlineData("""{"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "192.168.40.11"}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": {"prefix": {"addr": "192.168.40.0", "len": 24}}}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": {"prefix": {"addr": "192.168.41.0", "len": 24}}}}""", false)]
    [InlineData("""{"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": {"prefix": {"addr": "10.0.0.0", "len": 8}}}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": {"prefix": {"addr": "0.0.0.0", "len": 0}}}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": {"range": ["192.168.40.12", "192.168.40.20"]}}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": {"range": ["192.168.40.13", "192.168.40.20"]}}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@others"}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@peers"}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@banned"}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@missing"}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "ttl"}}, "right": 1}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"payload": {"base": "nh", "offset": 0, "len": 8}}, "right": 69}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"concat": [{"payload": {"protocol": "ip", "field": "saddr"}}, {"payload": {"protocol": "ip", "field": "daddr"}}]}, "right": {"set": [{"concat": ["192.168.40.12", "192.168.40.11"]}]}}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"concat": [{"payload": {"protocol": "ip", "field": "saddr"}}, {"payload": {"protocol": "ip", "field": "daddr"}}]}, "right": {"set": [{"concat": ["192.168.40.12", "192.168.40.10"]}]}}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"concat": [{"payload": {"protocol": "ip", "field": "saddr"}}, {"payload": {"protocol": "tcp", "field": "dport"}}]}, "right": "@missing"}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "iif"}}, "right": "lo"}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth*"}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": {"set": ["br-x", "docker*"]}}}""", false)]
    [InlineData("""{"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "docker0"}}""", true)]
    [InlineData("""{"match": {"op": "!=", "left": {"meta": {"key": "oifname"}}, "right": "docker0"}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "eth0"}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "iifkind"}}, "right": "wg"}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": "ipv6"}}""", false)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "protocol"}}, "right": "ip"}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"&": [{"meta": {"key": "mark"}}, 32768]}, "right": 32768}}""", false)]
    [InlineData("""{"match": {"op": "!=", "left": {"meta": {"key": "mark"}}, "right": 0}}""", false)]
    [InlineData("""{"match": {"op": "<", "left": {"meta": {"key": "mark"}}, "right": 16}}""", true)]
    [InlineData("""{"match": {"op": ">", "left": {"meta": {"key": "mark"}}, "right": 16}}""", false)]
    [InlineData("""{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}""", false)]
    [InlineData("""{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["invalid", "untracked"]}}""", true)]
    [InlineData("""{"match": {"op": "!=", "left": {"ct": {"key": "state"}}, "right": "established"}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, "right": false}}""", true)]
    [InlineData("""{"match": {"op": "==", "left": {"meta": {"key": "pkttype"}}, "right": "broadcast"}}""", true)]
    [InlineData("""{"limit": {"rate": 10, "burst": 5, "per": "second"}}""", true)]
    [InlineData("""{"quota": {"val": 10, "val_unit": "mbytes", "inv": true}}""", true)]
    [InlineData("""{"xt": {"type": "match", "name": "recent"}}""", true)]
    [InlineData("""{"xt": {"type": "match", "name": "multiport"}}""", false)]
    [InlineData("""{"xt": null}""", true)]
    public void ADropCountsWhereItsConditionsMayHold(string condition, bool counts)
    {
        const string Sets = """
            {"set": {"family": "inet", "name": "peers", "table": "t", "type": "ipv4_addr", "handle": 4, "flags": ["interval"], "elem": ["10.1.1.1", {"prefix": {"addr": "192.168.40.0", "len": 28}}]}},
            {"set": {"family": "inet", "name": "others", "table": "t", "type": "ipv4_addr", "handle": 5, "elem": [{"elem": {"val": "10.1.1.1", "comment": "x"}}]}},
            {"set": {"family": "inet", "name": "banned", "table": "t", "type": "ipv4_addr", "handle": 6, "flags": ["timeout"], "timeout": 60}},
            """;
        Assert.Equal(counts, Judge(new NetfilterRules(Json("inet", "input", "accept", [condition + """, {"drop": null}"""], Sets), null, null, [])) is not null);
    }

    // A statement alone, on receiving and on sending.
    [Theory]
    [InlineData("""{"accept": null}""", false, false)]
    [InlineData("""{"return": null}""", false, false)]
    [InlineData("""{"continue": null}""", false, false)]
    [InlineData("""{"drop": null}""", true, true)]
    [InlineData("""{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}""", true, true)]
    [InlineData("""{"queue": {"num": 1}}""", true, true)]
    [InlineData("""{"masquerade": null}""", true, true)]
    [InlineData("""{"snat": {"addr": "2.2.2.2"}}""", true, true)]
    [InlineData("""{"mangle": {"key": {"meta": {"key": "mark"}}, "value": 1}}""", true, true)]
    [InlineData("""{"mangle": {"key": {"payload": {"protocol": "ip", "field": "dscp"}}, "value": "cs1"}}""", true, true)]
    [InlineData("""{"dup": {"addr": "10.0.0.1"}}""", true, true)]
    [InlineData("""{"notrack": null}""", false, false)]
    [InlineData("""{"counter": {"packets": 0, "bytes": 0}}""", false, true)]
    [InlineData("""{"counter": {"packets": 0, "bytes": 0}}, {"accept": null}""", false, false)]
    [InlineData("""{"counter": "grec"}, {"accept": null}""", false, true)]
    [InlineData("""{"log": {"prefix": "x", "level": "info"}}""", false, true)]
    [InlineData("""{"set": {"op": "add", "elem": {"payload": {"protocol": "ip", "field": "saddr"}}, "set": "@seen"}}""", false, true)]
    [InlineData("""{"xt": {"type": "target", "name": "MASQUERADE"}}""", true, true)]
    [InlineData("""{"xt": {"type": "target", "name": "LOG"}}""", false, true)]
    [InlineData("""{"xt": null}""", true, true)]
    [InlineData("""{"something new": {}}""", true, true)]
    [InlineData("""{"jump": {"target": "nowhere"}}""", true, true)]
    [InlineData("""{"jump": {"target": "accepts"}}""", false, false)]
    [InlineData("""{"jump": {"target": "drops"}}""", true, true)]
    public void AStatementCountsForWhatItDoes(string statement, bool countsReceived, bool countsSent)
    {
        Assert.Equal(countsReceived, JudgeRules("input", "accept", statement) is not null);
        Assert.Equal(countsSent, JudgeRules("output", "accept", statement) is not null);
        Assert.Equal(countsSent, JudgeRulesFor(Udp, "output", "accept", statement) is not null);
        Assert.Null(JudgeRulesFor(Udp, "input", "accept", statement));
    }

    // Rules of a chain whose policy is to drop: whether all of GRE is let pass before.
    [Theory]
    [InlineData(true, """{"accept": null}""")]
    [InlineData(true, """{"jump": {"target": "accepts"}}""")]
    [InlineData(true, """{"goto": {"target": "accepts"}}""")]
    [InlineData(false, """{"goto": {"target": "returns"}}""", """{"accept": null}""")]
    [InlineData(true, """{"jump": {"target": "returns"}}""", """{"accept": null}""")]
    [InlineData(false, """{"return": null}""", """{"accept": null}""")]
    [InlineData(false, """{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": null}""")]
    [InlineData(false, """{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established"]}}, {"jump": {"target": "accepts"}}""")]
    [InlineData(false, """{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established"]}}, {"goto": {"target": "returns"}}""", """{"accept": null}""")]
    [InlineData(false, """{"limit": {"rate": 1, "burst": 5, "per": "second"}}, {"return": null}""", """{"accept": null}""")]
    [InlineData(false, """{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["new", {"return": null}], ["*", {"accept": null}]]}}}""", """{"accept": null}""")]
    [InlineData(true, """{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}}, {"accept": null}""")]
    [InlineData(false, """{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth1"}}, {"accept": null}""")]
    [InlineData(true, """{"accept": null}""", """{"drop": null}""")]
    [InlineData(true, """{"vmap": {"key": {"meta": {"key": "l4proto"}}, "data": {"set": [["tcp", {"drop": null}], ["gre", {"accept": null}]]}}}""")]
    [InlineData(false, """{"vmap": {"key": {"meta": {"key": "l4proto"}}, "data": {"set": [["tcp", {"accept": null}], ["gre", {"drop": null}]]}}}""")]
    [InlineData(true, """{"vmap": {"key": {"meta": {"key": "l4proto"}}, "data": "@verdicts"}}""")]
    [InlineData(false, """{"vmap": {"key": {"meta": {"key": "l4proto"}}, "data": "@unknown"}}""", """{"accept": null}""")]
    [InlineData(true, """{"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": "@unknown"}}""", """{"accept": null}""")]
    [InlineData(true, """{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": {"set": [["docker0", {"drop": null}], ["*", {"accept": null}]]}}}""")]
    [InlineData(false, """{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["invalid", {"drop": null}], ["established", {"accept": null}]]}}}""")]
    [InlineData(true, """{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["invalid", {"drop": null}], ["established", {"accept": null}]]}}}""", """{"accept": null}""")]
    [InlineData(false, """{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["new", {"drop": null}], ["established", {"accept": null}]]}}}""", """{"accept": null}""")]
    public void WhatIsAcceptedIsSafeFromWhatFollows(bool passes, string first, string? second = null) =>
        Assert.Equal(passes, JudgeRules("input", "drop", second is null ? [first] : [first, second]) is null);

    [Theory]
    [InlineData("-p tcp -j DROP", false)]
    [InlineData("-p gre -j DROP", true)]
    [InlineData("-p 47 -j DROP", true)]
    [InlineData("! -p gre -j DROP", false)]
    [InlineData("! -p tcp -j DROP", true)]
    [InlineData("-s 192.168.40.12/32 -j DROP", true)]
    [InlineData("! -s 192.168.40.0/24 -j DROP", false)]
    [InlineData("-s 10.0.0.0/8 -j DROP", false)]
    [InlineData("-d 192.168.40.11/32 -i eth+ -j REJECT --reject-with icmp-port-unreachable", true)]
    [InlineData("-i lo -j DROP", false)]
    [InlineData("! -i docker0 -j DROP", true)]
    [InlineData("! -o docker0 -j DROP", true)]
    [InlineData("-o eth0 -j DROP", false)]
    [InlineData("-m mark --mark 0x8000/0x8000 -j DROP", false)]
    [InlineData("-m mark ! --mark 0x0 -j DROP", false)]
    [InlineData("-m mark --mark 0 -j DROP", true)]
    [InlineData("-m connmark --mark 0x1 -j DROP", true)]
    [InlineData("-m conntrack --ctstate INVALID -j DROP", false)]
    [InlineData("-m conntrack --ctstate INVALID,UNTRACKED -j DROP", true)]
    [InlineData("-m state --state NEW -j DROP", true)]
    [InlineData("-m comment --comment \"drop -p tcp \\\" only\" -j DROP", true)]
    [InlineData("-m recent --name x --set", false)]
    [InlineData("-m set --match-set banned src -j DROP", true)]
    [InlineData("-p udp -m multiport --dports 1,2 -j DROP", false)]
    [InlineData("-f -j DROP", true)]
    [InlineData("-j NFQUEUE --queue-num 1", true)]
    [InlineData("-j LOG --log-prefix x", false)]
    [InlineData("-j MARK --set-xmark 0x1/0xffffffff", true)]
    [InlineData("-j CT --notrack", false)]
    [InlineData("-j CT --helper ftp", true)]
    [InlineData("-j own", true)]
    [InlineData("-g own", true)]
    [InlineData("-p gre", false)]
    public void ARuleOfIptablesCountsWhereItMayApply(string rule, bool counts)
    {
        string text = $"*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:own - [0:0]\n-A INPUT -j ACCEPT -p tcp\n-A INPUT {rule}\n-A own -j DROP\nCOMMIT\n"
            .Replace("-A INPUT -j ACCEPT -p tcp", "-A INPUT -p tcp -j ACCEPT", StringComparison.Ordinal);
        string? hindrance = Judge(new NetfilterRules(null, null, text, []));
        Assert.Equal(counts, hindrance is not null);
        if (counts && !rule.Contains(" own", StringComparison.Ordinal) && !rule.StartsWith("-j own", StringComparison.Ordinal))
        {
            Assert.StartsWith("iptables-legacy: chain INPUT (table filter), rule 2: ", hindrance, StringComparison.Ordinal);
        }
    }

    // On sending: whether it counts for GRE-in-UDP, and for GRE.
    [Theory]
    [InlineData("-p udp -j DROP", true, false)]
    [InlineData("-p 17 -j DROP", true, false)]
    [InlineData("-p gre -j DROP", false, true)]
    [InlineData("-p all -j DROP", true, true)]
    [InlineData("! -p udp -j DROP", false, true)]
    [InlineData("-p udplite -j DROP", false, false)]
    [InlineData("-p udp -m udp --dport 4754 -j DROP", true, false)]
    [InlineData("-p udp -m udp --dport 4755 -j DROP", false, false)]
    [InlineData("-p udp -m udp ! --dport 4754 -j DROP", false, false)]
    [InlineData("-p udp -m udp ! --dport 53 -j DROP", true, false)]
    [InlineData("-p udp -m udp --dport 4000:4754 -j DROP", true, false)]
    [InlineData("-p udp -m udp --dport 4755:65535 -j DROP", false, false)]
    [InlineData("-p udp -m udp --dport domain -j DROP", true, false)]
    [InlineData("-p udp -m udp --sport 1:49151 -j DROP", false, false)]
    [InlineData("-p udp -m udp --sport 50000 -j DROP", true, false)]
    [InlineData("-p udp -m udp ! --sport 50000 -j DROP", true, false)]
    [InlineData("-p udp -m udp ! --sport 49152:65535 -j DROP", false, false)]
    [InlineData("-p udp -m multiport --dports 53,4754 -j DROP", true, false)]
    [InlineData("-p udp -m multiport --dports 53,4000:4999 -j DROP", true, false)]
    [InlineData("-p udp -m multiport --dports 53,123 -j DROP", false, false)]
    [InlineData("-p udp -m multiport ! --dports 53,4754 -j DROP", false, false)]
    [InlineData("-p udp -m multiport --sports 53,123 -j DROP", false, false)]
    [InlineData("-p udp -m multiport --ports 53,123 -j DROP", true, false)]
    [InlineData("-p tcp -m tcp --dport 4754 -j DROP", false, false)]
    [InlineData("-p tcp -m multiport --dports 4754 -j DROP", false, false)]
    [InlineData("-m owner --uid-owner 0 -j DROP", true, true)]
    [InlineData("-m mark --mark 0x1 -j DROP", false, false)]
    [InlineData("-m conntrack --ctstate INVALID -j DROP", false, false)]
    [InlineData("-d 192.168.40.12/32 -p udp -j DROP", true, false)]
    [InlineData("-d 192.168.40.13/32 -p udp -j DROP", false, false)]
    [InlineData("-o eth0 -p udp -j DROP", true, false)]
    [InlineData("-i eth0 -p udp -j DROP", false, false)]
    [InlineData("-p udp -m comment --comment -p -j DROP", true, false)]
    [InlineData("-p udp -m comment --comment -j -m udp --dport 53 -j DROP", false, false)]
    [InlineData("-p udp", true, false)]
    [InlineData("-p udp -j LOG", true, false)]
    [InlineData("-p udp -j MARK --set-xmark 0x1/0xffffffff", true, false)]
    [InlineData("-p udp -j own", true, false)]
    [InlineData("-p udp -j CT --notrack", false, false)]
    public void ARuleOfIptablesOnSendingCountsForItsProtocol(string rule, bool countsForUdp, bool countsForGre)
    {
        string text = $"*filter\n:INPUT DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:own - [0:0]\n-A OUTPUT {rule}\n-A own -j DROP\nCOMMIT\n";
        Assert.Equal(countsForUdp, Judge(new NetfilterRules(null, null, text, []), Udp) is not null);
        string sending = text.Replace("INPUT DROP", "INPUT ACCEPT", StringComparison.Ordinal);
        Assert.Equal(countsForGre, Judge(new NetfilterRules(null, null, sending, [])) is not null);
    }

    [Fact]
    public void ATenThousandRuleClusterIsJudgedForAThousandPeersInNoTime()
    {
        IEnumerable<string> services = Enumerable.Range(0, 10_000)
            .Select(i => $"-A KUBE-SERVICES -d 10.96.{i / 256}.{i % 256}/32 -p tcp -m comment --comment \"s{i}\" -m tcp --dport 80 -j KUBE-SVC-A");
        string text = Ruleset("kube-proxy.iptables").Replace("-A KUBE-SVC-A !", string.Join('\n', services) + "\n-A KUBE-SVC-A !", StringComparison.Ordinal);
        NetfilterRuleset rules = NetfilterJudgement.Read(new NetfilterRules(null, null, text, []));
        var time = System.Diagnostics.Stopwatch.StartNew();
        for (uint i = 0; i < 1000; i++)
        {
            Assert.Null(rules.FindHindrance(Flow with { Endpoint = Tunnel.Wire.InetAddress.FromIpv4(0x0a000000 + i) }));
        }

        // A hundredth of that is usual; rule by rule it would be tens of seconds.
        Assert.InRange(time.Elapsed, TimeSpan.Zero, TimeSpan.FromSeconds(2));
    }

    private static string Ruleset(string file) => File.ReadAllText(Path.Combine(Repository.Root, "tests/rulesets", file));

    private static string? Judge(NetfilterRules rules, UnderlayFlow? flow = null) => NetfilterJudgement.Read(rules).FindHindrance(flow ?? Flow);

    private static string? JudgeRules(string hook, string policy, params string[] rules) => JudgeRulesFor(Flow, hook, policy, rules);

    private static string? JudgeRulesFor(UnderlayFlow flow, string hook, string policy, params string[] rules) =>
        Judge(new NetfilterRules(Json("inet", hook, policy, rules), null, null, []), flow);

    private static string Json(string family, string hook, string policy, string[]? rules = null, string sets = "")
    {
        string chains = string.Concat(new[] { "accepts", "drops", "returns" }
            .Select(name => $$"""{"chain": {"family": "{{family}}", "table": "t", "name": "{{name}}", "handle": 3} }, """));
        string Rule(string chain, string expression) =>
            $$"""{"rule": {"family": "{{family}}", "table": "t", "chain": "{{chain}}", "handle": 9, "expr": [{{expression}}]} }""";
        string all = string.Join(", ", [
            .. (rules ?? []).Select(rule => Rule("base", rule)),
            Rule("accepts", """{"accept": null}"""),
            Rule("drops", """{"drop": null}"""),
            Rule("returns", """{"return": null}"""),
        ]);
        return $$"""
            {"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1} }, {"table": {"family": "{{family}}", "name": "t", "handle": 1} }, {{sets}}
            {"map": {"family": "{{family}}", "name": "verdicts", "table": "t", "type": "inet_proto", "handle": 6, "map": "verdict", "elem": [["tcp", {"drop": null}], ["gre", {"jump": {"target": "accepts"} }]]} },
            {"chain": {"family": "{{family}}", "table": "t", "name": "base", "handle": 2, "type": "filter", "hook": "{{hook}}", "prio": 0, "policy": "{{policy}}"} },
            {{chains}} {{all}}]}
            """;
    }
}
