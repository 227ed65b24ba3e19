using System.Text;
using System.Text.Json;
using Tunnel.Control.Configuration;
using Tunnel.Wire;

namespace Tunnel.Tests.Control.Configuration;

/// <summary>Shorthand of the configuration's tests.</summary>
internal static class ConfigTesting
{
    public static ConfigResult<NetworkConfig> Parse(string yaml) => ConfigReader.Parse("tun0.yaml", Encoding.UTF8.GetBytes(yaml));

    /// <summary>Parses what must be valid.</summary>
    public static NetworkConfig Network(string yaml)
    {
        ConfigResult<NetworkConfig> result = Parse(yaml);
        Assert.Empty(Lines(result.Errors));
        return result.Value!;
    }

    public static string[] Lines(IEnumerable<ConfigError> errors) => [.. errors.Select(error => error.ToString())];

    public static PeerConfig Peer(string name, string endpoint, params string[] subnets) => new()
    {
        Name = name,
        Endpoint = ConfigValues.Endpoint(endpoint).Value,
        Subnets = [.. subnets.Select(Prefix)],
        Origin = PeerOrigin.Stored,
    };

    public static IpPrefix Prefix(string text) => IpPrefix.TryParse(text, out IpPrefix prefix) ? prefix : throw new FormatException(text);

    public static JsonElement Json(string text)
    {
        using JsonDocument document = JsonDocument.Parse(text);
        return document.RootElement.Clone();
    }

    /// <summary>The directory of the repository that the tests were built from.</summary>
    public static string RepositoryRoot()
    {
        string? directory = AppContext.BaseDirectory;
        while (directory is not null && !File.Exists(Path.Combine(directory, "Tunnel.sln")))
            directory = Path.GetDirectoryName(directory);

        return directory ?? throw new InvalidOperationException("Tunnel.sln is in no directory above the tests");
    }
}

/// <summary>A directory that goes with the test.</summary>
internal sealed class TemporaryDirectory : IDisposable
{
    public string Path { get; } = Directory.CreateTempSubdirectory("tunnel-config-").FullName;

    public string File(string name) => System.IO.Path.Combine(Path, name);

    public string Write(string name, string content)
    {
        string path = File(name);
        Directory.CreateDirectory(System.IO.Path.GetDirectoryName(path)!);
        System.IO.File.WriteAllText(path, content);
        return path;
    }

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
