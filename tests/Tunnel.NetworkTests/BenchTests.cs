using System.Globalization;
using System.Text.Json.Nodes;

namespace Tunnel.NetworkTests;

/// <summary>scripts/bench.sh: what it makes of figures, and one short run of it.</summary>
[Collection(nameof(LabCollection))]
public sealed class BenchTests
{
    [SkippableFact]
    public async Task TheReportHasMediansSpreadRatiosAndVerdicts()
    {
        Skip.IfNot((await Command.RunAsync(["sh", "-c", "command -v jq"])).ExitCode == 0, "needs jq");
        string report = await ReportAsync(
            [("ovs", 1.0, 10.0), ("vxlan", 16.0, 0.6), ("tunnel-gre", 3.6, 4.0), ("tunnel-udp", 12.0, 1.5)]);

        // Medians of rounds at 100, 50 and 200 percent.
        Assert.Contains("| 3.6 ±75% | 3.6 | 0.225 |", report, StringComparison.Ordinal);
        Assert.Contains("| default | one TCP flow | tunnel-gre | at least 3 × ovs | 3.6 | reached |", report, StringComparison.Ordinal);
        Assert.Contains("| default | one TCP flow | tunnel-gre | at least 0.25 × vxlan | 0.225 | **missed** |", report, StringComparison.Ordinal);
        Assert.Contains("| default | one TCP flow | tunnel-udp | at least 0.8 × vxlan | 0.75 | **missed** |", report, StringComparison.Ordinal);
        Assert.Contains("| default | CPU time per GB | tunnel-gre | under 0.5 × ovs | 0.4 | reached |", report, StringComparison.Ordinal);
        Assert.Contains("| default | ping round trip | tunnel-gre | at most 1.5 × the best userspace peer | - | not measured |", report, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task AShortRunMeasuresAndLeavesNothing()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "needs root");
        Skip.If(string.IsNullOrEmpty(Environment.GetEnvironmentVariable("TUNNEL_DIST")), "needs TUNNEL_DIST, both programs in one place");
        string lab = $"tunnel-bench-{Environment.ProcessId}";
        DirectoryInfo files = Directory.CreateTempSubdirectory("tunnel-bench-");
        try
        {
            // Two tunnels of a user's own, whose paths have dots, and no extension.
            string mine = WriteProgram(files, "of.mine/vxlan-of-mine", "case $1 in up) ip link add vx9 type vxlan id 9 local $3 remote $4 dstport 4790 dev eth1; ip addr add $5 dev vx9; ip link set vx9 up;; down) ip link del vx9;; esac");
            string broken = WriteProgram(files, "of.mine/broken", $"case $1 in up) echo it is broken >&2; exit 1;; down) echo $2 >>{files.FullName}/down; exit 1;; esac");
            CommandResult run = await Command.RunAsync(
                ["env", $"TUNNEL_LAB={lab}", Script, "--quick", "--seconds", "1", "--profile", "default", "--peer-command", mine, "--peer-command", broken,
                    "--only", "none,tunnel-gre,vxlan-of-mine,broken", "--out", files.FullName],
                deadline: TimeSpan.FromMinutes(4));
            run.Succeeded();

            JsonNode json = JsonNode.Parse(await File.ReadAllTextAsync(Path.Combine(files.FullName, "bench.json")))!;
            JsonObject[] rounds = [.. json["rounds"]!.AsArray().Select(round => round!.AsObject()).Where(round => round["variant"]!.GetValue<string>() != "broken")];
            Assert.Equal(["none", "tunnel-gre", "vxlan-of-mine"], rounds.Select(round => round["variant"]!.GetValue<string>()));
            Assert.Contains("broken is not available: it is broken", run.Out, StringComparison.Ordinal);
            Assert.Equal("1\n2\n", await File.ReadAllTextAsync(Path.Combine(files.FullName, "down")));

            // The table, as numbers.
            Assert.Equal(["none", "tunnel-gre", "vxlan-of-mine"], json["table"]!.AsArray().Select(row => row!["variant"]!.GetValue<string>()));
            Assert.Equal(rounds[1]["tcp1"]!.GetValue<double>(), json["table"]![1]!["tcp1"]!["median"]!.GetValue<double>());
            Assert.Contains(json["promised"]!.AsArray(), promise => promise!["variant"]!.GetValue<string>() == "tunnel-gre" && promise["verdict"]!.GetValue<string>() == "reached");
            foreach (string figure in new[] { "tcp1", "tcp4", "reverse", "udp64", "ping", "cpu", "wire_packet" })
            {
                Assert.All(rounds, round => Assert.True(round[figure]?.GetValue<double>() > 0, $"{figure}: {round}\n{run}"));
            }

            Assert.True(rounds[1]["memory"]!.GetValue<double>() > 0);
            Assert.Contains("**tunneld, GRE**", run.Out, StringComparison.Ordinal);
            Assert.Empty(Directory.GetFiles("/run/netns", lab + "-*"));
            Assert.False(Directory.Exists($"/run/{lab}"));
        }
        finally
        {
            files.Delete(recursive: true);
        }
    }

    private static string WriteProgram(DirectoryInfo directory, string path, string line)
    {
        string file = Path.Combine(directory.FullName, path);
        Directory.CreateDirectory(Path.GetDirectoryName(file)!);
        File.WriteAllText(file, $"#!/bin/sh\n{line}\n");
        File.SetUnixFileMode(file, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        return file;
    }

    private static string Script
    {
        get
        {
            string directory = AppContext.BaseDirectory;
            while (!File.Exists(Path.Combine(directory, "Tunnel.sln")))
            {
                directory = Path.GetDirectoryName(directory) ?? throw new LabException("the tests do not run in a checkout");
            }

            return Path.Combine(directory, "scripts", "bench.sh");
        }
    }

    private static async Task<string> ReportAsync((string Name, double Tcp, double Cpu)[] variants)
    {
        var rounds = new JsonArray();
        foreach ((double factor, int round) in new[] { (1.0, 1), (0.5, 2), (2.0, 3) })
        {
            foreach ((string name, double tcp, double cpu) in variants)
            {
                rounds.Add(new JsonObject
                {
                    ["profile"] = "default",
                    ["round"] = round,
                    ["variant"] = name,
                    ["problems"] = new JsonArray(),
                    ["tcp1"] = tcp * factor,
                    ["cpu"] = cpu,
                    ["drops"] = 0,
                });
            }
        }

        var run = new JsonObject
        {
            ["date"] = DateTime.UnixEpoch.ToString("s", CultureInfo.InvariantCulture),
            ["machine"] = new JsonObject { ["cpu"] = "any", ["cores"] = 2, ["kernel"] = "6.1" },
            ["settings"] = new JsonObject
            {
                ["seconds"] = 5,
                ["warm_up"] = 2,
                ["rounds"] = 3,
                ["quick"] = false,
                ["datapath"] = "",
                ["congestion_control"] = "cubic",
                ["mtu"] = 1500,
            },
            ["versions"] = new JsonObject { ["iperf3"] = "3.12" },
            ["variants"] = new JsonArray([.. variants.Select(variant => new JsonObject
            {
                ["name"] = variant.Name,
                ["title"] = variant.Name,
                ["kind"] = variant.Name == "ovs" ? "user" : "own",
            })]),
            ["rounds"] = rounds,
        };
        return (await Command.RunAsync([Script, "--report", "/dev/stdin"], run.ToJsonString())).Succeeded().Out;
    }
}
