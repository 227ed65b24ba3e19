using Tunnel.Control.Configuration;
using Tunnel.Dataplane;
using Tunnel.Wire;
using static Tunnel.Tests.Control.Configuration.ConfigTesting;

namespace Tunnel.Tests.Control.Configuration;

/// <summary>One file: what it means, and every rule with the line that it answers.</summary>
public class ConfigReaderTests
{
    // As docs of the project's design have it, to the letter.
    private const string Golden = """
        # /etc/tunnel/tun0.yaml: the network, and its TUN device, are called tun0 (at most 15 characters)
        interface:
          addresses: [10.0.201.1/24]       # this host's overlay addresses, IPv4 and IPv6
          mtu: auto                        # or a number; auto follows the underlay and the encapsulation
        underlay:
          local: 192.168.40.11             # source address (a list of two: one per family); or `interface: eth1`; without either, the kernel's choice per peer
          encapsulation: gre               # default for peers: gre | gre-udp | direct | auto
          accept: [gre, gre-udp]           # what is received; default: what the peers use
          udp-port: 4754
          source-port: flow                # gre-udp: flow hash, or one fixed port
        subnets: [172.17.51.0/24]          # optional: overlay subnets behind this host (its containers); filters nothing inbound
        peers:
          vm2:
            endpoint: 192.168.40.12        # address or DNS name, with :port for gre-udp where it is not 4754
            subnets: [172.17.52.0/24, 10.0.201.2/32]
            encapsulation: gre             # this and what follows are optional, with sensible defaults
            key: 42                        # or key: {in: 1, out: 2}
            checksum: false
            sequence: false
        """;

    [Fact]
    public void Golden_example_means_what_it_says()
    {
        ConfigResult<NetworkConfig> result = Parse(Golden);

        Assert.Empty(Lines(result.Errors));
        Assert.Empty(Lines(result.Warnings));
        var expected = new NetworkConfig
        {
            Name = "tun0",
            File = "tun0.yaml",
            Interface = new InterfaceConfig { Addresses = [Prefix("10.0.201.1/24")], Mtu = null },
            Underlay = new UnderlayConfig
            {
                Local = [InetAddress.FromIpv4(0xc0a8280b)],
                Encapsulation = Encapsulation.Gre,
                Accept = [Encapsulation.Gre, Encapsulation.GreUdp],
                UdpPort = 4754,
                SourcePort = null,
            },
            Subnets = [Prefix("172.17.51.0/24")],
            Peers =
            [
                Peer("vm2", "192.168.40.12", "172.17.52.0/24", "10.0.201.2/32") with
                {
                    Encapsulation = Encapsulation.Gre,
                    Key = new GreKeys(42, 42),
                    Origin = PeerOrigin.File,
                },
            ],
        };
        Assert.Equal(expected, result.Value);
        Assert.Equal(expected.GetHashCode(), result.Value!.GetHashCode());
    }

    [Fact]
    public void Everything_that_is_not_the_default_is_read()
    {
        NetworkConfig network = Network("""
            interface: {addresses: [10.0.201.1/24, "fd00::1/64"], mtu: 1400}
            underlay:
              local: [192.168.40.11, fd00:40::11]
              encapsulation: auto
              accept: [gre]
              udp-port: 1
              source-port: 65535
            peers:
              b.b_b-1:
                endpoint: VM2.Example.com
                subnets: [172.17.52.0/24]
                encapsulation: auto
                key: {in: 0x2a, out: 0.0.1.0}
                checksum: true
                sequence: true
                dscp: 63
                ecn: compatible
                ttl: inherit
                pmtud: false
                strict: true
              a:
                endpoint: "fd00:40:0:0::12"
                subnets:
                - fd00:52::/64
                key: 4294967295
            """);

        Assert.Equal(1400, network.Interface.Mtu);
        Assert.Equal(["192.168.40.11", "fd00:40::11"], network.Underlay.Local.Select(address => address.ToString()));
        Assert.Equal((Encapsulation.Auto, 1, 65535), (network.Underlay.Encapsulation, network.Underlay.UdpPort, network.Underlay.SourcePort));
        Assert.Equal(["b.b_b-1", "a"], network.Peers.Select(peer => peer.Name));
        PeerConfig first = network.Peers[0];
        Assert.Equal(new PeerEndpoint("vm2.example.com", InetAddress.None, null), first.Endpoint);
        Assert.Equal((Encapsulation.Auto, new GreKeys(42, 256), true, true), (first.Encapsulation, first.Key, first.Checksum, first.Sequence));
        Assert.Equal(new OuterHeaderOptions { Dscp = 63, Ecn = EcnMode.Compatible, TimeToLive = null, DiscoversPathMtu = false }, first.Outer);
        Assert.True(first.Strict);
        Assert.Equal(OuterHeaderOptions.Default, network.Peers[1].Outer);
        Assert.Equal("fd00:40::12", network.Peers[1].Endpoint.Host);
        Assert.Equal(new GreKeys(uint.MaxValue, uint.MaxValue), network.Peers[1].Key);
        Assert.Equal([Encapsulation.Gre, Encapsulation.Gre], network.Peers.Select(network.EncapsulationOf));
        Assert.Equal([Encapsulation.Gre], network.Accepted);
    }

    [Fact]
    public void Datapath_is_read()
    {
        Assert.Equal(new DatapathConfig(null, null, null, false, 0), Network("datapath: {receive: auto, send: auto, workers: auto, pin: false, busy-poll: off}").Datapath);
        Assert.Equal(new DatapathConfig(null, null, null, false, 0), Network("datapath:\nsubnets: []").Datapath);
        Assert.Equal(
            new DatapathConfig(UnderlayPath.Packet, UnderlayPath.Raw, 64, true, 50),
            Network("datapath: {receive: packet, send: raw, workers: 64, pin: true, busy-poll: 50us}").Datapath);
        Assert.Equal(1, Network("datapath: {workers: 1}\n" + Vm2With("sequence: true")).Datapath.Workers);
    }

    [Theory]
    [InlineData("off", 0, "off")]
    [InlineData("1us", 1, "1us")]
    [InlineData("999us", 999, "999us")]
    [InlineData("1000us", 1000, "1ms")]
    [InlineData("1ms", 1000, "1ms")]
    public void Busy_poll_is_a_time(string text, int microseconds, string shown)
    {
        DatapathConfig datapath = Network($"datapath: {{busy-poll: {text}}}").Datapath;

        Assert.Equal((microseconds, shown), (datapath.BusyPollMicroseconds, datapath.BusyPollText));
    }

