using System.Text;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests.Interop;

/// <summary>
/// One host of a <see cref="Lab"/>, vm1 with tunneld and a container, and two virtual machines on the same underlay, for all tests of a class:
/// vm2 has the kernel's GRE, vm3 has tunneld. scripts/kernel-vm.sh has the picture.
/// </summary>
public sealed class KernelVmLab : IAsyncLifetime
{
    // EX_UNAVAILABLE of sysexits(3): the script's word for what can't be had here.
    private const int EX_UNAVAILABLE = 69;

    private readonly Sink _sink = new();
    private string? _missing;
    private Lab? _lab;
    private KernelVm? _kernel;
    private KernelVm? _tunneld;
    private Task _tunneldIsUp = Task.CompletedTask;

    internal static string Script
    {
        get
        {
            string directory = AppContext.BaseDirectory;
            while (!File.Exists(Path.Combine(directory, "Tunnel.sln")))
            {
                directory = Path.GetDirectoryName(directory) ?? throw new LabException("the tests do not run in a checkout");
            }

            return Path.Combine(directory, "scripts", "kernel-vm.sh");
        }
    }

    /// <summary>The host.</summary>
    internal Vm Host => Here._lab!.Hosts[0];

    /// <summary>The underlay, with the machines' devices vm2 and vm3.</summary>
    internal Node Switch => Here._lab!.Switch;

    /// <summary>vm2, which has the kernel's GRE.</summary>
    internal KernelVm Kernel => Here._kernel!;

    /// <summary>vm2 as a peer of tunneld.</summary>
    internal Vm KernelPeer => Describe(2);

    /// <summary>vm3 as a peer of tunneld.</summary>
    internal Vm TunneldPeer => Describe(3);

    /// <summary>The file that is transferred: /data on vm2.</summary>
    internal string DataFile => Path.Combine(Here._lab!.Directory, "data");

    // The tests of a class that can't have its machines are skipped, each with the reason.
    private KernelVmLab Here
    {
        get
        {
            Skip.If(_missing is not null, _missing);
            return this;
        }
    }

    /// <summary>vm3, with its tunneld running.</summary>
    internal async Task<KernelVm> TunneldAsync()
    {
        await Here._tunneldIsUp;
        return _tunneld!;
    }

    /// <inheritdoc/>
    public async Task InitializeAsync()
    {
        if (!Environment.IsPrivilegedProcess)
        {
            _missing = "needs root";
            return;
        }

        CommandResult image = await Command.RunAsync([Script, "image", Programs.Tunneld], deadline: TimeSpan.FromMinutes(5));
        if (image.ExitCode == EX_UNAVAILABLE)
        {
            _missing = image.Error.Trim().Split('\n')[^1];
            return;
        }

        image.Succeeded();
        _lab = await Lab.CreateAsync(_sink, hosts: 1);
        Task<KernelVm> tunneld = KernelVm.StartAsync(_lab.Switch, _lab.Directory, 3, "full");
        _kernel = await KernelVm.StartAsync(_lab.Switch, _lab.Directory, 2, "base");
        _tunneldIsUp = StartTunneldAsync(tunneld);

        byte[] data = new byte[2 << 20];
        new Random(1).NextBytes(data);
        await File.WriteAllBytesAsync(DataFile, data);
        // The servers answer with the hash of what has come. 1388 and 1389 are their ports in hexadecimal, 0A is TCP_LISTEN (proc_net_tcp).
        await _kernel.SucceedAsync(
            """
            for module in dummy ip_gre ip6_gre fou fou6; do modprobe $module; done
            ip -batch - <<END
            link add inner type dummy
            link set inner up
            addr add 172.17.52.2/32 dev inner
            addr add fd17:52::2/128 dev inner
            END
            setsid busybox nc -ll -p 5000 -e sha256sum >/dev/null 2>&1 &
            setsid busybox nc -ll -p 5001 -e sh -c 'cat >/data; sha256sum </data' >/dev/null 2>&1 &
            for port in 1388 1389; do until cat /proc/net/tcp /proc/net/tcp6 | grep -q ":$port .* 0A "; do sleep 0.1; done; done
            """);
        Assert.Equal(await DataHashAsync(), await SendDataAsync(Host, "192.168.40.12", 5001));
    }

