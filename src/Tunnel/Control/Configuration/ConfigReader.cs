using System.Net;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Configuration;

/// <summary>Reads a network's file and its stored peers. Bad input of any kind ends in errors, never in an exception.</summary>
internal static class ConfigReader
{
    /// <summary>Every key but the peers', by the map that it stands in ("" is the file itself).</summary>
    public static readonly IReadOnlyDictionary<string, string[]> Keys = new Dictionary<string, string[]>(StringComparer.Ordinal)
    {
        [string.Empty] = ["interface", "underlay", "datapath", "subnets", "nat", "control", "peers"],
        ["interface"] = ["addresses", "mtu", "pmtu-floor"],
        ["underlay"] = ["local", "interface", "encapsulation", "allow-udp", "accept", "udp-port", "source-port"],
        ["datapath"] = ["receive", "send", "workers", "pin", "busy-poll"],
        ["nat"] = ["masquerade", "forward"],
        ["control"] = ["metrics"],
    };

    // Where a key belongs that stands at the top by mistake.
    private static readonly Dictionary<string, string> Homes = new(StringComparer.Ordinal)
    {
        ["addresses"] = "interface",
        ["mtu"] = "interface",
        ["pmtu-floor"] = "interface",
        ["local"] = "underlay",
        ["encapsulation"] = "underlay",
        ["allow-udp"] = "underlay",
        ["accept"] = "underlay",
        ["udp-port"] = "underlay",
        ["source-port"] = "underlay",
        ["receive"] = "datapath",
        ["send"] = "datapath",
        ["workers"] = "datapath",
        ["pin"] = "datapath",
        ["busy-poll"] = "datapath",
        ["masquerade"] = "nat",
        ["forward"] = "nat",
        ["metrics"] = "control",
        ["endpoint"] = "peers: {NAME: ...}",
        ["key"] = "peers: {NAME: ...}",
        ["checksum"] = "peers: {NAME: ...}",
        ["sequence"] = "peers: {NAME: ...}",
        ["keepalive"] = "peers: {NAME: ...}",
        ["on-down"] = "peers: {NAME: ...}",
        ["on-refused"] = "peers: {NAME: ...}",
    };

    /// <summary>Reads a network's file, and the stored peers in NAME.d beside it, and checks them together.</summary>
    /// <param name="path">The file, NAME.yaml or NAME.yml.</param>
    /// <returns>The configuration and warnings, or every error found.</returns>
    public static ConfigResult<NetworkConfig> Load(string path)
    {
        var errors = new ConfigErrorList();
        ConfigNode? root = ReadFile(path, errors);
        return Read(path, root, withStore: true, errors);
    }

    /// <summary>Checks the content of a network's file alone, without its stored peers.</summary>
    /// <param name="path">The path that the content would have: it gives the network's name and stands in messages.</param>
    /// <param name="content">The bytes of the file.</param>
    public static ConfigResult<NetworkConfig> Parse(string path, ReadOnlySpan<byte> content)
    {
        var errors = new ConfigErrorList();
        return Read(path, YamlTree.Read(path, content, errors), withStore: false, errors);
    }

    private static ConfigResult<NetworkConfig> Read(string path, ConfigNode? root, bool withStore, ConfigErrorList errors)
    {
        Parsed<string> name = ConfigValues.NetworkName(path);
        if (name.Fault is { } fault)
            errors.Invalid(new ConfigPlace(path), null, fault.Message, fault.Hint);

        var network = new NetworkConfig { Name = name.Value ?? string.Empty, File = path };
        var peers = new List<PeerConfig>();
        var names = new Dictionary<string, ConfigPlace>(StringComparer.Ordinal);
        if (root is not null)
            network = ReadNetwork(root, network, peers, names, errors);

        if (withStore && name.Fault is null)
            ReadStore(PeerStore.DirectoryOf(path), peers, names, errors);

        ConfigRules.CheckNetwork(network, errors);
        var index = new PeerIndex(network);
        foreach (PeerConfig peer in peers)
            index.Add(peer, $"peers.{peer.Name}.", errors);

        return errors.ToResult(network with { Peers = [.. peers] });
    }