    [Fact]
    public void Gre_udp_has_a_port_for_each_peer()
    {
        NetworkConfig network = Network("""
            underlay: {local: [192.168.40.11, fd00:40::11], encapsulation: gre-udp, udp-port: 4800, source-port: 50000}
            peers:
              vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24]}
              vm3: {endpoint: "[fd00:40::13]:4755", subnets: [172.17.53.0/24]}
              vm4: {endpoint: 192.168.40.14, subnets: [172.17.54.0/24], encapsulation: gre}
              vm5: {endpoint: "vm5.example.com:1", subnets: [172.17.55.0/24]}
              vm6: {endpoint: 192.168.40.16, subnets: [172.17.56.0/24], encapsulation: auto}
            """);

        Assert.Equal([4800, 4755, 0, 1, 0], network.Peers.Select(network.UdpPortOf));
        Assert.Equal(50000, network.Underlay.SourcePort);
    }

    [Fact]
    public void A_peer_whose_encapsulation_is_not_received_is_a_warning()
    {
        ConfigResult<NetworkConfig> result = Parse("underlay: {accept: [gre-udp]}\n" + Vm2With("encapsulation: gre"));

        Assert.True(result.IsValid);
        Assert.Equal(
            ["tun0.yaml:3:76: peer vm2 uses gre, which underlay.accept (tun0.yaml:1:20) leaves out (add gre to it, unless the peer answers by another encapsulation)"],
            Lines(result.Warnings));
        Assert.Empty(Parse("underlay: {accept: [gre-udp], encapsulation: gre-udp}\n" + Vm2With("key: 1")).Warnings);
    }

    [Theory]
    [InlineData("")]
    [InlineData("# nothing but a comment\n")]
    [InlineData("---\n")]
    [InlineData("~")]
    public void File_without_settings_is_valid_with_a_warning(string yaml)
    {
        ConfigResult<NetworkConfig> result = Parse(yaml);

        Assert.Equal(new NetworkConfig { Name = "tun0", File = "tun0.yaml" }, result.Value);
        Assert.Equal(
            ["tun0.yaml: the file has no settings (the device tun0 gets no address, and has the stored peers only)"],
            Lines(result.Warnings));
    }

    [Theory]
    [InlineData("{}")]
    [InlineData("interface:\nunderlay:\nsubnets:\npeers:\n")]
    [InlineData("interface: {addresses: []}\nsubnets: []\npeers: {}\n")]
    [InlineData("\ufeffpeers:\n")]
    [InlineData("%YAML 1.2\n---\npeers:\n...\n")]
    [InlineData("peers:\r\n\r\nsubnets: []\r\n")]
    public void Empty_sections_are_valid_without_a_warning(string yaml)
    {
        ConfigResult<NetworkConfig> result = Parse(yaml);

        Assert.True(result.IsValid);
        Assert.Empty(result.Warnings);
    }

    public static TheoryData<string, string[]> WrongKeys => new()
    {
        {
            "interfaces:\n  mtu: 1400\n",
            ["tun0.yaml:1:1: unknown key \"interfaces\" in the file (did you mean interface? allowed: interface, underlay, datapath, subnets, nat, control, peers)"]
        },
        {
            "underlay:\n  udp_port: 1\n  interfce: eth0\n  zzz: 1\n",
            [
                "tun0.yaml:2:3: unknown key \"udp_port\" in underlay (did you mean udp-port? allowed: local, interface, encapsulation, allow-udp, accept, udp-port, source-port)",
                "tun0.yaml:3:3: unknown key \"interfce\" in underlay (did you mean interface? allowed: local, interface, encapsulation, allow-udp, accept, udp-port, source-port)",
                "tun0.yaml:4:3: unknown key \"zzz\" in underlay (allowed: local, interface, encapsulation, allow-udp, accept, udp-port, source-port)",
            ]
        },
        { "forward: true\n", ["tun0.yaml:1:1: unknown key \"forward\" in the file (it belongs under nat; allowed: interface, underlay, datapath, subnets, nat, control, peers)"] },
        { "nat: {masquerade: yes}\n", ["tun0.yaml:1:19: masquerade must be true or false, not \"yes\" (without quotes)"] },
        { "nat: {forwards: true}\n", ["tun0.yaml:1:7: unknown key \"forwards\" in nat (did you mean forward? allowed: masquerade, forward)"] },
        { "nat: true\n", ["tun0.yaml:1:6: nat must be a map, not text (keys: masquerade, forward)"] },
        { "workers: 2\n", ["tun0.yaml:1:1: unknown key \"workers\" in the file (it belongs under datapath; allowed: interface, underlay, datapath, subnets, nat, control, peers)"] },
        { "mtu: 1400\n", ["tun0.yaml:1:1: unknown key \"mtu\" in the file (it belongs under interface; allowed: interface, underlay, datapath, subnets, nat, control, peers)"] },
        { "interface: {mtu:1400}\n", ["tun0.yaml:1:13: unknown key \"mtu:1400\" in interface (write a space after the colon of mtu:)"] },
        {
            "peers:\n  vm2: {endpont: 192.168.40.12, subnets: [172.17.52.0/24]}\n",
            [
                "tun0.yaml:2:3: peer vm2 has no endpoint (add endpoint: ADDRESS)",
                "tun0.yaml:2:9: unknown key \"endpont\" in peers.vm2 (did you mean endpoint? allowed: endpoint, subnets, encapsulation, key, checksum, sequence, dscp, ecn, ttl, pmtud, strict, keepalive, on-down, on-refused)",
            ]
        },
        {
            "peers:\n  vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24], ephemeral: true}\n",
            ["tun0.yaml:2:61: unknown key \"ephemeral\" in peers.vm2 (allowed: endpoint, subnets, encapsulation, key, checksum, sequence, dscp, ecn, ttl, pmtud, strict, keepalive, on-down, on-refused)"]
        },
        {
            "subnets: [172.17.51.0/24]\npeers:\n  vm2: {endpoint: a, subnets: [172.17.52.0/24]}\n  vm2: {endpoint: b, subnets: [172.17.53.0/24]}\nsubnets: []\n",
            [
                "tun0.yaml:4:3: \"vm2\" is there twice, first at line 3 (keep one of them)",
                "tun0.yaml:5:1: \"subnets\" is there twice, first at line 1 (keep one of them)",
            ]
        },
        {
            "peers:\n  vm2:\n",
            [
                "tun0.yaml:2:3: peer vm2 has no endpoint (add endpoint: ADDRESS)",
                "tun0.yaml:2:3: peer vm2 has no subnets (add subnets: [ADDRESS/LENGTH])",
            ]
        },
        {
            "peers:\n  -vm: {endpoint: a, subnets: [172.17.52.0/24]}\n  ../x: {endpoint: b, subnets: [172.17.53.0/24]}\n",
            [
                "tun0.yaml:2:3: \"-vm\" can't name a peer (1 to 63 of A-Z a-z 0-9 _ . -, the first a letter or digit)",
                "tun0.yaml:3:3: \"../x\" can't name a peer (1 to 63 of A-Z a-z 0-9 _ . -, the first a letter or digit)",
            ]
        },
    };

