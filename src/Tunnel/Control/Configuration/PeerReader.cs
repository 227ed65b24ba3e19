using System.Text.Json;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Configuration;

/// <summary>Reads what stands under peers.NAME in YAML, or in the body of a request for one peer.</summary>
internal static class PeerReader
{
    /// <summary>The keys of a peer in YAML.</summary>
    public static readonly string[] Keys = ["endpoint", "subnets", "encapsulation", "key", "checksum", "sequence", "dscp", "ecn", "ttl", "pmtud", "strict", "keepalive", "on-down", "on-refused"];

    /// <summary>The keys of a peer in JSON.</summary>
    public static readonly string[] RequestKeys = [.. Keys, "ephemeral"];

    private static readonly string[] KeyKeys = ["in", "out"];

    /// <summary>Reads the body of PUT: a whole peer. What is absent takes its default; so does an optional key that is null.</summary>
    /// <param name="name">The peer's name, checked here.</param>
    /// <param name="body">The JSON body.</param>
    /// <returns>
    /// A stored or ephemeral peer, not yet checked against the network (<see cref="NetworkConfig.WithPeer"/>), or errors.
    /// </returns>
    public static ConfigResult<PeerConfig> Put(string name, JsonElement body)
    {
        var errors = new ConfigErrorList();
        if (ConfigValues.PeerName(name).Fault is { } fault)
            errors.Invalid(default, null, fault.Message, fault.Hint);

        return Read(body, Unset(name, PeerOrigin.Stored), isWhole: true, errors);
    }

    /// <summary>
    /// Reads the body of PATCH over an existing peer: what is absent stays; an optional key that is null takes its default (RFC 7396).
    /// </summary>
    /// <returns>The peer as it would be, not yet checked against the network (<see cref="NetworkConfig.WithPeer"/>), or errors.</returns>
    public static ConfigResult<PeerConfig> Patch(PeerConfig existing, JsonElement body) =>
        Read(body, existing with { Source = SourcePositions.None }, isWhole: false, new ConfigErrorList());

    /// <summary>Reads a whole peer from YAML.</summary>
    /// <param name="name">Its name, checked by the caller.</param>
    /// <param name="origin">Where it comes from.</param>
    /// <param name="node">What stands under its name.</param>
    /// <param name="place">Where its name stands.</param>
    /// <param name="errors">Where errors go.</param>
    /// <returns>The peer; null where there was an error.</returns>
    public static PeerConfig? ReadYaml(string name, PeerOrigin origin, ConfigNode node, ConfigPlace place, ConfigErrorList errors)
    {
        var scope = new ConfigScope(errors, $"peers.{name}.", name);
        scope.Places[string.Empty] = place;
        PeerConfig basis = Unset(name, origin);
        var map = new MapReader(node, scope, string.Empty, Keys);
        return Read(map, scope, place, basis, isWhole: true);
    }

    // Never seen outside: the two required settings are read or refused.
    private static PeerConfig Unset(string name, PeerOrigin origin) =>
        new() { Name = name, Endpoint = default, Subnets = [], Origin = origin };

    private static ConfigResult<PeerConfig> Read(JsonElement body, PeerConfig basis, bool isWhole, ConfigErrorList errors)
    {
        if (body.ValueKind != JsonValueKind.Object)
        {
            errors.Invalid(
                default, null, "the body must be a JSON object", """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24"]}""");
            return errors.ToResult<PeerConfig>(null);
        }

        ConfigNode? node = JsonTree.Read(body, errors);
        if (node is null)
            return errors.ToResult<PeerConfig>(null);

        var scope = new ConfigScope(errors, string.Empty, "the body");
        var map = new MapReader(node, scope, string.Empty, RequestKeys);
        PeerConfig peer = TakeDefaults(map, basis);
        if (map.TryReadBoolean("ephemeral", out bool ephemeral))
            peer = peer with { Origin = ephemeral ? PeerOrigin.Ephemeral : PeerOrigin.Stored };

        return errors.ToResult(Read(map, scope, default, peer, isWhole));
    }

    private static PeerConfig TakeDefaults(MapReader map, PeerConfig peer)
    {
        if (map.DropNothing("encapsulation"))
            peer = peer with { Encapsulation = null };

        if (map.DropNothing("key"))
            peer = peer with { Key = null };

        if (map.DropNothing("checksum"))
            peer = peer with { Checksum = false };

        if (map.DropNothing("sequence"))
            peer = peer with { Sequence = false };

        if (map.DropNothing("strict"))
            peer = peer with { Strict = false };

        if (map.DropNothing("keepalive"))
            peer = peer with { Keepalive = Keepalive.Auto };

        if (map.DropNothing("on-down"))
            peer = peer with { OnDown = OnDown.Keep };

        if (map.DropNothing("on-refused"))
            peer = peer with { OnRefused = OnRefused.Stop };

        if (map.DropNothing("ephemeral"))
            peer = peer with { Origin = PeerOrigin.Stored };

        return peer with { Outer = TakeDefaults(map, peer.Outer) };
    }

