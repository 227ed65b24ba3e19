using System.Text.Json;
using Tunnel.Wire;

namespace Tunnel.Control.Configuration;

/// <summary>Reads what stands under peers.NAME in YAML, or in the body of a request for one peer.</summary>
internal static class PeerReader
{
    /// <summary>The keys of a peer in YAML.</summary>
    public static readonly string[] Keys = ["endpoint", "subnets", "encapsulation", "key", "checksum", "sequence"];

    /// <summary>The keys of a peer in JSON.</summary>
    public static readonly string[] RequestKeys = [.. Keys, "ephemeral"];

    private static readonly string[] KeyKeys = ["in", "out"];

    /// <summary>Reads the body of PUT: a whole peer. What is not there takes its default; so does an optional key that is null.</summary>
    /// <param name="name">The peer's name, checked here.</param>
    /// <param name="body">The JSON body.</param>
    /// <returns>A stored or ephemeral peer, not yet checked against the network (<see cref="NetworkConfig.WithPeer"/>), or errors.</returns>
    public static ConfigResult<PeerConfig> Put(string name, JsonElement body)
    {
        var errors = new ConfigErrorList();
        if (ConfigValues.PeerName(name).Fault is { } fault)
            errors.Invalid(default, null, fault.Message, fault.Hint);

        return Read(body, new PeerConfig { Name = name, Endpoint = default, Subnets = [], Origin = PeerOrigin.Stored }, isWhole: true, errors);
    }

    /// <summary>Reads the body of PATCH over an existing peer: what is not there stays; an optional key that is null takes its default.</summary>
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
        var basis = new PeerConfig { Name = name, Endpoint = default, Subnets = [], Origin = origin };
        return Read(node, place, basis, Keys, isWhole: true, scope);
    }

    private static ConfigResult<PeerConfig> Read(JsonElement body, PeerConfig basis, bool isWhole, ConfigErrorList errors)
    {
        if (body.ValueKind != JsonValueKind.Object)
        {
            errors.Invalid(default, null, "the body must be a JSON object", """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24"]}""");
            return errors.ToResult<PeerConfig>(null);
        }

        ConfigNode? node = JsonTree.Read(body, errors);
        PeerConfig? peer = node is null ? null : Read(node, default, basis, RequestKeys, isWhole, new ConfigScope(errors, string.Empty, "the body"));
        return errors.ToResult(peer);
    }

    private static PeerConfig? Read(ConfigNode node, ConfigPlace place, PeerConfig basis, string[] keys, bool isWhole, ConfigScope scope)
    {
        var map = new MapReader(node, scope, string.Empty, keys);

        // In JSON null takes a setting back to its default (RFC 7396); in YAML it is a forgotten value.
        bool nullIsDefault = keys == RequestKeys;
        bool IsDefault(string key) => nullIsDefault && map.IsNothing(key);

        bool good = true;
        PeerConfig peer = basis;
        if (map.TryRead("endpoint", ConfigValues.Endpoint, out PeerEndpoint endpoint))
            peer = peer with { Endpoint = endpoint };
        else
            good &= !Requires("endpoint", "endpoint: ADDRESS");

        if (map.TryReadList("subnets", ConfigValues.Subnet, mayBeOne: false, out EquatableList<IpPrefix> subnets))
        {
            peer = peer with { Subnets = subnets };
            if (subnets.Count == 0)
            {
                scope.Invalid(map.Section("subnets").Place, "subnets", "subnets is empty", "a peer has at least one subnet behind it");
                good = false;
            }
        }
        else
        {
            good &= !Requires("subnets", "subnets: [ADDRESS/LENGTH]");
        }

        if (IsDefault("encapsulation"))
            peer = peer with { Encapsulation = null };
        else if (map.TryReadEncapsulation("encapsulation", out Encapsulation encapsulation))
            peer = peer with { Encapsulation = encapsulation };
        else
            good &= !map.Has("encapsulation");

        if (IsDefault("key"))
            peer = peer with { Key = null };
        else if (map.Has("key"))
            good &= ReadKey(map, scope, ref peer);

        if (IsDefault("checksum"))
            peer = peer with { Checksum = false };
        else if (map.TryReadBoolean("checksum", out bool checksum))
            peer = peer with { Checksum = checksum };
        else
            good &= !map.Has("checksum");

        if (IsDefault("sequence"))
            peer = peer with { Sequence = false };
        else if (map.TryReadBoolean("sequence", out bool sequence))
            peer = peer with { Sequence = sequence };
        else
            good &= !map.Has("sequence");

        if (IsDefault("ephemeral"))
            peer = peer with { Origin = PeerOrigin.Stored };
        else if (map.TryReadBoolean("ephemeral", out bool ephemeral))
            peer = peer with { Origin = ephemeral ? PeerOrigin.Ephemeral : PeerOrigin.Stored };
        else
            good &= !map.Has("ephemeral");

        return good ? peer with { Source = scope.Positions } : null;

        // Whether the setting is missing or was refused, although it is needed.
        bool Requires(string key, string example)
        {
            if (map.Has(key))
                return true;

            if (isWhole && node.Kind is ConfigNodeKind.Map or ConfigNodeKind.Nothing)
                scope.Invalid(place, key, $"peer {basis.Name} has no {key}", $"add {example}");

            return isWhole;
        }
    }

    private static bool ReadKey(MapReader peerMap, ConfigScope scope, ref PeerConfig peer)
    {
        ConfigNode node = peerMap.Section("key");
        if (node.Kind != ConfigNodeKind.Map)
        {
            if (!peerMap.TryRead("key", ConfigValues.Key, out uint both))
                return false;

            peer = peer with { Key = new GreKeys(both, both) };
            return true;
        }

        var map = new MapReader(node, scope, "key", KeyKeys);
        bool hasIn = map.TryRead("in", ConfigValues.Key, out uint inbound);
        bool hasOut = map.TryRead("out", ConfigValues.Key, out uint outbound);
        foreach (string side in KeyKeys)
        {
            if (!map.Has(side))
                scope.Invalid(node.Place, "key", $"key has no {side}", "give both, as {in: 1, out: 2}, or one number for both directions");
        }

        peer = peer with { Key = new GreKeys(inbound, outbound) };
        return hasIn && hasOut;
    }
}