    public static TheoryData<string, string[]> WrongShapes => new()
    {
        { "just text\n", ["tun0.yaml:1:1: the file must be a map, not text (keys: interface, underlay, datapath, subnets, nat, control, peers)"] },
        { "interface: [1]\n", ["tun0.yaml:1:12: interface must be a map, not a list (keys: addresses, mtu, pmtu-floor)"] },
        { "interface: {mtu: [1400]}\n", ["tun0.yaml:1:18: mtu must be one value, not a list (write the value alone)"] },
        { "interface: {mtu: }\n", ["tun0.yaml:1:13: mtu has no value (give one, or remove it)"] },
        { "interface: {addresses: 10.0.0.1/24}\n", ["tun0.yaml:1:24: addresses must be a list, not text (write [10.0.0.1/24])"] },
        { "interface: {addresses: {a: b}}\n", ["tun0.yaml:1:24: addresses must be a list, not a map (write [ITEM, ITEM])"] },
        { "interface: {addresses: [~]}\n", ["tun0.yaml:1:25: addresses[0] has no value (give one, or remove it)"] },
        { "subnets:\n- fd00::\n", ["tun0.yaml:2:3: subnets[0] must be one value, not a map (text that ends in a colon stands in quotes)"] },
        { "underlay: {local: []}\n", ["tun0.yaml:1:19: local is empty (remove it, or give an address)"] },
        { "underlay: {accept: []}\n", ["tun0.yaml:1:20: accept is empty (remove it, or write [gre])"] },
        { "peers: [vm2]\n", ["tun0.yaml:1:8: peers must be a map, not a list (write each peer as NAME: with its settings indented below)"] },
        { "peers:\n  vm2: 192.168.40.12\n", ["tun0.yaml:2:8: peers.vm2 must be a map, not text (keys: endpoint, subnets, encapsulation, key, checksum, sequence, dscp, ecn, ttl, pmtud, strict, keepalive, on-down, on-refused)"] },
        { PeerWith("endpoint: 192.168.40.12, subnets: []"), ["tun0.yaml:2:43: subnets is empty (a peer has at least one subnet behind it)"] },
        { PeerWith("endpoint: 192.168.40.12, subnets: "), ["tun0.yaml:2:34: subnets must be a list, not nothing (write [ITEM, ITEM])"] },
        { PeerWith("endpoint: ~, subnets: [172.17.52.0/24]"), ["tun0.yaml:2:9: endpoint has no value (give one, or remove it)"] },
        { Vm2With("checksum: yes"), ["tun0.yaml:2:71: checksum must be true or false, not \"yes\" (without quotes)"] },
        { Vm2With("checksum: \"true\""), ["tun0.yaml:2:71: checksum must be true or false, not the text \"true\" (without quotes)"] },
        { Vm2With("sequence: "), ["tun0.yaml:2:61: sequence must be true or false, not nothing (without quotes)"] },
        { Vm2With("key: "), ["tun0.yaml:2:61: key has no value (give one, or remove it)"] },
        { Vm2With("key: [1]"), ["tun0.yaml:2:66: key must be one value, not a list (write the value alone)"] },
        { Vm2With("key: {in: 1}"), ["tun0.yaml:2:66: key has no out (give both, as {in: 1, out: 2}, or one number for both directions)"] },
        { Vm2With("key: {out: 1}"), ["tun0.yaml:2:66: key has no in (give both, as {in: 1, out: 2}, or one number for both directions)"] },
    };

