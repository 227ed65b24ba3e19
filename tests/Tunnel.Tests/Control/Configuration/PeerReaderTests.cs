using Tunnel.Control.Configuration;
using Tunnel.Dataplane;
using static Tunnel.Tests.Control.Configuration.ConfigTesting;

namespace Tunnel.Tests.Control.Configuration;

/// <summary>The bodies of PUT and PATCH on /v1/peers/NAME.</summary>
public class PeerReaderTests
{
    private const string Endpoint = "\"endpoint\": \"192.168.40.12\"";
    private const string Subnets = "\"subnets\": [\"172.17.52.0/24\"]";

    [Fact]
    public void Put_takes_defaults_for_what_is_absent_or_null()
    {
        PeerConfig expected = Peer("vm2", "192.168.40.12", "172.17.52.0/24");

        Assert.Equal(expected, Put($"{{{Endpoint}, {Subnets}}}").Value);
        Assert.Equal(expected, Put($$"""{{{Endpoint}}, {{Subnets}}, "encapsulation": null, "key": null, "checksum": null, "sequence": null, "dscp": null, "ecn": null, "ttl": null, "pmtud": null, "strict": null, "ephemeral": null}""").Value);
    }

    [Theory]
    [InlineData("42", 42u, 42u)]
    [InlineData("0", 0u, 0u)]
    [InlineData("\"0x2a\"", 42u, 42u)]
    [InlineData("\"0.0.1.0\"", 256u, 256u)]
    [InlineData("{\"in\": 1, \"out\": \"0x2\"}", 1u, 2u)]
    public void Put_takes_every_form_of_key(string key, uint inbound, uint outbound) =>
        Assert.Equal(new GreKeys(inbound, outbound), Put($$"""{{{Endpoint}}, {{Subnets}}, "key": {{key}}}""").Value?.Key);

    [Fact]
    public void Put_reads_every_property()
    {
        PeerConfig peer = Put($$"""{{{Endpoint}}, {{Subnets}}, "encapsulation": "auto", "key": 1, "checksum": true, "sequence": true, "dscp": 46, "ecn": "normal", "ttl": "inherit", "pmtud": false, "strict": true, "ephemeral": true}""").Value!;

        Assert.Equal(
            Peer("vm2", "192.168.40.12", "172.17.52.0/24") with
            {
                Encapsulation = Encapsulation.Auto,
                Key = new GreKeys(1, 1),
                Checksum = true,
                Sequence = true,
                Outer = new OuterHeaderOptions { Dscp = 46, Ecn = EcnMode.Normal, TimeToLive = null, DiscoversPathMtu = false },
                Strict = true,
                Origin = PeerOrigin.Ephemeral,
            },
            peer);
    }

