using BenchmarkDotNet.Attributes;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Bench;

/// <summary>Lookups of 1,024 addresses that the table holds, in an order that the branch predictor can't learn.</summary>
public class RouteBenchmarks
{
    private const int Lookups = 1024;

    private readonly uint[] _ipv4 = new uint[Lookups];
    private readonly UInt128[] _ipv6 = new UInt128[Lookups];
    private RouteTable<string> _ipv4Table = null!;
    private RouteTable<string> _ipv6Table = null!;

    [Params(10, 10_000, 100_000)]
    public int Routes { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        var random = new Random(1);
        KeyValuePair<IpPrefix, string>[] ipv4 = BenchRoutes.Make(random, Routes, isIpv4: true, i => $"peer {i % 1000}");
        KeyValuePair<IpPrefix, string>[] ipv6 = BenchRoutes.Make(random, Routes, isIpv4: false, i => $"peer {i % 1000}");
        _ipv4Table = new RouteTable<string>(ipv4);
        _ipv6Table = new RouteTable<string>(ipv6);
        for (int i = 0; i < Lookups; i++)
        {
            _ipv4[i] = ipv4[random.Next(Routes)].Key.Address.Ipv4 + (uint)random.Next(256);
            _ipv6[i] = ipv6[random.Next(Routes)].Key.Address.Bits + (UInt128)random.Next(65_536);
        }
    }

    [Benchmark(OperationsPerInvoke = Lookups)]
    public int LookupIpv4()
    {
        int found = 0;
        foreach (uint address in _ipv4)
        {
            found += _ipv4Table.LookupIpv4(address) is null ? 0 : 1;
        }

        return found;
    }

    [Benchmark(OperationsPerInvoke = Lookups)]
    public int LookupIpv6()
    {
        int found = 0;
        foreach (UInt128 address in _ipv6)
        {
            found += _ipv6Table.LookupIpv6(address) is null ? 0 : 1;
        }

        return found;
    }
}

internal static class BenchRoutes
{
    /// <summary>Container subnets as people number them: /24 below 10.0.0.0/8 and 172.16.0.0/12, /64 below fd00::/8; the rest at random.</summary>
    public static KeyValuePair<IpPrefix, T>[] Make<T>(Random random, int count, bool isIpv4, Func<int, T> value)
    {
        var routes = new Dictionary<IpPrefix, T>();
        while (routes.Count < count)
        {
            InetAddress address = isIpv4
                ? InetAddress.FromIpv4((uint)random.Next(0x0a00_0000, 0x3000_0000))
                : new InetAddress(((UInt128)0xfd00 << 112) | ((UInt128)(ulong)random.NextInt64() << 48));
            routes.TryAdd(new IpPrefix(address, isIpv4 ? 24 : 64).Network, value(routes.Count));
        }

        return [.. routes];
    }
}