    private static NetworkConfig ReadNetwork(
        ConfigNode root, NetworkConfig basis, List<PeerConfig> peers, Dictionary<string, ConfigPlace> names, ConfigErrorList errors)
    {
        var scope = new ConfigScope(errors, string.Empty, "the file");
        if (root.Kind == ConfigNodeKind.Nothing)
        {
            errors.Warn(
                new ConfigPlace(basis.File),
                null,
                "the file has no settings",
                $"the device {basis.Name} gets no address, and has the stored peers only");
        }

        var map = new MapReader(root, scope, string.Empty, Keys[string.Empty], Homes);
        var device = new MapReader(map.Section("interface"), scope, "interface", Keys["interface"]);
        device.TryReadList("addresses", ConfigValues.InterfaceAddress, mayBeOne: false, out EquatableList<IpPrefix> addresses);
        device.TryRead("mtu", ConfigValues.Mtu, out int? mtu);
        if (!device.TryRead("pmtu-floor", ConfigValues.PathMtuFloor, out int floor))
            floor = InterfaceConfig.DefaultPathMtuFloor;

        UnderlayConfig underlay = ReadUnderlay(new MapReader(map.Section("underlay"), scope, "underlay", Keys["underlay"]), scope);
        DatapathConfig datapath = ReadDatapath(new MapReader(map.Section("datapath"), scope, "datapath", Keys["datapath"]));
        new MapReader(map.Section("control"), scope, "control", Keys["control"]).TryRead("metrics", ConfigValues.MetricsAddress, out IPEndPoint? metrics);
        var nat = new MapReader(map.Section("nat"), scope, "nat", Keys["nat"]);
        nat.TryReadBoolean("masquerade", out bool masquerade);
        nat.TryReadBoolean("forward", out bool forward);
        EquatableList<IpPrefix> subnets = [];
        if (!map.IsNothing("subnets"))
            map.TryReadList("subnets", ConfigValues.Subnet, mayBeOne: false, out subnets);

        ReadPeers(map.Section("peers"), peers, names, errors);
        return basis with
        {
            Interface = new InterfaceConfig { Addresses = addresses, Mtu = mtu, PathMtuFloor = floor },
            Underlay = underlay,
            Datapath = datapath,
            Control = new ControlConfig { Metrics = metrics },
            Subnets = subnets,
            Nat = map.Has("nat") ? new NatConfig(masquerade, forward) : null,
            Source = scope.Positions,
        };
    }

    private static UnderlayConfig ReadUnderlay(MapReader map, ConfigScope scope)
    {
        var underlay = new UnderlayConfig();
        if (map.TryReadList("local", ConfigValues.LocalAddress, mayBeOne: true, out EquatableList<InetAddress> local))
            underlay = underlay with { Local = local };

        if (map.TryRead("interface", ConfigValues.InterfaceName, out string device))
            underlay = underlay with { Interface = device };

        if (map.TryRead("encapsulation", ConfigValues.Encapsulation, out Encapsulation encapsulation))
            underlay = underlay with { Encapsulation = encapsulation };

        if (map.TryReadBoolean("allow-udp", out bool allowUdp))
            underlay = underlay with { AllowUdp = allowUdp };

        if (map.TryReadList("accept", ConfigValues.ReceivedEncapsulation, mayBeOne: false, out EquatableList<Encapsulation> accept))
            underlay = underlay with { Accept = accept };

        if (map.TryRead("udp-port", ConfigValues.Port, out int udpPort))
            underlay = underlay with { UdpPort = udpPort };

        if (map.TryRead("source-port", ConfigValues.SourcePort, out int? sourcePort))
            underlay = underlay with { SourcePort = sourcePort };

        // An empty list would read as "not set", which is something else.
        foreach ((string key, string hint) in new[] { ("local", "remove it, or give an address"), ("accept", "remove it, or write [gre]") })
        {
            ConfigNode list = map.Section(key);
            if (list.Kind == ConfigNodeKind.List && list.Items.Count == 0)
                scope.Refuse(list.Place, $"underlay.{key}", $"{key} is empty", hint);
        }

        return underlay;
    }

    private static DatapathConfig ReadDatapath(MapReader map)
    {
        map.TryRead("receive", ConfigValues.UnderlayPath, out UnderlayPath? receive);
        map.TryRead("send", ConfigValues.UnderlayPath, out UnderlayPath? send);
        map.TryRead("workers", ConfigValues.Workers, out int? workers);
        map.TryReadBoolean("pin", out bool pin);
        map.TryRead("busy-poll", ConfigValues.BusyPoll, out int busyPoll);
        return new DatapathConfig(receive, send, workers, pin, busyPoll);
    }