    private static OuterHeaderOptions TakeDefaults(MapReader map, OuterHeaderOptions outer)
    {
        OuterHeaderOptions usual = OuterHeaderOptions.Default;
        if (map.DropNothing("dscp"))
            outer = outer with { Dscp = usual.Dscp };

        if (map.DropNothing("ecn"))
            outer = outer with { Ecn = usual.Ecn };

        if (map.DropNothing("ttl"))
            outer = outer with { TimeToLive = usual.TimeToLive };

        if (map.DropNothing("pmtud"))
            outer = outer with { DiscoversPathMtu = usual.DiscoversPathMtu };

        return outer;
    }

    private static PeerConfig? Read(MapReader map, ConfigScope scope, ConfigPlace place, PeerConfig basis, bool isWhole)
    {
        PeerConfig peer = basis;
        if (isWhole && !scope.IsRefused)
        {
            foreach ((string key, string example) in new[] { ("endpoint", "endpoint: ADDRESS"), ("subnets", "subnets: [ADDRESS/LENGTH]") })
            {
                if (!map.Has(key))
                    scope.Refuse(place, key, $"peer {basis.Name} has no {key}", $"add {example}");
            }
        }

        if (map.TryRead("endpoint", ConfigValues.Endpoint, out PeerEndpoint endpoint))
            peer = peer with { Endpoint = endpoint };

        if (map.TryReadList("subnets", ConfigValues.Subnet, mayBeOne: false, out EquatableList<IpPrefix> subnets))
        {
            peer = peer with { Subnets = subnets };
            if (subnets.Count == 0)
                scope.Refuse(map.Section("subnets").Place, "subnets", "subnets is empty", "a peer has at least one subnet behind it");
        }

        if (map.TryRead("encapsulation", ConfigValues.Encapsulation, out Encapsulation encapsulation))
            peer = peer with { Encapsulation = encapsulation };

        if (map.Has("key"))
            peer = peer with { Key = ReadKey(map, scope) };

        if (map.TryReadBoolean("checksum", out bool checksum))
            peer = peer with { Checksum = checksum };

        if (map.TryReadBoolean("sequence", out bool sequence))
            peer = peer with { Sequence = sequence };

        if (map.TryReadBoolean("strict", out bool strict))
            peer = peer with { Strict = strict };

        if (map.TryRead("keepalive", ConfigValues.Keepalive, out Keepalive keepalive))
            peer = peer with { Keepalive = keepalive };

        if (map.TryRead("on-down", ConfigValues.OnDown, out OnDown onDown))
            peer = peer with { OnDown = onDown };

        if (map.TryRead("on-refused", ConfigValues.OnRefused, out OnRefused onRefused))
            peer = peer with { OnRefused = onRefused };

        peer = peer with { Outer = ReadOuter(map, peer.Outer) };
        return scope.IsRefused ? null : peer with { Source = scope.Positions };
    }

    private static OuterHeaderOptions ReadOuter(MapReader map, OuterHeaderOptions outer)
    {
        if (map.TryRead("dscp", ConfigValues.Dscp, out byte? dscp))
            outer = outer with { Dscp = dscp };

        if (map.TryRead("ecn", ConfigValues.Ecn, out EcnMode ecn))
            outer = outer with { Ecn = ecn };

        if (map.TryRead("ttl", ConfigValues.TimeToLive, out byte? timeToLive))
            outer = outer with { TimeToLive = timeToLive };

        if (map.TryReadBoolean("pmtud", out bool pmtud))
            outer = outer with { DiscoversPathMtu = pmtud };

        return outer;
    }

    // Meaningless where the map is refused for it.
    private static GreKeys? ReadKey(MapReader peer, ConfigScope scope)
    {
        ConfigNode node = peer.Section("key");
        if (node.Kind != ConfigNodeKind.Map)
            return peer.TryRead("key", ConfigValues.Key, out uint both) ? new GreKeys(both, both) : null;

        var map = new MapReader(node, scope, "key", KeyKeys);
        map.TryRead("in", ConfigValues.Key, out uint inbound);
        map.TryRead("out", ConfigValues.Key, out uint outbound);
        foreach (string side in KeyKeys)
        {
            if (!map.Has(side))
            {
                scope.Refuse(
                    node.Place, "key", $"key has no {side}", "give both, as {in: 1, out: 2}, or one number for both directions");
            }
        }

        return new GreKeys(inbound, outbound);
    }
}
