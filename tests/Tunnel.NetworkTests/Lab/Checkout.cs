namespace Tunnel.NetworkTests;

/// <summary>The checkout that the tests run in.</summary>
internal static class Checkout
{
    /// <summary>Its directory.</summary>
    public static string Directory { get; } = Find();

    private static string Find()
    {
        string directory = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(directory, "Tunnel.sln")))
        {
            directory = Path.GetDirectoryName(directory) ?? throw new LabException("the tests do not run in a checkout");
        }

        return directory;
    }
}
