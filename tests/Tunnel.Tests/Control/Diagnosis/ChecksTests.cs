using Tunnel.Control;
using Tunnel.Control.Configuration;
using Tunnel.Control.Diagnosis;
using Tunnel.Control.Monitoring;
using Tunnel.Dataplane;
using Tunnel.Tests.Control.Configuration;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Control.Diagnosis;

/// <summary>The checks, on facts that are made up. DoctorTests of the network tests provoke each finding with a real kernel.</summary>
public sealed class ChecksTests
{
    private const string Yaml = """
        interface: {addresses: [10.0.201.1/24]}
        underlay: {local: 192.168.40.11}
        peers:
          vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24, "fd00:52::/64"], key: {in: 1, out: 2}}
        """;

    private static readonly HostLink Tun = new(7, "tun0", 1476, IsUp: true);
    private static readonly LinkFacts TunFacts = new(Tun, [Prefix("10.0.201.1/24")], true, true, 0);
    private static readonly LinkFacts Eth0 = new(new HostLink(2, "eth0", 1500, IsUp: true), [Prefix("192.168.40.11/24")], true, true, 0);
    private static readonly LinkFacts Br0 = new(new HostLink(3, "br0.5", 1500, IsUp: true), [Prefix("172.17.51.1/24"), Prefix("fe80::1/64")], true, true, 0);

    [Fact]
    public void NothingIsWrongWithAPeerThatAnswers() => Assert.Empty(Judge(peer => peer with { Answers = true, HostAnswers = false, HopFailed = true }));

    [Theory]
    [InlineData("", false)]
    [InlineData("\nsubnets: [172.17.51.0/24]", true)]
    public void ForwardingOfADeviceIsCuredByItsOwnName(string subnets, bool isError)
    {
        Facts facts = Facts(Yaml + subnets, peer => peer with { Answers = true });
        Finding finding = Assert.Single(Doctor.Judge(facts with { Links = [TunFacts, Eth0, Br0 with { ForwardsIpv4 = false }] }));
        Assert.Equal(("ip-forward", isError ? Severity.Error : Severity.Warning, "sysctl -w net/ipv4/conf/br0.5/forwarding=1"), (finding.Check, finding.Severity, finding.Cure));

        // IPv6 does not matter where nothing behind this host has it, and what the underlay's device does never.
        Assert.Empty(Doctor.Judge(facts with { Links = [TunFacts, Eth0 with { ForwardsIpv4 = false, ForwardsIpv6 = false }, Br0 with { ForwardsIpv6 = false }] }));
    }

    [Fact]
    public void AHostWithoutContainersNeedsNoForwarding() => Assert.Empty(
        Doctor.Judge(Facts(Yaml, peer => peer with { Answers = true }) with { ForwardsIpv4 = false, Links = [TunFacts with { ForwardsIpv4 = false }, Eth0] }));

    [Theory]
    [InlineData(nameof(PeerState.Unknown), false, 3.0, 255, true, "outbound: vm2's packets arrive, and it says that it hears nothing of this host")]
    [InlineData(nameof(PeerState.Unknown), false, 3.0, 40, true, "outbound: vm2's packets arrive, and it says that it hears nothing for 40 s of this host")]
    [InlineData(nameof(PeerState.Unknown), false, 3.0, null, true, "outbound: vm2's packets arrive, but it does not answer: probably")]
    [InlineData(nameof(PeerState.Degraded), true, 3.0, 255, true, "outbound: vm2's packets arrive, and")]
    [InlineData(nameof(PeerState.Down), true, 3.0, 2, true, "inbound, perhaps both ways: nothing of vm2 arrives, though its host answers ping")]
    [InlineData(nameof(PeerState.Down), true, 30.0, null, false, "nothing of vm2 arrives, and it answers neither")]
    [InlineData(nameof(PeerState.Unknown), false, 600.0, null, true, "inbound, perhaps both ways: nothing of vm2 arrives")]
    [InlineData(nameof(PeerState.Up), true, 1.0, null, true, "does not answer at this moment")]
    public void WhatIsBlockedIsToldByWhatArrives(string word, bool hasAnswered, double heard, int? hearing, bool pings, string text)
    {
        PeerState state = Enum.Parse<PeerState>(word);
        Finding finding = Assert.Single(Judge(peer => peer with
        {
            Health = new PeerHealth(state, 1, hasAnswered ? TimeSpan.FromMilliseconds(1) : null, 1, false, []),
            HeardSeconds = heard,
            Hearing = hearing is int seconds ? new Hearing((byte)seconds, false) : null,
            IsDaemon = true,
            HostAnswers = pings,
        }));
        Assert.Equal(("blocked", "vm2"), (finding.Check, finding.Peer));
        Assert.Contains(text, finding.Text, StringComparison.Ordinal);
        Assert.Equal(state == PeerState.Up ? null : "edit /etc/tunnel/tun0.yaml: peers: {vm2: {encapsulation: gre-udp}}; then: tunnelctl -n tun0 reload", finding.Cure);
    }

    [Fact]
    public void APeerThatSendsAndHasNeverBeenOneOfOursNeedNotAnswer() =>
        Assert.Empty(Judge(peer => peer with { HeardSeconds = 3, HostAnswers = true }));

