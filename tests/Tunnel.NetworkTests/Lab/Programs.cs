namespace Tunnel.NetworkTests;

/// <summary>
/// Where the programs under test are: in the directory that TUNNEL_DIST names, as scripts/test.sh does; else what the last build of
/// the solution left beside the tests and in tunnelctl's own project.
/// </summary>
internal static class Programs
{
    /// <summary>tunneld.</summary>
    public static string Tunneld => Find("tunneld", AppContext.BaseDirectory);

    /// <summary>tunnelctl.</summary>
    public static string Tunnelctl =>
        Find("tunnelctl", AppContext.BaseDirectory.Replace("/tests/Tunnel.NetworkTests/", "/src/Tunnel.Ctl/", StringComparison.Ordinal));

    private static string Find(string name, string built)
    {
        string directory = Environment.GetEnvironmentVariable("TUNNEL_DIST") is { Length: > 0 } dist ? dist : built;
        string path = Path.Combine(directory, name);
        return File.Exists(path) ? path : throw new LabException($"{path} is missing; build Tunnel.sln, or run scripts/build.sh and set TUNNEL_DIST=dist");
    }
}
