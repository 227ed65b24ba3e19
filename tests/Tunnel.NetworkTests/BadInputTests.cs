using System.Text.Json.Nodes;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>Whatever is wrong on the host or in what a person typed: the right exit code, one clear line, no stack trace.</summary>
public sealed class BadInputTests(ITestOutputHelper output)
{
    [SkippableTheory]
    [InlineData("interface:\n  adresses: [10.0.201.1/24]\n", "tun0.yaml:2:3", "addresses")]
    [InlineData("interface:\n  addresses: [10.0.201.300/24]\n", "tun0.yaml:2:", "10.0.201.300/24")]
    [InlineData("interface: {addresses: [10.0.201.1/24]}\npeers:\n  a: {endpoint: 192.0.2.1, subnets: [10.1.0.0/16]}\n  b: {endpoint: 192.0.2.2, subnets: [10.1.0.0/16]}\n", "tun0.yaml:4:", "10.1.0.0/16")]
    [InlineData("interface: {addresses: [10.0.201.1/24]}\npeers:\n  a: {endpoint: 192.0.2.1, subnets: [192.0.2.0/24]}\n", "tun0.yaml:3:", "192.0.2.1")]
    [InlineData("interface: [", "tun0.yaml:2:1", "")]
    public async Task ABadConfigurationIsExplainedAndEndsWith78(string configuration, string place, string names)
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 1);
        CommandResult result = await lab.Hosts[0].RunDaemonAsync(configuration);

        Assert.Equal(78, result.ExitCode);
        Assert.Contains(place, result.Error, StringComparison.Ordinal);
        Assert.Contains(names, result.Error, StringComparison.Ordinal);
        AssertNoStackTrace(result);
    }

    [SkippableFact]
    public async Task WithoutThePermissionItNamesTheCapabilities()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 1);
        Vm vm1 = lab.Hosts[0];
        foreach (string capability in new[] { "net_admin", "net_raw" })
        {
            CommandResult result = await vm1.RunDaemonAsync(vm1.Configuration(), wrapper: ["setpriv", $"--bounding-set=-{capability}"]);
            AssertOneLine(result, $"CAP_{capability.ToUpperInvariant()}");
        }
    }

    [SkippableFact]
    public async Task WithoutTheTunDeviceFileItSaysSo()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 1);
        Vm vm1 = lab.Hosts[0];

        // In the daemon's own mount namespace, which `ip netns exec` makes.
        CommandResult result = await vm1.RunDaemonAsync(
            vm1.Configuration(), wrapper: ["sh", "-c", """mkdir -p /dev/net && mount -t tmpfs tmpfs /dev/net && exec "$@" """, "sh"]);

        AssertOneLine(result, "/dev/net/tun");
    }

    [SkippableTheory]
    [InlineData("link add tun0 type veth peer name other")]
    [InlineData("tuntap add tun0 mode tap")]
    public async Task ADeviceNameThatIsTakenIsRefused(string taken)
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 1);
        Vm vm1 = lab.Hosts[0];
        await vm1.IpAsync(taken);
        string before = await vm1.SnapshotAsync();

        AssertOneLine(await vm1.RunDaemonAsync(vm1.Configuration()), "tun0");

        Assert.Equal(before, await vm1.SnapshotAsync());
    }

    [SkippableFact]
    public async Task AnIpv6AddressWhereIpv6IsOffIsExplained()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 1);
        Vm vm1 = lab.Hosts[0];
        (await vm1.ShellAsync("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6")).Succeeded();

        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration());

        Assert.Contains("fd10:201::1", daemon.Log, StringComparison.Ordinal);
        string problem = Assert.Single((await daemon.GetAsync("/v1/network"))["problems"]!.AsArray())!.GetValue<string>();
        Assert.Contains("IPv6 is disabled", problem, StringComparison.Ordinal);
        Assert.Equal(1, (await vm1.PingAsync(vm1.Overlay(4), 1)).Received);
    }

    [SkippableFact]
    public async Task ALocalAddressThatTheHostDoesNotHaveIsExplained()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 1);
        AssertOneLine(
            await lab.Hosts[0].RunDaemonAsync("interface: {addresses: [10.0.201.1/24]}\nunderlay: {local: 192.168.40.77}\n"), "192.168.40.77");
    }

    [SkippableFact]
    public async Task AForeignRouteAtTheStartIsExplainedAndStays()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await vm1.IpAsync($"route add {vm2.Subnet(4)} dev eth1");
        string before = await vm1.SnapshotAsync();

        // The network comes up with its other peers and subnets, or not at all; in both cases it says why, and replaces nothing.
        var daemon = new Daemon(vm1, "tun0", vm1.Configuration(vm2.PeerEntry()));
        lab.Own(daemon);
        try
        {
            await daemon.StartAsync();
            JsonNode route = (await daemon.GetAsync("/v1/routes")).AsArray().Single(route => route!["prefix"]!.GetValue<string>() == vm2.Subnet(4))!;
            Assert.False(route["installed"]!.GetValue<bool>());
            Assert.NotNull(route["problem"]);
            await daemon.StopAsync();
        }
        catch (LabException)
        {
            Assert.Equal(1, daemon.Process.ExitCode);
        }

        Assert.Contains(vm2.Subnet(4), daemon.Log, StringComparison.Ordinal);
        Assert.Equal(before, await vm1.SnapshotAsync());
    }

    [SkippableFact]
    public async Task ARelativeRunDirectoryAndConfigurationFileWork()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 1);
        Vm vm1 = lab.Hosts[0];
        Directory.CreateDirectory(vm1.Directory);
        await File.WriteAllTextAsync(Path.Combine(vm1.Directory, "tun0.yaml"), vm1.Configuration());

        await using Background daemon = vm1.Start(
            null, "sh", "-c", """cd "$1" && exec "$2" --config tun0.yaml --run-dir run""", "sh", vm1.Directory, Programs.Tunneld);
        await daemon.WaitForAsync("is up");

        Assert.True(File.Exists(Path.Combine(vm1.Directory, "run", "tun0.sock")));
    }

    [SkippableFact]
    public async Task TunnelctlsExitCodesTellUsageRefusalAndSilenceApart()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 1);
        Daemon daemon = await lab.Hosts[0].StartDaemonAsync(lab.Hosts[0].Configuration());

        Assert.Equal(0, (await daemon.CtlAsync()).ExitCode);
        Assert.Equal(2, (await daemon.CtlAsync("shwo")).ExitCode);
        Assert.Equal(2, (await daemon.CtlAsync("add-peer", "vm2")).ExitCode);
        Assert.Equal(1, (await daemon.CtlAsync("show", "nobody")).ExitCode);
        Assert.Equal(1, (await daemon.CtlAsync("remove-peer", "nobody")).ExitCode);
        await daemon.StopAsync();
        CommandResult silent = await daemon.CtlAsync("show");
        Assert.Equal(3, silent.ExitCode);
        Assert.Single(silent.Error.TrimEnd().Split('\n'));
    }

    [SkippableTheory]
    [InlineData("PUT", "/v1/peers/vm2", "{", 400)]
    [InlineData("PUT", "/v1/peers/vm2", """{"endpoint": "192.168.40.12"}""", 400)]
    [InlineData("PUT", "/v1/peers/vm2", """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/33"]}""", 400)]
    [InlineData("PUT", "/v1/peers/vm2", """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24"], "kee": 1}""", 400)]
    [InlineData("PUT", "/v1/peers/..%2f..%2fetc", """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24"]}""", 400)]
    [InlineData("PATCH", "/v1/peers/nobody", """{"key": 1}""", 404)]
    [InlineData("DELETE", "/v1/peers/nobody", null, 404)]
    [InlineData("GET", "/v1/nothing", null, 404)]
    [InlineData("POST", "/v1/peers/vm2", null, 405)]
    [InlineData("DELETE", "/v1/network", null, 405)]
    public async Task TheControlApiRefusesWithAReason(string method, string path, string? body, int status)
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 1);
        Daemon daemon = await lab.Hosts[0].StartDaemonAsync(lab.Hosts[0].Configuration());

        (int answered, JsonNode? answer) = await daemon.SendAsync(method, path, body);

        Assert.Equal(status, answered);
        Assert.NotEmpty(answer!["error"]!.GetValue<string>());
        Assert.Empty((await daemon.GetAsync("/v1/peers")).AsArray());
    }

    private static void AssertOneLine(CommandResult result, string names)
    {
        Assert.True(result.ExitCode == 1, $"{result}");
        string line = Assert.Single(result.Error.TrimEnd().Split('\n'));
        Assert.Contains(names, line, StringComparison.Ordinal);
        AssertNoStackTrace(result);
    }

    private static void AssertNoStackTrace(CommandResult result) =>
        Assert.DoesNotContain("\n   at ", result.Out + result.Error, StringComparison.Ordinal);
}