    public static TheoryData<string, string[]> WrongValues => new()
    {
        {
            "interface:\n  addresses: [10.0.0.0/24, 10.0.0.255/24, 10.0.0.1, 127.0.0.1/8, fd00::1/129, x]\n",
            [
                "tun0.yaml:2:15: addresses[0]: 10.0.0.0/24 is the subnet, not an address in it (give this host's address, such as 10.0.0.1/24)",
                "tun0.yaml:2:28: addresses[1]: 10.0.0.255/24 is the subnet's broadcast address (give this host's address, such as 10.0.0.1/24)",
                "tun0.yaml:2:43: addresses[2]: 10.0.0.1 has no prefix length (as 10.0.201.1/24 or fd00:201::1/64; the one address is 10.0.0.1/32)",
                "tun0.yaml:2:53: addresses[3]: 127.0.0.1/8 is a loopback address (give a unicast address of this host)",
                "tun0.yaml:2:66: addresses[4]: \"fd00::1/129\" has no valid prefix length (0 to 128 for this address)",
                "tun0.yaml:2:79: addresses[5]: \"x\" is not ADDRESS/LENGTH (as 10.0.201.1/24 or fd00:201::1/64)",
            ]
        },
        { "interface: {addresses: [10.0.0.1/24, 10.0.0.1/24]}\n", ["tun0.yaml:1:38: 10.0.0.1/24 is in addresses twice (keep one of them)"] },
        { "interface: {mtu: 575}\n", ["tun0.yaml:1:18: mtu: \"575\" is not an MTU (auto, or a number from 576 to 65535)"] },
        { "interface: {mtu: 65536}\n", ["tun0.yaml:1:18: mtu: \"65536\" is not an MTU (auto, or a number from 576 to 65535)"] },
        { "interface: {mtu: 01400}\n", ["tun0.yaml:1:18: mtu: \"01400\" is not an MTU (auto, or a number from 576 to 65535)"] },
        { "interface: {mtu: 99999999999999999999}\n", ["tun0.yaml:1:18: mtu: \"99999999999999999999\" is not an MTU (auto, or a number from 576 to 65535)"] },
        {
            "underlay: {local: 192.168.40.11/24, udp-port: 0, source-port: flows}\n",
            [
                "tun0.yaml:1:19: local: \"192.168.40.11/24\" is not an IPv4 or IPv6 address (as 192.168.40.11 or fd00:40::11, without prefix length)",
                "tun0.yaml:1:47: udp-port: \"0\" is not a port (a number from 1 to 65535)",
                "tun0.yaml:1:63: source-port: \"flows\" is not a port (flow, or a number from 1 to 65535)",
            ]
        },
        { "underlay: {local: 0.0.0.0}\n", ["tun0.yaml:1:19: local: 0.0.0.0 is an unspecified address (give this host's own address in the underlay)"] },
        { "underlay: {interface: eth/1}\n", ["tun0.yaml:1:23: interface: \"eth/1\" can't name a device (1 to 15 characters, as ip link shows them)"] },
        { "underlay: {interface: sixteen-letters-}\n", ["tun0.yaml:1:23: interface: \"sixteen-letters-\" can't name a device (1 to 15 characters, as ip link shows them)"] },
        {
            "underlay: {encapsulation: GRE, accept: [direct]}\n",
            [
                "tun0.yaml:1:27: encapsulation: \"GRE\" is not an encapsulation (did you mean gre? allowed: gre, gre-udp, direct, auto)",
                "tun0.yaml:1:41: accept[0]: \"direct\" is not an encapsulation that is received (allowed: gre, gre-udp)",
            ]
        },
        {
            "subnets: [172.17.51.1/24, 224.0.0.0/8, 127.1.0.0/16, 0.0.0.0/8, 255.255.255.255/32, ff02::/16, ::1/128, ::/128, 172.17.51.0]\n",
            [
                "tun0.yaml:1:11: subnets[0]: 172.17.51.1/24 has bits set beyond its prefix length (the subnet is 172.17.51.0/24; the one address is 172.17.51.1/32)",
                "tun0.yaml:1:27: subnets[1]: 224.0.0.0/8 is not a unicast subnet: 224.0.0.0 is a multicast address (give the subnet of the containers)",
                "tun0.yaml:1:40: subnets[2]: 127.1.0.0/16 is not a unicast subnet: 127.0.0.0 is a loopback address (give the subnet of the containers)",
                "tun0.yaml:1:54: subnets[3]: 0.0.0.0/8 is not a unicast subnet: 0.0.0.0 is an unspecified address (give the subnet of the containers)",
                "tun0.yaml:1:65: subnets[4]: 255.255.255.255/32 is not a unicast subnet: 255.255.255.255 is the broadcast address (give the subnet of the containers)",
                "tun0.yaml:1:85: subnets[5]: ff02::/16 is not a unicast subnet: ff00:: is a multicast address (give the subnet of the containers)",
                "tun0.yaml:1:96: subnets[6]: ::1/128 is not a unicast subnet: ::1 is the loopback address (give the subnet of the containers)",
                "tun0.yaml:1:105: subnets[7]: ::/128 is not a unicast subnet: :: is the unspecified address (give the subnet of the containers)",
                "tun0.yaml:1:113: subnets[8]: 172.17.51.0 has no prefix length (as 172.17.52.0/24 or fd00:52::/64; the one address is 172.17.51.0/32)",
            ]
        },
        {
            PeerWith("endpoint: 192.168.40.12, subnets: [172.17.52.0/24, 172.17.52.0/24]"),
            ["tun0.yaml:2:60: 172.17.52.0/24 is in subnets twice (keep one of them)"]
        },
        { Vm2With("key: 4294967296"), ["tun0.yaml:2:66: key: \"4294967296\" is not a key (0 to 4294967295, as 42, 0x2a or 0.0.0.42)"] },
        { Vm2With("key: -1"), ["tun0.yaml:2:66: key: \"-1\" is not a key (0 to 4294967295, as 42, 0x2a or 0.0.0.42)"] },
        { Vm2With("key: 0x"), ["tun0.yaml:2:66: key: \"0x\" is not a key (0 to 4294967295, as 42, 0x2a or 0.0.0.42)"] },
        { Vm2With("key: 0x123456789"), ["tun0.yaml:2:66: key: \"0x123456789\" is not a key (0 to 4294967295, as 42, 0x2a or 0.0.0.42)"] },
        { Vm2With("key: 1_000"), ["tun0.yaml:2:66: key: \"1_000\" is not a key (0 to 4294967295, as 42, 0x2a or 0.0.0.42)"] },
        { Vm2With("key: \"::1\""), ["tun0.yaml:2:66: key: \"::1\" is not a key (0 to 4294967295, as 42, 0x2a or 0.0.0.42)"] },
        {
            Vm2With("key: {in: x, ou: 2}"),
            [
                "tun0.yaml:2:66: key has no out (give both, as {in: 1, out: 2}, or one number for both directions)",
                "tun0.yaml:2:71: in: \"x\" is not a key (0 to 4294967295, as 42, 0x2a or 0.0.0.42)",
                "tun0.yaml:2:74: unknown key \"ou\" in peers.vm2.key (did you mean out? allowed: in, out)",
            ]
        },
        {
            Vm2With("encapsulation: direct, checksum: 1"),
            [
                "tun0.yaml:2:94: checksum must be true or false, not \"1\" (without quotes)",
            ]
        },
        { "underlay: {allow-udp: gre}\n", ["tun0.yaml:1:23: allow-udp must be true or false, not \"gre\" (without quotes)"] },
        {
            "datapath: {receive: Raw, send: xdp, workers: 0, pin: yes, busy-poll: 50}\n",
            [
                "tun0.yaml:1:21: receive: \"Raw\" is not a way for packets (did you mean raw? allowed: auto, raw, packet)",
                "tun0.yaml:1:32: send: \"xdp\" is not a way for packets (allowed: auto, raw, packet)",
                "tun0.yaml:1:46: workers: \"0\" is not a number of workers (auto, or a number from 1 to 64)",
                "tun0.yaml:1:54: pin must be true or false, not \"yes\" (without quotes)",
                "tun0.yaml:1:70: busy-poll: \"50\" is not a time to busy-poll (off, or 1us to 1000us, as 50us or 1ms)",
            ]
        },
        { "datapath: {workers: 65}\n", ["tun0.yaml:1:21: workers: \"65\" is not a number of workers (auto, or a number from 1 to 64)"] },
        { "datapath: {busy-poll: 0us}\n", ["tun0.yaml:1:23: busy-poll: \"0us\" is not a time to busy-poll (off, or 1us to 1000us, as 50us or 1ms)"] },
        { "datapath: {busy-poll: 1001us}\n", ["tun0.yaml:1:23: busy-poll: \"1001us\" is not a time to busy-poll (off, or 1us to 1000us, as 50us or 1ms)"] },
        { "datapath: {busy-poll: 2ms}\n", ["tun0.yaml:1:23: busy-poll: \"2ms\" is not a time to busy-poll (off, or 1us to 1000us, as 50us or 1ms)"] },
        { "datapath: {busy-poll: 1.5us}\n", ["tun0.yaml:1:23: busy-poll: \"1.5us\" is not a time to busy-poll (off, or 1us to 1000us, as 50us or 1ms)"] },
        { "datapath: {busy-poll: us}\n", ["tun0.yaml:1:23: busy-poll: \"us\" is not a time to busy-poll (off, or 1us to 1000us, as 50us or 1ms)"] },
    };

