using System.Diagnostics;
using System.Runtime.Versioning;
using System.Text;
using Tunnel.Control.Configuration;
using Tunnel.Dataplane;
using Tunnel.Wire;
using static Tunnel.Tests.Control.Configuration.ConfigTesting;

namespace Tunnel.Tests.Control.Configuration;

/// <summary>What is saved can be read again, and a failure leaves what was there.</summary>
[SupportedOSPlatform("linux")]
public sealed class PeerStoreTests : IDisposable
{
    private static readonly PeerConfig Vm3 = Peer("vm3", "192.168.40.13", "172.17.53.0/24");

    private readonly TemporaryDirectory _etc = new();
    private readonly List<string> _synced = [];

    public void Dispose() => _etc.Dispose();

    [Fact]
    public void File_is_plain_and_has_only_what_is_not_the_default()
    {
        Assert.Equal(
            """
            # Peer vm3, written by tunneld. Change it with: tunnelctl set-peer vm3
            endpoint: 192.168.40.13
            subnets:
              - 172.17.53.0/24

            """,
            PeerStore.Write(Vm3));
        Assert.Equal(
            """
            # Peer vm3, written by tunneld. Change it with: tunnelctl set-peer vm3
            endpoint: "[fd00::]:4754"
            subnets:
              - "fd00:53::/64"
              - 172.17.53.0/24
            encapsulation: gre
            key: {in: 1, out: 2}
            checksum: true
            sequence: true
            dscp: copy
            ecn: normal
            ttl: 255
            pmtud: false
            strict: true

            """,
            PeerStore.Write(Peer("vm3", "[fd00::]:4754", "fd00:53::/64", "172.17.53.0/24") with
            {
                Encapsulation = Encapsulation.Gre,
                Key = new GreKeys(1, 2),
                Checksum = true,
                Sequence = true,
                Outer = new OuterHeaderOptions { Dscp = null, Ecn = EcnMode.Normal, TimeToLive = 255, DiscoversPathMtu = false },
                Strict = true,
            }));
    }

    [Fact]
    public void Random_peers_come_back_as_they_were()
    {
        var random = new Random(20260101);
        for (int i = 0; i < 2000; i++)
        {
            PeerConfig peer = RandomPeer(random, $"p{i}");
            NetworkConfig read = Network("peers:\n  " + peer.Name + ":\n" + Indented(PeerStore.Write(peer)));
            Assert.Equal(peer with { Origin = PeerOrigin.File }, Assert.Single(read.Peers));
        }
    }

    [Fact]
    public void Saved_peers_are_loaded_replaced_and_removed()
    {
        string path = _etc.Write("tun0.yaml", "{}");
        PeerStore store = Store(path);
        PeerConfig vm4 = Peer("vm4", "null", "fd00:54::/64") with { Key = new GreKeys(0, uint.MaxValue) };

        store.Save(Vm3);
        store.Save(vm4);
        Assert.Equal([Vm3, vm4], ConfigReader.Load(path).Value?.Peers);

        store.Save(Vm3 with { Checksum = true });
        store.Remove("vm4");
        store.Remove("vm4");
        Assert.Equal([Vm3 with { Checksum = true }], ConfigReader.Load(path).Value?.Peers);
        Assert.Equal(["vm3.yaml"], Names());
    }

    [Fact]
    public void Directory_and_file_have_their_modes_whatever_the_umask()
    {
        Store().Save(Vm3);

        Assert.Equal("rwxr-x---", Mode(_etc.File("tun0.d")));
        Assert.Equal("rw-r-----", Mode(_etc.File("tun0.d/vm3.yaml")));
    }

    [Fact]
    public void Each_change_of_a_directory_is_made_durable()
    {
        PeerStore store = Store();

        store.Save(Vm3);
        Assert.Equal([_etc.Path, _etc.File("tun0.d")], _synced);

        store.Save(Vm3);
        store.Remove("vm3");
        store.Remove("vm3");
        Assert.Equal([_etc.Path, _etc.File("tun0.d"), _etc.File("tun0.d"), _etc.File("tun0.d")], _synced);
    }

    [Fact]
    public void Unfinished_file_of_a_crash_is_no_obstacle()
    {
        string leftover = _etc.Write("tun0.d/.vm3.yaml.new", "half of");

        Store().Save(Vm3);

        Assert.False(File.Exists(leftover));
        Assert.Equal(PeerStore.Write(Vm3), File.ReadAllText(_etc.File("tun0.d/vm3.yaml")));
    }

    [Fact]
    public void Symbolic_link_in_the_unfinished_files_place_is_not_followed()
    {
        string victim = _etc.Write("victim", "untouched");
        Directory.CreateDirectory(_etc.File("tun0.d"));
        File.CreateSymbolicLink(_etc.File("tun0.d/.vm3.yaml.new"), victim);

        Store().Save(Vm3);

        Assert.Equal("untouched", File.ReadAllText(victim));
    }

