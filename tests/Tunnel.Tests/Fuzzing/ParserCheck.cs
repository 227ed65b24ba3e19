using System.Buffers.Binary;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Fuzzing;

/// <summary>
/// Gives bytes to every parser of Wire/, wherever a header could begin, and reads every accessor of what it takes for good. What a view says is compared
/// with the bytes, what is written is read again, and a lowered MSS is looked up by a walk of its own.
/// </summary>
internal static class ParserCheck
{
    // Beyond that there is no header that another could not stand for.
    private const int Furthest = 100;

    /// <summary>Checks bytes.</summary>
    /// <returns>What is wrong, one line; null where nothing is.</returns>
    public static string? Run(ReadOnlySpan<byte> bytes)
    {
        for (int start = 0; start <= Math.Min(bytes.Length, Furthest); start += 4)
        {
            string? fault = RunAt(bytes[start..]);
            if (fault is not null)
            {
                return $"at byte {start}: {fault}";
            }
        }

        return null;
    }

    private static string? RunAt(ReadOnlySpan<byte> bytes) =>
        Ipv4(bytes) ?? Ipv6(bytes) ?? Gre(bytes) ?? Transport(bytes) ?? Mss(bytes) ?? Quoted(bytes) ?? Messages(bytes) ??
        (InternetChecksum.Compute(bytes) == Rfc1071.Checksum(bytes) ? null : "another checksum than RFC 1071's");

    private static string? Ipv4(ReadOnlySpan<byte> bytes)
    {
        if (!Ipv4View.TryParse(bytes, out Ipv4View view))
        {
            return null;
        }

        if (view.TotalLength > bytes.Length || view.HeaderLength < 20 || view.HeaderLength + view.Payload.Length != view.TotalLength ||
            view.IsChecksumValid != (Rfc1071.Sum(bytes[..view.HeaderLength]) == 0xffff) ||
            view.Source != InetAddress.Read(bytes.Slice(12, 4)) || view.Destination != InetAddress.Read(bytes.Slice(16, 4)) ||
            view.TimeToLive != bytes[8] || view.Protocol != bytes[9] || view.TrafficClass != bytes[1] ||
            view.FragmentOffset > 0xfff8 || (view.FragmentOffset > 0 && !view.IsFragment))
        {
            return "an IPv4 view contradicts its bytes";
        }

        if (!QuotedPacket.TryParse(view.Packet, out QuotedPacket offending))
        {
            return "a packet is none when it is quoted";
        }

        var error = new byte[IcmpMessage.MaxErrorIpv4];
        int length = IcmpMessage.WriteTooBig(error, Overlay.Address("10.0.201.1"), offending, 1400);
        if (!Ipv4View.TryParse(error.AsSpan(0, length), out Ipv4View answer) || !answer.IsChecksumValid || Rfc1071.Sum(answer.Payload) != 0xffff ||
            !QuotedPacket.TryParse(answer.Payload[8..], out QuotedPacket quoted) || quoted.Source != view.Source)
        {
            return "Fragmentation Needed about an IPv4 packet is wrong";
        }

        return Ipv4Fragments(view);
    }

    private static string? Ipv4Fragments(in Ipv4View view)
    {
        byte[] packet = view.Packet.ToArray();
        int payload = packet.Length - view.HeaderLength;
        if (payload < 9 || Ipv4Fragment.EndOf(packet) > 65_535 || !Ipv4Fragment.IsAllowed(packet) || !EndsWhereAFragmentMay(packet, payload))
        {
            return null;
        }

        int size = Math.Max(8, payload / 3 / 8 * 8);
        var fragments = new List<byte[]>();
        for (int offset = 0; offset < payload; offset += size)
        {
            int count = Math.Min(size, payload - offset);
            var fragment = new byte[view.HeaderLength + count];
            Ipv4Fragment.WriteHeader(fragment, packet, offset, count, isLast: offset + count == payload);
            packet.AsSpan(view.HeaderLength + offset, count).CopyTo(fragment.AsSpan(view.HeaderLength));
            if (!Ipv4View.TryParse(fragment, out Ipv4View part) || part.TotalLength != fragment.Length || !part.IsChecksumValid)
            {
                return "a fragment of an IPv4 packet is none";
            }

            fragments.Add(fragment);
        }

        Packets.FixIpv4Checksum(packet);
        IReadOnlyList<byte[]> joined = Reassembler.Join(fragments);
        return joined.Count == 1 && joined[0].AsSpan().SequenceEqual(packet) ? null : "fragments of an IPv4 packet don't come to the packet";
    }

