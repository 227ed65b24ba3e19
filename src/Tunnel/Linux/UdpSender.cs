using System.Buffers.Binary;
using Tmds.Linux;
using Tunnel.Dataplane;
using Tunnel.Wire;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// Sends GRE-in-UDP (RFC 8086) over one address family: from one of several ports, chosen by the inner flow's hash, so that routers and
/// receivers can spread flows; or from one port. All workers send from the same ports: a flow keeps its own when it moves to another worker.
/// Datagrams of a flow leave many at a time (UDP_SEGMENT); the kernel computes their checksums. Nothing is received at these ports.
/// Thread rule: as <see cref="IUnderlay"/>'s.
/// </summary>
internal sealed unsafe class UdpSender : IDisposable
{
    private const int BufferSize = 8 << 20;

    // RFC 8086 section 3.2.1 recommends the ephemeral range. What matters is that there are more ports than cores and links.
    private const int PortCount = 16;
    private const int FirstPort = 49_152;
    private const int PortTries = 200;

    // The size of datagrams, the traffic class, the TTL.
    private static readonly int ControlSize = CMSG_SPACE(sizeof(int));
    private static readonly int ControlsSize = 3 * ControlSize;

    private readonly bool _isIpv6;
    private readonly OffloadState _offloads;
    private readonly FileDescriptor[] _descriptors;
    private readonly Port[] _ports;
    private readonly PinnedArray<sockaddr_in6> _destinations = new(MessageSender.MaxMessages);
    private readonly PinnedArray<byte> _controls;
    private readonly GatherBatch _single = new(1, 8);

    /// <summary>Opens the sockets.</summary>
    /// <param name="isIpv6">The address family.</param>
    /// <param name="local">The address to send from, or <see cref="InetAddress.None"/> for the kernel's choice.</param>
    /// <param name="sourcePorts">The ports to send from, in the order in which flows are spread over them; null for several that nobody has.</param>
    /// <param name="offloads">Where it is known whether UDP_SEGMENT may be used.</param>
    /// <exception cref="DeviceOpenException">A socket cannot be opened or bound; says why and what to do.</exception>
    public UdpSender(bool isIpv6, InetAddress local, IReadOnlyList<ushort>? sourcePorts, OffloadState offloads)
    {
        _isIpv6 = isIpv6;
        _offloads = offloads;
        _controls = new PinnedArray<byte>(MessageSender.MaxMessages * ControlsSize);
        _descriptors = new FileDescriptor[sourcePorts?.Count ?? PortCount];
        _ports = new Port[_descriptors.Length];
        try
        {
            for (int i = 0; i < _descriptors.Length; i++)
            {
                _descriptors[i] = UdpSocket.Open(isIpv6);
                int fd = _descriptors[i].Number;
                _ports[i] = new Port(fd, SetUp(fd, local, sourcePorts?[i]));
                LinkMessages(_ports[i].Messages);
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
        _controls = new PinnedArray<byte>(MessageSender.MaxMessages * ControlsSize);
        _descriptors = [];
        _ports = [new Port(receiver.Descriptor, port)];
        LinkMessages(_ports[0].Messages);
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
            Port port = PortFor(batch[first].FlowHash);
            bool dontFragment = batch[first].Outer.DontFragment;
            int same = first + 1;
            while (same < end && ReferenceEquals(PortFor(batch[same].FlowHash), port) && batch[same].Outer.DontFragment == dontFragment)
            {
                same++;
            }

            port.SetDontFragment(dontFragment, _isIpv6);
            int count = Send(port.Messages, batch, first, same, ref patience);
            for (int i = first; i < first + count; i++)
            {
                if (batch[i].Result == TransmitResult.Failed && batch[i].SegmentSize != 0)
                {
                    batch[i].Result = SendSingly(port.Messages, batch, i, ref patience);
                }
            }

            first += count;
        }
    }

    /// <summary>The ports, for another worker's sender.</summary>
    public IReadOnlyList<ushort> Ports => [.. _ports.Select(port => port.Number)];

    /// <summary>The port that a flow is sent from.</summary>
    public ushort PortOf(uint flowHash) => PortFor(flowHash).Number;

    /// <summary>Closes the sockets.</summary>
    public void Dispose()
    {
        foreach (FileDescriptor? descriptor in _descriptors)
        {
            descriptor?.Dispose();
        }
    }

    private Port PortFor(uint flowHash) => _ports[flowHash % (uint)_ports.Length];

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
            WriteControls(messages.Message(i), _controls.Address + (i * ControlsSize), packet);
        }

