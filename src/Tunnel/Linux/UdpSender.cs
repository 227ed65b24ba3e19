using System.Buffers.Binary;
using Tmds.Linux;
using Tunnel.Dataplane;
using Tunnel.Wire;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// Sends GRE-in-UDP (RFC 8086) over one address family: from one of several ports, chosen by the inner flow's hash, so that routers and
/// receivers can spread flows; or from one port. Datagrams of a flow leave many at a time (UDP_SEGMENT); the kernel computes their checksums.
/// Nothing is received at these ports. Thread rule: as <see cref="IUnderlay"/>'s.
/// </summary>
internal sealed unsafe class UdpSender : IDisposable
{
    private const int BufferSize = 8 << 20;

    // RFC 8086 section 3.2.1 recommends the ephemeral range. What matters is that there are more ports than cores and links.
    private const int PortCount = 16;
    private const int FirstPort = 49_152;
    private const int PortTries = 200;

    private static readonly int ControlSize = CMSG_SPACE(sizeof(ushort));

    private readonly bool _isIpv6;
    private readonly OffloadState _offloads;
    private readonly FileDescriptor[] _descriptors;
    private readonly MessageSender[] _messages;
    private readonly ushort[] _ports;
    private readonly PinnedArray<sockaddr_in6> _destinations = new(MessageSender.MaxMessages);
    private readonly PinnedArray<byte> _controls;
    private readonly GatherBatch _single = new(1, 8);

