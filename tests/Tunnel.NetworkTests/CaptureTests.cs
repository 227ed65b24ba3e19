using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>`tunnelctl capture`, with Wireshark's own reader for what it writes.</summary>
public sealed class CaptureTests(ITestOutputHelper output)
{
    [SkippableFact]
    public async Task WhatIsCapturedOpensInWiresharkWithoutAWarning()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Skip.IfNot((await vm1.ShellAsync("command -v tshark")).ExitCode == 0, "tshark is not installed");
        Daemon[] daemons = await lab.StartMeshAsync();
        string file = Path.Combine(vm1.Directory, "capture.pcapng");

        await using Background capture = vm1.Start(null, Programs.Tunnelctl, "--socket", daemons[0].SocketFile, "capture", "-w", file);
        await Poll.UntilAsync("it has begun", () => Task.FromResult(File.Exists(file) && new FileInfo(file).Length > 0));
        Assert.Equal(409, (await daemons[0].SendAsync("GET", "/v1/capture")).Status);
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(4))).Received);
        Assert.Equal(3, (await vm1.Container.PingAsync(vm2.ContainerAddress(6))).Received);

        // What vm1 takes for no source of vm2's, and what has no route.
        await vm2.IpAsync("addr add 172.17.99.1/32 dev lo");
        await vm2.Container.PingAsync(vm1.ContainerAddress(4), 1);
        await vm2.RunAsync("ping", "-n", "-c", "1", "-W", "1", "-I", "172.17.99.1", vm1.ContainerAddress(4));
        await Poll.UntilAsync("the drop was seen", async () => await daemons[0].DropsAsync("SourceNotInPeerSubnets", "vm2") > 0);
        await Poll.UntilAsync("it was written", async () => (await TsharkAsync(vm1, file)).Any(packet => packet.Contains("dropped: SourceNotInPeerSubnets", StringComparison.Ordinal)));
        await capture.SignalAsync("INT");
        Assert.Equal(0, await capture.WaitAsync());
        Assert.Contains("packets captured", capture.Log, StringComparison.Ordinal);

        CommandResult read = await vm1.RunAsync("tshark", "-n", "-r", file, "-V");
        Assert.Equal(0, read.ExitCode);
        Assert.DoesNotContain("Malformed", read.Out, StringComparison.Ordinal);
        Assert.Equal("", string.Join('\n', read.Error.Split('\n').Where(line => line.Length > 0 && !line.Contains("Running as user", StringComparison.Ordinal))));
        string[] packets = await TsharkAsync(vm1, file);
        Assert.Equal(3, packets.Count(packet => packet.StartsWith("172.17.51.2||172.17.52.2|8|tun0 vm2|", StringComparison.Ordinal) && packet.EndsWith('|')));
        Assert.Equal(3, packets.Count(packet => packet.StartsWith("172.17.52.2||172.17.51.2|0|tun0 vm2|", StringComparison.Ordinal) && packet.EndsWith('|')));
        Assert.True(packets.Count(packet => packet.Contains("|fd17:51::2|", StringComparison.Ordinal)) >= 3);
        Assert.Contains(packets, packet => packet.StartsWith("172.17.99.1||172.17.51.2|8|tun0 vm2|", StringComparison.Ordinal) && packet.EndsWith("|dropped: SourceNotInPeerSubnets", StringComparison.Ordinal));

        // Into a pipe, until its reader has had enough.
        await using (vm1.Container.Start(null, "ping", "-n", "-i", "0.1", vm2.ContainerAddress(4)))
        {
            CommandResult piped = await vm1.ShellAsync($"{Programs.Tunnelctl} --socket {daemons[0].SocketFile} capture -w - 2>/dev/null | tshark -n -c 3 -r - 2>/dev/null");
            Assert.Equal(3, piped.Succeeded().Out.Trim().Split('\n').Length);
        }

        // The next one may begin.
        Task<CommandResult> lines = daemons[0].CtlAsync("capture", "--peer", "vm2", "-c", "4");
        await Poll.UntilAsync(
            "it ends after 4 packets",
            async () =>
            {
                await vm1.Container.PingAsync(vm2.ContainerAddress(4), 1);
                return lines.IsCompleted;
            });
        Assert.Equal(0, (await lines).ExitCode);
        Assert.Contains(" out vm2 172.17.51.2 > 172.17.52.2: ICMP, length 84\n", (await lines).Out, StringComparison.Ordinal);
        Assert.Equal(4, (await lines).Out.TrimEnd().Split('\n').Length);
    }

    [SkippableFact]
    public async Task TopShowsThePeersByRate()
    {
        await using Lab lab = await Lab.CreateAsync(output);
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon[] daemons = await lab.StartMeshAsync();
        await using Background ping = vm1.Container.Start(null, "ping", "-n", "-i", "0.02", vm2.ContainerAddress(4));
        await Poll.UntilAsync(
            "the rate is shown",
            async () =>
            {
                string[] row = (await daemons[0].CtlAsync("top", "--interval", "0.5", "-c", "1")).Succeeded().Out.Split('\n')[1].Split(' ', StringSplitOptions.RemoveEmptyEntries);
                Assert.Equal("vm2", row[0]);
                return double.TryParse(row[2], out double packets) && packets > 10;
            });

        await using Background top = vm1.Start(null, Programs.Tunnelctl, "--socket", daemons[0].SocketFile, "top", "--interval", "0.2");
        await top.WaitForAsync("PEER");
        await top.SignalAsync("INT");
        Assert.Equal(0, await top.WaitAsync());
    }

    private static async Task<string[]> TsharkAsync(Vm host, string file)
    {
        CommandResult result = await host.RunAsync(
            "tshark", "-n", "-r", file, "-T", "fields", "-E", "separator=|", "-E", "occurrence=f",
            "-e", "ip.src", "-e", "ipv6.src", "-e", "ip.dst", "-e", "icmp.type", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "frame.comment");
        return result.Out.TrimEnd().Split('\n');
    }
}
