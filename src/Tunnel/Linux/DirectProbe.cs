using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Tmds.Linux;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Linux;

/// <summary>
/// ICMP echo requests (RFC 792, RFC 4443 section 4.1) through raw sockets that are given whole packets: the kernel looks up the way to whom a packet
/// is sent, not to whom its header says (raw(7), IP_HDRINCL; ipv6(7)).
/// </summary>
internal sealed class DirectProbe : IDirectProbe
{
    // A raw socket of this protocol takes whole packets and receives nothing.
    private const ProtocolType WholePackets = (ProtocolType)255;

    private const int TokenLength = 16;
    private const int MessageLength = IcmpMessage.HeaderLength + TokenLength;

    /// <inheritdoc/>
    public async Task<bool> AnswersAsync(
        DirectWay way, InetAddress destination, byte timeToLive, TimeSpan patience, CancellationToken cancellationToken)
    {
        bool isIpv4 = way.Gateway.IsIpv4;
        using var timeout = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        timeout.CancelAfter(patience);
        try
        {
            AddressFamily family = isIpv4 ? AddressFamily.InterNetwork : AddressFamily.InterNetworkV6;
            using var receiver = new Socket(family, SocketType.Raw, isIpv4 ? ProtocolType.Icmp : ProtocolType.IcmpV6);
            receiver.Bind(new IPEndPoint(way.Source.ToIPAddress(), 0));
            using var sender = new Socket(family, SocketType.Raw, WholePackets);

            // By that device and through no router, wherever the routes lead by now.
            sender.SetRawSocketOption(LibC.SOL_SOCKET, Uapi.SO_BINDTOIFINDEX, BitConverter.GetBytes(way.LinkIndex));
            sender.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.DontRoute, true);
            byte[] token = new byte[TokenLength];
            Random.Shared.NextBytes(token);
            await sender.SendToAsync(Question(way.Source, destination, timeToLive, token), new IPEndPoint(way.Gateway.ToIPAddress(), 0), timeout.Token);
            byte[] buffer = new byte[2048];
            while (true)
            {
                int length = await receiver.ReceiveAsync(buffer, timeout.Token);
                if (IsAnswer(buffer.AsSpan(0, length), isIpv4, token))
                {
                    return true;
                }
            }
        }
        catch (Exception refused) when (refused is SocketException or OperationCanceledException)
        {
            cancellationToken.ThrowIfCancellationRequested();
            return false;
        }
    }

    private static byte[] Question(InetAddress source, InetAddress destination, byte timeToLive, ReadOnlySpan<byte> token)
    {
        int header = source.IsIpv4 ? Ipv4Header.Length : Ipv6Header.Length;
        byte[] packet = new byte[header + MessageLength];
        Span<byte> message = packet.AsSpan(header);
        message[0] = source.IsIpv4 ? IcmpMessage.EchoRequest : IcmpMessage.EchoRequestIpv6;

        // A new identifier and number each time: for the firewalls on the way it must be a new connection, as a container's first packet is.
        Random.Shared.NextBytes(message.Slice(4, 4));
        token.CopyTo(message[IcmpMessage.HeaderLength..]);
        uint pseudoHeader = 0;
        if (source.IsIpv4)
        {
            new Ipv4Header(source, destination, IpProtocol.Icmp, MessageLength, timeToLive).Write(packet);
        }
        else
        {
            new Ipv6Header(source, destination, IpProtocol.Icmpv6, MessageLength, timeToLive).Write(packet);
            pseudoHeader = InternetChecksum.PseudoHeader(packet.AsSpan(8, 32), IpProtocol.Icmpv6, MessageLength);
        }

        BinaryPrimitives.WriteUInt16BigEndian(message[2..], InternetChecksum.Compute(message, pseudoHeader));
        return packet;
    }

    // IPv4's raw sockets receive the IP header too.
    private static bool IsAnswer(ReadOnlySpan<byte> bytes, bool isIpv4, ReadOnlySpan<byte> token)
    {
        if (isIpv4)
        {
            bytes = Ipv4View.TryParse(bytes, out Ipv4View packet) ? packet.Payload : default;
        }

        return IcmpView.TryParse(bytes, out IcmpView message) &&
            message.Type == (isIpv4 ? IcmpMessage.EchoReply : IcmpMessage.EchoReplyIpv6) && message.Body.SequenceEqual(token);
    }
}
