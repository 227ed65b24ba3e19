using Tunnel.Control.Configuration;
using static Tunnel.Tests.Control.Configuration.ConfigTesting;

namespace Tunnel.Tests.Control.Configuration;

/// <summary>Changes to a configuration that is in use, and the comparison of two.</summary>
public class NetworkConfigTests
{
    private const string File = """
        interface: {addresses: [10.0.201.1/24]}
        underlay: {local: 192.168.40.11}
        subnets: [172.17.51.0/24]
        peers:
          vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24, 10.0.201.2/32]}
        """;

    [Fact]
    public void New_peer_is_appended_and_an_existing_one_replaced_in_place()
    {
        NetworkConfig one = Network(File).WithPeer(Peer("vm3", "192.168.40.13", "172.17.53.0/24")).Value!;
        NetworkConfig two = one.WithPeer(Peer("vm4", "192.168.40.14", "172.17.54.0/24")).Value!;
        PeerConfig moved = Peer("vm3", "192.168.40.33", "172.17.53.0/24", "172.17.33.0/24") with { Origin = PeerOrigin.Ephemeral };
        NetworkConfig three = two.WithPeer(moved).Value!;

        Assert.Equal(["vm2", "vm3", "vm4"], three.Peers.Select(peer => peer.Name));
        Assert.Equal(moved, three.FindPeer("vm3"));
        Assert.Null(three.FindPeer("VM3"));
        Assert.Equal(2, one.Peers.Count);
    }

    [Fact]
    public void Peer_that_clashes_is_refused_with_what_it_clashes_with()
    {
        (PeerConfig Peer, string Field, ConfigErrorKind Kind, string Text)[] cases =
        [
            (Peer("vm3", "192.168.40.13", "172.17.53.0/24", "172.17.52.0/24"), "subnets[1]", ConfigErrorKind.Conflict,
                "subnet 172.17.52.0/24 is already that of peer vm2 (tun0.yaml:5:44) (a subnet is behind one peer; a longer prefix in it may be behind another, or both may say on-down: withdraw)"),
            (Peer("vm3", "192.168.40.12", "172.17.53.0/24"), "endpoint", ConfigErrorKind.Conflict,
                "endpoint 192.168.40.12 without a key is already that of peer vm2 (tun0.yaml:5:19) (their packets could not be told apart: give each its own inbound key)"),
            (Peer("vm3", "192.168.40.13", "192.168.0.0/16"), "subnets[0]", ConfigErrorKind.Invalid,
                "subnet 192.168.0.0/16 holds the peer's own endpoint 192.168.40.13 (packets to the endpoint would enter the network again: split the subnet so that it leaves the endpoint out)"),
            (Peer("vm3", "192.168.40.13", "192.168.40.12/32"), "subnets[0]", ConfigErrorKind.Conflict,
                "subnet 192.168.40.12/32 holds endpoint 192.168.40.12 of peer vm2 (tun0.yaml:5:19) (packets to that endpoint would enter the network again: split the subnet so that it leaves the endpoint out)"),
            (Peer("vm3", "172.17.52.7", "172.17.53.0/24"), "endpoint", ConfigErrorKind.Conflict,
                "endpoint 172.17.52.7 lies in subnet 172.17.52.0/24 of peer vm2 (tun0.yaml:5:44) (packets to it would enter the network again: split that subnet so that it leaves the endpoint out)"),
            (Peer("vm3", "192.168.40.13", "172.17.51.0/24"), "subnets[0]", ConfigErrorKind.Conflict,
                "subnet 172.17.51.0/24 is also in this host's own subnets (tun0.yaml:3:11) (a subnet is behind one host)"),
            (Peer("vm3", "192.168.40.13:4754", "172.17.53.0/24"), "endpoint", ConfigErrorKind.Invalid,
                "endpoint 192.168.40.13:4754: only gre-udp has ports (write 192.168.40.13)"),
        ];

        NetworkConfig network = Network(File);
        foreach ((PeerConfig peer, string field, ConfigErrorKind kind, string text) in cases)
        {
            ConfigResult<NetworkConfig> result = network.WithPeer(peer);
            ConfigError error = Assert.Single(result.Errors);
            Assert.Null(result.Value);
            Assert.Equal((field, kind, text), (error.Field, error.Kind, error.ToString()));
        }
    }

    [Fact]
    public void Clash_with_a_peer_without_a_position_names_the_peer()
    {
        NetworkConfig network = Network(File).WithPeer(Peer("vm3", "192.168.40.13", "172.17.53.0/24")).Value!;

        ConfigError error = Assert.Single(network.WithPeer(Peer("vm4", "192.168.40.14", "172.17.53.0/24")).Errors);

        Assert.Equal("subnet 172.17.53.0/24 is already that of peer vm3", error.Message);
    }

    [Fact]
    public void Replacing_a_peer_does_not_clash_with_itself()
    {
        NetworkConfig network = Network(File).WithPeer(Peer("vm3", "192.168.40.13", "172.17.53.0/24")).Value!;

        Assert.True(network.WithPeer(Peer("vm3", "192.168.40.13", "172.17.53.0/24") with { Checksum = true }).IsValid);
        Assert.True(network.WithPeer(Peer("vm3", "172.17.53.1", "172.17.55.0/24")).IsValid);
    }

    [Fact]
    public void Peer_of_the_file_is_neither_replaced_nor_removed()
    {
        const string Refusal = "peer vm2 (tun0.yaml:5:3) comes from the network's file and is not changed by command (edit the file, then: tunnelctl -n tun0 reload)";
        NetworkConfig network = Network(File);

        ConfigError replaced = Assert.Single(network.WithPeer(Peer("vm2", "192.168.40.22", "172.17.52.0/24")).Errors);
        ConfigError removed = Assert.Single(network.WithoutPeer("vm2").Errors);

        Assert.Equal((ConfigErrorKind.Conflict, Refusal), (replaced.Kind, replaced.ToString()));
        Assert.Equal((ConfigErrorKind.Conflict, Refusal), (removed.Kind, removed.ToString()));
    }