    /// <summary>Opens the sockets.</summary>
    /// <param name="isIpv6">The address family.</param>
    /// <param name="local">The address to send from, or <see cref="InetAddress.None"/> for the kernel's choice.</param>
    /// <param name="sourcePort">The port to send from; null for several, by flow.</param>
    /// <param name="offloads">Where it is known whether UDP_SEGMENT may be used.</param>
    /// <exception cref="DeviceOpenException">A socket cannot be opened or bound; says why and what to do.</exception>
    public UdpSender(bool isIpv6, InetAddress local, ushort? sourcePort, OffloadState offloads)
    {
        _isIpv6 = isIpv6;
        _offloads = offloads;
        _controls = new PinnedArray<byte>(MessageSender.MaxMessages * ControlSize);
        _descriptors = new FileDescriptor[sourcePort is null ? PortCount : 1];
        _messages = new MessageSender[_descriptors.Length];
        _ports = new ushort[_descriptors.Length];
        try
        {
            for (int i = 0; i < _descriptors.Length; i++)
            {
                _descriptors[i] = UdpSocket.Open(isIpv6);
                _ports[i] = SetUp(_descriptors[i].Number, local, sourcePort);
                _messages[i] = new MessageSender(_descriptors[i].Number);
                LinkMessages(_messages[i]);
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Takes the port that is received at. Another socket at that port would get its share of what arrives, and lose it.</summary>
    /// <param name="isIpv6">The address family.</param>
    /// <param name="receiver">The worker's own receiver, which stays its owner's.</param>
    /// <param name="port">Its port.</param>
    /// <param name="offloads">Where it is known whether UDP_SEGMENT may be used.</param>
    public UdpSender(bool isIpv6, UdpReceiver receiver, ushort port, OffloadState offloads)
    {
        _isIpv6 = isIpv6;
        _offloads = offloads;
        _controls = new PinnedArray<byte>(MessageSender.MaxMessages * ControlSize);
        _descriptors = [];
        _messages = [new MessageSender(receiver.Descriptor)];
        _ports = [port];
        LinkMessages(_messages[0]);
    }

    /// <summary>Sends packets of this family in order and writes their results.</summary>
    /// <param name="batch">The batch.</param>
    /// <param name="first">The first packet.</param>
    /// <param name="end">The one after the last.</param>
    /// <param name="patience">How long the batch may still wait for room.</param>
    public void Send(GatherBatch batch, int first, int end, ref SendPatience patience)
    {
        while (first < end)
        {
            MessageSender messages = SenderOf(batch, first);
            bool mayFragment = batch[first].MayFragment;
            int sameSender = first + 1;
            while (sameSender < end && ReferenceEquals(SenderOf(batch, sameSender), messages) && batch[sameSender].MayFragment == mayFragment)
            {
                sameSender++;
            }

            int count = mayFragment
                ? SendFragmented(messages, batch, first, sameSender, ref patience)
                : Send(messages, batch, first, sameSender, ref patience);
            for (int i = first; i < first + count; i++)
            {
                if (batch[i].Result == TransmitResult.Failed && batch[i].SegmentSize != 0)
                {
                    batch[i].Result = SendSingly(messages, batch, i, ref patience);
                }
            }

            first += count;
        }
    }

    /// <summary>The port that a flow is sent from.</summary>
    public ushort PortOf(uint flowHash) => _ports[flowHash % (uint)_ports.Length];

    /// <summary>Closes the sockets.</summary>
    public void Dispose()
    {
        foreach (FileDescriptor? descriptor in _descriptors)
        {
            descriptor?.Dispose();
        }
    }

    private MessageSender SenderOf(GatherBatch batch, int index) => _messages[batch[index].FlowHash % (uint)_messages.Length];

    private int Send(MessageSender messages, GatherBatch batch, int first, int end, ref SendPatience patience)
    {
        int count = messages.Prepare(batch, first, end);
        if (count == 0)
        {
            batch[first].Result = TransmitResult.Failed;
            return 1;
        }

        for (int i = 0; i < count; i++)
        {
            ref GatherPacket packet = ref batch[first + i];
            WriteAddress(_destinations.Address + i, packet.Target!);
            msghdr* message = messages.Message(i);
            message->msg_controllen = packet.SegmentSize == 0 ? 0 : ControlSize;
            if (packet.SegmentSize != 0)
            {
                *(ushort*)CMSG_DATA((cmsghdr*)(_controls.Address + (i * ControlSize))) = (ushort)packet.SegmentSize;
            }
        }

        messages.Send(batch, first, count, ref patience);
        return count;
    }

    // Rare: IPv6 inside over a path that is narrower than IPv6 needs.
    private int SendFragmented(MessageSender messages, GatherBatch batch, int first, int end, ref SendPatience patience)
    {
        UdpSocket.AllowFragments(messages.Descriptor, _isIpv6, allowed: true);
        int count = Send(messages, batch, first, end, ref patience);
        UdpSocket.AllowFragments(messages.Descriptor, _isIpv6, allowed: false);
        return count;
    }

    // The kernel refused to cut. Its datagrams go one by one, and where those are taken, the offload is off from now on.
    private TransmitResult SendSingly(MessageSender messages, GatherBatch batch, int index, ref SendPatience patience)
    {
        int size = batch[index].SegmentSize;
        bool anySent = false;
        TransmitResult last = TransmitResult.Failed;
        _single.Clear();
        foreach (Piece piece in batch.Pieces(index))
        {
            if (_single.Count == 0)
            {
                _single.Add(piece, target: batch[index].Target);
            }
            else
            {
                _single.Append(piece);
            }

            // Pieces end where datagrams end; the last may be shorter.
            if (_single[0].Length == size || IsLastPiece(batch, index, piece))
            {
                _ = Send(messages, _single, 0, 1, ref patience);
                last = _single[0].Result;
                anySent |= last == TransmitResult.Sent;
                _single.Clear();
            }
        }

        if (anySent)
        {
            _offloads.Refuse(Offloads.UdpSegment, "the kernel refused to send several datagrams at once (UDP_SEGMENT)");
        }

        return anySent ? TransmitResult.Sent : last;
    }

    private static bool IsLastPiece(GatherBatch batch, int index, Piece piece) => batch.Pieces(index)[^1] == piece;

    // Returns the port.
    private ushort SetUp(int fd, InetAddress local, ushort? sourcePort)
    {
        UdpSocket.SetBuffers(fd, BufferSize);
        if (sourcePort is ushort fixedPort)
        {
            // Workers share it.
            UdpSocket.Set(fd, SOL_SOCKET, Uapi.SO_REUSEPORT, 1);
            UdpSocket.Bind(fd, _isIpv6, local, fixedPort);
            return fixedPort;
        }

        for (int i = 1; i < PortTries; i++)
        {
            ushort port = AnyPort();
            if (!InetSocket.TryBind(fd, _isIpv6, local, port).IsError)
            {
                return port;
            }
        }

        // The last try says what is wrong.
        ushort last = AnyPort();
        UdpSocket.Bind(fd, _isIpv6, local, last);
        return last;
    }

    private static ushort AnyPort() => (ushort)Random.Shared.Next(FirstPort, ushort.MaxValue + 1);

    // What never changes from call to call.
    private void LinkMessages(MessageSender messages)
    {
        for (int i = 0; i < MessageSender.MaxMessages; i++)
        {
            _destinations.Address[i].sin6_family = _isIpv6 ? AF_INET6 : AF_INET;
            var control = (cmsghdr*)(_controls.Address + (i * ControlSize));
            control->cmsg_len = CMSG_SPACE(0) + sizeof(ushort);
            control->cmsg_level = Uapi.SOL_UDP;
            control->cmsg_type = Uapi.UDP_SEGMENT;

            msghdr* message = messages.Message(i);
            message->msg_name = _destinations.Address + i;
            message->msg_namelen = _isIpv6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
            message->msg_control = control;
        }
    }

    private static void WriteAddress(sockaddr_in6* destination, UnderlayTarget target)
    {
        // The port lies at the same place in both families.
        destination->sin6_port = BinaryPrimitives.ReverseEndianness(target.UdpPort);
        InetSocket.WriteAddress(destination, target.Endpoint);
    }
}