    public static TheoryData<string, string?, string> WrongBodies => new()
    {
        { "[]", null, "the body must be a JSON object ({\"endpoint\": \"192.168.40.12\", \"subnets\": [\"172.17.52.0/24\"]})" },
        { "null", null, "the body must be a JSON object ({\"endpoint\": \"192.168.40.12\", \"subnets\": [\"172.17.52.0/24\"]})" },
        { $"{{{Subnets}}}", "endpoint", "peer vm2 has no endpoint (add endpoint: ADDRESS)" },
        { $"{{{Endpoint}}}", "subnets", "peer vm2 has no subnets (add subnets: [ADDRESS/LENGTH])" },
        { $"{{\"endpoint\": null, {Subnets}}}", "endpoint", "endpoint has no value (give one, or remove it)" },
        { $"{{\"endpoint\": 42, {Subnets}}}", "endpoint", "endpoint: \"42\" is not an endpoint (an address or a DNS name: 192.168.40.12, fd00:40::12, vm2.example.com)" },
        { $"{{\"endpoint\": true, {Subnets}}}", "endpoint", "endpoint must be one value, not true or false (write the value alone)" },
        { $"{{{Endpoint}, \"subnets\": \"172.17.52.0/24\"}}", "subnets", "subnets must be a list, not text (write [172.17.52.0/24])" },
        { $"{{{Endpoint}, \"subnets\": []}}", "subnets", "subnets is empty (a peer has at least one subnet behind it)" },
        { $"{{{Endpoint}, \"subnets\": [\"172.17.52.1/24\"]}}", "subnets[0]", "subnets[0]: 172.17.52.1/24 has bits set beyond its prefix length (the subnet is 172.17.52.0/24; the one address is 172.17.52.1/32)" },
        { $"{{{Endpoint}, {Subnets}, \"check-sum\": true}}", "check-sum", "unknown key \"check-sum\" in the body (did you mean checksum? allowed: endpoint, subnets, encapsulation, key, checksum, sequence, dscp, ecn, ttl, pmtud, strict, keepalive, on-down, on-refused, ephemeral)" },
        { $"{{{Endpoint}, {Subnets}, \"checksum\": \"true\"}}", "checksum", "checksum must be true or false, not the text \"true\" (without quotes)" },
        { $"{{{Endpoint}, {Subnets}, \"checksum\": 1}}", "checksum", "checksum must be true or false, not \"1\" (without quotes)" },
        { $"{{{Endpoint}, {Subnets}, \"ephemeral\": []}}", "ephemeral", "ephemeral must be true or false, not a list (without quotes)" },
        { $"{{{Endpoint}, {Subnets}, \"key\": 4.2e1}}", "key", "key: \"4.2e1\" is not a key (0 to 4294967295, as 42, 0x2a or 0.0.0.42)" },
        { $"{{{Endpoint}, {Subnets}, \"key\": {{\"in\": 1}}}}", "key", "key has no out (give both, as {in: 1, out: 2}, or one number for both directions)" },
        { $"{{{Endpoint}, {Subnets}, \"dscp\": 64}}", "dscp", "dscp: \"64\" is not a DSCP (copy, or a number from 0 to 63)" },
        { $"{{{Endpoint}, {Subnets}, \"dscp\": \"inherit\"}}", "dscp", "dscp: \"inherit\" is not a DSCP (copy, or a number from 0 to 63)" },
        { $"{{{Endpoint}, {Subnets}, \"ttl\": 0}}", "ttl", "ttl: \"0\" is not a TTL (inherit, or a number from 1 to 255)" },
        { $"{{{Endpoint}, {Subnets}, \"ttl\": 256}}", "ttl", "ttl: \"256\" is not a TTL (inherit, or a number from 1 to 255)" },
        { $"{{{Endpoint}, {Subnets}, \"ecn\": \"normall\"}}", "ecn", "ecn: \"normall\" is not an ECN mode (did you mean normal? allowed: auto, normal, compatible)" },
        { $"{{{Endpoint}, {Subnets}, \"ecn\": true}}", "ecn", "ecn must be one value, not true or false (write the value alone)" },
        { $"{{{Endpoint}, {Subnets}, \"pmtud\": \"no\"}}", "pmtud", "pmtud must be true or false, not the text \"no\" (without quotes)" },
        { $"{{{Endpoint}, {Subnets}, {Endpoint}}}", "endpoint", "\"endpoint\" is there twice (keep one of them)" },
        { $"{{{Endpoint}, {Subnets}, \"key\": \"\\ud800\"}}", null, "a string is not valid Unicode (surrogate escapes such as \\ud800 stand in pairs)" },
        { $"{{{Endpoint}, {Subnets}, \"\\u001b\\n\": 1}}", "\\u001b\\u000a", "unknown key \"\\u001b\\u000a\" in the body (allowed: endpoint, subnets, encapsulation, key, checksum, sequence, dscp, ecn, ttl, pmtud, strict, keepalive, on-down, on-refused, ephemeral)" },
    };

    [Theory]
    [MemberData(nameof(WrongBodies))]
    public void Wrong_body_is_refused(string body, string? field, string line)
    {
        ConfigResult<PeerConfig> result = Put(body);

        ConfigError error = Assert.Single(result.Errors);
        Assert.Equal((ConfigErrorKind.Invalid, field, line), (error.Kind, error.Field, error.ToString()));
        Assert.Null(result.Value);
    }

    [Theory]
    [InlineData("")]
    [InlineData(".vm2")]
    [InlineData("../vm2")]
    [InlineData("vm/2")]
    [InlineData("vm2\n")]
    [InlineData("a23456789012345678901234567890123456789012345678901234567890-64c")]
    public void Wrong_name_is_refused(string name) =>
        Assert.Equal(
            "1 to 63 of A-Z a-z 0-9 _ . -, the first a letter or digit",
            Assert.Single(PeerReader.Put(name, Json($"{{{Endpoint}, {Subnets}}}")).Errors).Hint);