    public static TheoryData<string, string> WrongEndpoints => new()
    {
        { "192.168.40.300", "\"192.168.40.300\" is not an endpoint (an address or a DNS name: 192.168.40.12, fd00:40::12, vm2.example.com)" },
        { "192.168.40", "\"192.168.40\" is not an endpoint (an address or a DNS name: 192.168.40.12, fd00:40::12, vm2.example.com)" },
        { "-vm.example", "\"-vm.example\" is not an endpoint (an address or a DNS name: 192.168.40.12, fd00:40::12, vm2.example.com)" },
        { "vm2..example", "\"vm2..example\" is not an endpoint (an address or a DNS name: 192.168.40.12, fd00:40::12, vm2.example.com)" },
        { "fd00::1::2", "\"fd00::1::2\" is not an endpoint (an address or a DNS name: 192.168.40.12, fd00:40::12, vm2.example.com)" },
        { "vm 2", "\"vm 2\" is not an endpoint (an address or a DNS name: 192.168.40.12, fd00:40::12, vm2.example.com)" },
        { "192.168.40.12/24", "\"192.168.40.12/24\" is not an endpoint (one address or DNS name, without prefix length and without a scheme)" },
        { "http://vm2", "\"http://vm2\" is not an endpoint (one address or DNS name, without prefix length and without a scheme)" },
        { "fe80::1%eth0", "\"fe80::1%eth0\" is not an endpoint (leave the zone out; underlay: {interface: ...} chooses the device)" },
        { "[fd00::1", "\"[fd00::1\" is not an endpoint (in brackets stands an IPv6 address: \"[fd00:40::12]:4754\")" },
        { "[192.168.40.12]:4754", "\"[192.168.40.12]:4754\" is not an endpoint (in brackets stands an IPv6 address: \"[fd00:40::12]:4754\")" },
        { "[fd00::1]4754", "\"[fd00::1]4754\" is not an endpoint (in brackets stands an IPv6 address: \"[fd00:40::12]:4754\")" },
        { "[fd00::1]:0", "\"0\" is not a port (a number from 1 to 65535)" },
        { "vm2:65536", "\"65536\" is not a port (a number from 1 to 65535)" },
        { "vm2:", "\"\" is not a port (a number from 1 to 65535)" },
        { "224.0.0.1", "224.0.0.1 is a multicast address (give the peer's address in the underlay)" },
        { "127.0.0.1", "127.0.0.1 is a loopback address (give the peer's address in the underlay)" },
        { "255.255.255.255", "255.255.255.255 is the broadcast address (give the peer's address in the underlay)" },
        { "::", ":: is the unspecified address (give the peer's address in the underlay)" },
        { "[ff02::1]:4754", "[ff02::1]:4754 is a multicast address (give the peer's address in the underlay)" },
        { "a\\u001b[31mb\\nc", "\"a\\u001b[31mb\\u000ac\" is not an endpoint (an address or a DNS name: 192.168.40.12, fd00:40::12, vm2.example.com)" },
    };