    [Fact]
    public void Reader_never_sees_a_part()
    {
        string path = _etc.Write("tun0.yaml", "{}");
        PeerStore store = Store(path);
        PeerConfig longer = Vm3 with { Subnets = [.. Enumerable.Range(0, 200).Select(i => Prefix($"10.{i}.0.0/16"))] };
        store.Save(Vm3);
        using var done = new CancellationTokenSource();
        Task writer = Task.Run(() =>
        {
            for (int i = 0; i < 300; i++)
                store.Save(i % 2 == 0 ? longer : Vm3);

            done.Cancel();
        });

        while (!done.IsCancellationRequested)
        {
            PeerConfig? read = ConfigReader.Load(path).Value?.Peers[0];
            Assert.True(read == Vm3 || read == longer);
        }

        Assert.True(writer.IsCompletedSuccessfully || !writer.IsFaulted);
    }

    [Theory]
    [InlineData("")]
    [InlineData("..")]
    [InlineData("../tun0")]
    [InlineData("a/b")]
    public void Name_can_not_leave_the_directory(string name)
    {
        Assert.Throws<ArgumentException>(() => Store().Save(Vm3 with { Name = name }));
        Assert.Throws<ArgumentException>(() => Store().Remove(name));
    }

    [Fact]
    public void File_in_the_directorys_place_is_told()
    {
        _etc.Write("tun0.d", "");

        PeerStoreException refused = Assert.Throws<PeerStoreException>(() => Store().Save(Vm3));

        Assert.Equal($"peer vm3 is not saved in {_etc.File("tun0.d")}: it exists already", refused.Message);
        Assert.Equal($"{_etc.File("tun0.d")} must be a directory that tunneld can write to; --ephemeral keeps a peer without saving it", refused.Hint);
    }

    [Fact]
    public void Directory_in_the_files_place_is_told_and_nothing_unfinished_stays()
    {
        Directory.CreateDirectory(_etc.File("tun0.d/vm3.yaml"));

        PeerStoreException refused = Assert.Throws<PeerStoreException>(() => Store().Save(Vm3));

        Assert.StartsWith($"peer vm3 is not saved in {_etc.File("tun0.d")}: ", refused.Message, StringComparison.Ordinal);
        Assert.Empty(Names());
    }

    [Fact]
    public void Change_that_can_not_be_made_durable_is_undone()
    {
        string path = _etc.Write("tun0.yaml", "{}");
        Store(path).Save(Vm3);
        byte[] before = File.ReadAllBytes(_etc.File("tun0.d/vm3.yaml"));
        var failing = new PeerStore(path, _ => throw new IOException("sync", 5));

        Assert.Throws<PeerStoreException>(() => failing.Save(Peer("vm4", "b", "10.4.0.0/16")));
        Assert.Throws<PeerStoreException>(() => failing.Save(Vm3 with { Checksum = true }));
        PeerStoreException refused = Assert.Throws<PeerStoreException>(() => failing.Remove("vm3"));

        Assert.Equal($"peer vm3 is not removed from {_etc.File("tun0.d")}: the device reports an error", refused.Message);
        Assert.Equal(["vm3.yaml"], Names());
        Assert.Equal(before, File.ReadAllBytes(_etc.File("tun0.d/vm3.yaml")));
    }

    [SkippableFact]
    public void Full_disk_is_told_and_nothing_half_written_stays()
    {
        using Tmpfs disk = Tmpfs.Mount("size=8k");
        var store = new PeerStore(Path.Combine(disk.Path, "tun0.yaml"), _ => { });
        store.Save(Vm3);
        string file = Path.Combine(disk.Path, "tun0.d/vm3.yaml");
        byte[] before = File.ReadAllBytes(file);
        File.WriteAllBytes(Path.Combine(disk.Path, "filler"), new byte[4096]);

        PeerStoreException added = Assert.Throws<PeerStoreException>(() => store.Save(Peer("vm4", "b", "10.4.0.0/16")));
        PeerStoreException changed = Assert.Throws<PeerStoreException>(() => store.Save(Vm3 with { Checksum = true }));

        Assert.Equal($"peer vm4 is not saved in {disk.Path}/tun0.d: no space left on the device", added.Message);
        Assert.Equal("free some space; --ephemeral keeps a peer without saving it", added.Hint);
        Assert.Equal($"peer vm3 is not saved in {disk.Path}/tun0.d: no space left on the device", changed.Message);
        Assert.Equal([file], Directory.GetFileSystemEntries(Path.Combine(disk.Path, "tun0.d")));
        Assert.Equal(before, File.ReadAllBytes(file));
    }

    [SkippableFact]
    public void Read_only_file_system_is_told()
    {
        using Tmpfs disk = Tmpfs.Mount("ro");

        PeerStoreException refused = Assert.Throws<PeerStoreException>(() => new PeerStore(Path.Combine(disk.Path, "tun0.yaml"), _ => { }).Save(Vm3));

        Assert.Equal($"peer vm3 is not saved in {disk.Path}/tun0.d: the file system is read-only", refused.Message);
        Assert.Equal("make it writable; --ephemeral keeps a peer without saving it", refused.Hint);
    }