    [Fact]
    public void Patch_changes_only_what_it_names()
    {
        PeerConfig peer = Peer("vm2", "192.168.40.12", "172.17.52.0/24") with
        {
            Key = new GreKeys(1, 2),
            Checksum = true,
            Encapsulation = Encapsulation.Gre,
            Origin = PeerOrigin.Ephemeral,
        };

        Assert.Equal(peer, PeerReader.Patch(peer, Json("{}")).Value);
        Assert.Equal(peer with { Key = null }, PeerReader.Patch(peer, Json("""{"key": null}""")).Value);
        Assert.Equal(peer with { Checksum = false, Sequence = true }, PeerReader.Patch(peer, Json("""{"checksum": false, "sequence": true}""")).Value);
        Assert.Equal(peer with { Subnets = [Prefix("10.0.0.0/8")] }, PeerReader.Patch(peer, Json("""{"subnets": ["10.0.0.0/8"]}""")).Value);
        Assert.Equal(peer with { Origin = PeerOrigin.Stored, Encapsulation = null }, PeerReader.Patch(peer, Json("""{"ephemeral": false, "encapsulation": null}""")).Value);
        PeerConfig special = peer with { Strict = true, Outer = new OuterHeaderOptions { Dscp = null, TimeToLive = 1, DiscoversPathMtu = false, Ecn = EcnMode.Compatible } };
        Assert.Equal(special, PeerReader.Patch(peer, Json("""{"dscp": "copy", "ttl": 1, "pmtud": false, "ecn": "compatible", "strict": true}""")).Value);
        Assert.Equal(special with { Outer = special.Outer with { Dscp = 0 } }, PeerReader.Patch(special, Json("""{"dscp": null}""")).Value);
        Assert.Equal(special with { Outer = special.Outer with { Ecn = EcnMode.Auto } }, PeerReader.Patch(special, Json("""{"ecn": null}""")).Value);
        Assert.Equal(special with { Outer = special.Outer with { TimeToLive = 64 } }, PeerReader.Patch(special, Json("""{"ttl": null}""")).Value);
        Assert.Equal(special with { Outer = special.Outer with { DiscoversPathMtu = true } }, PeerReader.Patch(special, Json("""{"pmtud": null}""")).Value);
        Assert.Equal(special with { Strict = false }, PeerReader.Patch(special, Json("""{"strict": null}""")).Value);
        Assert.Equal(Encapsulation.GreUdp, PeerReader.Patch(peer, Json("""{"encapsulation": "gre-udp"}""")).Value?.Encapsulation);
        Assert.Equal(4755, PeerReader.Patch(peer, Json("""{"endpoint": "192.168.40.13:4755"}""")).Value?.Endpoint.Port);
        Assert.Equal("192.168.40.13", PeerReader.Patch(peer, Json("""{"endpoint": "192.168.40.13"}""")).Value?.Endpoint.Host);
    }

    [Theory]
    [InlineData("""{"endpoint": null}""", "endpoint has no value (give one, or remove it)")]
    [InlineData("""{"subnets": null}""", "subnets must be a list, not nothing (write [ITEM, ITEM])")]
    [InlineData("""{"subnets": []}""", "subnets is empty (a peer has at least one subnet behind it)")]
    [InlineData("""{"key": {"in": 1}}""", "key has no out (give both, as {in: 1, out: 2}, or one number for both directions)")]
    [InlineData("""{"name": "vm3"}""", "unknown key \"name\" in the body (allowed: endpoint, subnets, encapsulation, key, checksum, sequence, dscp, ecn, ttl, pmtud, strict, keepalive, on-down, on-refused, ephemeral)")]
    [InlineData("7", "the body must be a JSON object ({\"endpoint\": \"192.168.40.12\", \"subnets\": [\"172.17.52.0/24\"]})")]
    public void Wrong_patch_is_refused(string body, string line) =>
        Assert.Equal([line], Lines(PeerReader.Patch(Peer("vm2", "192.168.40.12", "172.17.52.0/24"), Json(body)).Errors));

    [Fact]
    public void Patched_peer_no_longer_points_into_its_old_file()
    {
        PeerConfig peer = Network($"peers:\n  vm2: {{endpoint: a, subnets: [10.1.0.0/24]}}\n").Peers[0];

        Assert.False(peer.Source.Find("endpoint").IsNone);
        Assert.True(PeerReader.Patch(peer, Json("{}")).Value!.Source.Find("endpoint").IsNone);
    }

    private static ConfigResult<PeerConfig> Put(string body) => PeerReader.Put("vm2", Json(body));
}