    public static TheoryData<string, string[]> WrongNetworks => new()
    {
        {
            "interface: {addresses: [10.0.0.1/24, fd00::1/64], mtu: 1279}\n",
            ["tun0.yaml:1:56: mtu 1279 is less than IPv6 needs for fd00::1/64 (auto, or 1280 or more)"]
        },
        {
            "interface: {mtu: 1279}\nsubnets: [fd00:51::/64]\n",
            ["tun0.yaml:1:18: mtu 1279 is less than IPv6 needs for fd00:51::/64 (auto, or 1280 or more)"]
        },
        {
            "interface: {mtu: 1279}\npeers:\n  vm2: {endpoint: a, subnets: [172.17.52.0/24, fd00:52::/64]}\n  vm3: {endpoint: b, subnets: [fd00:53::/64]}\n",
            ["tun0.yaml:3:48: subnet fd00:52::/64 is IPv6, for which interface.mtu 1279 (tun0.yaml:1:18) is too small (set interface.mtu to auto or to 1280 or more)"]
        },
        {
            "underlay: {local: [192.168.40.11, 192.168.40.12]}\n",
            ["tun0.yaml:1:19: local has two addresses of one family (at most one IPv4 and one IPv6 address)"]
        },
        {
            "underlay: {local: [192.168.40.11, fd00::1, fd00::2]}\n",
            ["tun0.yaml:1:19: local has two addresses of one family (at most one IPv4 and one IPv6 address)"]
        },
        {
            "underlay: {local: 192.168.40.11, interface: eth1}\n",
            ["tun0.yaml:1:45: local and interface stand together (keep one: each decides the source address)"]
        },
        {
            "underlay: {interface: tun0}\n",
            ["tun0.yaml:1:23: interface tun0 is the network's own device (name the device that reaches the other hosts, such as eth1)"]
        },
        {
            "interface: {addresses: [10.0.0.1/24]}\nunderlay: {local: 10.0.0.1}\n",
            ["tun0.yaml:2:19: local 10.0.0.1 is also in interface.addresses (local is an address that this host has without tunneld)"]
        },
        {
            "interface: {addresses: [10.0.201.1/24]}\nunderlay: {local: 192.168.40.11}\nsubnets: [172.17.51.0/24]\n"
                + "peers:\n"
                + "  vm2: {endpoint: 192.168.40.11, subnets: [172.17.51.0/24]}\n"
                + "  vm3: {endpoint: 10.0.201.2, subnets: [172.17.53.0/24]}\n"
                + "  vm4: {endpoint: 192.168.41.14, subnets: [192.168.40.0/24]}\n"
                + "  vm5: {endpoint: 192.168.41.15, subnets: [10.0.201.1/32]}\n"
                + "  vm6: {endpoint: \"192.168.41.16:4754\", subnets: [172.17.56.0/24]}\n",
            [
                "tun0.yaml:5:19: endpoint 192.168.40.11 is this host's own underlay.local (give the other host's address)",
                "tun0.yaml:5:44: subnet 172.17.51.0/24 is also in this host's own subnets (tun0.yaml:3:11) (a subnet is behind one host)",
                "tun0.yaml:6:19: endpoint 10.0.201.2 lies in interface.addresses 10.0.201.1/24 (tun0.yaml:1:25) (packets to it would enter the network again: give the peer's address in the underlay)",
                "tun0.yaml:7:44: subnet 192.168.40.0/24 holds this host's underlay.local 192.168.40.11 (tun0.yaml:2:19) (split the subnet so that it leaves this address out)",
                "tun0.yaml:8:44: subnet 10.0.201.1/32 is this host's own address (tun0.yaml:1:25) (give the peer's address)",
                "tun0.yaml:9:19: endpoint 192.168.41.16:4754: only gre-udp has ports (write 192.168.41.16)",
            ]
        },
    };

    public static TheoryData<string, string[]> WrongPeers => new()
    {
        {
            "peers:\n  vm2:\n    endpoint: 192.168.40.12\n    subnets: [172.17.52.0/24]\n"
                + "  vm3:\n    endpoint: 192.168.40.13\n    subnets: [172.17.53.0/24, 172.17.52.0/24]\n",
            ["tun0.yaml:7:31: subnet 172.17.52.0/24 is already that of peer vm2 (tun0.yaml:4:15) (a subnet is behind one peer; a longer prefix in it may be behind another, or both may say on-down: withdraw)"]
        },
        {
            "peers:\n  vm2: {endpoint: 192.168.40.12, subnets: [192.168.0.0/16]}\n  vm3: {endpoint: 192.168.40.13, subnets: [172.17.53.0/24]}\n",
            [
                "tun0.yaml:2:44: subnet 192.168.0.0/16 holds the peer's own endpoint 192.168.40.12 (packets to the endpoint would enter the network again: split the subnet so that it leaves the endpoint out)",
                "tun0.yaml:3:19: endpoint 192.168.40.13 lies in subnet 192.168.0.0/16 of peer vm2 (tun0.yaml:2:44) (packets to it would enter the network again: split that subnet so that it leaves the endpoint out)",
            ]
        },
        {
            "peers:\n  vm3: {endpoint: 192.168.40.13, subnets: [172.17.53.0/24]}\n  vm2: {endpoint: 10.0.0.1, subnets: [192.168.0.0/16]}\n",
            ["tun0.yaml:3:39: subnet 192.168.0.0/16 holds endpoint 192.168.40.13 of peer vm3 (tun0.yaml:2:19) (packets to that endpoint would enter the network again: split the subnet so that it leaves the endpoint out)"]
        },
        {
            "peers:\n  vm2: {endpoint: 192.168.40.12, subnets: [0.0.0.0/0]}\n  vm3: {endpoint: fd00::3, subnets: [\"::/0\"]}\n",
            [
                "tun0.yaml:2:44: subnet 0.0.0.0/0 holds the peer's own endpoint 192.168.40.12 (packets to the endpoint would enter the network again: split the subnet so that it leaves the endpoint out)",
                "tun0.yaml:3:38: subnet ::/0 holds the peer's own endpoint fd00::3 (packets to the endpoint would enter the network again: split the subnet so that it leaves the endpoint out)",
            ]
        },
        {
            "underlay: {local: 192.168.40.11, encapsulation: gre-udp}\npeers:\n"
                + "  vm2: {endpoint: fd00:40::12, subnets: [172.17.52.0/24]}\n"
                + "  vm3: {endpoint: fd00:40::13, subnets: [172.17.53.0/24], encapsulation: gre}\n"
                + "  vm4: {endpoint: vm4.example.com, subnets: [172.17.54.0/24]}\n"
                + "  vm5: {endpoint: \"192.168.40.15:4756\", subnets: [172.17.55.0/24]}\n"
                + "  vm6: {endpoint: \"192.168.40.15:4755\", subnets: [172.17.56.0/24]}\n"
                + "  vm7: {endpoint: \"192.168.40.15:4755\", subnets: [172.17.57.0/24], encapsulation: gre, key: 1}\n",
            [
                "tun0.yaml:3:19: endpoint fd00:40::12 is IPv6, of which underlay.local (tun0.yaml:1:19) has no address for gre-udp (add this host's IPv6 address to underlay.local)",
                "tun0.yaml:7:19: endpoint 192.168.40.15:4755 without a key is already that of peer vm5 (tun0.yaml:6:19) (their packets could not be told apart: give each its own inbound key)",
                "tun0.yaml:8:19: endpoint 192.168.40.15:4755: only gre-udp has ports (write 192.168.40.15)",
            ]
        },
        {
            "datapath: {workers: 2}\npeers:\n  vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24], sequence: true}\n",
            ["tun0.yaml:3:71: sequence numbers need one worker, and datapath.workers is 2 (tun0.yaml:1:21) (set datapath: {workers: 1}, or leave sequence out)"]
        },
        {
            "peers:\n  vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24], encapsulation: gre-udp, keepalive: gre:10s}\n"
                + "  vm3: {endpoint: \"fd00:40::13\", subnets: [172.17.53.0/24], keepalive: gre:500ms}\n",
            [
                "tun0.yaml:2:96: keepalive gre:10s is for plain GRE over IPv4, and peer vm2 is reached by gre-udp (ask its daemon: 10s, or auto)",
                "tun0.yaml:3:72: keepalive gre:500ms is for plain GRE over IPv4, and peer vm3 is reached by IPv6 (ask its daemon: 500ms, or auto)",
            ]
        },
        {
            "peers:\n"
                + "  vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24]}\n"
                + "  vm3: {endpoint: 192.168.40.12, subnets: [172.17.53.0/24]}\n"
                + "  vm4: {endpoint: 192.168.40.12, subnets: [172.17.54.0/24], key: 1}\n"
                + "  vm5: {endpoint: 192.168.40.12, subnets: [172.17.55.0/24], key: {in: 1, out: 2}}\n"
                + "  vm6: {endpoint: Vm6, subnets: [172.17.56.0/24]}\n"
                + "  vm7: {endpoint: vM6, subnets: [172.17.57.0/24]}\n",
            [
                "tun0.yaml:3:19: endpoint 192.168.40.12 without a key is already that of peer vm2 (tun0.yaml:2:19) (their packets could not be told apart: give each its own inbound key)",
                "tun0.yaml:5:19: endpoint 192.168.40.12 with inbound key 1 is already that of peer vm4 (tun0.yaml:4:19) (their packets could not be told apart: give each its own inbound key)",
                "tun0.yaml:7:19: endpoint vm6 without a key is already that of peer vm6 (tun0.yaml:6:19) (their packets could not be told apart: give each its own inbound key)",
            ]
        },
    };