    [Fact]
    public void Other_peers_are_removed()
    {
        NetworkConfig network = Network(File);
        NetworkConfig more = network.WithPeer(Peer("vm3", "192.168.40.13", "172.17.53.0/24")).Value!;

        Assert.Equal(network, more.WithoutPeer("vm3").Value);
        Assert.Throws<ArgumentException>(() => network.WithoutPeer("vm3"));
    }

    [Fact]
    public void Ephemeral_peers_outlive_a_reload()
    {
        PeerConfig kept = Peer("vm9", "192.168.40.19", "172.17.59.0/24") with { Origin = PeerOrigin.Ephemeral };

        Assert.Equal(["vm2", "vm9"], Network(File).WithEphemeral([kept]).Value!.Peers.Select(peer => peer.Name));
    }

    [Fact]
    public void Ephemeral_peers_that_clash_with_the_new_file_are_told()
    {
        PeerConfig[] kept =
        [
            Peer("vm2", "192.168.40.19", "172.17.59.0/24") with { Origin = PeerOrigin.Ephemeral },
            Peer("vm9", "192.168.40.19", "172.17.52.0/24") with { Origin = PeerOrigin.Ephemeral },
        ];

        ConfigResult<NetworkConfig> result = Network(File).WithEphemeral(kept);

        Assert.Equal(
            [
                "peer vm2 (tun0.yaml:5:3) is also an ephemeral peer (remove the one kept in memory first: tunnelctl -n tun0 remove-peer vm2)",
                "subnet 172.17.52.0/24 is already that of peer vm2 (tun0.yaml:5:44) (a subnet is behind one peer; a longer prefix in it may be behind another, or both may say on-down: withdraw)",
            ],
            Lines(result.Errors));
        Assert.Equal(["peers.vm2", "peers.vm9.subnets[0]"], result.Errors.Select(error => error.Field));
    }

    [Fact]
    public void Position_is_no_change_but_every_setting_is()
    {
        NetworkConfig network = Network(File);

        Assert.Equal(network, Network("# moved down\n\n" + File));
        Assert.Equal(network.GetHashCode(), Network("# moved down\n\n" + File).GetHashCode());
        foreach ((string from, string to) in new[]
        {
            ("10.0.201.1/24]", "10.0.201.1/24, fd00::1/64]"), ("]}\nunderlay", "], mtu: 1400}\nunderlay"), ("40.11", "40.10"),
            ("40.11}", "40.11, encapsulation: auto}"), ("40.11}", "40.11, accept: [gre]}"), ("40.11}", "40.11, udp-port: 1}"), ("40.11}", "40.11, source-port: 1}"),
            ("subnets: [172.17.51", "datapath: {receive: raw}\nsubnets: [172.17.51"), ("subnets: [172.17.51", "datapath: {send: raw}\nsubnets: [172.17.51"),
            ("subnets: [172.17.51", "datapath: {workers: 1}\nsubnets: [172.17.51"), ("subnets: [172.17.51", "datapath: {pin: true}\nsubnets: [172.17.51"),
            ("subnets: [172.17.51", "datapath: {busy-poll: 1us}\nsubnets: [172.17.51"),
            ("local: 192.168.40.11", "interface: eth1"), ("51.0/24", "51.0/25"), ("vm2", "vm3"), ("40.12", "40.13"), (", 10.0.201.2/32", ""),
            ("32]", "32], key: 1"), ("32]", "32], checksum: true"), ("32]", "32], sequence: true"), ("32]", "32], encapsulation: gre"),
            ("32]", "32], dscp: copy"), ("32]", "32], ecn: normal"), ("32]", "32], ttl: 65"), ("32]", "32], pmtud: false"), ("32]", "32], strict: true"),
        })
        {
            Assert.Contains(from, File, StringComparison.Ordinal);
            Assert.NotEqual(network, Network(File.Replace(from, to, StringComparison.Ordinal)));
        }

        PeerConfig peer = network.Peers[0];
        Assert.NotEqual(peer, peer with { Origin = PeerOrigin.Stored });
        Assert.NotEqual(peer with { Key = new GreKeys(1, 2) }, peer with { Key = new GreKeys(1, 3) });
    }

    [Fact]
    public void Without_accept_is_received_what_peers_use()
    {
        Assert.Equal([Encapsulation.Gre], Network(File).Accepted);
        Assert.Equal([Encapsulation.Gre], Network("underlay: {encapsulation: auto}").Accepted);
        Assert.Equal([Encapsulation.Gre, Encapsulation.GreUdp], Network("underlay: {accept: [gre, gre-udp]}").Accepted);
        Assert.Equal([Encapsulation.GreUdp], Network("underlay: {encapsulation: gre-udp}").Accepted);
        Assert.Equal([Encapsulation.Gre], Network("underlay: {encapsulation: gre-udp}\npeers:\n  a: {endpoint: b, subnets: [10.1.0.0/24], encapsulation: gre}").Accepted);
        NetworkConfig both = Network("peers:\n  a: {endpoint: a, subnets: [10.1.0.0/24], encapsulation: gre-udp}\n  b: {endpoint: b, subnets: [10.2.0.0/24]}");
        Assert.Equal([Encapsulation.Gre, Encapsulation.GreUdp], both.Accepted);
        Assert.True(both.AcceptsGre && both.AcceptsGreUdp);
    }
}
