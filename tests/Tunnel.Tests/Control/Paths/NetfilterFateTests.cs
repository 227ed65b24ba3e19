using Tunnel.Control.Paths;
using Tunnel.Dataplane;
using Tunnel.Tests.Architecture;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Control.Paths;

/// <summary>What certainly becomes of packets that this host forwards.</summary>
public sealed class NetfilterFateTests
{
    private static readonly OuterPacket Out = Inner("172.17.0.254", "172.17.52.254", "docker0", "tun0");
    private static readonly OuterPacket In = Inner("172.17.52.254", "172.17.0.254", "tun0", "docker0");

    [Theory]
    [InlineData("docker.iptables")]
    [InlineData("docker.json")]
    [InlineData("docker-nft.json")]
    public void DockerDropsWhatIsForwardedToItsContainersAndMasqueradesWhatTheySend(string file)
    {
        NetfilterFate fate = Read(file);
        Assert.Contains("drop", fate.FindDrop(In, "forward")?.By, StringComparison.OrdinalIgnoreCase);
        Assert.Null(fate.FindDrop(Out, "forward"));
        Assert.Contains("masquerade", fate.FindTranslation(Out)?.By, StringComparison.OrdinalIgnoreCase);
        Assert.Null(fate.FindTranslation(In));
    }

    [Theory]
    [InlineData("server.json")]
    [InlineData("kube-proxy.json")]
    public void OtherRulesetsDoNothingForCertain(string file)
    {
        NetfilterFate fate = Read(file);
        Assert.Null(fate.FindTranslation(Out with { LinkName = "eth1" }));
        Assert.Null(fate.FindDrop(Out with { ForwardedTo = "" }, "prerouting"));
    }

    [Theory]
    [InlineData("", "drop")]
    [InlineData("-A FORWARD -i docker0 -j ACCEPT", null)]
    [InlineData("-A FORWARD -o tun0 -s 172.17.0.0/16 -j ACCEPT", null)]
    [InlineData("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "drop")]
    [InlineData("-A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT", null)]
    [InlineData("-A FORWARD -p tcp -m tcp --dport 80 -j ACCEPT", null)] // Some packets pass: nothing is certain.
    [InlineData("-A FORWARD -p udp -j ACCEPT", "drop")]
    [InlineData("-A FORWARD -m set --match-set friends src -j ACCEPT", null)]
    [InlineData("-A FORWARD -j MORE\n-A MORE -o eth0 -j ACCEPT\n-A MORE -j RETURN", "drop")]
    [InlineData("-A FORWARD -j MORE\n-A MORE -o tun0 -j ACCEPT", null)]
    [InlineData("-A FORWARD -g MORE\n-A FORWARD -j ACCEPT", "drop")]
    [InlineData("-A FORWARD -o tun0 -j REJECT\n-A FORWARD -j ACCEPT", "REJECT")]
    [InlineData("-A FORWARD -j LOG\n-A FORWARD -j MARK --set-xmark 0x1/0x1", "drop")]
    [InlineData("-A FORWARD -j NFQUEUE", null)]
    public void WhatAPolicyDropsDependsOnTheRulesBeforeIt(string rules, string? by)
    {
        string text = $"*filter\n:FORWARD DROP [0:0]\n:MORE - [0:0]\n{rules}\nCOMMIT\n";
        NetfilterFate fate = Read(new NetfilterRules(null, text, null, []));
        string? found = fate.FindDrop(Out, "forward")?.By;
        Assert.Equal(by is null, found is null);
        Assert.Contains(by ?? "", found ?? "", StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("meta l4proto tcp accept", """{"match":{"op":"==","left":{"meta":{"key":"l4proto"}},"right":"tcp"}},{"accept":null}""", true)]
    [InlineData("ct status dnat accept", """{"match":{"op":"in","left":{"ct":{"key":"status"}},"right":"dnat"}},{"accept":null}""", false)]
    [InlineData("tcp flags syn accept", """{"match":{"op":"in","left":{"payload":{"protocol":"tcp","field":"flags"}},"right":"syn"}},{"accept":null}""", true)]
    [InlineData("udp dport 53 accept", """{"match":{"op":"==","left":{"payload":{"protocol":"udp","field":"dport"}},"right":53}},{"accept":null}""", false)]
    [InlineData("oifname vmap", """{"vmap":{"key":{"meta":{"key":"oifname"}},"data":{"set":[["tun0",{"accept":null}],["eth0",{"drop":null}]]}}}""", true)]
    [InlineData("iifname . oifname vmap", """{"vmap":{"key":{"concat":[{"meta":{"key":"iifname"}},{"meta":{"key":"oifname"}}]},"data":{"set":[[{"concat":["docker0","eth0"]},{"accept":null}]]}}}""", false)]
    public void NftsRulesAreReadForInnerPackets(string what, string expressions, bool passes)
    {
        string json = """{"nftables":[{"chain":{"family":"inet","table":"fw","name":"forward","type":"filter","hook":"forward","prio":0,"policy":"drop"}},""" +
            """{"rule":{"family":"inet","table":"fw","chain":"forward","handle":7,"expr":[""" + expressions + "]}}]}";
        Assert.True(passes == Read(new NetfilterRules(json, null, null, [])).FindDrop(Out, "forward") is null, what);
    }

    [Fact]
    public void ChainsThatJumpToEachOtherInTooManyWaysDecideNothing()
    {
        string chains = string.Concat(Enumerable.Range(0, 20).Select(i => $":C{i} - [0:0]\n"));
        string rules = string.Concat(Enumerable.Range(0, 19).Select(i => string.Concat(Enumerable.Repeat($"-A C{i} -j C{i + 1}\n", 8))));
        string text = $"*filter\n:FORWARD DROP [0:0]\n{chains}-A FORWARD -j C0\n{rules}COMMIT\n";
        Assert.Null(Read(new NetfilterRules(null, text, null, [])).FindDrop(Out, "forward"));
    }

    // What nft can't tell of iptables' own extensions is read from there, as the daemon does.
    private static NetfilterFate Read(string file)
    {
        string compatible = Ruleset(Path.ChangeExtension(file, "iptables")) ?? "";
        return Read(new NetfilterRules(file.EndsWith(".json", StringComparison.Ordinal) ? Ruleset(file) : null, compatible, null, []));
    }

    private static string? Ruleset(string file)
    {
        string path = Path.Combine(Repository.Root, "tests/rulesets", file);
        return File.Exists(path) ? File.ReadAllText(path) : null;
    }

    private static NetfilterFate Read(NetfilterRules rules) => new(NetfilterJudgement.Read(rules, NetfilterChain.AllProtocols));

    private static OuterPacket Inner(string source, string destination, string from, string to) => new(
        IsReceived: true, FakeHostNetwork.Address(source), FakeHostNetwork.Address(destination), from, IpProtocol.Tcp, PortRange.Any, ForwardedTo: to);
}