    /// <inheritdoc/>
    public async Task DisposeAsync()
    {
        await Task.WhenAny(_tunneldIsUp);
        foreach (KernelVm? vm in new[] { _kernel, _tunneld })
        {
            if (vm is not null)
            {
                await vm.DisposeAsync();
            }
        }

        if (_lab is not null)
        {
            await _lab.DisposeAsync();
        }
    }

    /// <summary>Moves the file over TCP from a node to vm2 and back, between each pair of addresses, and compares its hash.</summary>
    /// <param name="node">The other end.</param>
    /// <param name="addresses">Its addresses, and vm2's.</param>
    internal async Task TransferBothWaysAsync(Node node, params (string Node, string Kernel)[] addresses)
    {
        string hash = await DataHashAsync();
        foreach ((string _, string kernelAddress) in addresses)
        {
            Assert.Equal(hash, await SendDataAsync(node, kernelAddress, 5000));
        }

        Background[] receivers = [.. addresses.Select(pair => node.Start(null, "sh", "-c", $"nc -l {pair.Node} 5000 </dev/null | sha256sum"))];
        try
        {
            await Poll.UntilAsync("nc listens", async () =>
                (await node.RunAsync("ss", "-Hltn", "sport = :5000")).Out.Split('\n', StringSplitOptions.RemoveEmptyEntries).Length == receivers.Length);
            foreach (CommandResult sent in await Kernel.RunEachAsync([.. addresses.Select(pair => $"timeout 50 nc -N {pair.Node} 5000 </data")]))
            {
                sent.Succeeded();
            }

            foreach (Background receiver in receivers)
            {
                Assert.Equal(0, await receiver.WaitAsync());
                Assert.Equal(hash, receiver.Log.Split(' ')[0]);
            }
        }
        finally
        {
            foreach (Background receiver in receivers)
            {
                await receiver.DisposeAsync();
            }
        }
    }

    private async Task<string> DataHashAsync() => (await Command.RunAsync(["sha256sum", DataFile])).Succeeded().Out.Split(' ')[0];

    // What vm2's server says: the hash of what has come.
    private async Task<string> SendDataAsync(Node node, string kernelAddress, int port) =>
        (await node.ShellAsync("timeout 50 nc -N $1 $2 <$3", kernelAddress, $"{port}", DataFile)).Succeeded().Out.Split(' ')[0];

    private Vm Describe(int number) => new(Here._lab!, number, $"vm{number}", new Node($"cont{number}", $"cont{number}"));

    private async Task StartTunneldAsync(Task<KernelVm> booting)
    {
        _tunneld = await booting;
        // What ESP puts around a packet is not in the GMTU (docs/interop-kernel.md).
        string configuration =
            $"""
            interface:
              addresses: [10.0.201.3/24, fd10:201::3/64]
              mtu: 1400
            underlay:
              local: [192.168.40.13, fd40::13]
            datapath:
              receive: auto
            peers:
            {Host.PeerEntry()}
              vm1six:
                endpoint: fd40::11
                subnets: [10.0.206.1/32]
            {KernelPeer.PeerEntry()}
            """;
        await _tunneld.SucceedAsync(
            $"""
            modprobe tun
            mkdir -p /etc/tunnel
            echo {Convert.ToBase64String(Encoding.UTF8.GetBytes(configuration))} | base64 -d >/etc/tunnel/tun0.yaml
            setsid /tunneld/tunneld --config /etc/tunnel/tun0.yaml --run-dir /run/tunnel >/tmp/tunneld.log 2>&1 &
            until grep -q 'is up' /tmp/tunneld.log; do sleep 0.2; kill -0 $! || {"{"} cat /tmp/tunneld.log; exit 1; {"}"}; done
            """);
    }

    // The lab shows its daemons' logs in a test's output; this one belongs to no test.
    private sealed class Sink : ITestOutputHelper
    {
        public void WriteLine(string message)
        {
        }

        public void WriteLine(string format, params object[] args)
        {
        }
    }
}
