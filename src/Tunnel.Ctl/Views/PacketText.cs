using System.Buffers.Binary;
using System.Globalization;
using System.Net;

namespace Tunnel.Ctl.Views;

/// <summary>One line for a captured packet: time (UTC), direction, peer, addresses and ports, protocol, length, why it was dropped.</summary>
internal static class PacketText
{
    private const int Tcp = 6;
    private const int Udp = 17;

    /// <summary>The line.</summary>
    public static string Line(PcapngPacket packet)
    {
        (string source, string destination, string protocol) = Describe(packet.Bytes);
        string time = packet.Time.ToString("HH:mm:ss.ffffff'Z'", CultureInfo.InvariantCulture);
        string comment = packet.Comment is { } text ? $", {Json.OneLine(text)}" : "";
        return $"{time} {Direction(packet)} {Peer(packet) ?? "-"} {source} > {destination}: {protocol}, length {packet.Length}{comment}";
    }

    /// <summary>The same as JSON.</summary>
    public static string ToJson(PcapngPacket packet) => Json.Write(writer =>
    {
        (string source, string destination, string protocol) = Describe(packet.Bytes);
        writer.WriteStartObject();
        writer.WriteString("time", packet.Time.ToString("yyyy-MM-dd'T'HH:mm:ss.ffffff'Z'", CultureInfo.InvariantCulture));
        writer.WriteString("direction", Direction(packet));
        writer.WriteString("peer", Peer(packet));
        writer.WriteString("source", source);
        writer.WriteString("destination", destination);
        writer.WriteString("protocol", protocol);
        writer.WriteNumber("length", packet.Length);
        writer.WriteString("comment", packet.Comment);
        writer.WriteEndObject();
    });

    private static string Direction(PcapngPacket packet) => packet.IsInbound ? "in" : "out";

    // The interface is called as the network is, and where a peer is known, as that behind a space.
    private static string? Peer(PcapngPacket packet) =>
        packet.Interface.IndexOf(' ', StringComparison.Ordinal) is > 0 and int space ? Json.OneLine(packet.Interface[(space + 1)..]) : null;

    private static (string Source, string Destination, string Protocol) Describe(ReadOnlySpan<byte> packet)
    {
        int version = packet.Length == 0 ? 0 : packet[0] >> 4;
        if (version == 4 && packet.Length >= 20)
        {
            int header = (packet[0] & 15) * 4;
            bool isFirst = (BinaryPrimitives.ReadUInt16BigEndian(packet[6..]) & 0x1fff) == 0;
            return Describe(packet.Slice(12, 4), packet.Slice(16, 4), packet[9], isFirst && packet.Length > header ? packet[header..] : []);
        }

        return version == 6 && packet.Length >= 40
            ? Describe(packet.Slice(8, 16), packet.Slice(24, 16), packet[6], packet[40..])
            : ("?", "?", "no IP");
    }

    private static (string Source, string Destination, string Protocol) Describe(
        ReadOnlySpan<byte> source, ReadOnlySpan<byte> destination, byte protocol, ReadOnlySpan<byte> payload)
    {
        (string from, string to) = (new IPAddress(source).ToString(), new IPAddress(destination).ToString());
        if (protocol is Tcp or Udp && payload.Length >= 4)
        {
            string form = source.Length == 4 ? "{0}:{1}" : "[{0}]:{1}";
            from = string.Format(CultureInfo.InvariantCulture, form, from, BinaryPrimitives.ReadUInt16BigEndian(payload));
            to = string.Format(CultureInfo.InvariantCulture, form, to, BinaryPrimitives.ReadUInt16BigEndian(payload[2..]));
        }

        string name = protocol switch
        {
            Tcp => "TCP",
            Udp => "UDP",
            1 => "ICMP",
            58 => "ICMPv6",
            44 => "fragment",
            47 => "GRE",
            _ => $"protocol {protocol}",
        };
        return (from, to, name);
    }
}
