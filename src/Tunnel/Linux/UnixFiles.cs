using System.Globalization;
using System.Text;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>Files, groups and capabilities: what the daemon needs of them to be reachable and to be allowed.</summary>
internal static unsafe class UnixFiles
{
    private const int CAP_NET_ADMIN = 12;
    private const int CAP_NET_RAW = 13;
    private const ushort SocketMode = 0x1b0; // 0660
    private const ushort DirectoryMode = 0x1ed; // 0755

    /// <summary>The user whose rights this process has: geteuid(2).</summary>
    public static uint EffectiveUser => geteuid();

    /// <summary>
    /// Makes the control socket's file usable for its owner and a group (mode 0660), and gives it to that group where it exists.
    /// The owner is this process's user.
    /// </summary>
    /// <returns>One line where the group could not be given: only the owner and root can connect then. Null where all is well.</returns>
    /// <exception cref="IOException">There is no such file, or it is somebody else's; the message is one line.</exception>
    public static string? SetSocketAccess(string path, string group = "tunnel")
    {
        fixed (byte* name = NullTerminated(path))
        {
            if (chmod(name, SocketMode) < 0)
            {
                throw new IOException($"cannot set the mode of {path}: {NetlinkSocket.ErrorText(errno)}");
            }

            if (FindGroup(group) is not uint id || chown(name, geteuid(), id) == 0)
            {
                return null;
            }

            string reason = NetlinkSocket.ErrorText(errno);
            return $"cannot give {path} to group {group} ({reason}): run the daemon as root or as a member of that group";
        }
    }

    /// <summary>Finds a group's number in the system's group database (getgrnam_r(3)); null where there is none.</summary>
    public static uint? FindGroup(string name)
    {
        // A group with very many members needs a larger buffer: ERANGE.
        for (int size = 1024; size <= 1024 * 1024; size *= 4)
        {
            group entry;
            group* found = null;
            fixed (byte* nameBytes = NullTerminated(name))
            fixed (byte* buffer = new byte[size])
            {
                int error = Uapi.getgrnam_r(nameBytes, &entry, buffer, (nuint)size, &found);
                if (error != ERANGE)
                {
                    return found is null ? null : found->gr_gid;
                }
            }
        }

        return null;
    }

    /// <summary>Makes the run directory (mode 0755 less the umask), and its parents, where they are missing.</summary>
    /// <exception cref="IOException">It can't be made or is not a directory; the message is one line and names the cure.</exception>
    public static void EnsureRunDirectory(string path)
    {
        int error = MakeDirectory(Path.GetFullPath(path));
        if (error != 0)
        {
            throw new IOException(
                $"cannot make the run directory {path}: {NetlinkSocket.ErrorText(error)}; " +
                "make it for the daemon's user, or name another one with --run-dir");
        }
    }

    /// <summary>Makes the entries of a directory last over a power failure (fsync(2) on the directory).</summary>
    /// <exception cref="IOException">The directory can't be opened or written; the message is one line.</exception>
    public static void SyncDirectory(string path)
    {
        fixed (byte* name = NullTerminated(path))
        {
            int directory = open(name, O_RDONLY | O_CLOEXEC);
            bool done = directory >= 0 && fsync(directory) == 0;
            string reason = done ? "" : NetlinkSocket.ErrorText(errno);
            if (directory >= 0)
            {
                _ = close(directory);
            }

            if (!done)
            {
                throw new IOException($"cannot write the directory {path}: {reason}");
            }
        }
    }

    /// <summary>Checks that this process may manage devices and open raw sockets.</summary>
    /// <returns>One line with the cure, or null where it may.</returns>
    public static string? CheckCapabilities() => CheckCapabilities(File.ReadAllText("/proc/self/status"));

    /// <summary>Checks the effective capabilities (CapEff) in the text of /proc/PID/status: proc_pid_status(5), capabilities(7).</summary>
    /// <returns>One line with the cure, or null where CAP_NET_ADMIN and CAP_NET_RAW are there.</returns>
    public static string? CheckCapabilities(string status)
    {
        const string Field = "CapEff:";
        string? line = Array.Find(status.Split('\n'), text => text.StartsWith(Field, StringComparison.Ordinal));
        if (line is null || !ulong.TryParse(line.AsSpan(Field.Length).Trim(), NumberStyles.HexNumber, null, out ulong effective))
        {
            return null;
        }

        var missing = new List<string>();
        if ((effective >> CAP_NET_ADMIN & 1) == 0)
        {
            missing.Add("CAP_NET_ADMIN");
        }

        if ((effective >> CAP_NET_RAW & 1) == 0)
        {
            missing.Add("CAP_NET_RAW");
        }

        return missing.Count == 0
            ? null
            : $"no permission: {string.Join(" and ", missing)} missing: run as root, or through the systemd service, " +
              "which grants CAP_NET_ADMIN and CAP_NET_RAW";
    }

    private static int MakeDirectory(string path)
    {
        fixed (byte* name = NullTerminated(path))
        {
            if (mkdir(name, DirectoryMode) == 0)
            {
                return 0;
            }
        }

        int error = errno;
        if (Directory.Exists(path))
        {
            return 0;
        }

        if (error == EEXIST)
        {
            return ENOTDIR;
        }

        string? parent = Path.GetDirectoryName(path);
        if (error != ENOENT || parent is null)
        {
            return error;
        }

        int above = MakeDirectory(parent);
        return above != 0 ? above : MakeDirectory(path);
    }

    private static byte[] NullTerminated(string text) => Encoding.UTF8.GetBytes(text + '\0');
}