    [Fact]
    public void AKnownCauseIsToldAlone()
    {
        Assert.Equal(["endpoint"], Judge(peer => peer with
        {
            Hop = new HostNextHop(2, "eth0", true, FakeHostNetwork.Address("192.168.40.1"), true, true),
            HopFailed = true,
        }).Select(finding => finding.Check));
        Finding key = Assert.Single(Judge(peer => peer with { WrongKeySeconds = 2, HeardSeconds = 100 }, Seen("192.168.40.12", DropReason.KeyMismatch, key: 9)));
        Assert.Equal("edit /etc/tunnel/tun0.yaml: peers: {vm2: {key: {in: 9, out: 2}}}; then: tunnelctl -n tun0 reload", key.Cure);
        Assert.StartsWith("packets from 192.168.40.12 come with key 9, the last 2 s ago; expected is key 1", key.Text, StringComparison.Ordinal);

        // Another network of this host has a peer there: its keys are none of ours.
        Assert.DoesNotContain(Judge(peer => peer with { WrongKeySeconds = 2, HeardSeconds = 100, IsShared = true }), finding => finding.Check == "key");
        Assert.Contains("they have key 2", Assert.Single(Judge(peer => peer with { HeardSeconds = 1, Hearing = new Hearing(255, true) })).Text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("172.17.99.9", 5, 1)]
    [InlineData("172.17.99.9", 31, 0)] // long ago
    [InlineData("fe80::1", 5, 0)] // what hosts say to their link
    public void AStraySourceIsToldForAWhile(string source, double age, int count) => Assert.Equal(
        count,
        Judge(peer => peer with { Answers = true }, Seen("192.168.40.12", DropReason.SourceNotInPeerSubnets, source, age: age)).Count(finding => finding is { Check: "masquerade", Peer: "vm2" }));

    [Fact]
    public void AStrangerIsOfInterestWhileSomebodyIsSilent()
    {
        NetworkMonitor.Sighting stranger = Seen("192.168.40.77", DropReason.UnknownPeer, "172.17.52.9", key: 1);
        Assert.Empty(Judge(peer => peer with { Answers = true }, stranger));
        Finding like = Assert.Single(Judge(peer => peer, stranger), finding => finding.Check == "underlay-source");
        Assert.Equal(("vm2", "edit /etc/tunnel/tun0.yaml: peers: {vm2: {endpoint: 192.168.40.77}}; then: tunnelctl -n tun0 reload"), (like.Peer, like.Cure));

        // Nobody's key, nobody's source: only a daemon's message says something.
        Assert.DoesNotContain(Judge(peer => peer, Seen("192.168.40.77", DropReason.UnknownPeer, "9.9.9.9")), finding => finding.Check == "underlay-source");
        Assert.Contains(Judge(peer => peer, Seen("192.168.40.77", DropReason.UnknownPeer, isMessage: true)), finding => finding is { Check: "underlay-source", Severity: Severity.Warning });
    }

    [Fact]
    public void LongPacketsThatAreLostAreTold() => Assert.Contains(
        "loses packets of 1504 bytes", Assert.Single(Judge(peer => peer with { Answers = true, IsLongLost = true })).Text, StringComparison.Ordinal);

    [Theory]
    [InlineData("172.17.52.0/24", "172.17.52.254")]
    [InlineData("172.17.52.9/32", "172.17.52.9")]
    [InlineData("172.17.52.8/31", "172.17.52.8")]
    [InlineData("172.17.52.1/24", "172.17.52.254")]
    public void AnAddressStandsForASubnet(string subnet, string address) =>
        Assert.Equal(FakeHostNetwork.Address(address), Tunnel.Control.Diagnosis.Facts.AddressIn(Prefix(subnet)));

    private static IReadOnlyList<Finding> Judge(Func<PeerFacts, PeerFacts> change, params NetworkMonitor.Sighting[] seen) =>
        Doctor.Judge(Facts(Yaml, change) with { Sightings = seen });

    private static NetworkMonitor.Sighting Seen(
        string source, DropReason reason, string? inner = null, uint? key = null, bool isMessage = false, double age = 1) => new(
        new Stranger(
            FakeHostNetwork.Address(source), key is not null, key.GetValueOrDefault(), inner is null ? InetAddress.None : FakeHostNetwork.Address(inner), reason, isMessage),
        age);

    private static Facts Facts(string yaml, Func<PeerFacts, PeerFacts> change)
    {
        NetworkConfig config = ConfigTesting.Network(yaml);
        Peer peer = Overlay.Peer(keyIn: 1, keyOut: 2);
        var entry = new PeerEntry(config.Peers[0], peer.Settings.Endpoint, peer, []) { LinkMtu = 1500 };
        var facts = new PeerFacts(entry, null)
        {
            Path = new HostPath(peer.Settings.Local, 2, 1500),
            KernelSource = peer.Settings.Local,
        };
        return new Facts
        {
            Config = config,
            ConfigPath = "/etc/tunnel/tun0.yaml",
            Device = Tun,
            Peers = [change(facts)],
            Links = [TunFacts, Eth0, Br0],
            ForwardsIpv4 = true,
        };
    }

    private static IpPrefix Prefix(string text) => FakeHostNetwork.Prefix(text);
}
