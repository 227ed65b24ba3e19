using System.Text.RegularExpressions;

namespace Tunnel.Tests.Ctl;

/// <summary>attach and detach by what they ask the host to do. Real namespaces are in Tunnel.NetworkTests.</summary>
public sealed partial class AttachTests : IDisposable
{
    private readonly CtlHarness _ctl = new();
    private readonly FakeDaemon _daemon;

    public AttachTests() => _daemon = new FakeDaemon(_ctl.SocketPath());

    public void Dispose()
    {
        _daemon.Dispose();
        _ctl.Dispose();
    }

    [Fact]
    public void A_container_of_docker_is_attached_by_the_systems_programs()
    {
        CtlResult result = _ctl.Run("attach", "web", "172.17.51.100/24", "--json");

        Assert.Equal(
            new CtlResult(0, """{"target":"web","interface":"eth1","address":"172.17.51.100/24","bridge":"docker0","gateway":"172.17.51.1","routes":["10.0.201.2/32","172.17.52.0/24","172.17.53.0/24","10.0.201.1/32"],"was-attached":false}""" + "\n", ""),
            result);
        Assert.Equal(
            [
                "ip link add VETH mtu 1476 type veth peer name eth1 mtu 1476 netns /proc/4711/ns/net",
                "ip link set VETH master docker0 up",
                "nsenter --net=/proc/4711/ns/net ip link set eth1 alias \"tunnelctl attach\"",
                "nsenter --net=/proc/4711/ns/net ip addr add 172.17.51.100/24 dev eth1",
                "nsenter --net=/proc/4711/ns/net ip link set eth1 up",
                "nsenter --net=/proc/4711/ns/net ip route replace 10.0.201.2/32 via 172.17.51.1 dev eth1 mtu 1476",
                "nsenter --net=/proc/4711/ns/net ip route replace 172.17.52.0/24 via 172.17.51.1 dev eth1 mtu 1476",
                "nsenter --net=/proc/4711/ns/net ip route replace 172.17.53.0/24 via 172.17.51.1 dev eth1 mtu 1476",
                "nsenter --net=/proc/4711/ns/net ip route replace 10.0.201.1/32 via 172.17.51.1 dev eth1 mtu 1476",
            ],
            Done());
    }

    [Fact]
    public void Attaching_again_sets_the_routes_alone_and_detaching_removes_the_interface()
    {
        _ctl.Run("attach", "web", "172.17.51.100/24");
        _ctl.Host.Done.Clear();

        Assert.Equal("web is attached already: eth1 172.17.51.100/24 on docker0, 4 routes by 172.17.51.1\n", _ctl.Run("attach", "web", "172.17.51.100/24").Output);
        Assert.All(_ctl.Host.Done, line => Assert.Matches(" ip (link set eth1 up$|route replace )", line));
        _ctl.Host.Done.Clear();
        Assert.Equal(
            "tunnelctl: web is in 172.17.51.0/24 already, by 172.17.51.100 at eth1 (first tunnelctl detach web)\n", _ctl.Run("attach", "web", "172.17.51.101/24").Error);
        Assert.Equal("tunnelctl: web has 172.17.51.100/24 at eth1 already (first tunnelctl detach web 172.17.51.100)\n", _ctl.Run("attach", "web", "172.17.51.100/25").Error);

        Assert.Equal("""{"target":"web","removed":[{"interface":"eth1","addresses":["172.17.51.100/24"]}]}""" + "\n", _ctl.Run("detach", "web", "--json").Output);
        Assert.Equal(["nsenter --net=/proc/4711/ns/net ip link del eth1"], _ctl.Host.Done);
        Assert.Equal(new CtlResult(0, "nothing is attached to web\n", ""), _ctl.Run("detach", "web"));
    }

    [Fact]
    public void What_fails_half_way_is_taken_back()
    {
        _ctl.Host.Answers["nsenter --net=/proc/4711/ns/net ip -batch -"] = null;

        Assert.Equal(new CtlResult(1, "", "tunnelctl: web can't be set up: nsenter fails\n"), _ctl.Run("attach", "web", "172.17.51.100/24"));
        Assert.Equal("ip link del VETH", Done()[^1]);
    }

