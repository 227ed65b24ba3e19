using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

/// <summary>What the Linux kernel's GRE and tunneld once sent each other: we still take the one and send the other.</summary>
public sealed class KernelCaptureTests
{
    private readonly MemoryHost _host = new();

    public static TheoryData<string> FromKernel => [.. KernelCaptures.All.Where(one => one.IsFromKernel).Select(one => one.Name)];

    public static TheoryData<string> FromTunneld => [.. KernelCaptures.All.Where(one => !one.IsFromKernel).Select(one => one.Name)];

    [Theory]
    [MemberData(nameof(FromKernel))]
    public void Delivers_what_the_kernel_sent(string name)
    {
        KernelCapture capture = Get(name);
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

    [Theory]
    [MemberData(nameof(FromTunneld))]
    public void Sends_what_the_kernel_took(string name)
    {
        KernelCapture capture = Get(name);
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

    [Fact]
    public void Every_case_is_there_in_both_directions()
    {
        string[] Cases(bool isFromKernel) => [.. KernelCaptures.All
            .Where(one => one.IsFromKernel == isFromKernel)
            .Select(one => one.Name[..one.Name.IndexOf(", from", StringComparison.Ordinal)])
            .Distinct()
            .Order(StringComparer.Ordinal)];
        Assert.Equal(12, Cases(isFromKernel: true).Length);
        Assert.Equal(Cases(isFromKernel: true), Cases(isFromKernel: false));
    }

    private static KernelCapture Get(string name) => KernelCaptures.All.Single(one => one.Name == name);

    private void Serve(KernelCapture capture, out Peer peer)
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
    private static (int Gre, int Inner) StartsOf(KernelCapture capture)
    {
        bool isIpv4 = capture.Bytes[0] >> 4 == 4;
        int gre = isIpv4 ? 20 : capture.Bytes[6] == 60 ? 48 : 40;
        gre += capture.IsUdp ? 8 : 0;
        uint? key = capture.IsFromKernel ? capture.KeyIn : capture.KeyOut;
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
