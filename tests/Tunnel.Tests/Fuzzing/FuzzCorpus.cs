using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Fuzzing;

/// <summary>Good packets that mutations begin with, beside the golden ones: what peers' daemons and routers say, fragments, TCP options.</summary>
internal static class FuzzCorpus
{
    private const ushort Experimental = 0x88b5;
    private const ushort Keepalive = 0;

    /// <summary>Options of a SYN: MSS at an even and an odd place, window scale, SACK permitted, timestamps; some that break off.</summary>
    public static IReadOnlyList<byte[]> TcpOptions { get; } =
    [
        [2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7],
        [1, 2, 4, 0xff, 0xff, 2, 4, 0x23, 0x00, 1, 0, 0],
        [1, 1, 1, 2],
        [2, 4, 0x05, 0xb4, 99, 0, 2, 4],
        [99, 200, 2, 4, 0xff, 0xff, 0, 0],
    ];

    /// <summary>SYNs from one inner address to another.</summary>
    public static IEnumerable<byte[]> Syns(string source, string destination) =>
        TcpOptions.Select(options => Packets.TcpPacket(source, destination, [], tcpOptions: options, flags: TcpView.Syn));

    /// <summary>IPv4 fragments, and packets that are to be fragmented, with options that are and are not copied.</summary>
    public static IEnumerable<byte[]> Fragments(string source, string destination) =>
    [
        Packets.Ipv4(source, destination, Packets.Udp, Packets.Payload(64), df: false, mf: true),
        Packets.Ipv4(source, destination, Packets.Udp, Packets.Payload(64), df: false, mf: true, fragmentOffset: 32),
        Packets.Ipv4(source, destination, Packets.Tcp, Packets.Payload(33), df: false, fragmentOffset: 65_528),
        Packets.Ipv4(source, destination, Packets.Udp, Packets.Payload(120), df: false, options: [0x94, 4, 0, 0, 7, 7, 4, 1, 2, 3, 4, 0]),
    ];

    /// <summary>GRE payloads with their protocol types that are no inner packets: messages between daemons, and router's keepalives.</summary>
    /// <param name="local">This host's underlay address.</param>
    /// <param name="endpoint">The peer's.</param>
    /// <param name="key">The key in the keepalive's inner GRE header.</param>
    public static IEnumerable<(ushort ProtocolType, byte[] Payload)> Messages(string local, string endpoint, uint? key)
    {
        byte[] echo = [1, 2, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        byte[] answer = [1, 3, 0x05, 0xb4, .. echo[4..]];
        yield return (Experimental, [1, 1, 1, 0]);
        yield return (Experimental, [1, 1, 0, 3]);
        yield return (Experimental, echo);
        yield return (Experimental, [.. echo, .. new byte[200]]);
        yield return (Experimental, answer);
        yield return (Keepalive, echo);
        if (local.Contains('.', StringComparison.Ordinal))
        {
            yield return (0x0800, Packets.Outer(local, endpoint, Packets.GrePacket([], key: key, protocolType: Keepalive)));
        }
    }

    /// <summary>All of that, for parsers to begin with.</summary>
    public static IEnumerable<byte[]> ForParsers() =>
    [
        .. GoldenPackets.All.Select(packet => packet.Bytes).Where(bytes => bytes.Length < 400),
        .. Syns("172.17.52.2", "172.17.51.2"),
        .. Syns("fd00:52::2", "fd00:51::2"),
        .. Fragments("172.17.52.2", "172.17.51.2"),
        .. from message in Messages("192.168.40.11", "192.168.40.12", 42)
           select Packets.Outer("192.168.40.12", "192.168.40.11", Packets.GrePacket(message.Payload, key: 42, protocolType: message.ProtocolType)),
        .. GoldenPackets.All.Where(packet => packet.Bytes.Length < 200)
            .Select(packet => Packets.IcmpPacket("203.0.113.1", "192.168.40.11", 3, 4, [.. packet.Bytes[..Math.Min(packet.Bytes.Length, 64)]])),
    ];
}