    [SkippableFact]
    public void Missing_permission_is_told()
    {
        Skip.If(Environment.IsPrivilegedProcess, "root may write everywhere");
        Directory.CreateDirectory(_etc.File("tun0.d"), UnixFileMode.UserRead | UnixFileMode.UserExecute);

        PeerStoreException refused = Assert.Throws<PeerStoreException>(() => Store().Save(Vm3));

        Assert.Equal($"peer vm3 is not saved in {_etc.File("tun0.d")}: no permission", refused.Message);
        Assert.Equal($"make {_etc.File("tun0.d")} writable for the user that tunneld runs as", refused.Hint);
    }

    private static string Indented(string yaml) => string.Concat(yaml.Split('\n').Select(line => $"    {line}\n"));

    private static PeerConfig RandomPeer(Random random, string name)
    {
        string[] hosts = ["null", "true", "~x", "vm2.example.com", "0x12", "_x", "y", "1e3", "a-b."];
        PeerEndpoint endpoint = default;
        while (endpoint.Host is null)
        {
            string text = random.Next(3) == 0 ? hosts[random.Next(hosts.Length)] : RandomAddress(random).ToString();
            Parsed<PeerEndpoint> parsed = ConfigValues.Endpoint(text);
            if (parsed.Fault is null)
                endpoint = parsed.Value;
        }

        var subnets = new HashSet<IpPrefix>();
        int count = random.Next(1, 5);
        while (subnets.Count < count)
        {
            InetAddress address = RandomAddress(random);
            IpPrefix subnet = new IpPrefix(address, random.Next(1, address.IsIpv4 ? 33 : 129)).Network;
            if (ConfigValues.Subnet(subnet.ToString()).Fault is null && !subnet.Contains(endpoint.Address))
                subnets.Add(subnet);
        }

        return new PeerConfig
        {
            Name = name,
            Endpoint = endpoint,
            Subnets = [.. subnets],
            Encapsulation = random.Next(3) switch { 0 => Encapsulation.Gre, 1 => Encapsulation.Auto, _ => null },
            Key = random.Next(3) switch { 0 => new GreKeys(7, 7), 1 => new GreKeys((uint)random.NextInt64(1L << 32), (uint)random.NextInt64(1L << 32)), _ => null },
            Checksum = random.Next(2) == 0,
            Sequence = random.Next(2) == 0,
            Outer = new OuterHeaderOptions
            {
                Dscp = random.Next(2) == 0 ? null : (byte)random.Next(64),
                Ecn = (EcnMode)random.Next(3),
                TimeToLive = random.Next(2) == 0 ? null : (byte)random.Next(1, 256),
                DiscoversPathMtu = random.Next(2) == 0,
            },
            Strict = random.Next(2) == 0,
            Origin = PeerOrigin.Stored,
        };
    }

    private static InetAddress RandomAddress(Random random)
    {
        Span<byte> bytes = stackalloc byte[random.Next(2) == 0 ? 4 : 16];
        random.NextBytes(bytes);

        // Runs of zeros, so that every place of "::" occurs.
        if (bytes.Length == 16)
            bytes[random.Next(16)..].Clear();

        return InetAddress.Read(bytes);
    }

    private static string Mode(string path)
    {
        UnixFileMode mode = File.GetUnixFileMode(path);
        var text = new StringBuilder();
        for (int bit = 8; bit >= 0; bit--)
            text.Append(((int)mode & (1 << bit)) != 0 ? "rwx"[(8 - bit) % 3] : '-');

        return text.ToString();
    }

    private PeerStore Store(string? path = null) => new(path ?? _etc.File("tun0.yaml"), _synced.Add);

    private IEnumerable<string?> Names() => Directory.GetFiles(_etc.File("tun0.d")).Select(Path.GetFileName);

    /// <summary>A small file system of its own, for as long as a test runs.</summary>
    private sealed class Tmpfs : IDisposable
    {
        private readonly TemporaryDirectory _directory = new();

        public string Path => _directory.Path;

        public static Tmpfs Mount(string options)
        {
            Skip.IfNot(Environment.IsPrivilegedProcess, "needs root");
            var disk = new Tmpfs();
            bool mounted = Run("mount", "-t", "tmpfs", "-o", options, "tunnel-test", disk.Path);
            if (!mounted)
                disk._directory.Dispose();

            Skip.IfNot(mounted, "needs leave to mount a tmpfs");
            return disk;
        }

        public void Dispose()
        {
            Assert.True(Run("umount", Path));
            _directory.Dispose();
        }

        private static bool Run(string program, params string[] arguments)
        {
            using Process process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardError = true, UseShellExecute = false })!;
            process.StandardError.ReadToEnd();
            process.WaitForExit();
            return process.ExitCode == 0;
        }
    }
}