    [Theory]
    [InlineData("attach web 172.17.51.100", 2, "'172.17.51.100' is no address with a prefix length (as 172.17.51.100/24)")]
    [InlineData("attach web 172.17.51.100/33", 2, "'172.17.51.100/33' is no address with a prefix length (as 172.17.51.100/24)")]
    [InlineData("attach web 172.17.51/24", 2, "'172.17.51/24' is no address with a prefix length (as 172.17.51.100/24)")]
    [InlineData("attach web fd00::1/64", 1, "fd00::1 is in no subnet of this host (take one of 172.17.51.0/24)")]
    [InlineData("attach web 172.17.51.0/24", 1, "172.17.51.0 is the first or last address of 172.17.51.0/24, which no container can have (take another of 172.17.51.0/24)")]
    [InlineData("attach nobody 172.17.51.100/24", 1, "no container, process or network namespace is called 'nobody' (docker ps, podman ps and ip netns list what is there; or a process id)")]
    [InlineData("attach 4712 172.17.51.100/24", 1, "no container, process or network namespace is called '4712' (docker ps, podman ps and ip netns list what is there; or a process id)")]
    [InlineData("detach stopped", 1, "the container stopped does not run (podman start stopped)")]
    [InlineData("attach web 172.17.51.100/24 --bridge br0", 1, "no bridge of this host is called br0 (make it: ip link add br0 type bridge && ip addr add 172.17.51.1/24 dev br0 && ip link set br0 up)")]
    [InlineData("attach web 172.17.51.200/24", 1, "172.17.51.200 is in use on docker0, by 02:42:ac:11:33:02 (take another; detach, or the container that has it, gives it back)")]
    [InlineData("attach host 172.17.51.100/24", 1, "host has the host's own network (it is in the overlay by the host's address and needs no attach)")]
    public void What_cannot_be_done_is_one_line(string commandLine, int exitCode, string error)
    {
        _ctl.Host.Answers["podman inspect --type container --format {{.State.Pid}} stopped"] = "0\n";
        _ctl.Host.Answers["ip -j neigh show to 172.17.51.200 dev docker0"] = """[{"dst":"172.17.51.200","lladdr":"02:42:ac:11:33:02","state":["REACHABLE"]}]""";
        _ctl.Host.Files.Add("/run/netns/host");
        _ctl.Host.Answers["nsenter --net=/run/netns/host readlink /proc/self/ns/net"] = "net:[1]\n";

        Assert.Equal(new CtlResult(exitCode, "", $"tunnelctl: {error}\n"), _ctl.Run(commandLine.Split(' ')));
        Assert.Empty(_ctl.Host.Done);
    }

    [Fact]
    public void It_needs_root_and_says_so()
    {
        _ctl.Host.IsRoot = false;

        Assert.Equal(new CtlResult(1, "", "tunnelctl: attach needs root (sudo tunnelctl attach ...)\n"), _ctl.Run("attach", "web", "172.17.51.100/24"));
        Assert.Equal(new CtlResult(1, "", """{"error":"detach needs root","hint":"sudo tunnelctl detach ...","field":null}""" + "\n"), _ctl.Run("detach", "web", "--json"));
    }

    [Fact]
    public void Without_configured_subnets_the_cure_is_told()
    {
        _daemon.Answers["GET /v1/network"] = (200, CannedAnswers.Network.Replace("[\"172.17.51.0/24\"]", "[]", StringComparison.Ordinal));

        Assert.Equal(
            "tunnelctl: the subnets of this host are not configured (name them under subnets: in the file of tun0, then: tunnelctl -n tun0 reload)\n",
            _ctl.Run("attach", "web", "172.17.51.100/24").Error);
    }

    // The veth's name on the host is made up anew each time.
    private string[] Done() => [.. _ctl.Host.Done.Select(line => Veth().Replace(line, "VETH"))];

    [GeneratedRegex("tc[0-9a-f]{8}", RegexOptions.None, 1000)]
    private static partial Regex Veth();
}
