using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.TestSupport;

/// <summary>Makes peers and routing snapshots from text, with the addresses of the documentation's two hosts as defaults.</summary>
public static class Overlay
{
    /// <summary>Parses an address that must be right.</summary>
    public static InetAddress Address(string text) =>
        InetAddress.TryParse(text, out InetAddress address) ? address : throw new ArgumentException($"{text} is no address", nameof(text));

    /// <summary>Parses a prefix that must be right.</summary>
    public static IpPrefix Prefix(string text) =>
        IpPrefix.TryParse(text, out IpPrefix prefix) ? prefix : throw new ArgumentException($"{text} is no prefix", nameof(text));

    /// <summary>A peer with counters for one worker.</summary>
    public static Peer Peer(
        string name = "vm2",
        string endpoint = "192.168.40.12",
        string local = "192.168.40.11",
        uint? keyIn = null,
        uint? keyOut = null,
        bool checksum = false,
        bool sequence = false,
        int gmtu = 1476,
        ushort udpPort = 0,
        OuterHeaderOptions? outer = null,
        bool strict = false)
    {
        var settings = new PeerSettings(name, Address(endpoint), Address(local), keyIn, keyOut, checksum, sequence, gmtu, udpPort)
        {
            Outer = outer ?? OuterHeaderOptions.Default,
            IsStrict = strict,
        };
        return new Peer(settings, [new PeerCounters()], new SequenceState());
    }

    /// <summary>A snapshot of peers with their subnets.</summary>
    public static RoutingSnapshot Snapshot(
        IReadOnlyList<(Peer Peer, string[] Subnets)> peers,
        string[]? interfaceAddresses = null,
        bool dropsPartialUdp = false,
        string[]? ownAddresses = null)
    {
        var routes = peers.SelectMany(p => p.Subnets.Select(s => KeyValuePair.Create(Prefix(s), p.Peer)));
        return new RoutingSnapshot(
            new RouteTable<Peer>(routes),
            [.. peers.Select(p => p.Peer)],
            [.. (interfaceAddresses ?? []).Select(Address)],
            dropsPartialUdp,
            ownAddresses?.Select(Address).ToHashSet());
    }
}
