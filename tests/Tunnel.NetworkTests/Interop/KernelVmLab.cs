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
        await _kernel.SucceedAsync(
            """
            modprobe dummy
            ip link add inner type dummy
            ip link set inner up
            ip addr add 172.17.52.2/32 dev inner
            ip addr add fd17:52::2/128 dev inner
            """);
        await TransferAsync(Host, "192.168.40.12", "cat >/data; sha256sum </data");
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

    /// <summary>Moves the file over TCP from a node to vm2 and back, and compares its hash.</summary>
    /// <param name="node">The other end.</param>
    /// <param name="nodeAddress">Its address.</param>
    /// <param name="kernelAddress">vm2's address.</param>
    internal async Task TransferBothWaysAsync(Node node, string nodeAddress, string kernelAddress)
    {
        string sent = (await Command.RunAsync(["sha256sum", DataFile])).Succeeded().Out.Split(' ')[0];
        Assert.Equal(sent, await TransferAsync(node, kernelAddress, "sha256sum"));

        await using Background receiver = node.Start(null, "sh", "-c", $"nc -l {nodeAddress} 5000 </dev/null | sha256sum");
        await Poll.UntilAsync("nc listens", async () => (await node.RunAsync("ss", "-Hltn", "sport = :5000")).Out.Length > 0);
        await Kernel.SucceedAsync($"timeout 50 nc -N {nodeAddress} 5000 </data");
        Assert.Equal(0, await receiver.WaitAsync());
        Assert.Equal(sent, receiver.Log.Split(' ')[0]);
    }

    // What the receiving command says: the hash of what has come.
    private async Task<string> TransferAsync(Node node, string kernelAddress, string receive)
    {
        Task<string> received = Kernel.SucceedAsync($"timeout 50 nc -l {kernelAddress} 5000 </dev/null | {{ {receive}; }}");
        // 1388 is the port in hexadecimal, 0A is TCP_LISTEN (proc_net_tcp).
        await Kernel.SucceedAsync("until cat /proc/net/tcp /proc/net/tcp6 | grep -q ':1388 .* 0A '; do sleep 0.1; done");
        (await node.ShellAsync("timeout 50 nc -N $1 5000 <$2", kernelAddress, DataFile)).Succeeded();
        return (await received).Split(' ')[0];
    }

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