    private static void ReadPeers(ConfigNode node, List<PeerConfig> peers, Dictionary<string, ConfigPlace> names, ConfigErrorList errors)
    {
        if (node.Kind is not (ConfigNodeKind.Map or ConfigNodeKind.Nothing))
        {
            errors.Invalid(
                node.Place,
                "peers",
                $"peers must be a map, not {node.KindName}",
                "write each peer as NAME: with its settings indented below");
            return;
        }

        var entries = new Dictionary<string, ConfigEntry>(StringComparer.Ordinal);
        foreach (ConfigEntry entry in node.Entries)
        {
            bool good = true;
            string field = $"peers.{entry.Key}";
            if (ConfigValues.PeerName(entry.Key).Fault is { } fault)
            {
                errors.Invalid(entry.KeyPlace, field, fault.Message, fault.Hint);
                good = false;
            }
            else if (!entries.TryAdd(entry.Key, entry))
            {
                errors.Invalid(entry.KeyPlace, field, MapReader.RepeatedKey(entry.Key, entries[entry.Key]), "keep one of them");
                good = false;
            }

            PeerConfig? peer = PeerReader.ReadYaml(entry.Key, PeerOrigin.File, entry.Value, entry.KeyPlace, errors);
            names.TryAdd(entry.Key, entry.KeyPlace);
            if (good && peer is not null)
                peers.Add(peer);
        }
    }

    private static void ReadStore(string directory, List<PeerConfig> peers, Dictionary<string, ConfigPlace> names, ConfigErrorList errors)
    {
        if (File.Exists(directory))
        {
            errors.Invalid(
                new ConfigPlace(directory),
                null,
                "it is a file, not a directory",
                "move it away; the peers added by command are kept in this place");
            return;
        }

        string[] files;
        try
        {
            files = Directory.GetFiles(directory);
        }
        catch (DirectoryNotFoundException)
        {
            return;
        }
        catch (Exception exception) when (FileTrouble.Is(exception))
        {
            errors.Invalid(
                new ConfigPlace(directory),
                null,
                $"can't be read: {FileTrouble.Reason(exception)}",
                "the peers added by command are kept in it");
            return;
        }

        Array.Sort(files, StringComparer.Ordinal);
        foreach (string file in files)
        {
            // Hidden files are editors' and our own unfinished ones.
            string fileName = Path.GetFileName(file);
            if (fileName.StartsWith('.') || !fileName.EndsWith(PeerStore.Extension, StringComparison.Ordinal))
                continue;

            string name = fileName[..^PeerStore.Extension.Length];
            var place = new ConfigPlace(file, 1, 1);
            bool good = true;
            if (ConfigValues.PeerName(name).Fault is { } fault)
            {
                errors.Invalid(new ConfigPlace(file), null, fault.Message, fault.Hint);
                good = false;
            }
            else if (names.TryGetValue(name, out ConfigPlace first))
            {
                errors.Conflict(
                    new ConfigPlace(file),
                    $"peers.{name}",
                    $"peer {name} is there twice, also at {first}",
                    "delete this file, or the other entry");
                good = false;
            }

            ConfigNode? root = ReadFile(file, errors);
            PeerConfig? peer = root is null ? null : PeerReader.ReadYaml(name, PeerOrigin.Stored, root, place, errors);
            if (good && peer is not null)
                peers.Add(peer);
        }
    }

    private static ConfigNode? ReadFile(string path, ConfigErrorList errors)
    {
        try
        {
            if (Directory.Exists(path))
            {
                errors.Invalid(new ConfigPlace(path), null, "can't be read: it is a directory", "give a file");
                return null;
            }

            return YamlTree.Read(path, ReadBytes(path), errors);
        }
        catch (Exception exception) when (FileTrouble.Is(exception) || exception is ArgumentException)
        {
            string reason = exception is ArgumentException ? "not a path" : FileTrouble.Reason(exception);
            errors.Invalid(new ConfigPlace(path), null, $"can't be read: {reason}", null);
            return null;
        }
    }

    // Reads to the end, or to one byte more than is allowed. The length asked for beforehand is a guess: it may change, and
    // what is not a regular file has none.
    private static ReadOnlySpan<byte> ReadBytes(string path)
    {
        using FileStream stream = new(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, bufferSize: 0);
        byte[] content = new byte[(stream.CanSeek ? Math.Clamp(stream.Length, 1023, YamlTree.MaxBytes) : 1023) + 1];
        int length = 0;
        while (true)
        {
            length += stream.ReadAtLeast(content.AsSpan(length), content.Length - length, throwOnEndOfStream: false);
            if (length < content.Length || length > YamlTree.MaxBytes)
                return content.AsSpan(0, length);

            Array.Resize(ref content, Math.Min(content.Length * 2, YamlTree.MaxBytes + 1));
        }
    }
}