    public static TheoryData<string, string[]> WrongYaml => new()
    {
        { "a: *x\n", ["tun0.yaml:1:4: YAML anchors (&) and aliases (*) are not supported (write the value out, or in quotes)"] },
        { "subnets: &a []\n", ["tun0.yaml:1:10: YAML anchors (&) and aliases (*) are not supported (write the value out, or in quotes)"] },
        { "subnets: !!seq []\n", ["tun0.yaml:1:10: YAML tags (!) are not supported (write the value without it, or in quotes)"] },
        { "subnets: []\n---\npeers:\n", ["tun0.yaml:2:1: a second YAML document (a file has one document: remove this --- line)"] },
        { "interface:\n\tmtu: 1400\n", ["tun0.yaml:2:1: not valid YAML: while scanning a mapping, found invalid tab as indentation (indent with spaces)"] },
        { "interface:\n  addresses: [10.0.0.1/24\n  mtu: 1400\n", ["tun0.yaml:2:14: not valid YAML (close this bracket)"] },
        {
            "subnets: [172.17.51.0/24\n",
            ["tun0.yaml:2:1: not valid YAML: while parsing a flow sequence, did not find expected ',' or ']' (close the bracket of line 1, column 10, and separate its items with commas)"]
        },
        {
            Vm2With("key: {in: 1 out: 2}"),
            ["tun0.yaml:2:76: not valid YAML: while parsing a flow mapping, did not find expected ',' or '}' (close the bracket of line 2, column 66, and separate its items with commas)"]
        },
        {
            "peers:\n  vm2:\n    endpoint: [fd00::2]:4754\n",
            ["tun0.yaml:3:25: not valid YAML: while parsing a block mapping, did not find expected key (write an address in brackets in quotes: \"[fd00::2]:4754\")"]
        },
        {
            "peers:\n  vm2:\n    endpoint: fd00::\n    subnets: []\n",
            ["tun0.yaml:3:20: not valid YAML: while scanning a plain scalar value, found invalid mapping (check the indentation; a value that has \": \" in it or ends in \":\" stands in quotes)"]
        },
        { "interface: {mtu: \"1400\n", ["tun0.yaml:1:18: not valid YAML: while scanning a quoted scalar, found unexpected end of stream (close the quote)"] },
        { "@x\n", ["tun0.yaml:1:1: not valid YAML: while scanning for the next token, found character that cannot start any token (check the indentation and the colons of this line and the one above)"] },
        { "? [a]\n: b\n", ["tun0.yaml:1:3: a list can't be a key (a key is one word, followed by a colon)"] },
        { new string('[', 20), ["tun0.yaml:1:18: lists and maps stand more than 16 deep in one another (remove brackets)"] },
        { "subnets: []\npeers: \0\n", ["tun0.yaml:2:8: a control character (U+0000) can't stand here (remove it)"] },
    };

    [Theory]
    [MemberData(nameof(WrongKeys))]
    [MemberData(nameof(WrongShapes))]
    [MemberData(nameof(WrongValues))]
    [MemberData(nameof(WrongNetworks))]
    [MemberData(nameof(WrongPeers))]
    [MemberData(nameof(WrongYaml))]
    public void Every_error_has_its_place_and_its_cure(string yaml, string[] lines)
    {
        ConfigResult<NetworkConfig> result = Parse(yaml);

        Assert.Equal(lines, Lines(result.Errors));
        Assert.Null(result.Value);
    }

    [Theory]
    [MemberData(nameof(WrongEndpoints))]
    public void Wrong_endpoint_is_refused(string endpoint, string message) =>
        Assert.Equal(
            [$"tun0.yaml:2:19: endpoint: {message}"],
            Lines(Parse(PeerWith($"endpoint: \"{endpoint}\", subnets: [172.17.52.0/24]")).Errors));

    [Theory]
    [InlineData("192.168.40.12", "192.168.40.12", null)]
    [InlineData("::ffff:192.168.40.12", "192.168.40.12", null)]
    [InlineData("fd00:40::12", "fd00:40::12", null)]
    [InlineData("[FD00:40::12]", "fd00:40::12", null)]
    [InlineData("[fd00:40::12]:4755", "fd00:40::12", 4755)]
    [InlineData("192.168.40.12:1", "192.168.40.12", 1)]
    [InlineData("Vm2.Example.com:65535", "vm2.example.com", 65535)]
    [InlineData("vm_2.example.com.", "vm_2.example.com.", null)]
    [InlineData("0x12", "0x12", null)]
    public void Endpoint_has_host_and_port(string text, string host, int? port)
    {
        Parsed<PeerEndpoint> parsed = ConfigValues.Endpoint(text);

        Assert.Null(parsed.Fault);
        Assert.Equal((host, port), (parsed.Value.Host, parsed.Value.Port));
        Assert.Equal(parsed.Value, ConfigValues.Endpoint(parsed.Value.ToString()).Value);
    }