    // A fragment with more to come has a multiple of 8 bytes; what has not can't be put together with anything.
    private static bool EndsWhereAFragmentMay(byte[] packet, int payload) => (packet[6] & 0x20) == 0 || payload % 8 == 0;

    private static string? Ipv6(ReadOnlySpan<byte> bytes)
    {
        if (!Ipv6View.TryParse(bytes, out Ipv6View view))
        {
            return null;
        }

        if (view.TotalLength > bytes.Length || view.Payload.Length != view.TotalLength - 40 || view.NextHeader != bytes[6] || view.HopLimit != bytes[7] ||
            view.Source != InetAddress.Read(bytes.Slice(8, 16)) || view.Destination != InetAddress.Read(bytes.Slice(24, 16)) || view.FlowLabel > 0xfffff)
        {
            return "an IPv6 view contradicts its bytes";
        }

        if (!QuotedPacket.TryParse(view.Packet, out QuotedPacket offending))
        {
            return "a packet is none when it is quoted";
        }

        var error = new byte[IcmpMessage.MaxErrorIpv6];
        int length = IcmpMessage.WriteTooBig(error, Overlay.Address("fd00:201::1"), offending, 1400);
        if (!Ipv6View.TryParse(error.AsSpan(0, length), out Ipv6View answer) || !IcmpView.TryParse(answer.Payload, out IcmpView message) ||
            message.RestOfHeader != 1400 || !view.Packet.StartsWith(message.Body))
        {
            return "Packet Too Big about an IPv6 packet is wrong";
        }

        byte[] packet = view.Packet.ToArray();
        int payload = view.Payload.Length;
        int size = Math.Max(8, payload / 2 / 8 * 8);
        var fragments = new List<byte[]>();
        for (int offset = 0; offset < payload; offset += size)
        {
            int count = Math.Min(size, payload - offset);
            var fragment = new byte[Ipv6Fragment.HeaderLength + count];
            Ipv6Fragment.WriteHeaders(fragment, packet, 7, offset, count, isLast: offset + count == payload);
            packet.AsSpan(40 + offset, count).CopyTo(fragment.AsSpan(Ipv6Fragment.HeaderLength));
            fragments.Add(fragment);
        }

        return payload == 0 || Reassembler.Join(fragments) is [var whole] && whole.AsSpan().SequenceEqual(packet)
            ? null
            : "fragments of an IPv6 packet don't come to the packet";
    }

    private static string? Gre(ReadOnlySpan<byte> bytes)
    {
        if (GreView.TryParse(bytes, out GreView view) != GreParseResult.Ok)
        {
            return null;
        }

        int length = 4 + (view.HasChecksum ? 4 : 0) + (view.HasKey ? 4 : 0) + (view.HasSequence ? 4 : 0);
        return view.HeaderLength == length && view.Payload.Length == bytes.Length - length &&
            (!view.HasKey || view.Key == BinaryPrimitives.ReadUInt32BigEndian(bytes[(view.HasChecksum ? 8 : 4)..])) &&
            (!view.HasSequence || view.Sequence == BinaryPrimitives.ReadUInt32BigEndian(bytes[(length - 4)..])) &&
            view.IsChecksumValid == (!view.HasChecksum || Rfc1071.Sum(bytes) == 0xffff) && (bytes[0] & 0x4c) == 0 && (bytes[1] & 7) == 0
            ? null
            : "a GRE view contradicts its bytes";
    }

