using System.Runtime.Versioning;
using Tunnel.Control.Configuration;
using static Tunnel.Tests.Control.Configuration.ConfigTesting;

namespace Tunnel.Tests.Control.Configuration;

/// <summary>A network's file together with its NAME.d directory.</summary>
[SupportedOSPlatform("linux")]
public sealed class StoredPeersTests : IDisposable
{
    private readonly TemporaryDirectory _etc = new();

    public void Dispose() => _etc.Dispose();

    [Fact]
    public void Stored_peers_follow_the_files_peers_by_name()
    {
        string path = _etc.Write("tun0.yaml", "peers:\n  z: {endpoint: z, subnets: [10.0.0.0/24]}\n");
        _etc.Write("tun0.d/b.yaml", "endpoint: b\nsubnets: [10.2.0.0/24]\nkey: 7\n");
        _etc.Write("tun0.d/a.b.yaml", "endpoint: a\nsubnets: [10.1.0.0/24]\n");
        _etc.Write("tun1.d/other.yaml", "not: ours\n");

        NetworkConfig network = Load(path);

        Assert.Equal(
            [("z", PeerOrigin.File), ("a.b", PeerOrigin.Stored), ("b", PeerOrigin.Stored)],
            network.Peers.Select(peer => (peer.Name, peer.Origin)));
        Assert.Equal(new GreKeys(7, 7), network.Peers[2].Key);
        Assert.Equal($"{_etc.File("tun0.d/b.yaml")}:3:6", network.Peers[2].Source.Find("key").ToString());
    }

    [Fact]
    public void Other_hidden_and_unfinished_files_are_ignored()
    {
        string path = _etc.Write("tun0.yml", "{}");
        foreach (string name in new[] { "README", "vm2.yml", "vm2.yaml~", "vm2.yaml.bak", ".vm2.yaml", ".vm2.yaml.new", "#vm2.yaml#", "vm2.YAML" })
            _etc.Write($"tun0.d/{name}", "nonsense: {");

        Directory.CreateDirectory(_etc.File("tun0.d/directory.yaml"));

        Assert.Empty(Load(path).Peers);
    }

    [Fact]
    public void Same_name_in_both_is_an_error()
    {
        string path = _etc.Write("tun0.yaml", "peers:\n  vm2: {endpoint: a, subnets: [10.1.0.0/24]}\n");
        string stored = _etc.Write("tun0.d/vm2.yaml", "endpoint: b\nsubnets: [10.2.0.0/24]\n");

        ConfigError error = Assert.Single(ConfigReader.Load(path).Errors);

        Assert.Equal($"{stored}: peer vm2 is there twice, also at {path}:2:3 (delete this file, or the other entry)", error.ToString());
        Assert.Equal((ConfigErrorKind.Conflict, "peers.vm2"), (error.Kind, error.Field));
    }

    [Fact]
    public void Errors_of_all_files_are_told_in_order()
    {
        string path = _etc.Write("tun0.yaml", "interface: {mtu: 1}\npeers:\n  vm2: {endpoint: a, subnets: [10.1.0.0/24]}\n");
        string bad = _etc.Write("tun0.d/-bad.yaml", "endpoint: b\nsubnets: [10.2.0.0/24]\n");
        string vm3 = _etc.Write("tun0.d/vm3.yaml", "endpoint: c\nsubnet: [10.3.0.0/24]\n");
        string vm4 = _etc.Write("tun0.d/vm4.yaml", "endpoint: d\nsubnets:\n  - 10.1.0.0/24\n");
        string vm5 = _etc.Write("tun0.d/vm5.yaml", "");
        string vm6 = _etc.Write("tun0.d/vm6.yaml", "- endpoint\n");

        Assert.Equal(
            [
                $"{path}:1:18: mtu: \"1\" is not an MTU (auto, or a number from 576 to 65535)",
                $"{bad}: \"-bad\" can't name a peer (1 to 63 of A-Z a-z 0-9 _ . -, the first a letter or digit)",
                $"{vm3}:1:1: peer vm3 has no subnets (add subnets: [ADDRESS/LENGTH])",
                $"{vm3}:2:1: unknown key \"subnet\" in peers.vm3 (did you mean subnets? allowed: endpoint, subnets, encapsulation, key, checksum, sequence, dscp, ecn, ttl, pmtud, strict, keepalive, on-down, on-refused)",
                $"{vm5}:1:1: peer vm5 has no endpoint (add endpoint: ADDRESS)",
                $"{vm5}:1:1: peer vm5 has no subnets (add subnets: [ADDRESS/LENGTH])",
                $"{vm6}:1:1: peers.vm6 must be a map, not a list (keys: endpoint, subnets, encapsulation, key, checksum, sequence, dscp, ecn, ttl, pmtud, strict, keepalive, on-down, on-refused)",
                $"{vm4}:3:5: subnet 10.1.0.0/24 is already that of peer vm2 ({path}:3:32) (a subnet is behind one peer; a longer prefix in it may be behind another, or both may say on-down: withdraw)",
            ],
            Lines(ConfigReader.Load(path).Errors));
    }

    [Fact]
    public void Missing_file_and_directory_in_its_place_are_told()
    {
        string missing = _etc.File("tun0.yaml");
        string directory = _etc.File("tun1.yaml");
        Directory.CreateDirectory(directory);

        Assert.Equal([$"{missing}: can't be read: no such file or directory"], Lines(ConfigReader.Load(missing).Errors));
        Assert.Equal([$"{directory}: can't be read: it is a directory (give a file)"], Lines(ConfigReader.Load(directory).Errors));
        Assert.Equal([": can't be read: not a path", ": the file's name \"\" does not end in .yaml (name it NETWORK.yaml: the network is called so)"], Lines(ConfigReader.Load("").Errors));
    }

    [Fact]
    public void File_in_the_stores_place_is_told()
    {
        string path = _etc.Write("tun0.yaml", "{}");
        string store = _etc.Write("tun0.d", "");

        Assert.Equal(
            [$"{store}: it is a file, not a directory (move it away; the peers added by command are kept in this place)"],
            Lines(ConfigReader.Load(path).Errors));
    }

    [SkippableFact]
    public void File_without_read_permission_is_told()
    {
        Skip.If(Environment.IsPrivilegedProcess, "root may read everything");
        string path = _etc.Write("tun0.yaml", "{}");
        File.SetUnixFileMode(path, UnixFileMode.None);

        Assert.Equal([$"{path}: can't be read: no permission"], Lines(ConfigReader.Load(path).Errors));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1023)]
    [InlineData(1024)]
    [InlineData(5000)]
    public void Files_of_any_length_are_read_whole(int padding)
    {
        string path = _etc.Write("tun0.yaml", new string('\n', padding) + "subnets: [10.1.0.0/24]");

        Assert.Equal([Prefix("10.1.0.0/24")], Load(path).Subnets);
    }

    private static NetworkConfig Load(string path)
    {
        ConfigResult<NetworkConfig> result = ConfigReader.Load(path);
        Assert.Empty(Lines(result.Errors));
        return result.Value!;
    }
}
