using System.Globalization;
using System.Net;
using Tunnel.Linux;
using Tunnel.Wire;

namespace Tunnel.NetworkTests.Linux;

/// <summary>
/// Two hosts on one Ethernet link.
/// <code>
///   [ Here ] eth0 192.168.40.11/24 ======veth====== eth0 192.168.40.12/24 [ There ]
/// </code>
/// </summary>
internal sealed class PathLab : IDisposable
{
    public PathLab()
    {
        Skip.IfNot(NetnsThread.IsRoot, "needs root");
        Here = new NetnsThread("here");
        There = new NetnsThread("there");
        Here.Ip($"link add eth0 type veth peer name eth0 netns {There.ThreadId}");
        Here.Ip("link set eth0 addrgenmode none");
        There.Ip("link set eth0 addrgenmode none");
        Here.Ip("address add 192.168.40.11/24 dev eth0");
        There.Ip("address add 192.168.40.12/24 dev eth0");
        There.Ip("link set eth0 up");
        Here.Ip("link set eth0 up");
        Link = int.Parse(Here.Ip("-o link show eth0").Split(':')[0], CultureInfo.InvariantCulture);
    }

    public NetnsThread Here { get; }

    public NetnsThread There { get; }

    /// <summary>The index of eth0 here.</summary>
    public int Link { get; }

    /// <summary>The Ethernet address of eth0 there.</summary>
    public ulong Mac
    {
        get
        {
            string[] words = There.Ip("-o link show eth0").Split(' ', StringSplitOptions.RemoveEmptyEntries);
            string text = words[Array.IndexOf(words, "link/ether") + 1];
            return ulong.Parse(text.Replace(":", "", StringComparison.Ordinal), NumberStyles.HexNumber, CultureInfo.InvariantCulture);
        }
    }

    public static InetAddress Vm1 { get; } = InetAddress.From(IPAddress.Parse("192.168.40.11"));

    public static InetAddress Vm2 { get; } = InetAddress.From(IPAddress.Parse("192.168.40.12"));

    public HostNeighbors OpenNeighbors() => Here.Run(() => new HostNeighbors());

    public HostPolicies OpenPolicies() => Here.Run(() => new HostPolicies(
        $"/proc/{Environment.ProcessId}/task/{Here.ThreadId}/net", "nsenter", "--net=" + Here.NamespaceFile));

    /// <summary>Runs a shell command here.</summary>
    public string Shell(string command) => Host.HostNamespace.Command("nsenter", "--net=" + Here.NamespaceFile, "sh", "-c", command);

    public void Dispose()
    {
        Here.Dispose();
        There.Dispose();
    }
}
