using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>
/// The package's service under a real systemd, and what is lost while it begins anew. How long that takes is what counts, so other tests don't run beside it.
/// </summary>
[Collection(nameof(LabCollection))]
public sealed class ServiceTests(ITestOutputHelper output)
{
    [SkippableFact]
    public async Task UnderSystemdTheHardenedUnitServesAndAnUpgradeRestartsIt()
    {
        string package = PackageTests.Package();
        await using DebianRoot root = await DebianRoot.CreateAsync();
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));
        root.Add(package, "/root/tunnel.deb");
        root.Add(await PackageTests.NextVersionAsync(package), "/root/next.deb");
        await root.BootAsync(vm1);

        (await root.ShellAsync("dpkg --install /root/tunnel.deb")).Succeeded();
        root.Write("/etc/tunnel/tun0.yaml", vm1.Configuration() + $"subnets: [{vm1.Subnet(4)}]\nnat: {{masquerade: true}}\n");
        (await root.ShellAsync("systemctl enable --now tunneld@tun0 || { journalctl --no-pager -u tunneld@tun0; exit 1; }")).Succeeded();

        // By the group's right alone, what ExecReload needs too; the peer's file is written where the unit lets the daemon write.
        string addPeer = $"tunnelctl add-peer vm2 --endpoint {vm2.Underlay(4)} --subnet {vm2.Subnet(4)} --subnet {vm2.Overlay(4)}/32";
        (await root.ShellAsync($"setpriv --reuid tunnel --regid tunnel --init-groups {addPeer} && systemctl reload tunneld@tun0")).Succeeded();
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);

        // The filter of system calls leaves the kernel's help in reach.
        string shown = (await root.ShellAsync("tunnelctl show")).Succeeded().Out;
        Assert.DoesNotContain("Operation not permitted", shown, StringComparison.Ordinal);

        // Where legacy tables may exist, root alone may read which.
        CommandResult doctor = await root.ShellAsync("tunnelctl doctor");
        Assert.True(doctor.ExitCode is 0 or 4, $"{doctor}");
        Assert.All(doctor.Out.Split('\n').Where(line => line.Contains("finding:", StringComparison.Ordinal)), line => Assert.Contains("legacy iptables tables may exist", line, StringComparison.Ordinal));

        // The rules are never absent while the service begins anew, and gone when it stops. Whole transactions are looked at: one may put a table in another's place.
        Assert.Contains("masquerade", (await vm1.RunAsync("nft", "list", "table", "inet", "tunnel_tun0")).Succeeded().Out, StringComparison.Ordinal);
        await using Background tables = vm1.Start(null, "nft", "monitor");
        bool IsDeleted() => tables.Log.Split("# new generation").Any(transaction =>
            transaction.Contains("delete table inet tunnel_tun0", StringComparison.Ordinal) && !transaction.Contains("add table inet tunnel_tun0", StringComparison.Ordinal));
        string first = await MainPidAsync(root);
        await CheckWithoutLossAsync("upgrade", "dpkg --install /root/next.deb");
        string second = await MainPidAsync(root);
        Assert.True(second != first && second != "0", $"before the upgrade process {first}, after it {second}");
        await CheckWithoutLossAsync("restart", "systemctl restart tunneld@tun0");
        Assert.False(IsDeleted(), tables.Log);
        await CheckWithoutLossAsync("kill", "systemctl kill -s KILL tunneld@tun0; until systemctl is-active tunneld@tun0; do sleep 0.1; done", most: 20_000);
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        (await root.ShellAsync("systemctl stop tunneld@tun0")).Succeeded();
        await Poll.UntilAsync("the rules are gone", () => Task.FromResult(IsDeleted()), () => Task.FromResult(tables.Log));
        Assert.DoesNotContain("tun0", await vm1.SnapshotAsync(), StringComparison.Ordinal);

        (await root.ShellAsync("dpkg --purge tunnel")).Succeeded();
        Assert.Equal("inactive\n", (await root.ShellAsync("systemctl is-active tunneld@tun0")).Out);
        Assert.DoesNotContain("tun0", await vm1.SnapshotAsync(), StringComparison.Ordinal);
        Assert.Equal("", (await root.ShellAsync("ls -d /run/tunnel /etc/tunnel /etc/systemd/system/*.wants/tunneld* 2>/dev/null")).Out);

        // Under some 10,000 datagrams a second each way and a TCP connection: at most what 100 ms hold is lost. The device is the same afterwards.
        async Task CheckWithoutLossAsync(string what, string command, int most = 1000)
        {
            string device = (await vm1.RunAsync("ip", "-o", "link", "show", "tun0")).Succeeded().Out.Split(':')[0];
            await using UdpFlow there = await UdpFlow.StartAsync(vm1.Container, vm2.Container, vm2.ContainerAddress(4), burst: 10);
            await using UdpFlow back = await UdpFlow.StartAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(4), burst: 10);
            Task<int> transfer = TcpTransfer.CheckAsync(vm2.Container, vm1.Container, vm1.ContainerAddress(4), 50 << 20);
            (await root.ShellAsync(command)).Succeeded();
            int pause = await transfer;
            (FlowResult to, FlowResult from) = (await there.StopAsync(), await back.StopAsync());
            output.WriteLine($"{what}: lost {to.Lost} of {to.Sent} there, {from.Lost} of {from.Sent} back; TCP paused for {pause} ms at most");
            Assert.InRange(to.Lost, 0, most);
            Assert.InRange(from.Lost, 0, most);
            Assert.Equal(device, (await vm1.RunAsync("ip", "-o", "link", "show", "tun0")).Succeeded().Out.Split(':')[0]);
        }
    }

    private static async Task<string> MainPidAsync(DebianRoot root) =>
        (await root.ShellAsync("systemctl show --value --property MainPID tunneld@tun0")).Succeeded().Out.Trim();
}
