using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

/// <summary>Puts what somebody else's GRE and tunneld once sent each other through tunneld's two ways again.</summary>
internal sealed class InteropReplay
{
    private readonly MemoryHost _host = new();

    /// <summary>The names of what one side sent, the other end or tunneld.</summary>
    public static TheoryData<string> Names(IReadOnlyList<InteropCapture> captures, bool fromPartner) =>
        [.. captures.Where(one => one.IsFromPartner == fromPartner).Select(one => one.Name)];

    /// <summary>The cases in which one side sent something, the other end or tunneld.</summary>
    public static string[] Cases(IReadOnlyList<InteropCapture> captures, bool fromPartner) =>
        [.. captures
            .Where(one => one.IsFromPartner == fromPartner)
            .Select(one => one.Name[..one.Name.IndexOf(", from", StringComparison.Ordinal)])
            .Distinct()
            .Order(StringComparer.Ordinal)];

    /// <summary>Receives what the other end sent: its inner packet must be delivered as it is.</summary>
    public void Receive(InteropCapture capture)
    {
        Serve(capture, out Peer peer);
        (int gre, int inner) = StartsOf(capture);
        _host.Receive(capture.IsUdp
            ? new ReceivedPacket(capture.Bytes[gre..]) { Reception = Reception.UdpSocket, Source = peer.Settings.Endpoint }
            : new ReceivedPacket(AsRawSocketsHaveIt(capture.Bytes, gre)));

        Assert.Empty(_host.Drops());
        (byte[] delivered, Offload offload) = Assert.Single(_host.Tun.Written);
        Assert.Equal(Convert.ToHexString(capture.Bytes[inner..]), Convert.ToHexString(delivered));
        Assert.Equal(default, offload);
    }

    /// <summary>Sends the inner packet of what tunneld sent: the outer one must be the same, byte for byte.</summary>
    public void Send(InteropCapture capture)
    {
        Serve(capture, out Peer peer);
        (int gre, int inner) = StartsOf(capture);
        if (capture.Sequence)
        {
            Assert.Equal(GreParseResult.Ok, GreView.TryParse(capture.Bytes.AsSpan(gre), out GreView header));
            for (uint i = 0; i < header.Sequence; i++)
            {
                peer.Sequences.NextToSend();
            }
        }

        _host.Send(capture.Bytes[inner..]);

        Assert.Empty(_host.Drops());
        (byte[] sent, InetAddress destination) = Assert.Single(_host.Underlay.Sent);
        Assert.Equal(peer.Settings.Endpoint, destination);
        // The kernel writes the UDP header.
        Assert.Equal(Convert.ToHexString(capture.Bytes[(capture.IsUdp ? gre : 0)..]), Convert.ToHexString(sent));
    }

    private void Serve(InteropCapture capture, out Peer peer)
    {
        bool isIpv4 = capture.Bytes[0] >> 4 == 4;
        peer = Overlay.Peer(
            endpoint: isIpv4 ? "192.168.40.12" : "fd40::12",
            local: isIpv4 ? "192.168.40.11" : "fd40::11",
            keyIn: capture.KeyIn,
            keyOut: capture.KeyOut,
            checksum: capture.Checksum,
            sequence: capture.Sequence,
            udpPort: (ushort)(capture.IsUdp ? 4754 : 0));
        _host.With([(peer, ["172.17.52.0/24", "fd17:52::/64"])]);
    }

    // Where the GRE header and the inner packet begin, in bytes. Behind an IPv6 header the kernel puts Destination Options where it is told
    // to limit encapsulation (RFC 2473 section 4.1.1): 8 bytes.
    private static (int Gre, int Inner) StartsOf(InteropCapture capture)
    {
        bool isIpv4 = capture.Bytes[0] >> 4 == 4;
        int gre = isIpv4 ? 20 : capture.Bytes[6] == 60 ? 48 : 40;
        gre += capture.IsUdp ? 8 : 0;
        uint? key = capture.IsFromPartner ? capture.KeyIn : capture.KeyOut;
        return (gre, gre + 4 + (capture.Checksum ? 4 : 0) + (key is null ? 0 : 4) + (capture.Sequence ? 4 : 0));
    }

    // The kernel keeps extension headers to itself: the socket hands over what follows them, and the header is put back without them.
    private static byte[] AsRawSocketsHaveIt(byte[] packet, int gre)
    {
        if (packet[0] >> 4 == 4)
        {
            return packet;
        }

        byte[] whole = [.. packet[..40], .. packet[gre..]];
        whole[6] = IpProtocol.Gre;
        Packets.Put16(whole, 4, whole.Length - 40);
        return whole;
    }
}
