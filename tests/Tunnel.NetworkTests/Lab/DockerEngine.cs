using System.Text.Json.Nodes;

namespace Tunnel.NetworkTests;

/// <summary>
/// A real Docker engine on a host of a lab, instead of the host's bridge and container: scripts/docker-engine.sh. Its files are in the host's directory;
/// all of its containers end with it.
/// </summary>
internal sealed class DockerEngine : IAsyncDisposable
{
    private readonly Background _process;

    private DockerEngine(Vm host, Background process)
    {
        Host = host;
        _process = process;
    }

    /// <summary>Where it runs.</summary>
    public Vm Host { get; }

    /// <summary>The script that runs engines.</summary>
    public static string Script => Path.Combine(Repository, "scripts", "docker-engine.sh");

    /// <summary>The checkout.</summary>
    public static string Repository
    {
        get
        {
            string directory = AppContext.BaseDirectory;
            while (!File.Exists(Path.Combine(directory, "Tunnel.sln")))
            {
                directory = Path.GetDirectoryName(directory) ?? throw new LabException("the tests do not run inside the repository");
            }

            return directory;
        }
    }

    /// <summary>Where its files are: daemon.json, docker.sock.</summary>
    public string Directory => DirectoryOf(Host);

    /// <summary>Its socket, as docker's --host takes it.</summary>
    public string Socket => $"unix://{Directory}/docker.sock";

    /// <summary>Why there can be none here; null where there can.</summary>
    public static async Task<string?> FindObstacleAsync()
    {
        const string Look = "for program in dockerd docker busybox redis-cli redis-check-rdb; do command -v $program >/dev/null || { echo $program; exit 1; }; done";
        CommandResult missing = await Command.RunAsync(["sh", "-c", Look]);
        return !Environment.IsPrivilegedProcess ? "needs root"
            : missing.ExitCode != 0 ? $"{missing.Out.Trim()} is not installed (Debian: docker.io, busybox-static, redis-tools)"
            : null;
    }

    /// <summary>Writes the images that engines load, into a directory.</summary>
    public static async Task MakeImagesAsync(string directory) => (await Command.RunAsync([Script, "images", directory])).Succeeded();

    /// <summary>Starts an engine, and loads the images "nc" and "redis".</summary>
    /// <param name="host">Where.</param>
    /// <param name="settings">Its daemon.json.</param>
    /// <param name="images">The directory with the images.</param>
    public static async Task<DockerEngine> StartAsync(Vm host, string settings, string images)
    {
        System.IO.Directory.CreateDirectory(DirectoryOf(host));
        JsonNode merged = JsonNode.Parse(settings)!;
        merged["live-restore"] = true;
        await File.WriteAllTextAsync(Path.Combine(DirectoryOf(host), "daemon.json"), merged.ToJsonString());

        // Where Docker's own bridge is to be. The engine enters the namespace itself.
        await host.IpAsync($"link del br0\nlink del cont{host.Name[2..]}");
        var engine = new DockerEngine(host, new Background([Script, "run", host.Netns, DirectoryOf(host)]));
        await engine.AwaitAsync();
        await Task.WhenAll(((string[])["nc", "redis"]).Select(async image =>
            (await engine.RunAsync("import", Path.Combine(images, $"{image}.tar"), image)).Succeeded()));
        return engine;
    }

    /// <summary>Runs docker against this engine.</summary>
    public Task<CommandResult> RunAsync(params string[] words) => Command.RunAsync(["docker", "--host", Socket, .. words]);

    /// <summary>Starts a container that goes on running.</summary>
    /// <returns>Its address; empty where it has the host's network.</returns>
    public async Task<string> StartContainerAsync(string name, params string[] words)
    {
        (await RunAsync(["run", "--detach", "--name", name, .. words])).Succeeded();
        return (await RunAsync("inspect", "--format", "{{.NetworkSettings.IPAddress}}", name)).Succeeded().Out.Trim();
    }

    /// <summary>Runs a command in a running container.</summary>
    public Task<CommandResult> ExecAsync(string name, params string[] words) => RunAsync(["exec", name, .. words]);

    /// <summary>`systemctl restart docker`; the containers go on running.</summary>
    public async Task RestartAsync()
    {
        int starts = Starts();
        (await Command.RunAsync([Script, "restart", Directory])).Succeeded();
        await Poll.UntilAsync("Docker starts again", () => Task.FromResult(Starts() > starts), () => Task.FromResult(_process.Log));
        await AwaitAsync();
    }

    /// <summary>Waits until it answers.</summary>
    public Task AwaitAsync() => Poll.UntilAsync("Docker answers", async () => (await RunAsync("version")).ExitCode == 0, () => Task.FromResult(_process.Log));

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => _process.DisposeAsync();

    /// <inheritdoc/>
    public override string ToString() => $"Docker on {Host}: {_process}";

    private static string DirectoryOf(Vm host) => Path.Combine(host.Directory, "docker");

    private int Starts() => _process.Log.Split("API listen on").Length;
}