    private static string? Transport(ReadOnlySpan<byte> bytes)
    {
        if (UdpView.TryParse(bytes, out UdpView udp) &&
            (udp.Length != udp.Payload.Length + 8 || udp.Length > bytes.Length || udp.SourcePort != (bytes[0] << 8 | bytes[1]) ||
                udp.DestinationPort != (bytes[2] << 8 | bytes[3]) || udp.Checksum != (bytes[6] << 8 | bytes[7])))
        {
            return "a UDP view contradicts its bytes";
        }

        if (TcpView.TryParse(bytes, out TcpView tcp) &&
            (tcp.HeaderLength < 20 || tcp.HeaderLength + tcp.Payload.Length != bytes.Length || tcp.Flags != bytes[13] ||
                tcp.Sequence != BinaryPrimitives.ReadUInt32BigEndian(bytes[4..]) || tcp.Checksum != (bytes[16] << 8 | bytes[17]) ||
                tcp.SourcePort != (bytes[0] << 8 | bytes[1]) || tcp.DestinationPort != (bytes[2] << 8 | bytes[3])))
        {
            return "a TCP view contradicts its bytes";
        }

        return IcmpView.TryParse(bytes, out IcmpView icmp) && (icmp.Type != bytes[0] || icmp.Code != bytes[1] || icmp.Body.Length != bytes.Length - 8 ||
            icmp.RestOfHeader != BinaryPrimitives.ReadUInt32BigEndian(bytes[4..]))
            ? "an ICMP view contradicts its bytes"
            : null;
    }

    private static string? Mss(ReadOnlySpan<byte> bytes)
    {
        const ushort Largest = 1000;
        byte[] segment = bytes.ToArray();
        bool isChanged = TcpMss.Lower(segment, Largest, isChecksumUnfinished: false);
        if (isChanged == segment.AsSpan().SequenceEqual(bytes))
        {
            return "lowering the MSS says one thing and does another";
        }

        bool isTcp = TcpView.TryParse(bytes, out TcpView view);
        for (int i = 0; i < segment.Length; i++)
        {
            bool mayChange = isTcp && (i is 16 or 17 || (i >= 20 && i < view.HeaderLength));
            if (segment[i] != bytes[i] && !mayChange)
            {
                return $"lowering the MSS has changed byte {i}";
            }
        }

        // Where the sum was right it is right again; 0 and 0xffff are the same number.
        if (Rfc1071.Sum(segment) % 0xffff != Rfc1071.Sum(bytes) % 0xffff)
        {
            return "lowering the MSS has changed the sum";
        }

        return isTcp && LargestMss(segment.AsSpan(20..view.HeaderLength)) > Largest ? "an MSS was not lowered"
            : TcpMss.Lower(segment, Largest, isChecksumUnfinished: false) ? "lowering the MSS twice is not lowering it once"
            : null;
    }

    // RFC 9293 section 3.1: kind 0 ends the list, 1 is a single byte, each other has its length.
    private static int LargestMss(ReadOnlySpan<byte> options)
    {
        int largest = 0;
        while (options.Length >= 2 && options[0] != 0)
        {
            int length = options[0] == 1 ? 1 : options[1];
            if (length > options.Length || (length < 2 && options[0] != 1))
            {
                break;
            }

            largest = options[0] == 2 && length == 4 ? Math.Max(largest, options[2] << 8 | options[3]) : largest;
            options = options[length..];
        }

        return largest;
    }

    private static string? Quoted(ReadOnlySpan<byte> bytes) =>
        !QuotedPacket.TryParse(bytes, out QuotedPacket quoted) ? null
        : quoted.HeaderLength + quoted.Payload.Length == bytes.Length && quoted.TotalLength <= 65_535 + 40 && quoted.IsIpv4 == (bytes[0] >> 4 == 4) &&
            quoted.Protocol == bytes[quoted.IsIpv4 ? 9 : 6] && quoted.Source == InetAddress.Read(quoted.IsIpv4 ? bytes.Slice(12, 4) : bytes.Slice(8, 16)) &&
            quoted.Destination == InetAddress.Read(quoted.IsIpv4 ? bytes.Slice(16, 4) : bytes.Slice(24, 16)) && (quoted.IsIpv4 || !quoted.IsLaterFragment)
        ? null
        : "a quoted packet contradicts its bytes";

    private static string? Messages(ReadOnlySpan<byte> bytes)
    {
        Span<byte> written = stackalloc byte[EchoMessage.Length + 4];
        if (EchoMessage.TryParse(bytes, out EchoMessage echo))
        {
            echo.Write(written);
            if (!EchoMessage.TryParse(written, out EchoMessage again) || again != echo || !bytes[4..20].SequenceEqual(written[4..20]))
            {
                return "an echo message changes when it is written";
            }
        }

        if (AbilitiesMessage.TryParse(bytes, out AbilitiesMessage abilities))
        {
            abilities.Write(written);
            if (!AbilitiesMessage.TryParse(written, out AbilitiesMessage again) || again != abilities)
            {
                return "a message about abilities changes when it is written";
            }
        }

        return null;
    }
}
