using System.Net.Sockets;
using System.Text;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>What a monitoring system and a service manager see.</summary>
public sealed class MetricsTests(ITestOutputHelper output)
{
    [SkippableFact]
    public async Task MetricsAndHealthAreToldOverTcpAndNothingElse()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon daemon = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry()) + "\ncontrol: {metrics: 127.0.0.1:9586}\n");
        await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry()));
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);

        string metrics = (await GetAsync(vm1, "metrics")).Succeeded().Out;
        long sent = (await daemon.GetAsync("/v1/peers/vm2"))["traffic"]!["sent"]!["packets"]!.GetValue<long>();
        Assert.True(sent >= 3);
        Assert.Contains($"tunnel_peer_sent_packets_total{{peer=\"vm2\"}} {sent}\n", metrics, StringComparison.Ordinal);
        Assert.Contains("tunnel_interface_up 1\n", metrics, StringComparison.Ordinal);
        if ((await vm1.ShellAsync("command -v promtool")).ExitCode == 0)
        {
            string file = Path.Combine(vm1.Directory, "metrics");
            await File.WriteAllTextAsync(file, metrics);
            CommandResult check = await vm1.ShellAsync("promtool check metrics <$1", file);
            Assert.True(check.ExitCode == 0 && check.Error.Length == 0, $"{check}");
        }

        Assert.Equal("{\"status\":\"ok\",\"problems\":[]}\n", (await GetAsync(vm1, "health")).Succeeded().Out);
        Assert.NotEqual(0, (await GetAsync(vm1, "v1/network")).ExitCode);
    }

    [SkippableFact]
    public async Task AnAddressInUseIsToldInOneLine()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        Vm vm1 = lab.Hosts[0];
        await using Background other = vm1.StartPython("import socket; s = socket.create_server(('127.0.0.1', 9586)); print('listening', flush=True); s.accept()");
        await other.WaitForAsync("listening");
        CommandResult refused = await vm1.RunDaemonAsync(vm1.Configuration() + "\ncontrol: {metrics: 127.0.0.1:9586}\n");
        Assert.Equal(1, refused.ExitCode);
        string last = refused.Error.TrimEnd().Split('\n')[^1];
        Assert.StartsWith("tunneld: cannot listen at 127.0.0.1:9586 for metrics: ", last, StringComparison.Ordinal);
        Assert.EndsWith("choose another address in control.metrics", last, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task TheServiceManagersWatchdogIsServed()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        Vm vm1 = lab.Hosts[0];
        Directory.CreateDirectory(vm1.Directory);
        string notifyPath = Path.Combine(vm1.Directory, "notify");
        using var manager = new Socket(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        manager.Bind(new UnixDomainSocketEndPoint(notifyPath));
        string file = Path.Combine(vm1.Directory, "tun0.yaml");
        await File.WriteAllTextAsync(file, vm1.Configuration());
        await using Background daemon = vm1.Start(
            new Dictionary<string, string> { ["NOTIFY_SOCKET"] = notifyPath, ["WATCHDOG_USEC"] = "200000" },
            Programs.Tunneld, "--config", file, "--run-dir", Path.Combine(vm1.Directory, "run"));
        using var deadline = new CancellationTokenSource(Command.Deadline);
        byte[] message = new byte[4096];
        for (int fed = 0; fed < 5;)
        {
            int length = await manager.ReceiveAsync(message, deadline.Token);
            fed += Encoding.UTF8.GetString(message, 0, length) == "WATCHDOG=1" ? 1 : 0;
        }

        await daemon.SignalAsync("TERM");
        Assert.Equal(0, await daemon.WaitAsync());
    }

    private static Task<CommandResult> GetAsync(Vm host, string path) => host.RunAsync("curl", "-sf", $"http://127.0.0.1:9586/{path}");
}
