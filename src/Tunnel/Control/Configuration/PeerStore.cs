using System.Diagnostics;
using System.Text;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Configuration;

/// <summary>A peer could not be saved or removed; the store is as it was before.</summary>
/// <param name="message">What failed and why, in one line.</param>
/// <param name="hint">The cure, in one line.</param>
/// <param name="cause">What the system said.</param>
internal sealed class PeerStoreException(string message, string hint, Exception cause) : Exception(message, cause)
{
    /// <summary>The cure, in one line.</summary>
    public string Hint { get; } = hint;
}

/// <summary>
/// Keeps the peers that were added by command: NAME.d/PEER.yaml beside the network's file NAME.yaml, one file each.
/// A file is replaced in one step (rename(2)): a reader, and a restart after a crash or a power failure, finds the old content or
/// the new one, never a part. One caller at a time.
/// </summary>
/// <param name="configPath">The network's file.</param>
/// <param name="syncDirectory">
/// Makes a directory's entries durable: fsync(2) on the directory of this path, which the framework can't open. May throw
/// <see cref="IOException"/> or <see cref="UnauthorizedAccessException"/>; then the change is undone.
/// </param>
internal sealed class PeerStore(string configPath, Action<string> syncDirectory)
{
    /// <summary>How the files of stored peers end.</summary>
    public const string Extension = ".yaml";

    private const UnixFileMode FilePermissions = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupRead;

    private const UnixFileMode DirectoryPermissions = FilePermissions | UnixFileMode.UserExecute | UnixFileMode.GroupExecute;

    private readonly string _directory = DirectoryOf(configPath);

    /// <summary>The directory that keeps a network's peers: NAME.d beside its file NAME.yaml.</summary>
    public static string DirectoryOf(string configPath) => Path.ChangeExtension(configPath, ".d");

    /// <summary>
    /// Saves a peer, replacing what is stored under its name. Makes the directory (mode 0750) where it is missing; the file has mode 0640.
    /// </summary>
    /// <exception cref="PeerStoreException">The disk is full, the place read-only, ...</exception>
    public void Save(PeerConfig peer)
    {
        string path = PathOf(peer.Name);
        try
        {
            MakeDirectory();
            byte[]? before = File.Exists(path) ? File.ReadAllBytes(path) : null;
            Replace(path, Encoding.UTF8.GetBytes(Write(peer)));
            SyncOrUndo(path, before);
        }
        catch (Exception exception) when (FileTrouble.Is(exception))
        {
            throw Failed($"peer {peer.Name} is not saved in {_directory}", exception);
        }
    }

    /// <summary>Removes what is stored under a name; does nothing where nothing is.</summary>
    /// <exception cref="PeerStoreException">The place is read-only, ...</exception>
    public void Remove(string name)
    {
        string path = PathOf(name);
        try
        {
            if (!File.Exists(path))
                return;

            byte[] before = File.ReadAllBytes(path);
            File.Delete(path);
            SyncOrUndo(path, before);
        }
        catch (Exception exception) when (FileTrouble.Is(exception))
        {
            throw Failed($"peer {name} is not removed from {_directory}", exception);
        }
    }

