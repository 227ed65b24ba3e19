using System.Globalization;
using System.Text.Json.Nodes;
using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.Wire;

namespace Tunnel.NetworkTests.Linux;

/// <summary>
/// Two hosts, and a router between them where a test needs one, each a namespace:
/// <code>
/// without a router                        with one
///   A eth0 ----------------- eth0 B         A eth0 ---- left R right ---- eth0 B
///   10.77.1.1     veth    10.77.1.2         10.77.1.1   .254  .254   10.77.2.2    MTU 1500 to the left, 1400 to the right
///   fd77:1::1             fd77:1::2         fd77:1::1   ::ff  ::ff   fd77:2::2
/// </code>
/// </summary>
internal sealed class RawGreLab : IDisposable
{
    private readonly NetnsThread? _router;
    private readonly List<IDisposable> _opened = [];

    private RawGreLab(bool routed)
    {
        Skip.IfNot(NetnsThread.IsRoot, "needs root");
        A = new NetnsThread("a");
        B = new NetnsThread("b");
        _router = routed ? new NetnsThread("r") : null;
        if (_router is null)
        {
            A.Ip($"link add eth0 type veth peer name eth0 netns {B.ThreadId}");
            SetUp(A, "eth0", "10.77.1.1/24", "fd77:1::1/64");
            SetUp(B, "eth0", "10.77.1.2/24", "fd77:1::2/64");
        }
        else
        {
            A.Ip($"link add eth0 type veth peer name left netns {_router.ThreadId}");
            B.Ip($"link add eth0 type veth peer name right netns {_router.ThreadId}");
            _router.Exec("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
            SetUp(A, "eth0", "10.77.1.1/24", "fd77:1::1/64");
            SetUp(B, "eth0", "10.77.2.2/24", "fd77:2::2/64", mtu: 1400);
            SetUp(_router, "left", "10.77.1.254/24", "fd77:1::ff/64");
            SetUp(_router, "right", "10.77.2.254/24", "fd77:2::ff/64", mtu: 1400);
            A.Ip("route add default via 10.77.1.254");
            A.Ip("route add default via fd77:1::ff");
            B.Ip("route add default via 10.77.2.254");
            B.Ip("route add default via fd77:2::ff");
        }
    }

    public NetnsThread A { get; }

    public NetnsThread B { get; }

    public static RawGreLab Direct() => new(routed: false);

    public static RawGreLab Routed() => new(routed: true);

    public static InetAddress Address(string text) => InetAddress.TryParse(text, out InetAddress address) ? address : throw new FormatException(text);

    /// <summary>Opens an underlay in a namespace; closed with the lab.</summary>
    public WorkerUnderlay Open(NetnsThread host, string? ipv4 = "0.0.0.0", string? ipv6 = "::")
    {
        WorkerUnderlay underlay = host.Run(() => new HostUnderlay(new UnderlaySettings(Local(ipv4), Local(ipv6)), new OffloadState(Offloads.None)).Workers[0]);
        _opened.Add(underlay);
        return underlay;
    }

    /// <summary>Opens the underlay of some workers in a namespace; closed with the lab.</summary>
    public HostUnderlay OpenHost(NetnsThread host, UnderlaySettings? settings = null, OffloadState? offloads = null)
    {
        HostUnderlay underlay = host.Run(() => new HostUnderlay(
            settings ?? new UnderlaySettings(InetAddress.None, InetAddress.None), offloads ?? new OffloadState(Offloads.UdpSegment | Offloads.UdpGro)));
        _opened.Add(underlay);
        return underlay;
    }

    /// <summary>Makes both devices behave like real NICs: nothing is segmented by the sender's, the receiver coalesces (GRO).</summary>
    public void MakeWireLike()
    {
        foreach (NetnsThread host in new[] { A, B })
        {
            // /sys shows the devices of the namespace that it was mounted in.
            host.Shell(
                "ethtool -K eth0 tso off gso on tx-gre-segmentation off tx-gre-csum-segmentation off tx-udp-segmentation off " +
                "tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off gro on rx-udp-gro-forwarding on && mount -t sysfs none /sys && " +
                "echo 200000 >/sys/class/net/eth0/gro_flush_timeout && echo 2 >/sys/class/net/eth0/napi_defer_hard_irqs");
        }
    }

    /// <summary>The other end of a device's link as a neighbour.</summary>
    public static LinkNeighbor Neighbor(NetnsThread from, NetnsThread to, string device = "eth0") => new(Index(from, device), LinkAddress(to, device));

    /// <summary>A device's number.</summary>
    public static int Index(NetnsThread host, string device = "eth0") =>
        JsonNode.Parse(host.Ip($"-j link show {device}"))![0]!["ifindex"]!.GetValue<int>();

    /// <summary>A device's link-layer address.</summary>
    public static ulong LinkAddress(NetnsThread host, string device = "eth0") => Convert.ToUInt64(
        JsonNode.Parse(host.Ip($"-j link show {device}"))![0]!["address"]!.GetValue<string>().Replace(":", "", StringComparison.Ordinal), 16);

    /// <summary>Sends one packet after another until one gets this far: routes, neighbours and carriers need a moment at first.</summary>
    public static void WarmUp(WorkerUnderlay from, WorkerUnderlay to, params byte[][] packets)
    {
        var received = new PacketBatch(64);
        foreach (byte[] packet in packets)
        {
            GatherBatch batch = BatchOf(packet);
            Assert.True(NetnsThread.Eventually(() =>
            {
                from.Send(batch);
                return to.ReceiveNow(received) > 0;
            }));
        }

        DateTime quiet = DateTime.UtcNow.AddMilliseconds(50);
        while (DateTime.UtcNow < quiet)
        {
            to.ReceiveNow(received);
        }
    }

    /// <summary>Receives until this many packets have come, and fails where more or fewer come.</summary>
    public static List<byte[]> ReceiveAll(WorkerUnderlay underlay, int count)
    {
        var packets = new List<byte[]>();
        var batch = new PacketBatch(64);
        NetnsThread.Eventually(() =>
        {
            underlay.ReceiveNow(batch);
            for (int i = 0; i < batch.Count; i++)
            {
                packets.Add(batch.Bytes(i).ToArray());
            }

            return packets.Count >= count;
        });
        Assert.Equal(count, packets.Count);
        return packets;
    }

    /// <summary>An outer packet with a keyless GRE header of protocol type 0x88B5 and a payload that can be recognised.</summary>
    public static byte[] Packet(string source, string destination, int length = 100, byte seed = 1, bool dontFragment = true, byte trafficClass = 0, byte timeToLive = 64)
    {
        InetAddress from = Address(source);
        InetAddress to = Address(destination);
        var packet = new byte[length];
        int header = from.IsIpv4
            ? new Ipv4Header(from, to, IpProtocol.Gre, length - Ipv4Header.Length, timeToLive, trafficClass, dontFragment).Write(packet)
            : new Ipv6Header(from, to, IpProtocol.Gre, length - Ipv6Header.Length, timeToLive, trafficClass).Write(packet);
        packet[header + 2] = 0x88;
        packet[header + 3] = 0xb5;
        for (int i = header + 4; i < length; i++)
        {
            packet[i] = (byte)(seed + i);
        }

        return packet;
    }

    /// <summary>A batch of packets of one piece each, sent to the destination in their header.</summary>
    public static GatherBatch BatchOf(params byte[][] packets)
    {
        var batch = new GatherBatch(packets.Length, packets.Length);
        foreach (byte[] packet in packets)
        {
            var memory = new PinnedPacketMemory(packet.Length);
            packet.CopyTo(memory.Array, 0);
            batch.Add(new Piece(memory, 0, packet.Length), target: new UnderlayTarget(DestinationOf(packet)));
        }

        return batch;
    }

    public static InetAddress DestinationOf(byte[] packet) =>
        packet[0] >> 4 == 4 ? InetAddress.Read(packet.AsSpan(16, 4)) : InetAddress.Read(packet.AsSpan(24, 16));

    public static TransmitResult[] Results(GatherBatch batch) => [.. Enumerable.Range(0, batch.Count).Select(i => batch[i].Result)];

    /// <summary>A counter of /proc/net/snmp or snmp6: "Icmp/OutDestUnreachs", "Icmp6OutParmProblems".</summary>
    public static long Counter(NetnsThread host, string name)
    {
        if (name.IndexOf('/', StringComparison.Ordinal) is var slash && slash < 0)
        {
            string line = host.Exec("cat /proc/net/snmp6").Split('\n').Single(line => line.StartsWith(name + ' ', StringComparison.Ordinal) || line.StartsWith(name + '\t', StringComparison.Ordinal));
            return long.Parse(line[name.Length..].Trim(), CultureInfo.InvariantCulture);
        }

        string[][] lines = [.. host.Exec("cat /proc/net/snmp").Split('\n').Where(line => line.StartsWith(name[..slash] + ':', StringComparison.Ordinal)).Select(line => line.Split(' '))];
        return long.Parse(lines[1][Array.IndexOf(lines[0], name[(slash + 1)..])], CultureInfo.InvariantCulture);
    }

    public void Dispose()
    {
        _opened.ForEach(opened => opened.Dispose());
        A.Dispose();
        B.Dispose();
        _router?.Dispose();
    }

    private static InetAddress? Local(string? text) => text switch
    {
        null => null,
        "0.0.0.0" or "::" => InetAddress.None,
        _ => Address(text),
    };

    private static void SetUp(NetnsThread host, string device, string ipv4, string ipv6, int mtu = 1500)
    {
        host.Ip($"addr add {ipv4} dev {device}");
        host.Ip($"addr add {ipv6} dev {device} nodad");
        host.Ip($"link set {device} mtu {mtu} up");
    }
}

/// <summary>Receiving without a wait before it.</summary>
internal static class WorkerUnderlayExtensions
{
    /// <summary>Looks at every socket, as after a wait that found all readable.</summary>
    public static int ReceiveNow(this WorkerUnderlay underlay, PacketBatch batch)
    {
        underlay.Readable = Sockets.All;
        return underlay.Receive(batch);
    }
}
