using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

public sealed class RouteTableTests
{
    public enum Shape
    {
        /// <summary>Lengths and addresses at random.</summary>
        Random,

        /// <summary>Every length from 0 to the longest, all holding one address.</summary>
        Nested,

        /// <summary>Lengths next to the ends of the trie's six-bit steps, in one small part of the address space.</summary>
        StepEdges,

        /// <summary>Long prefixes side by side, without a gap, with a few values only.</summary>
        Adjacent,

        /// <summary>Two halves, quarters and so on: each prefix has a sibling that leads elsewhere.</summary>
        Siblings,
    }

    public static TheoryData<Shape, bool, int> Cases
    {
        get
        {
            var data = new TheoryData<Shape, bool, int>();
            foreach (Shape shape in Enum.GetValues<Shape>())
            {
                foreach (bool isIpv4 in (bool[])[true, false])
                {
                    for (int seed = 1; seed <= 5; seed++)
                    {
                        data.Add(shape, isIpv4, seed);
                    }
                }
            }

            return data;
        }
    }

    // 50 cases of 20,000 random lookups each: a million, and those at every prefix's edges.
    [Theory]
    [MemberData(nameof(Cases))]
    public void Finds_what_a_linear_scan_finds(Shape shape, bool isIpv4, int seed)
    {
        var random = new Random((seed * 100) + (int)shape);
        List<KeyValuePair<IpPrefix, string>> routes = Routes(shape, isIpv4, random);
        var table = new RouteTable<string>(routes);
        var scan = new LinearScan(routes);
        Assert.Equal(routes.Count, table.Count);

        foreach ((IpPrefix prefix, _) in routes)
        {
            (UInt128 first, UInt128 last) = Range(prefix);
            foreach (UInt128 bits in (UInt128[])[first - 1, first, first + 1, last - 1, last, last + 1])
            {
                AssertSame(scan, table, WithinFamily(bits, isIpv4));
            }
        }

        for (int i = 0; i < 20_000; i++)
        {
            // Half of them anywhere, half near a route.
            InetAddress address = RandomAddress(random, isIpv4);
            if (i % 2 == 0)
            {
                IpPrefix near = routes[random.Next(routes.Count)].Key;
                UInt128 noise = address.Bits & ((UInt128.One << random.Next(1, isIpv4 ? 32 : 127)) - 1);
                address = WithinFamily(near.Address.Bits ^ noise, isIpv4);
            }

            AssertSame(scan, table, address);
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Finds_what_a_dictionary_of_each_length_finds_among_many_routes(bool isIpv4)
    {
        var random = new Random(100_000);
        int longest = isIpv4 ? 32 : 128;
        var routes = new Dictionary<IpPrefix, string>();
        while (routes.Count < 100_000)
        {
            int length = Math.Min(longest, random.Next(isIpv4 ? 12 : 28, isIpv4 ? 33 : 129));
            IpPrefix prefix = new IpPrefix(RandomAddress(random, isIpv4), length).Network;
            routes[prefix] = $"via {routes.Count}";
        }

        var table = new RouteTable<string>(routes);
        IpPrefix[] prefixes = [.. routes.Keys];
        for (int i = 0; i < 100_000; i++)
        {
            InetAddress address = i % 2 == 0 ? RandomAddress(random, isIpv4) : prefixes[random.Next(prefixes.Length)].Address;
            string? expected = null;
            for (int length = longest; length >= 0 && expected is null; length--)
            {
                expected = routes.GetValueOrDefault(new IpPrefix(address, length).Network);
            }

            Assert.Same(expected, table.Lookup(address));
        }
    }

    [Fact]
    public void An_empty_table_holds_nothing()
    {
        var table = new RouteTable<string>([]);
        Assert.Equal(0, table.Count);
        Assert.Null(table.LookupIpv4(0));
        Assert.Null(table.LookupIpv4(uint.MaxValue));
        Assert.Null(table.LookupIpv6(UInt128.Zero));
        Assert.Null(table.LookupIpv6(UInt128.MaxValue));
    }

    [Fact]
    public void The_families_are_apart()
    {
        var table = new RouteTable<string>([Route("0.0.0.0/0", "v4"), Route("fd00::/8", "v6")]);
        Assert.Equal("v4", table.Lookup(Overlay.Address("253.0.0.1")));
        Assert.Equal("v6", table.Lookup(Overlay.Address("fd00::1")));
        Assert.Null(table.Lookup(Overlay.Address("fe80::1")));

        // An IPv4-mapped address on the wire is an IPv6 address like any other, and no IPv4 route holds it.
        Assert.Null(table.LookupIpv6(Overlay.Address("10.0.0.1").Bits));
    }

    [Theory]
    [InlineData("0.0.0.0/0", "255.255.255.255")]
    [InlineData("172.17.52.7/32", "172.17.52.7")]
    [InlineData("::/0", "ffff::")]
    [InlineData("fd00:52::7/128", "fd00:52::7")]
    public void The_shortest_and_the_longest_prefixes_are_found(string prefix, string address) =>
        Assert.Equal("here", new RouteTable<string>([Route(prefix, "here")]).Lookup(Overlay.Address(address)));

    [Theory]
    [InlineData("10.0.201.1/24", "10.0.202.0/24")]
    [InlineData("fd00:51::1/64", "fd00:52::/64")]
    [InlineData("10.0.201.0/24", "10.0.201.0/24")]
    [InlineData("fd00:51::/64", "fd00:51::/64")]
    [InlineData("128.0.0.0/0", "10.0.0.0/8")]
    public void Host_bits_and_duplicates_are_refused(string first, string second) =>
        Assert.Throws<ArgumentException>(() => new RouteTable<string>([Route(first, "a"), Route(second, "b")]));

    [Fact]
    public void A_lookup_allocates_nothing()
    {
        var random = new Random(7);
        var ipv4 = new RouteTable<string>(Routes(Shape.Random, isIpv4: true, random));
        var ipv6 = new RouteTable<string>(Routes(Shape.Random, isIpv4: false, random));
        int found = 0;
        long allocated = Allocations.InSteadyState(() =>
        {
            for (uint i = 0; i < 100_000; i++)
            {
                found += ipv4.LookupIpv4(i * 42_949) is null ? 0 : 1;
                found += ipv6.LookupIpv6((UInt128)i << 108) is null ? 0 : 1;
                found += ipv4.Lookup(InetAddress.FromIpv4(i)) is null ? 0 : 1;
            }
        });
        Assert.Equal(0, allocated);
        Assert.NotEqual(0, found);
    }

    private static KeyValuePair<IpPrefix, string> Route(string prefix, string value) => KeyValuePair.Create(Overlay.Prefix(prefix), value);

    private static List<KeyValuePair<IpPrefix, string>> Routes(Shape shape, bool isIpv4, Random random)
    {
        int longest = isIpv4 ? 32 : 128;
        string[] values = [.. Enumerable.Range(0, shape == Shape.Adjacent ? 3 : 300).Select(i => $"via {i}")];
        var routes = new Dictionary<IpPrefix, string>();
        InetAddress one = RandomAddress(random, isIpv4);
        void Add(UInt128 bits, int length) =>
            routes[new IpPrefix(WithinFamily(bits, isIpv4), length).Network] = values[random.Next(values.Length)];

        switch (shape)
        {
            case Shape.Random:
                for (int i = 0; i < 200; i++)
                {
                    Add(RandomAddress(random, isIpv4).Bits, random.Next(longest + 1));
                }

                break;
            case Shape.Nested:
                for (int length = 0; length <= longest; length++)
                {
                    Add(one.Bits, length);
                }

                break;
            case Shape.StepEdges:
                for (int i = 0; i < 200; i++)
                {
                    int length = Math.Min(longest, (random.Next(1, 6) * 6) + random.Next(-1, 2));
                    UInt128 noise = (UInt128)random.NextInt64() << (longest - length) & ((UInt128.One << (longest - 2)) - 1);
                    Add(one.Bits ^ noise, length);
                }

                break;
            case Shape.Adjacent:
                for (int i = 0; i < 200; i++)
                {
                    Add(one.Bits + ((UInt128)i << 1), longest - 1);
                }

                break;
            default:
                for (int length = 1; length <= longest; length++)
                {
                    Add(one.Bits, length);
                    Add(one.Bits ^ (UInt128.One << (longest - length)), length);
                }

                break;
        }

        return [.. routes];
    }

    private static void AssertSame(LinearScan scan, RouteTable<string> table, InetAddress address)
    {
        string? expected = scan.Lookup(address);
        if (!ReferenceEquals(expected, table.Lookup(address)))
        {
            Assert.Fail($"{address}: the scan finds {expected ?? "nothing"}, the table {table.Lookup(address) ?? "nothing"}");
        }
    }

    private static InetAddress RandomAddress(Random random, bool isIpv4)
    {
        var bytes = new byte[isIpv4 ? 4 : 16];
        random.NextBytes(bytes);
        return InetAddress.Read(bytes);
    }

    private static (UInt128 First, UInt128 Last) Range(IpPrefix prefix)
    {
        int hostBits = prefix.MaxLength - prefix.Length;
        UInt128 hosts = hostBits == 128 ? UInt128.MaxValue : (UInt128.One << hostBits) - 1;
        return (prefix.Address.Bits, prefix.Address.Bits | hosts);
    }

    // Neighbours of the first and the last address wrap around within the family.
    private static InetAddress WithinFamily(UInt128 bits, bool isIpv4) => isIpv4 ? InetAddress.FromIpv4((uint)bits) : new InetAddress(bits);

    /// <summary>The naive twin.</summary>
    private sealed class LinearScan(List<KeyValuePair<IpPrefix, string>> routes)
    {
        private readonly (UInt128 First, UInt128 Last, string Value)[] _byLength =
            [.. routes.OrderByDescending(r => r.Key.Length).Select(r => (Range(r.Key).First, Range(r.Key).Last, r.Value))];

        public string? Lookup(InetAddress address)
        {
            foreach ((UInt128 first, UInt128 last, string value) in _byLength)
            {
                if (address.Bits >= first && address.Bits <= last)
                {
                    return value;
                }
            }

            return null;
        }
    }
}
