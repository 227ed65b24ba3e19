namespace Tunnel.NetworkTests;

/// <summary>Where the programs under test are: in the directory that TUNNEL_DIST names (scripts/test.sh), else beside the tests.</summary>
internal static class Programs
{
    private static readonly string Directory = Environment.GetEnvironmentVariable("TUNNEL_DIST") is { Length: > 0 } dist ? dist : AppContext.BaseDirectory;

    /// <summary>tunneld.</summary>
    public static string Tunneld => Find("tunneld");

    /// <summary>tunnelctl.</summary>
    public static string Tunnelctl => Find("tunnelctl");

    private static string Find(string name)
    {
        string path = Path.Combine(Directory, name);
        return File.Exists(path) ? path : throw new LabException($"{path} is missing; scripts/build.sh makes it");
    }
}
