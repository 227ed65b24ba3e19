using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.Wire;

namespace Tunnel.NetworkTests.Host;

public sealed class HostNetworkTests
{
    // A route protocol number that nobody else uses here.
    private const byte Ours = 84;

    [SkippableFact]
    public void LinksAreFoundByNameAndByIndex()
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        using HostNetwork host = space.Run(() => new HostNetwork());
        space.Ip("link set d0 down");
        space.Ip("link set d0 mtu 1400");

        HostLink d0 = host.FindLink("d0")!;
        Assert.Equal(new HostLink(d0.Index, "d0", 1400, IsUp: false), d0);
        Assert.True(d0.Index > 0);
        Assert.Equal(d0, host.FindLink(d0.Index));
        Assert.True(host.FindLink("d1")!.IsUp);
        Assert.Null(host.FindLink("d2"));
        Assert.Null(host.FindLink(4711));
        Assert.Null(host.FindLink(0));
        Assert.Null(host.FindLink(""));
        Assert.Null(host.FindLink("a-name-that-is-too-long"));
    }

    [SkippableFact]
    public void TheMtuIsSetAndTheKernelsOwnReasonIsGiven()
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        using HostNetwork host = space.Run(() => new HostNetwork());
        int index = host.FindLink("d0")!.Index;

        host.SetMtu(index, 1476);
        Assert.Equal(1476, host.FindLink(index)!.Mtu);

        var refused = Assert.Throws<HostNetworkException>(() => host.SetMtu(index, 70000));
        Assert.Equal("set mtu 70000 on d0: mtu greater than device maximum", refused.Message);
        Assert.Equal(22, refused.Errno);
        Assert.True(Assert.Throws<HostNetworkException>(() => host.SetMtu(4711, 1476)).NotFound);
    }

    [SkippableFact]
    public void ALinkThatIsSetUpStaysSilent()
    {
        using var space = new HostNamespace();
        space.Ip("link add d0 type veth peer name p0");
        space.Ip("link add d1 type veth peer name p1");
        space.Ip("link set p0 up");
        space.Ip("link set p1 up");
        using HostNetwork host = space.Run(() => new HostNetwork());
        int index = host.FindLink("d0")!.Index;

        host.SetUp(index);
        Assert.True(host.FindLink(index)!.IsUp);
        Assert.Empty(host.GetAddresses(index));

        // The same device without that would have an address at once.
        space.Ip("link set d1 up");
        Assert.StartsWith("fe80:", Assert.Single(host.GetAddresses(host.FindLink("d1")!.Index)).ToString(), StringComparison.Ordinal);
        Assert.True(Assert.Throws<HostNetworkException>(() => host.SetUp(4711)).NotFound);
    }

    [SkippableFact]
    public void ALinkWithoutIpv6IsSetUp()
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        using HostNetwork host = space.Run(() => new HostNetwork());
        int index = host.FindLink("d0")!.Index;
        space.Ip("link set d0 down");

        host.SetMtu(index, 1200);
        host.SetUp(index);
        Assert.True(host.FindLink(index)!.IsUp);
    }

    [SkippableTheory]
    [InlineData("10.0.201.1/24", "10.0.201.0/24")]
    [InlineData("fd00:201::1/64", "fd00:201::/64")]
    public void AnAddressIsAddedListedAndRemoved(string text, string connected)
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        using HostNetwork host = space.Run(() => new HostNetwork());
        int index = host.FindLink("d0")!.Index;
        IpPrefix address = Prefix(text);

        host.AddAddress(index, address);
        Assert.Equal([address], host.GetAddresses(index));
        Assert.Empty(host.GetAddresses(host.FindLink("d1")!.Index));
        Assert.DoesNotContain("tentative", space.Ip("address show dev d0"), StringComparison.Ordinal);
        Assert.Contains(host.GetRoutes(), route => route.Destination == Prefix(connected) && route.LinkIndex == index);
        HostNetworkException twice = Assert.Throws<HostNetworkException>(() => host.AddAddress(index, address));
        Assert.True(twice.AlreadyExists);
        Assert.StartsWith($"add address {text} to d0: ", twice.Message, StringComparison.Ordinal);

        host.RemoveAddress(index, address);
        Assert.Empty(host.GetAddresses(index));
        Assert.True(Assert.Throws<HostNetworkException>(() => host.RemoveAddress(index, address)).NotFound);
        Assert.True(Assert.Throws<HostNetworkException>(() => host.AddAddress(4711, address)).NotFound);
    }

    [SkippableTheory]
    [InlineData("172.17.52.0/24", 0)]
    [InlineData("172.17.52.9/32", 50)]
    [InlineData("fd00:52::/64", 0)]
    [InlineData("fd00:52::9/128", 50)]
    [InlineData("0.0.0.0/0", 0)]
    [InlineData("::/0", 0)]
    public void ARouteIsAddedChangedAndRemoved(string destination, uint metric)
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        using HostNetwork host = space.Run(() => new HostNetwork());
        var route = new HostRoute(Prefix(destination), host.FindLink("d0")!.Index, Ours, metric, 0);
        HostRoute shown = metric == 0 && !route.Destination.Address.IsIpv4 ? route with { Metric = 1024 } : route;

        host.AddRoute(route);
        Assert.Contains(shown, host.GetRoutes());
        HostNetworkException twice = Assert.Throws<HostNetworkException>(() => host.AddRoute(route));
        Assert.True(twice.AlreadyExists);
        Assert.StartsWith($"add route {destination} dev d0", twice.Message, StringComparison.Ordinal);

        host.ReplaceRoute(route with { Mtu = 1400 });
        Assert.Contains(shown with { Mtu = 1400 }, host.GetRoutes());
        Assert.Single(host.GetRoutes(), found => found.Destination == route.Destination);
        host.ReplaceRoute(route with { Mtu = 1300 });
        host.ReplaceRoute(route with { Mtu = 1300 });
        Assert.Contains(shown with { Mtu = 1300 }, host.GetRoutes());
        host.ReplaceRoute(route);
        Assert.Contains(shown, host.GetRoutes());
        host.ReplaceRoute(route with { Mtu = 1400 });

        host.RemoveRoute(route);
        Assert.DoesNotContain(host.GetRoutes(), found => found.Destination == route.Destination);
        Assert.True(Assert.Throws<HostNetworkException>(() => host.RemoveRoute(route)).NotFound);
        Assert.True(Assert.Throws<HostNetworkException>(() => host.ReplaceRoute(route with { Mtu = 1400 })).NotFound);
        Assert.DoesNotContain(host.GetRoutes(), found => found.Destination == route.Destination);
    }

    [SkippableTheory]
    [InlineData("172.17.52.0/24", "10.0.202.9", "10.0.202.1")]
    [InlineData("fd00:52::/64", "fd00:202::9", "fd00:202::1")]
    public void ARouteIsSwitchedToAGatewayAndBack(string destination, string gateway, string source)
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        space.Ip("address add 10.0.202.1/24 dev d1");
        space.Ip("address add fd00:202::1/64 dev d1 nodad");
        using HostNetwork host = space.Run(() => new HostNetwork());
        uint metric = destination.Contains(':', StringComparison.Ordinal) ? 1024u : 0;
        var through = new HostRoute(Prefix(destination), host.FindLink("d0")!.Index, Ours, metric, 1400);
        var direct = new HostRoute(Prefix(destination), host.FindLink("d1")!.Index, Ours, metric, 1500, Address(gateway)) { Source = Address(source) };
        HostRoute Only() => Assert.Single(host.GetRoutes(), found => found.Destination == through.Destination);

        host.AddRoute(through);
        host.SwitchRoute(through, direct);
        Assert.Equal(direct, Only());
        host.ReplaceRoute(direct with { Mtu = 1400 });
        Assert.Equal(direct with { Mtu = 1400 }, Only());
        host.SwitchRoute(direct, through);
        Assert.Equal(through, Only());
        host.RemoveRoute(through);
        Assert.True(Assert.Throws<HostNetworkException>(() => host.SwitchRoute(through, direct)).NotFound);

        // Somebody else's beside it, or in its place.
        space.Ip($"route add {destination} dev d1");
        Assert.True(Assert.Throws<HostNetworkException>(() => host.SwitchRoute(through, direct)).AlreadyExists);
        Assert.Equal("", string.Concat(host.GetRoutes().Where(route => route.Protocol == Ours)));
    }

    [SkippableFact]
    public void ANeighbourIsOnALinkAndWhatARouterLeadsToIsNot()
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        space.Ip("address add 10.0.202.1/24 dev d1");
        space.Ip("route add 10.0.203.0/24 via 10.0.202.9");
        using HostNetwork host = space.Run(() => new HostNetwork());
        Assert.True(host.GetPath(Address("10.0.202.7"), InetAddress.None)!.IsOnLink);
        Assert.False(host.GetPath(Address("10.0.203.7"), InetAddress.None)!.IsOnLink);
        Assert.False(host.GetPath(Address("10.0.202.1"), InetAddress.None)?.IsOnLink ?? false);
    }

    [SkippableTheory]
    [InlineData("172.17.52.0/24", "dev d1", 0)]
    [InlineData("172.17.52.0/24", "dev d0 proto static", 0)]
    [InlineData("172.17.52.0/24", "via 10.0.202.9 dev d1", 0)]
    [InlineData("172.17.52.0/24", "nexthop via 10.0.202.8 nexthop via 10.0.202.9", 0)]
    [InlineData("172.17.52.0/24", "dev d1 metric 50", 50)]
    [InlineData("fd00:52::/64", "dev d1", 0)]
    [InlineData("fd00:52::/64", "dev d0 proto static", 0)]
    [InlineData("fd00:52::/64", "via fd00:202::9 dev d1", 0)]
    [InlineData("fd00:52::/64", "nexthop via fd00:202::8 nexthop via fd00:202::9", 0)]
    [InlineData("fd00:52::/64", "dev d1 metric 50", 50)]
    public void SomebodyElsesRouteIsRefusedAndStaysUntouched(string destination, string theirs, uint metric)
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        space.Ip("address add 10.0.202.1/24 dev d1");
        space.Ip("address add fd00:202::1/64 dev d1 nodad");
        space.Ip($"route add {destination} {theirs}");
        using HostNetwork host = space.Run(() => new HostNetwork());
        string before = AllRoutes(space);
        var route = new HostRoute(Prefix(destination), host.FindLink("d0")!.Index, Ours, metric, 1400);

        Assert.True(Assert.Throws<HostNetworkException>(() => host.AddRoute(route)).AlreadyExists);
        Assert.True(Assert.Throws<HostNetworkException>(() => host.ReplaceRoute(route)).AlreadyExists);
        Assert.True(Assert.Throws<HostNetworkException>(() => host.RemoveRoute(route)).NotFound);
        Assert.Equal(before, AllRoutes(space));
    }

    [SkippableTheory]
    [InlineData("172.17.52.0/24", "route prepend 172.17.52.0/24 dev d1")]
    [InlineData("172.17.52.0/24", "route append 172.17.52.0/24 dev d1")]
    [InlineData("fd00:52::/64", "route append fd00:52::/64 dev d1")]
    [InlineData("fd00:52::/64", "route prepend fd00:52::/64 dev d1")]
    public void ARouteOfOursBesideSomebodyElsesIsNotChangedButRemoved(string destination, string theirs)
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        using HostNetwork host = space.Run(() => new HostNetwork());
        var route = new HostRoute(Prefix(destination), host.FindLink("d0")!.Index, Ours, 0, 1400);
        host.AddRoute(route);
        space.Ip(theirs);
        string before = AllRoutes(space);

        Assert.True(Assert.Throws<HostNetworkException>(() => host.ReplaceRoute(route with { Mtu = 1300 })).AlreadyExists);
        Assert.Equal(before, AllRoutes(space));

        host.RemoveRoute(route);
        HostRoute left = Assert.Single(host.GetRoutes(), found => found.Destination == route.Destination);
        Assert.Equal(host.FindLink("d1")!.Index, left.LinkIndex);
    }

    [SkippableTheory]
    [InlineData("172.17.52.0/24")]
    [InlineData("fd00:52::/64")]
    public void ARouteWithAnotherMetricIsAnotherRoute(string destination)
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        space.Ip($"route add {destination} dev d1 metric 2000");
        using HostNetwork host = space.Run(() => new HostNetwork());
        var route = new HostRoute(Prefix(destination), host.FindLink("d0")!.Index, Ours, 0, 0);
        string before = AllRoutes(space);

        host.AddRoute(route);
        host.ReplaceRoute(route with { Mtu = 1400 });
        Assert.Equal(2, host.GetRoutes().Count(found => found.Destination == route.Destination));
        Assert.True(Assert.Throws<HostNetworkException>(() => host.RemoveRoute(route with { Metric = 2000 })).NotFound);
        Assert.True(Assert.Throws<HostNetworkException>(() => host.RemoveRoute(route with { Protocol = 85 })).NotFound);
        Assert.True(Assert.Throws<HostNetworkException>(() => host.RemoveRoute(route with { LinkIndex = host.FindLink("d1")!.Index })).NotFound);
        Assert.Equal(2, host.GetRoutes().Count(found => found.Destination == route.Destination));

        host.RemoveRoute(route);
        Assert.Equal(before, AllRoutes(space));
    }

    [SkippableFact]
    public void RemovalWithMetricZeroIsExactForIpv6AndTakesTheLowestForIpv4()
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        using HostNetwork host = space.Run(() => new HostNetwork());
        int index = host.FindLink("d0")!.Index;
        var ipv4 = new HostRoute(Prefix("172.17.52.0/24"), index, Ours, 7, 0);
        var ipv6 = new HostRoute(Prefix("fd00:52::/64"), index, Ours, 7, 0);
        host.AddRoute(ipv4);
        host.AddRoute(ipv6);

        Assert.True(Assert.Throws<HostNetworkException>(() => host.RemoveRoute(ipv6 with { Metric = 0 })).NotFound);
        Assert.Contains(ipv6, host.GetRoutes());
        host.RemoveRoute(ipv4 with { Metric = 0 });
        Assert.DoesNotContain(ipv4, host.GetRoutes());
    }

    [SkippableFact]
    public void ListedRoutesAreThoseOfTheMainTable()
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        space.Ip("address add 10.0.202.1/24 dev d1");
        space.Ip("address add fd00:202::1/64 dev d1 nodad");
        space.Ip("nexthop add id 7 via 10.0.202.9 dev d1");
        space.Ip("route add 192.0.2.0/24 nexthop via 10.0.202.8 nexthop via 10.0.202.9");
        space.Ip("route add 198.51.100.0/24 nhid 7");
        space.Ip("route add unreachable 203.0.113.0/24");
        space.Ip("route add 2001:db8:1::/48 nexthop via fd00:202::8 nexthop via fd00:202::9");
        space.Ip("route add blackhole 2001:db8:2::/48");
        space.Ip("route add unreachable ::ffff:0:0/96");
        space.Ip("route add 10.99.0.0/16 dev d0 table 300");
        space.Ip("route add 10.98.0.0/16 dev d0 proto 84 metric 3 mtu lock 1234");
        space.Ip("route add 2001:db8:98::/48 dev d0 proto 84 metric 3 mtu 1334");
        using HostNetwork host = space.Run(() => new HostNetwork());
        int d0 = host.FindLink("d0")!.Index;
        int d1 = host.FindLink("d1")!.Index;

        HostRoute[] expected =
        [
            new(Prefix("10.0.202.0/24"), d1, 2, 0, 0),
            new(Prefix("10.98.0.0/16"), d0, Ours, 3, 1234),
            new(Prefix("192.0.2.0/24"), 0, 3, 0, 0),
            new(Prefix("198.51.100.0/24"), 0, 3, 0, 0),
            new(Prefix("203.0.113.0/24"), 0, 3, 0, 0),
            new(Prefix("2001:db8:1::/48"), 0, 3, 1024, 0),
            new(Prefix("2001:db8:2::/48"), 0, 3, 1024, 0),
            new(Prefix("2001:db8:98::/48"), d0, Ours, 3, 1334),
            new(Prefix("fd00:202::/64"), d1, 2, 256, 0),
        ];
        Assert.Equal(expected, host.GetRoutes().OrderBy(route => route.Destination));
    }

    [SkippableFact]
    public void AnEmptyNamespaceHasNoRoutes()
    {
        using var space = new HostNamespace();
        using HostNetwork host = space.Run(() => new HostNetwork());
        Assert.Empty(host.GetRoutes());
        Assert.Null(host.GetPath(Address("192.0.2.1"), InetAddress.None));
        Assert.Null(host.GetPath(Address("2001:db8::1"), InetAddress.None));
    }

    [SkippableFact]
    public void TwoThousandRoutesAreAddedListedAndRemoved()
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        using HostNetwork host = space.Run(() => new HostNetwork());
        int index = host.FindLink("d0")!.Index;
        List<HostRoute> routes = [];
        for (int i = 0; i < 1000; i++)
        {
            routes.Add(new HostRoute(Prefix($"172.{16 + (i >> 8)}.{i & 255}.0/24"), index, Ours, 10, 1400));
            routes.Add(new HostRoute(Prefix($"fd00:{i:x}::/64"), index, Ours, 10, 1400));
        }

        routes.ForEach(host.AddRoute);
        Assert.Equal(routes.OrderBy(route => route.Destination), host.GetRoutes().OrderBy(route => route.Destination));
        routes.ForEach(host.RemoveRoute);
        Assert.Empty(host.GetRoutes());
    }

    [SkippableFact]
    public void TheRouteListIsWholeThoughItChangesMeanwhile()
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        using HostNetwork host = space.Run(() => new HostNetwork());
        using HostNetwork other = space.Run(() => new HostNetwork());
        int index = host.FindLink("d0")!.Index;

        // Enough for several parts.
        List<HostRoute> lasting = [];
        for (int i = 0; i < 500; i++)
        {
            lasting.Add(new HostRoute(Prefix($"172.{16 + (i >> 8)}.{i & 255}.0/24"), index, Ours, 10, 1400));
            lasting.Add(new HostRoute(Prefix($"fd00:{i:x}::/64"), index, Ours, 10, 1400));
        }

        lasting.ForEach(host.AddRoute);
        lasting.Sort((a, b) => a.Destination.CompareTo(b.Destination));
        using var done = new CancellationTokenSource();
        Task churn = Task.Run(() =>
        {
            HostRoute[] passing =
            [
                new(Prefix("10.0.0.0/24"), index, 85, 10, 0),
                new(Prefix("fc00::/64"), index, 85, 10, 0),
            ];
            while (!done.IsCancellationRequested)
            {
                Array.ForEach(passing, other.AddRoute);
                Array.ForEach(passing, other.RemoveRoute);
            }
        });
        int wholeLists = 0;
        for (int i = 0; i < 200; i++)
        {
            wholeLists += host.GetRoutes().Where(route => route.Protocol == Ours).OrderBy(route => route.Destination).SequenceEqual(lasting) ? 1 : 0;
        }

        done.Cancel();
        churn.GetAwaiter().GetResult();

        // Two IPv6 lists in a row may lack the same route, once in thousands of times.
        Assert.InRange(wholeLists, 199, 200);
    }

    [SkippableFact]
    public void AThousandAddressesAreListed()
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        using HostNetwork host = space.Run(() => new HostNetwork());
        int index = host.FindLink("d0")!.Index;
        IpPrefix[] addresses =
            [.. Enumerable.Range(1, 500).SelectMany(i => new[] { Prefix($"10.1.{i >> 8}.{i & 255}/32"), Prefix($"fd00::{i:x}/128") })];
        Array.ForEach(addresses, address => host.AddAddress(index, address));
        Assert.Equal(addresses.Order(), host.GetAddresses(index).Order());
    }

    [SkippableFact]
    public void CallsFromManyThreadsGetTheirOwnAnswers()
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        using HostNetwork host = space.Run(() => new HostNetwork());
        int index = host.FindLink("d0")!.Index;
        Parallel.For(0, 400, new ParallelOptions { MaxDegreeOfParallelism = 8 }, i =>
        {
            string name = i % 3 == 0 ? "lo" : $"d{i % 3 - 1}";
            Assert.Equal(name, host.FindLink(name)!.Name);
            var route = new HostRoute(Prefix($"172.{16 + (i >> 8)}.{i & 255}.0/24"), index, Ours, 10, 1400);
            host.AddRoute(route);
            Assert.Contains(route, host.GetRoutes());
        });
    }

    [SkippableFact]
    public void ThePathShowsSourceDeviceAndMtu()
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        foreach (string line in new[]
        {
            "link set lo up", "link set d1 mtu 1450", "address add 192.168.40.11/24 dev d1", "address add 192.168.40.21/24 dev d1",
            "address add fd00:40::11/64 dev d1 nodad", "address add fd00:40::21/64 dev d1 nodad preferred_lft 0",
            "route add 198.51.100.0/24 via 192.168.40.1 mtu 1300", "route add 2001:db8::/32 via fd00:40::1 mtu 1310",
            "route add unreachable 203.0.113.0/26", "route add prohibit 203.0.113.64/26", "route add blackhole 203.0.113.128/26",
            "route add throw 203.0.113.192/26", "route add unreachable 2001:db8:1::/48", "route add prohibit 2001:db8:2::/48",
            "route add blackhole 2001:db8:3::/48", "route add throw 2001:db8:4::/48",
        })
        {
            space.Ip(line);
        }

        using HostNetwork host = space.Run(() => new HostNetwork());
        int d1 = host.FindLink("d1")!.Index;
        int lo = host.FindLink("lo")!.Index;
        InetAddress none = InetAddress.None;

        Assert.Equal(new HostPath(Address("192.168.40.11"), d1, 1450, IsOnLink: true), host.GetPath(Address("192.168.40.12"), none));
        Assert.Equal(new HostPath(Address("192.168.40.11"), d1, 1300), host.GetPath(Address("198.51.100.1"), none));
        Assert.Equal(new HostPath(Address("192.168.40.21"), d1, 1300), host.GetPath(Address("198.51.100.1"), Address("192.168.40.21")));
        Assert.Equal(new HostPath(Address("192.168.40.11"), lo, 65536), host.GetPath(Address("192.168.40.11"), none));
        Assert.Equal(new HostPath(Address("fd00:40::11"), d1, 1450, IsOnLink: true), host.GetPath(Address("fd00:40::12"), none));
        Assert.Equal(new HostPath(Address("fd00:40::11"), d1, 1310), host.GetPath(Address("2001:db8::1"), none));
        Assert.Equal(new HostPath(Address("fd00:40::21"), d1, 1310), host.GetPath(Address("2001:db8::1"), Address("fd00:40::21")));
        Assert.Equal(new HostPath(Address("fd00:40::11"), lo, 65536), host.GetPath(Address("fd00:40::11"), none));
        foreach (string unreachable in new[]
        {
            "192.0.2.1", "203.0.113.1", "203.0.113.65", "203.0.113.129", "203.0.113.193",
            "2001:dba::1", "2001:db8:1::1", "2001:db8:2::1", "2001:db8:3::1", "2001:db8:4::1",
        })
        {
            Assert.Null(host.GetPath(Address(unreachable), none));
        }
    }

    [SkippableTheory]
    [InlineData("192.168.40.12", "192.168.40.99")]
    [InlineData("192.168.40.12", "192.168.40.12")]
    [InlineData("192.168.40.12", "203.0.113.1")]
    [InlineData("fd00:40::12", "fd00:40::99")]
    [InlineData("fd00:40::12", "2001:db8::1")]
    public void APathFromAForeignSourceIsRefused(string destination, string source)
    {
        using HostNamespace space = new HostNamespace().WithDevices();
        space.Ip("address add 192.168.40.11/24 dev d1");
        space.Ip("address add fd00:40::11/64 dev d1 nodad");
        using HostNetwork host = space.Run(() => new HostNetwork());

        var refused = Assert.Throws<HostNetworkException>(() => host.GetPath(Address(destination), Address(source)));
        Assert.Equal($"find the way from {source} to {destination}: {source} is not an address of this host", refused.Message);
        Assert.True(refused.NotFound);
        Assert.Throws<ArgumentException>(() => host.GetPath(Address("192.168.40.12"), Address("fd00:40::11")));
    }

    private static string AllRoutes(HostNamespace space) =>
        space.Ip("-4 -details route show table main") + space.Ip("-6 -details route show table main");

    private static IpPrefix Prefix(string text) => IpPrefix.TryParse(text, out IpPrefix prefix) ? prefix : throw new FormatException(text);

    private static InetAddress Address(string text) => InetAddress.TryParse(text, out InetAddress address) ? address : throw new FormatException(text);
}
