using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>A host whose firewall is the real firewalld, which has a system bus of its own here.</summary>
public sealed class FirewalldTests(ITestOutputHelper output)
{
    private const string Table = "nft list table inet tunnel_tun0";

    [SkippableFact]
    public async Task WhatDoctorSaysOutlivesAReloadAndTheTableIsThereAfterIt()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Skip.IfNot((await vm1.ShellAsync("command -v firewalld dbus-daemon")).ExitCode == 0, "needs firewalld and dbus-daemon");
        string directory = Directory.CreateTempSubdirectory("tunnel-firewalld-").FullName;
        try
        {
            string bus = $"unix:path={directory}/bus";
            var environment = new Dictionary<string, string> { ["DBUS_SYSTEM_BUS_ADDRESS"] = bus };
            await using Background dbus = vm1.Start(
                null, "dbus-daemon", "--config-file=/usr/share/dbus-1/system.conf", $"--address={bus}", "--nofork", "--nopidfile");
            await Poll.UntilAsync("there is a bus", () => Task.FromResult(File.Exists($"{directory}/bus")), () => Task.FromResult(dbus.Log));
            await using Background firewalld = vm1.Start(environment, "firewalld", "--nofork", "--nopid", $"--system-config={directory}");
            Task<CommandResult> OnBusAsync(string line) => vm1.ShellAsync($"export DBUS_SYSTEM_BUS_ADDRESS={bus}; {line}");
            await Poll.UntilAsync(
                "firewalld runs", async () => (await OnBusAsync("firewall-cmd --state")).ExitCode == 0, () => Task.FromResult(firewalld.Log + dbus.Log));

            Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()) + "subnets: [172.17.51.0/24]\nnat: {masquerade: true}\n");
            await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));
            string table = (await vm1.ShellAsync(Table)).Succeeded().Out;
            Assert.Equal(0, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
            Assert.Equal(0, (await vm2.Container.PingAsync(vm1.ContainerAddress(4))).Received);

            // One after another, as long as there is one: each way has its own.
            var cures = new List<string>();
            while (await FindAsync(daemon) is string cure && cures.Count < 3)
            {
                cures.Add(cure);
                (await OnBusAsync(cure)).Succeeded();
                await Poll.UntilAsync("the table is there", async () => (await vm1.ShellAsync(Table)).Out == table, async () => (await vm1.ShellAsync(Table)).ToString());
            }

            Assert.Equal(
                ["firewall-cmd --permanent --zone=trusted --change-interface=br0 && firewall-cmd --reload", "firewall-cmd --permanent --zone=trusted --change-interface=tun0 && firewall-cmd --reload"],
                cures.Order(StringComparer.Ordinal));
            Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
            Assert.Equal(3, (await vm2.Container.PingAsync(vm1.ContainerAddress(4))).Received);
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    // The rules are read when doctor asks, so what it says is about those of now.
    private static async Task<string?> FindAsync(Daemon daemon) =>
        (await daemon.GetAsync("/v1/doctor")).AsArray().FirstOrDefault(finding => finding!["check"]!.GetValue<string>() == "forward-rules")?["cure"]!.GetValue<string>();
}
