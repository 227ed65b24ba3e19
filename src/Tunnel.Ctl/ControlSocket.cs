using System.Text;

namespace Tunnel.Ctl;

/// <summary>The control socket of one network.</summary>
/// <param name="Path">Where it is.</param>
/// <param name="Network">The network's name: the socket's base name.</param>
/// <param name="RunDirectory">The directory whose other sockets are worth naming when this one is missing; null for a path that was given.</param>
internal sealed record ControlSocket(string Path, string Network, string? RunDirectory)
{
    private const string DefaultRunDirectory = "/run/tunnel";
    private const string Suffix = ".sock";

    // sun_path holds 108 bytes with the terminating NUL: unix(7).
    private const int MaxPathBytes = 107;

    /// <summary>How to start the daemon that should answer here.</summary>
    public string HowToStart => $"start it: systemctl start tunneld@{Network}, or tunneld --config FILE";

    /// <summary>Finds the socket that the options, else the environment, else the run directory's only socket name.</summary>
    /// <exception cref="Failure">None or several are there, or the directory is closed to this user.</exception>
    public static ControlSocket Select(string? socket, string? network, string? runDirectory, Func<string, string?> variable)
    {
        if (socket is not null)
            return Checked(new ControlSocket(socket, System.IO.Path.GetFileNameWithoutExtension(socket), null));

        string directory = DirectoryOf(runDirectory, variable);
        if (network is not null)
            return Checked(new ControlSocket(System.IO.Path.Combine(directory, network + Suffix), network, directory));

        string[] networks = Networks(directory);
        return networks.Length switch
        {
            0 => throw new Failure(
                ExitCode.NotReachable,
                $"no tunneld is running: no socket in {directory}",
                "start one: systemctl start tunneld@NETWORK, or tunneld --config FILE"),
            1 => Checked(new ControlSocket(System.IO.Path.Combine(directory, networks[0] + Suffix), networks[0], directory)),
            _ => throw new Failure(
                ExitCode.Usage,
                $"several networks are here: {string.Join(", ", networks)}",
                $"choose one: tunnelctl -n {networks[0]} COMMAND"),
        };
    }

    /// <summary>The networks that have a socket in the run directory; none where that cannot be told.</summary>
    public static string[] Networks(string? runDirectory, Func<string, string?> variable)
    {
        try
        {
            return Networks(DirectoryOf(runDirectory, variable));
        }
        catch (Failure)
        {
            return [];
        }
    }

    /// <summary>The networks besides this one that have a socket in the same run directory; none where that cannot be told.</summary>
    public string[] OtherNetworks()
    {
        try
        {
            return RunDirectory is null ? [] : [.. Networks(RunDirectory).Where(network => network != Network)];
        }
        catch (Failure)
        {
            return [];
        }
    }

    /// <summary>What to say when the kernel lets this user not in.</summary>
    public static Failure PermissionDenied(string path) => new(
        ExitCode.NotReachable,
        $"permission denied: {path}",
        "run as root, or join the group tunnel: usermod -aG tunnel USER, then log in again");

    private static string DirectoryOf(string? runDirectory, Func<string, string?> variable) =>
        FirstSet(runDirectory, variable("TUNNEL_RUN_DIR")) ?? DefaultRunDirectory;

    // In order of their names.
    private static string[] Networks(string directory)
    {
        try
        {
            string[] names = [.. Directory.EnumerateFiles(directory, "*" + Suffix).Select(file => System.IO.Path.GetFileNameWithoutExtension(file))];
            Array.Sort(names, StringComparer.Ordinal);
            return names;
        }
        catch (DirectoryNotFoundException)
        {
            return [];
        }
        catch (UnauthorizedAccessException)
        {
            throw PermissionDenied(directory);
        }
        catch (IOException)
        {
            throw new Failure(ExitCode.Usage, $"cannot look into {directory}", "--run-dir and TUNNEL_RUN_DIR name the directory of the control sockets");
        }
    }

    private static string? FirstSet(string? first, string? second) => !string.IsNullOrEmpty(first) ? first : !string.IsNullOrEmpty(second) ? second : null;

    private static ControlSocket Checked(ControlSocket socket)
    {
        if (socket.Path.Length == 0)
            throw new Failure(ExitCode.Usage, "the socket's path is empty", "--socket PATH");

        return Encoding.UTF8.GetByteCount(socket.Path) <= MaxPathBytes
            ? socket
            : throw new Failure(ExitCode.Usage, $"the path of a unix socket has at most {MaxPathBytes} bytes: {socket.Path}", "use a shorter or a relative path");
    }
}
