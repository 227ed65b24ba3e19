using System.Buffers.Binary;
using Tmds.Linux;
using Tunnel.Dataplane;
using Tunnel.Wire;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// Receives GRE-in-UDP (RFC 8086) at one port of one address family. The kernel verifies checksums (and takes a zero one over IPv4 only)
/// and, with UDP_GRO, hands over many datagrams of a flow at a time: while they come in bursts, docs/decisions/0028. Several workers share the port by outer flow (SO_REUSEPORT), and
/// the outer source port follows the inner flow, so that a flow stays with its worker.
/// Thread rule: as <see cref="IUnderlay"/>'s; <see cref="Take"/> and the counter from any thread.
/// </summary>
internal sealed unsafe class UdpReceiver : IDisposable
{
    private const int BufferSize = 32 << 20;
    private const int MessageCount = 64;

    // So many datagrams at a time are a burst, and after so many calls with a single one each it is over.
    private const int Burst = 4;
    private const int QuietCalls = 64;

    // The traffic class, and the size of a datagram where there are several.
    private static readonly int ControlSize = CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(int));

    private readonly bool _isIpv6;
    private readonly FileDescriptor _descriptor;
    private readonly int _fd;
    private readonly PinnedArray<mmsghdr> _messages = new(MessageCount);
    private readonly PinnedArray<iovec> _pieces = new(MessageCount);
    private readonly PinnedArray<sockaddr_in6> _sources = new(MessageCount);
    private readonly PinnedArray<byte> _controls = new(MessageCount * ControlSize);

    private readonly bool _coalesces;
    private int _singles;

    /// <summary>Opens and binds the socket. It receives nothing before <see cref="Take"/>.</summary>
    /// <param name="isIpv6">The address family.</param>
    /// <param name="local">The address to receive at, or <see cref="InetAddress.None"/> for every local one.</param>
    /// <param name="port">The port.</param>
    /// <param name="isShared">Whether other workers receive at the same port.</param>
    /// <param name="offloads">Where UDP_GRO is turned off if the kernel refuses it.</param>
    /// <param name="inherited">A socket like this one that an earlier process has left, with the packets that have come meanwhile; null for a new one.</param>
    /// <exception cref="DeviceOpenException">It cannot be opened or bound; says why and what to do.</exception>
    public UdpReceiver(bool isIpv6, InetAddress local, ushort port, bool isShared, OffloadState offloads, FileDescriptor? inherited = null)
    {
        _isIpv6 = isIpv6;
        _descriptor = inherited ?? UdpSocket.Open(isIpv6);
        _fd = _descriptor.Number;
        try
        {
            SysResult coalesced = Coalesce(true);
            if (coalesced.IsError)
            {
                offloads.Refuse(Offloads.UdpGro, $"the kernel coalesces no datagrams for this host (UDP_GRO, Linux 5.0): {coalesced.Reason}");
            }

            IsCoalescing = _coalesces = !coalesced.IsError;
            if (inherited is null)
            {
                SetUp(_fd, isIpv6, local, port, isShared);
            }
        }
        catch
        {
            _descriptor.Dispose();
            throw;
        }

        for (int i = 0; i < MessageCount; i++)
        {
            msghdr* message = Message(i);
            message->msg_iov = _pieces.Address + i;
            message->msg_iovlen = 1;
            message->msg_name = _sources.Address + i;
            message->msg_control = _controls.Address + (i * ControlSize);
            _pieces.Address[i].iov_len = PacketBatch.MaxPacket;
        }
    }

    /// <summary>The socket to wait on.</summary>
    public int Descriptor => _fd;

    /// <summary>Whether the kernel coalesces now: while datagrams come in bursts.</summary>
    public bool IsCoalescing { get; private set; }

    /// <summary>Packets that the kernel dropped at the full receive queue, modulo 2^32. Any thread.</summary>
    public uint ReceiveQueueDrops => InetSocket.ReceiveQueueDrops(_descriptor);

    /// <summary>What waits at it. Any thread.</summary>
    public QueueDepth QueueDepth => InetSocket.QueueDepth(_descriptor);

    /// <summary>Begins or ends to take packets. Any thread.</summary>
    public void Take(bool packets) => _ = ClassicBpf.Attach(_fd, packets ? GreFilters.Everything : GreFilters.Nothing);

    /// <summary>Adds packets that are waiting to the batch.</summary>
    /// <returns>Whether more may be waiting.</returns>
    public bool Receive(PacketBatch batch)
    {
        int wanted = Math.Min(MessageCount, batch.Capacity - batch.Count);
        for (int i = 0; i < wanted; i++)
        {
            // The kernel has written the lengths that it used.
            _pieces.Address[i].iov_base = PinnedMemory.Address(batch.Memory, PacketBatch.SlotStart(batch.Count + i), PacketBatch.MaxPacket);
            Message(i)->msg_namelen = sizeof(sockaddr_in6);
            Message(i)->msg_controllen = ControlSize;
        }

        SysResult received = wanted == 0 ? default : Sys.ReceiveMessages(_fd, _messages.Address, wanted);
        int count = received.IsError ? 0 : received.Value;
        for (int i = 0; i < count; i++)
        {
            Add(batch, _messages.Address + i);
        }

        if (count > 0)
        {
            Adapt(count, isCoalesced: batch[batch.Count - 1].SegmentSize != 0);
        }

        return count == wanted;
    }

    /// <summary>Closes the socket.</summary>
    public void Dispose() => _descriptor.Dispose();

    private static void SetUp(int fd, bool isIpv6, InetAddress local, ushort port, bool isShared)
    {
        if (isShared)
        {
            UdpSocket.Set(fd, SOL_SOCKET, Uapi.SO_REUSEPORT, 1);
        }

        UdpSocket.SetBuffers(fd, BufferSize);
        UdpSocket.Set(fd, isIpv6 ? SOL_IPV6 : SOL_IP, isIpv6 ? IPV6_RECVTCLASS : Uapi.IP_RECVTOS, 1);
        UdpSocket.Bind(fd, isIpv6, local, port);
    }

    // A device that coalesces holds a datagram back for others of its flow (gro_flush_timeout, several times with napi_defer_hard_irqs): where
    // each comes alone, that is delay for nothing.
    private void Adapt(int count, bool isCoalesced)
    {
        if (!IsCoalescing)
        {
            IsCoalescing = _coalesces && count >= Burst && !Coalesce(true).IsError;
        }
        else if (count > 1 || isCoalesced)
        {
            _singles = 0;
        }
        else if (++_singles == QuietCalls)
        {
            _singles = 0;
            IsCoalescing = Coalesce(false).IsError;
        }
    }

    // What was coalesced before the kernel was told to end that comes without its datagrams' size. They are equally long but for the last, so
    // the packet inside the first one tells.
    private static int LengthOfFirst(ReadOnlySpan<byte> datagrams)
    {
        if (GreView.TryParse(datagrams, out GreView gre) != GreParseResult.Ok)
        {
            return datagrams.Length;
        }

        int length = gre.HeaderLength + gre.ProtocolType switch
        {
            EtherType.Ipv4 when Ipv4View.TryParse(gre.Payload, out Ipv4View inner) => inner.TotalLength,
            EtherType.Ipv6 when Ipv6View.TryParse(gre.Payload, out Ipv6View inner) => inner.TotalLength,
            _ => gre.Payload.Length,
        };

        // Else it is one datagram, with something behind its packet.
        return IsGreOfIp(datagrams[length..]) ? length : datagrams.Length;
    }

    private static bool IsGreOfIp(ReadOnlySpan<byte> bytes) =>
        GreView.TryParse(bytes, out GreView gre) == GreParseResult.Ok && gre.ProtocolType is EtherType.Ipv4 or EtherType.Ipv6;

    private SysResult Coalesce(bool wanted) => Sys.SetOption(_fd, Uapi.SOL_UDP, Uapi.UDP_GRO, wanted ? 1 : 0);

    private msghdr* Message(int index) => (msghdr*)(_messages.Address + index);

    private void Add(PacketBatch batch, mmsghdr* received)
    {
        var message = (msghdr*)received;
        var packet = new Packet
        {
            Memory = batch.Memory,
            Start = PacketBatch.SlotStart(batch.Count),
            Length = (int)received->msg_len,
            Reception = Reception.UdpSocket,
            Source = SourceOf(message),
        };
        for (cmsghdr* control = CMSG_FIRSTHDR(message); control != null; control = CMSG_NXTHDR(message, control))
        {
            byte* data = CMSG_DATA(control);
            if (control->cmsg_level == Uapi.SOL_UDP && control->cmsg_type == Uapi.UDP_GRO)
            {
                packet.SegmentSize = (ushort)*(int*)data;
            }
            else if ((control->cmsg_level == SOL_IP && control->cmsg_type == Uapi.IP_TOS) ||
                (control->cmsg_level == SOL_IPV6 && control->cmsg_type == IPV6_TCLASS))
            {
                // A byte over IPv4, an int over IPv6; either way the first byte has it.
                packet.OuterEcn = (byte)(*data & Ecn.Mask);
            }
        }

        if (!IsCoalescing && packet.SegmentSize == 0)
        {
            packet.SegmentSize = (ushort)LengthOfFirst(packet.Bytes);
        }

        // A single datagram needs no cutting, but it may be what another kernel has coalesced inside.
        packet.SegmentSize = packet.SegmentSize >= packet.Length ? (ushort)0 : packet.SegmentSize;
        batch.Add(packet);
    }

    private InetAddress SourceOf(msghdr* message) => _isIpv6
        ? new InetAddress(BinaryPrimitives.ReadUInt128BigEndian(new ReadOnlySpan<byte>(((sockaddr_in6*)message->msg_name)->sin6_addr.s6_addr, 16)))
        : InetAddress.FromIpv4(BinaryPrimitives.ReadUInt32BigEndian(new ReadOnlySpan<byte>(((sockaddr_in*)message->msg_name)->sin_addr.s_addr, 4)));
}
