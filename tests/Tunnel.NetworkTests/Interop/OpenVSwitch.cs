using System.Globalization;

namespace Tunnel.NetworkTests.Interop;

/// <summary>
/// Open vSwitch with its userspace datapath on a host of a lab, in place of tunneld: database, sockets and logs are in the host's directory.
/// <code>
///             eth1  a port of the bridge phy; the kernel itself gets nothing from it
///   ┌──────────┴──────────────────────────────────────────────────────────┐
///   │ vm2   phy   192.168.40.12 fd40::12: the bridge's own device         │
///   │        │ GRE: the datapath encapsulates, and looks routes up itself │
///   │       int   10.0.201.2 fd10:201::2: the bridge with the port gre0   │
///   │        │ the kernel forwards                                        │
///   │       br0   172.17.52.1 fd17:52::1                                  │
///   └──────────┬──────────────────────────────────────────────────────────┘
/// </code>
/// gre0 carries IP packets, not Ethernet frames (`packet_type=legacy_l3`, ovs-vswitchd.conf.db(5)).
/// </summary>
internal sealed class OpenVSwitch : IAsyncDisposable
{
    private const string Schema = "/usr/share/openvswitch/vswitch.ovsschema";

    private readonly Vm _host;
    private readonly string _directory;
    private readonly Dictionary<string, string> _environment;
    private readonly List<Background> _processes = [];

    private OpenVSwitch(Vm host)
    {
        _host = host;
        _directory = Path.Combine(host.Directory, "ovs");
        _environment = new Dictionary<string, string> { ["OVS_RUNDIR"] = _directory, ["OVS_LOGDIR"] = _directory, ["OVS_DBDIR"] = _directory };
    }

    /// <summary>Skips the test where the programs are missing.</summary>
    public static void SkipWhereMissing() => Skip.IfNot(File.Exists(Schema), "needs Open vSwitch (Debian's openvswitch-switch)");

    /// <summary>Starts one on a host, with a GRE port to another.</summary>
    /// <param name="host">Where.</param>
    /// <param name="peer">The other end.</param>
    /// <param name="outer">The underlay's IP version.</param>
    /// <param name="mtu">The largest inner packet, in bytes.</param>
    /// <param name="options">More of the port's options, as in `options:key=42`.</param>
    public static async Task<OpenVSwitch> StartAsync(Vm host, Vm peer, int outer, int mtu, string[] options)
    {
        var ovs = new OpenVSwitch(host);
        try
        {
            await ovs.StartProcessesAsync();
            await ovs.ConfigureAsync(peer, outer, mtu, options);
            return ovs;
        }
        catch
        {
            await ovs.DisposeAsync();
            throw;
        }
    }

    /// <summary>Changes an option of the port.</summary>
    public Task SetAsync(string option) => VsctlAsync("set", "interface", "gre0", option);

    /// <summary>How many packets the port has taken from the wire.</summary>
    public async Task<long> ReceivedAsync() =>
        long.Parse((await VsctlAsync("get", "interface", "gre0", "statistics:rx_packets")).Trim(), CultureInfo.InvariantCulture);

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        // The switch before its database.
        foreach (Background process in Enumerable.Reverse(_processes))
        {
            await process.DisposeAsync();
        }
    }

    /// <inheritdoc/>
    public override string ToString() => string.Join('\n', _processes);

    private async Task StartProcessesAsync()
    {
        Directory.CreateDirectory(_directory);
        string database = Path.Combine(_directory, "conf.db");
        (await _host.RunAsync("ovsdb-tool", "create", database, Schema)).Succeeded();
        string socket = Path.Combine(_directory, "db.sock");
        _processes.Add(_host.Start(_environment, "ovsdb-server", database, $"--remote=punix:{socket}", $"--unixctl={_directory}/ovsdb.ctl"));
        await Poll.UntilAsync("ovsdb-server listens", () => Task.FromResult(File.Exists(socket)), () => Task.FromResult(ToString()));
        await VsctlAsync("--no-wait", "init");
        _processes.Add(_host.Start(_environment, "ovs-vswitchd", $"unix:{socket}", $"--unixctl={_directory}/vswitchd.ctl"));
    }

    private async Task ConfigureAsync(Vm peer, int outer, int mtu, string[] options)
    {
        string hardware = (await _host.RunAsync("cat", "/sys/class/net/eth1/address")).Succeeded().Out.Trim();
        await VsctlAsync(
            "add-br", "phy", "--", "set", "bridge", "phy", "datapath_type=netdev", $"other_config:hwaddr={hardware}", "--", "add-port", "phy", "eth1");
        await VsctlAsync(
        [
            "add-br", "int", "--", "set", "bridge", "int", "datapath_type=netdev", "--", "set", "interface", "int", $"mtu_request={mtu}",
            "--", "add-port", "int", "gre0", "--", "set", "interface", "gre0", "type=gre", $"options:remote_ip=\"{peer.Underlay(outer)}\"",
            "options:packet_type=legacy_l3", .. options,
        ]);

        // The switch reads eth1 by a packet socket, which leaves the kernel its own copy: unseen, it can't answer with ICMP that it has no GRE.
        (await _host.ShellAsync(
            """
            echo 'table netdev quiet { chain in { type filter hook ingress device eth1 priority 0; policy drop; }; }' | nft -f -
            """)).Succeeded();
        // Without ARP on int the kernel sends everything to the device's own address, which nobody minds.
        await _host.IpAsync(
            $"""
            addr flush dev eth1
            addr add {_host.Underlay(4)}/24 dev phy
            addr add {_host.Underlay(6)}/64 dev phy
            link set phy up
            link set int addrgenmode none
            link set int arp off up
            addr add {_host.Overlay(4)}/24 dev int
            addr add {_host.Overlay(6)}/64 dev int
            route add {peer.Subnet(4)} dev int
            route add {peer.Subnet(6)} dev int
            """);

        string own = (await _host.RunAsync("cat", "/sys/class/net/int/address")).Succeeded().Out.Trim();
        string bridge = $"unix:{_directory}/int.mgmt";
        (await _host.RunAsync("ovs-ofctl", "del-flows", bridge)).Succeeded();
        foreach (string protocol in new[] { "ip", "ipv6" })
        {
            (await _host.RunAsync("ovs-ofctl", "add-flow", bridge, $"in_port=LOCAL,{protocol},actions=output:gre0")).Succeeded();
            (await _host.RunAsync("ovs-ofctl", "add-flow", bridge, $"in_port=gre0,{protocol},actions=mod_dl_dst:{own},LOCAL")).Succeeded();
        }
    }

    private async Task<string> VsctlAsync(params string[] words) =>
        (await _host.RunAsync(["ovs-vsctl", "--timeout=20", $"--db=unix:{_directory}/db.sock", .. words])).Succeeded().Out;
}
