namespace Tunnel.NetworkTests;

/// <summary>
/// A clean Debian in a directory: what debootstrap makes, with nothing in it but what the package depends on, and dbus. Made once and kept in
/// dist/; each test has a copy. Programs run in it by systemd-nspawn(1), and it boots with systemd as its process 1.
/// </summary>
internal sealed class DebianRoot : IAsyncDisposable
{
    private const string Release = "bookworm";
    private const string Packages = "systemd-sysv,dbus,libstdc++6,nftables";

    private static readonly SemaphoreSlim Making = new(1);

    private Background? _system;

    private DebianRoot(string directory) => Path = directory;

    /// <summary>The directory.</summary>
    public string Path { get; }

    /// <summary>Copies the clean root; the test is skipped where there is none and none can be made.</summary>
    public static async Task<DebianRoot> CreateAsync()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "needs root");
        foreach (string program in (string[])["debootstrap", "systemd-nspawn"])
        {
            Skip.IfNot((await Command.RunAsync(["sh", "-c", "command -v " + program])).ExitCode == 0, $"needs {program}");
        }

        string clean = await CleanAsync();
        var root = new DebianRoot(Directory.CreateTempSubdirectory("tunnel-package-").FullName);
        (await Command.RunAsync(["cp", "-a", clean + "/.", root.Path])).Succeeded();
        return root;
    }

    /// <summary>Puts a file of this machine into it.</summary>
    public void Add(string file, string path) => File.Copy(file, Path + path);

    /// <summary>Writes a file in it.</summary>
    public void Write(string path, string text) => File.WriteAllText(Path + path, text);

    /// <summary>Runs a line of shell in it to its end: in the booted system, or by itself.</summary>
    /// <param name="line">The line.</param>
    /// <param name="host">The network namespace in which to run, where the system is not booted; null for one without a network.</param>
    public Task<CommandResult> ShellAsync(string line, Node? host = null) =>
        Command.RunAsync(_system is null
            ? [.. Nspawn(host), "--pipe", "--as-pid2", "sh", "-c", line]
            : ["nsenter", "--target", Leader, "--all", "sh", "-c", line], deadline: TimeSpan.FromMinutes(2));

    /// <summary>Boots it in a host's network namespace, and waits until systemd has started what it starts.</summary>
    public async Task BootAsync(Node host)
    {
        _system = new Background([.. Nspawn(host), "--boot", "--console=pipe"]);
        await Poll.UntilAsync(
            "systemd is up",
            async () => Leader.Length > 0 && (await ShellAsync("systemctl is-system-running --wait")).Out.Trim() is "running" or "degraded",
            () => Task.FromResult(_system.ToString()));

        // What udev does on a host.
        (await ShellAsync("chmod 666 /dev/net/tun")).Succeeded();
    }

    /// <summary>Every file but those of which dpkg and the programs it runs keep their books.</summary>
    public async Task<string[]> FilesAsync()
    {
        const string Look =
            "find . -path ./proc -prune -o -path ./sys -prune -o -path ./run -prune -o -path ./dev -prune -o -path ./tmp -prune"
            + " -o -path ./var/lib/dpkg -prune -o -path ./var/log -prune -o -path ./var/cache -prune -o -path ./var/lib/systemd -prune -o -printf '%p %y %m %u %g\\n'";
        return [.. (await Command.RunAsync(["sh", "-c", $"cd {Path} && {Look}"])).Succeeded().Out.Split('\n').Order(StringComparer.Ordinal)];
    }

    /// <summary>Ends what runs in it, and removes it.</summary>
    public async ValueTask DisposeAsync()
    {
        if (_system is not null)
        {
            // systemd's own signal for "halt", and nspawn ends with it.
            await Command.RunAsync(["sh", "-c", $"kill -s RTMIN+3 {Leader}"]);
            await Task.WhenAny(_system.Ended, Task.Delay(TimeSpan.FromSeconds(20)));
            await _system.DisposeAsync();
        }

        (await Command.RunAsync(["rm", "-rf", "--one-file-system", Path])).Succeeded();
    }

    // The process that is 1 inside: nspawn's only child.
    private string Leader
    {
        get
        {
            try
            {
                return File.ReadAllText($"/proc/{_system!.Pid}/task/{_system.Pid}/children").Trim();
            }
            catch (IOException)
            {
                return "";
            }
        }
    }

    // No cgroup manager of this machine is asked; the capabilities are those of a host, and so is bpf(2).
    private string[] Nspawn(Node? host) =>
    [
        "systemd-nspawn", "--quiet", "--directory", Path, "--register=no", "--keep-unit", "--capability=all", "--system-call-filter=bpf",
        host is null ? "--private-network" : $"--network-namespace-path=/run/netns/{host.Netns}",
    ];

    private static async Task<string> CleanAsync()
    {
        string clean = System.IO.Path.Combine(Checkout.Directory, "dist", ".package", $"{Release}-{Packages.Replace(',', '-')}");
        await Making.WaitAsync();
        try
        {
            if (!Directory.Exists(clean))
            {
                string unfinished = clean + ".new";
                await Command.RunAsync(["rm", "-rf", "--one-file-system", unfinished]);
                Directory.CreateDirectory(unfinished);
                CommandResult made = await Command.RunAsync(
                    ["debootstrap", "--variant=minbase", "--include=" + Packages, Release, unfinished], deadline: TimeSpan.FromMinutes(5));
                Skip.IfNot(made.ExitCode == 0, "debootstrap can't make a Debian root here: " + made.Out.Trim().Split('\n')[^1]);
                Directory.Move(unfinished, clean);
            }

            return clean;
        }
        finally
        {
            Making.Release();
        }
    }
}