        messages.Send(batch, first, count, ref patience);
        return count;
    }

    // The kernel refused to cut. Its datagrams go one by one, and where all of those are taken, the offload is off from now on.
    private TransmitResult SendSingly(MessageSender messages, GatherBatch batch, int index, ref SendPatience patience)
    {
        int size = batch[index].SegmentSize;
        bool anySent = false;
        bool allSent = true;
        TransmitResult last = TransmitResult.Failed;
        _single.Clear();
        foreach (Piece piece in batch.Pieces(index))
        {
            if (_single.Count == 0)
            {
                _single.Add(piece, target: batch[index].Target);
                _single[0].Outer = batch[index].Outer;
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
                allSent &= last == TransmitResult.Sent;
                _single.Clear();
            }
        }

        if (allSent)
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
        if (sourcePort is ushort known)
        {
            Share(fd);
            UdpSocket.Bind(fd, _isIpv6, local, known);
            return known;
        }

        // Shared only once it is bound: a port that another program shares would be had as well, and with it what arrives there for that program.
        ushort port = AnyPort();
        int tries = 1;
        for (; tries < PortTries && InetSocket.TryBind(fd, _isIpv6, local, port).IsError; tries++)
        {
            port = AnyPort();
        }

        if (tries == PortTries)
        {
            // The last try says what is wrong.
            UdpSocket.Bind(fd, _isIpv6, local, port);
        }

        Share(fd);
        return port;
    }

    private static void Share(int fd) => UdpSocket.Set(fd, SOL_SOCKET, Uapi.SO_REUSEPORT, 1);

    private static ushort AnyPort() => (ushort)Random.Shared.Next(FirstPort, ushort.MaxValue + 1);

    // Before what is said of each packet comes what is said of several at once. What the socket says by itself is not said again.
    private static void WriteControls(msghdr* message, byte* controls, in GatherPacket packet)
    {
        bool isUsual = packet.Outer.TrafficClass == 0 && packet.Outer.TimeToLive == default(OuterFields).TimeToLive;
        bool isSegmented = packet.SegmentSize != 0;
        message->msg_control = isSegmented ? controls : controls + ControlSize;
        message->msg_controllen = (isSegmented ? ControlSize : 0) + (isUsual ? 0 : 2 * ControlSize);
        if (isSegmented)
        {
            *(ushort*)CMSG_DATA((cmsghdr*)controls) = (ushort)packet.SegmentSize;
        }

        if (!isUsual)
        {
            *(int*)CMSG_DATA((cmsghdr*)(controls + ControlSize)) = packet.Outer.TrafficClass;
            *(int*)CMSG_DATA((cmsghdr*)(controls + (2 * ControlSize))) = packet.Outer.TimeToLive;
        }
    }

    // What never changes from call to call.
    private void LinkMessages(MessageSender messages)
    {
        for (int i = 0; i < MessageSender.MaxMessages; i++)
        {
            _destinations.Address[i].sin6_family = _isIpv6 ? AF_INET6 : AF_INET;
            byte* controls = _controls.Address + (i * ControlsSize);
            InetSocket.WriteControl((cmsghdr*)controls, Uapi.SOL_UDP, Uapi.UDP_SEGMENT, sizeof(ushort));
            InetSocket.WriteControl((cmsghdr*)(controls + ControlSize), _isIpv6 ? SOL_IPV6 : SOL_IP, _isIpv6 ? IPV6_TCLASS : Uapi.IP_TOS, sizeof(int));
            InetSocket.WriteControl((cmsghdr*)(controls + (2 * ControlSize)), _isIpv6 ? SOL_IPV6 : SOL_IP, _isIpv6 ? IPV6_HOPLIMIT : Uapi.IP_TTL, sizeof(int));

            msghdr* message = messages.Message(i);
            message->msg_name = _destinations.Address + i;
            message->msg_namelen = _isIpv6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
        }
    }

    private static void WriteAddress(sockaddr_in6* destination, UnderlayTarget target)
    {
        // The port lies at the same place in both families.
        destination->sin6_port = BinaryPrimitives.ReverseEndianness(target.UdpPort);
        InetSocket.WriteAddress(destination, target.Endpoint);
    }

    // A socket and what it is bound to.
    private sealed class Port(int socket, ushort number)
    {
        private bool _dontFragment = true;

        public MessageSender Messages { get; } = new(socket);

        public ushort Number { get; } = number;

        // No ancillary message says it for one datagram, so all of a call are alike.
        public void SetDontFragment(bool value, bool isIpv6)
        {
            if (_dontFragment != value)
            {
                _dontFragment = value;
                UdpSocket.AllowFragments(socket, isIpv6, allowed: !value);
            }
        }
    }
}