    /// <summary>A peer's file: YAML with the keys that differ from their defaults.</summary>
    internal static string Write(PeerConfig peer)
    {
        var yaml = new StringBuilder();
        yaml.Append($"# Peer {peer.Name}, written by tunneld. Change it with: tunnelctl set-peer {peer.Name}\n");
        yaml.Append($"endpoint: {Quoted(peer.Endpoint.ToString())}\n");
        yaml.Append("subnets:\n");
        foreach (IpPrefix subnet in peer.Subnets)
            yaml.Append($"  - {Quoted(subnet.ToString())}\n");

        if (peer.Encapsulation is { } encapsulation)
            yaml.Append($"encapsulation: {encapsulation.ToWord()}\n");

        if (peer.Key is { } key)
            yaml.Append(key.In == key.Out ? $"key: {key.In}\n" : $"key: {{in: {key.In}, out: {key.Out}}}\n");

        if (peer.Checksum)
            yaml.Append("checksum: true\n");

        if (peer.Sequence)
            yaml.Append("sequence: true\n");

        OuterHeaderOptions outer = peer.Outer;
        OuterHeaderOptions usual = OuterHeaderOptions.Default;
        if (outer.Dscp != usual.Dscp)
            yaml.Append($"dscp: {outer.DscpText}\n");

        if (outer.Ecn != usual.Ecn)
            yaml.Append($"ecn: {outer.Ecn.ToWord()}\n");

        if (outer.TimeToLive != usual.TimeToLive)
            yaml.Append($"ttl: {outer.TimeToLiveText}\n");

        if (!outer.DiscoversPathMtu)
            yaml.Append("pmtud: false\n");

        if (peer.Strict)
            yaml.Append("strict: true\n");

        if (peer.Keepalive != Keepalive.Auto)
            yaml.Append($"keepalive: {peer.Keepalive}\n");

        if (peer.OnDown != OnDown.Keep)
            yaml.Append($"on-down: {peer.OnDown.ToWord()}\n");

        if (peer.OnRefused != OnRefused.Stop)
            yaml.Append($"on-refused: {peer.OnRefused.ToWord()}\n");

        return yaml.ToString();
    }

    // Addresses and DNS names have no character that double quotes would give a meaning to. Unquoted, a colon at the end makes a
    // key, a bracket at the front a list, and "null" nothing.
    private static string Quoted(string value) =>
        value.Contains(':', StringComparison.Ordinal) || value == "null" ? $"\"{value}\"" : value;

    private string PathOf(string name) =>
        ConfigValues.PeerName(name).Fault is null
            ? Path.Combine(_directory, name + Extension)
            : throw new ArgumentException("not a peer's name", nameof(name));

    private void MakeDirectory()
    {
        Debug.Assert(OperatingSystem.IsLinux(), "Unix permissions are set");
        if (Directory.Exists(_directory))
            return;

        Directory.CreateDirectory(_directory, DirectoryPermissions);
        File.SetUnixFileMode(_directory, DirectoryPermissions);
        syncDirectory(Path.GetDirectoryName(Path.GetFullPath(_directory))!);
    }

    private static void Replace(string path, ReadOnlySpan<byte> content)
    {
        Debug.Assert(OperatingSystem.IsLinux(), "Unix permissions are set");

        // One writer: what stands under this name is left from a crash. CreateNew follows no symbolic link.
        string unfinished = Path.Combine(Path.GetDirectoryName(path)!, $".{Path.GetFileName(path)}.new");
        File.Delete(unfinished);
        try
        {
            var options = new FileStreamOptions
            {
                Mode = FileMode.CreateNew,
                Access = FileAccess.Write,
                BufferSize = 0,
                UnixCreateMode = FilePermissions,
            };
            using (var stream = new FileStream(unfinished, options))
            {
                File.SetUnixFileMode(stream.SafeFileHandle, FilePermissions);
                stream.Write(content);
                RandomAccess.FlushToDisk(stream.SafeFileHandle);
            }

            File.Move(unfinished, path, overwrite: true);
        }
        catch
        {
            TryDelete(unfinished);
            throw;
        }
    }

    private void SyncOrUndo(string path, byte[]? before)
    {
        try
        {
            syncDirectory(_directory);
        }
        catch (Exception exception) when (FileTrouble.Is(exception))
        {
            if (before is null)
                TryDelete(path);
            else
                Replace(path, before);

            throw;
        }
    }

    private static void TryDelete(string path)
    {
        try
        {
            File.Delete(path);
        }
        catch (Exception exception) when (FileTrouble.Is(exception))
        {
            // The first failure is the one to report; an unfinished file is hidden from readers and goes with the next save.
        }
    }

    private PeerStoreException Failed(string what, Exception exception)
    {
        string hint = exception switch
        {
            UnauthorizedAccessException => $"make {_directory} writable for the user that tunneld runs as",
            { HResult: 28 or 122 } => "free some space; --ephemeral keeps a peer without saving it",
            { HResult: 30 } => "make it writable; --ephemeral keeps a peer without saving it",
            _ => $"{_directory} must be a directory that tunneld can write to; --ephemeral keeps a peer without saving it",
        };
        return new PeerStoreException($"{what}: {FileTrouble.Reason(exception)}", hint, exception);
    }
}