    [Fact]
    public void Nested_subnets_and_an_Ipv6_default_route_over_Ipv4_are_allowed()
    {
        NetworkConfig network = Network("""
            interface: {addresses: [10.0.201.1/24], mtu: 1280}
            subnets: [172.17.51.0/24]
            peers:
              hub: {endpoint: 192.168.40.1, subnets: [172.17.0.0/16, 10.0.201.0/24, "::/0"]}
              vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24, 172.17.51.8/32, 10.0.201.2/32]}
            """);

        Assert.Equal("vm2", network.FindSubnet(InetAddress.FromIpv4(0xac113401))?.Peer.Name);
        Assert.Equal(Prefix("172.17.0.0/16"), network.FindSubnet(InetAddress.FromIpv4(0xac113501))?.Subnet);
        Assert.Null(network.FindSubnet(InetAddress.FromIpv4(0x08080808)));
    }

    [Fact]
    public void Fields_are_paths_and_kinds_tell_a_bad_value_from_a_clash()
    {
        IReadOnlyList<ConfigError> errors = Parse("""
            interface: {addresses: [x]}
            peers:
              vm2: {endpoint: a, subnets: [172.17.52.0/24]}
              vm3: {endpoint: b, subnets: [172.17.52.0/24]}
              vm4: {endpoint: c, subnets: [172.17.54.1/24], key: {in: x, out: 1}}
            """).Errors;

        Assert.Equal(
            [
                ("interface.addresses[0]", ConfigErrorKind.Invalid),
                ("peers.vm3.subnets[0]", ConfigErrorKind.Conflict),
                ("peers.vm4.subnets[0]", ConfigErrorKind.Invalid),
                ("peers.vm4.key.in", ConfigErrorKind.Invalid),
            ],
            errors.Select(error => (error.Field, error.Kind)));
        Assert.Equal(["interface", "peers", "peers", "peers"], errors.Select(error => error.Key));
    }

    [Theory]
    [InlineData("tun0.yaml", "tun0")]
    [InlineData("/etc/tunnel/my.net_1-a.yml", "my.net_1-a")]
    [InlineData("fifteen-letters.yaml", "fifteen-letters")]
    public void File_names_the_network(string path, string name) => Assert.Equal(name, ConfigReader.Parse(path, "{}"u8).Value?.Name);

    [Theory]
    [InlineData("sixteen-letters-.yaml", "\"sixteen-letters-\" can't name a network")]
    [InlineData("tun 0.yaml", "\"tun 0\" can't name a network")]
    [InlineData("...yaml", "\"..\" can't name a network")]
    [InlineData(".yaml", "\"\" can't name a network")]
    [InlineData("all.yaml", "\"all\" can't name a network")]
    [InlineData("tun0.yaml.bak", "the file's name \"tun0.yaml.bak\" does not end in .yaml")]
    [InlineData("tun0", "the file's name \"tun0\" does not end in .yaml")]
    [InlineData("", "the file's name \"\" does not end in .yaml")]
    public void Unfit_file_name_is_refused(string path, string message)
    {
        ConfigError error = Assert.Single(ConfigReader.Parse(path, "{}"u8).Errors);
        Assert.Equal((message, path), (error.Message, error.Place.File));
    }

    [Fact]
    public void File_that_is_not_Utf8_is_refused()
    {
        ConfigResult<NetworkConfig> result = ConfigReader.Parse("tun0.yaml", [.. "# ä\n# x"u8, 0xe4, (byte)'\n']);

        Assert.Equal(["tun0.yaml:2:4: not UTF-8 text (save the file as UTF-8)"], Lines(result.Errors));
    }

    [Fact]
    public void File_that_is_too_large_is_refused()
    {
        byte[] content = new byte[YamlTree.MaxBytes + 1];
        content.AsSpan().Fill((byte)'\n');

        Assert.Equal(
            ["tun0.yaml: the file is larger than 1048576 bytes (split the network, or keep peers in NAME.d)"],
            Lines(ConfigReader.Parse("tun0.yaml", content).Errors));
        Assert.True(ConfigReader.Parse("tun0.yaml", content.AsSpan(1)).IsValid);
    }

    [Fact]
    public void Hostile_files_of_full_size_are_refused_without_much_work()
    {
        string[] units = ["[", "- ", "? ", "a: [", "{a: ", "[:,", "{a,", "- &a 1\n", "\"", "'\n", "x\n ", "- x\n", "  ", "#\n", "!!a ", "|\n", "%TAG ! a\n"];
        foreach (string unit in units)
        {
            string text = string.Concat(Enumerable.Repeat(unit, YamlTree.MaxBytes / unit.Length));
            IReadOnlyList<ConfigError> errors = Parse(text).Errors;
            Assert.InRange(errors.Count, 0, ConfigErrorList.Most + 1);
            Assert.All(errors, error => Assert.InRange(error.ToString().Length, 1, 2500));
        }
    }

    [Fact]
    public void Only_so_many_errors_are_told()
    {
        string subnets = string.Join(", ", Enumerable.Repeat("x", 150));
        IReadOnlyList<ConfigError> errors = Parse($"subnets: [{subnets}]").Errors;

        Assert.Equal(ConfigErrorList.Most + 1, errors.Count);
        Assert.Equal("50 more errors are not shown", errors[^1].ToString());
    }

    [Fact]
    public void Thousands_of_peers_are_checked_at_once()
    {
        IEnumerable<string> peers = Enumerable.Range(0, 10_000).Select(i => $"  p{i}: {{endpoint: 192.168.{i >> 8}.{i & 255}, subnets: [10.{i >> 8}.{i & 255}.0/24]}}");
        NetworkConfig network = Network("peers:\n" + string.Join('\n', peers));

        Assert.Equal(10_000, network.Peers.Count);
        Assert.True(network.WithPeer(Peer("new", "192.169.0.1", "11.0.0.0/8")).IsValid);
        Assert.False(network.WithPeer(Peer("new", "192.168.39.15", "11.0.0.0/8")).IsValid);
    }

    private static string PeerWith(string settings) => $"peers:\n  vm2: {{{settings}}}\n";

    private static string Vm2With(string settings) => PeerWith("endpoint: 192.168.40.12, subnets: [172.17.52.0/24], " + settings);
}
