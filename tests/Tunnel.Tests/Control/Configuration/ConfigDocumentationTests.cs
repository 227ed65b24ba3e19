using System.Text.RegularExpressions;
using Tunnel.Control.Configuration;
using static Tunnel.Tests.Control.Configuration.ConfigTesting;

namespace Tunnel.Tests.Control.Configuration;

/// <summary>What the documentation and the example show is what the reader takes.</summary>
public partial class ConfigDocumentationTests
{
    private static readonly string Page = File.ReadAllText(Path.Combine(RepositoryRoot(), "docs", "configuration.md"));

    [Fact]
    public void Every_example_loads_without_a_warning()
    {
        MatchCollection blocks = YamlBlock().Matches(Page);
        Assert.NotEmpty(blocks);
        foreach (Match block in blocks)
        {
            using var etc = new TemporaryDirectory();
            string yaml = block.Groups["yaml"].Value;
            string path = etc.Write("tun0.yaml", yaml.StartsWith("# /etc/tunnel/tun0.d/", StringComparison.Ordinal) ? "{}" : yaml);
            if (StoredPath().Match(yaml) is { Success: true } stored)
                etc.Write(stored.Groups["path"].Value, yaml);

            ConfigResult<NetworkConfig> result = ConfigReader.Load(path);
            Assert.Empty(Lines(result.Errors.Concat(result.Warnings)));
        }
    }

    [Fact]
    public void Every_key_is_explained()
    {
        IEnumerable<string> keys = ConfigReader.Keys.SelectMany(map => map.Value.Select(key => map.Key.Length == 0 ? key : $"{map.Key}.{key}"))
            .Concat(PeerReader.Keys.Select(key => $"peers.NAME.{key}"));
        foreach (string key in keys)
            Assert.True(Page.Contains($"| `{key}` |", StringComparison.Ordinal) || Page.Contains($"## {key}: ", StringComparison.Ordinal), key);
    }

    [Fact]
    public void Error_that_it_shows_is_a_real_one()
    {
        ConfigError error = ConfigReader.Parse("/etc/tunnel/tun0.yaml", "\n\n\n\n\n\npeers:\n  vm2: {endpoint: a,\n    subnets: [172.17.52.1/24]}\n"u8).Errors[0];

        Assert.Contains($"\n{error}\n", Page, StringComparison.Ordinal);
    }

    [Fact]
    public void Packaged_example_loads_with_each_setting_that_it_mentions()
    {
        string example = File.ReadAllText(Path.Combine(RepositoryRoot(), "packaging", "tun0.yaml.example"));
        Assert.Equal(["vm2"], Network(example).Peers.Select(peer => peer.Name));

        MatchCollection settings = Setting().Matches(example);
        Assert.NotEmpty(settings);
        foreach (Match setting in settings)
        {
            string changed = example.Remove(setting.Groups["mark"].Index, 1);

            // The one pair that excludes each other.
            if (setting.Value.Contains("interface:", StringComparison.Ordinal))
                changed = changed.Replace("  local: 192.168.40.11\n", "", StringComparison.Ordinal);

            Assert.NotEqual(Network(example), Network(changed));
        }
    }

    [GeneratedRegex("^```yaml\n(?<yaml>.*?)^```$", RegexOptions.Multiline | RegexOptions.Singleline, 1000)]
    private static partial Regex YamlBlock();

    [GeneratedRegex("^# /etc/tunnel/(?<path>tun0\\.d/.*)$", RegexOptions.Multiline, 1000)]
    private static partial Regex StoredPath();

    [GeneratedRegex("^ *(?<mark>#)[a-z-]+: .*$", RegexOptions.Multiline, 1000)]
    private static partial Regex Setting();
}
