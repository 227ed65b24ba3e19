using System.Text;
using System.Text.Json;
using Tunnel.Control.Configuration;
using Tunnel.Tests.Fuzzing;
using static Tunnel.Tests.Control.Configuration.ConfigTesting;

namespace Tunnel.Tests.Control.Configuration;

/// <summary>Whatever is read from a file ends in a model or in errors of one line each; what does not is saved.</summary>
[Trait("Category", FuzzRun.Category)]
public class ConfigFuzzTests
{
    private const int Iterations = 20_000;

    private static readonly string[] Yaml =
    [
        """
        interface:
          addresses: [10.0.201.1/24, fd00:201::1/64]
          mtu: auto
          pmtu-floor: 1280
        underlay:
          local: [192.168.40.11, "fd00:40::11"]
          encapsulation: gre
          accept: [gre, gre-udp]
          udp-port: 4754
          source-port: flow
        datapath: {receive: auto, send: packet, workers: 2, pin: true, busy-poll: 50us}
        subnets: [172.17.51.0/24]
        peers:
          vm2:
            endpoint: 192.168.40.12
            subnets: [172.17.52.0/24, 10.0.201.2/32]
            encapsulation: gre
            key: 42
            checksum: false
            sequence: false
            dscp: copy
            ecn: normal
            ttl: 255
            pmtud: false
            strict: true
            keepalive: gre:10s
            on-down: withdraw
            on-refused: retry
        """,
        """
        # comment
        peers:
          vm2: {endpoint: "fd00:40::12", subnets: ["fd00:52::/64"], key: {in: 0x1, out: 0.0.0.2}}
          'vm3':
            endpoint: vm3.example.com
            subnets:
            - 172.17.53.0/24
            - 172.17.54.0/23
        """,
    ];

    /// <summary>Bodies of requests that are good.</summary>
    internal static readonly string[] Json =
    [
        """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24", "fd00:52::/64"], "encapsulation": "gre", "key": {"in": 1, "out": "0x2"}, "checksum": true, "sequence": null, "dscp": 46, "ecn": "auto", "ttl": "inherit", "pmtud": true, "strict": null, "keepalive": "500ms", "on-down": "keep", "on-refused": "stop", "ephemeral": false}""",
        """{"subnets": ["10.0.0.0/8"], "key": null}""",
    ];

    private static readonly string[] Pieces =
    [
        ":", ": ", "- ", "[", "]", "{", "}", ",", "\n", "\t", "  ", "\"", "'", "#", "&a ", "*a", "!!str ", "---\n", "...", "%YAML 1.2\n", "? ", "|\n", ">\n", "<<: ",
        "~", "null", "true", "\\ud800", "\\u0000", "\0", "\u001b", "\u2028", "\ud83d\ude00", "::/0", "/129", "0.0.0.0/0", "99999999999999999999", "-1", "0x", "vm2", "peers:\n",
        "endpoint: ", "subnets: ", "key: {in: 1}", "@", "`", "\r", "\ufeff",
    ];

    [Fact]
    public void Mutated_files_end_in_a_model_or_in_errors()
    {
        foreach (int seed in FuzzRun.Rounds())
        {
            var random = new Random(20260102 + seed);
            int valid = 0;
            int understood = 0;
            for (int i = 0; i < Iterations; i++)
            {
                byte[] content = Mutate(Yaml[random.Next(Yaml.Length)], random);
                (string? failure, ConfigResult<NetworkConfig>? result) = TryFile(content);
                Assert.True(failure is null, failure is null ? "" : FuzzCase.Save("yaml", $"seed {seed}: {failure}", content));
                valid += result!.IsValid ? 1 : 0;
                understood += result.IsValid || result.Errors[0].Field is not null ? 1 : 0;
            }

            // The mutations are to reach the rules, not only the YAML parser.
            Assert.InRange(valid, Iterations / 50, Iterations);
            Assert.InRange(understood, Iterations / 4, Iterations);
        }
    }

    /// <summary>Reads a file; says what went wrong, if anything.</summary>
    internal static (string? Failure, ConfigResult<NetworkConfig>? Result) TryFile(byte[] content)
    {
        try
        {
            ConfigResult<NetworkConfig> result = ConfigReader.Parse("tun0.yaml", content);
            Check(result, placed: true);
            return (null, result);
        }
#pragma warning disable CA1031 // Whatever is thrown is the finding.
        catch (Exception thrown)
#pragma warning restore CA1031
        {
            return (FuzzCase.Describe(thrown), null);
        }
    }

    /// <summary>Reads a request's body; says what went wrong, if anything.</summary>
    internal static (string? Failure, bool IsJson) TryBody(byte[] content)
    {
        try
        {
            using JsonDocument body = JsonDocument.Parse(content);
            ConfigResult<PeerConfig> put = PeerReader.Put("vm9", body.RootElement);
            Check(put, placed: false);
            Check(PeerReader.Patch(Peer("vm2", "192.168.40.12", "172.17.52.0/24"), body.RootElement), placed: false);
            if (put.IsValid)
                Check(Network(Yaml[1]).WithPeer(put.Value), placed: false);

            return (null, true);
        }
        catch (JsonException)
        {
            // Not JSON: the control API's to refuse.
            return (null, false);
        }
#pragma warning disable CA1031 // Whatever is thrown is the finding.
        catch (Exception thrown)
#pragma warning restore CA1031
        {
            return (FuzzCase.Describe(thrown), true);
        }
    }

    private static void Check<T>(ConfigResult<T> result, bool placed)
        where T : class
    {
        Assert.Equal(result.IsValid, result.Errors.Count == 0);
        foreach (ConfigError error in result.Errors.Concat(result.Warnings))
        {
            string line = error.ToString();
            Assert.DoesNotContain(line, char.IsControl);
            Assert.NotEmpty(error.Message);
            Assert.Equal(placed, error.Place.File == "tun0.yaml");
            Assert.True(error.Place.Line >= 0 && error.Place.Column >= 0);
        }
    }

    /// <summary>A text with a few changes, which may be no text any more.</summary>
    internal static byte[] Mutate(string text, Random random)
    {
        var mutant = new StringBuilder(text);
        int changes = random.Next(1, 4);
        for (int i = 0; i < changes; i++)
        {
            int at = random.Next(mutant.Length + 1);
            int length = Math.Min(random.Next(1, 8), mutant.Length - at);
            switch (random.Next(5))
            {
                case 0:
                    mutant.Remove(at, length);
                    break;
                case 1:
                    mutant.Insert(at, Pieces[random.Next(Pieces.Length)]);
                    break;
                case 2:
                    mutant.Insert(at, mutant.ToString(at, length));
                    break;
                case 3 when at < mutant.Length:
                    mutant[at] = (char)random.Next(' ', 127);
                    break;
                default:
                    int from = random.Next(mutant.Length - length + 1);
                    mutant.Insert(at, mutant.ToString(from, length));
                    break;
            }
        }

        byte[] content = Encoding.UTF8.GetBytes(mutant.ToString());
        if (content.Length > 0 && random.Next(10) == 0)
            content[random.Next(content.Length)] ^= (byte)(1 << random.Next(8));

        return content;
    }
}
