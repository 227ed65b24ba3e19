using System.Buffers.Binary;
using Tmds.Linux;
using Tunnel.Dataplane;
using Tunnel.Wire;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// A raw GRE socket of one address family, and its guard.
/// <para>
/// Sending is with the header included (IP_HDRINCL, IPV6_HDRINCL). For IPv4 the kernel overwrites total length and checksum, fills in
/// a source address of 0, and an identification of 0 where DF is not set; everything else, DF included, leaves as it was written.
/// For IPv6 it changes nothing. What is larger than the device's MTU is EMSGSIZE whatever the header says. A path MTU that the kernel
/// has learnt counts too below IP_PMTUDISC_PROBE: with DF, and always for IPv6, a packet beyond it would be EMSGSIZE at once, and no probe
/// could find out that the path has grown; so it is the control plane that heeds it (<see cref="HostPath.LearntMtu"/>). The option sets no DF here.
/// </para>
/// <para>
/// IPsec: of an IPv4 socket with the header included the kernel takes the protocol for 255, so a policy for protocol 47 would not apply and packets
/// would leave in plain text. A control message (IP_PROTOCOL, Linux 6.4 and stable kernels after May 2023) tells it. For IPv6 it knows by itself.
/// </para>
/// <para>
/// Learning: an ICMP Fragmentation Needed that quotes a packet of ours updates the kernel's path MTU through the unconnected raw
/// IPv4 socket without more ado. For IPv6 the kernel does so only through a socket with IPV6_RECVERR, and such a socket reports the
/// error on whatever it sends next, to whichever peer. So the guard has that option, and the socket that sends has not.
/// </para>
/// <para>
/// The guard is a second socket with a filter that drops everything. Where no raw socket takes a packet of protocol 47, and that
/// includes a full receive queue in recent kernels, the kernel answers with ICMP Protocol Unreachable (for IPv6 Parameter Problem),
/// and the peer seems down just when it is busy. The guard's queue is always empty, so it always takes the packet.
/// </para>
/// Thread rule: as <see cref="IUnderlay"/>'s.
/// </summary>
internal sealed unsafe class RawGreSocket : IDisposable
{
    private const int SendBufferSize = 4 << 20;

    // Room for what another host lets go at once when its daemon begins anew: all that has waited at its TUN device.
    private const int ReceiveBufferSize = 16 << 20;
    private const int WaitingBufferSize = 64 << 20;

    // The kernel counts its own expense, too: socket(7).
    private const int Doubled = 2;
    private const int MessageCount = 64;
    private static readonly InetAddress Broadcast = InetAddress.FromIpv4(uint.MaxValue);

    // What comes beside an IPv6 packet: destination, hop limit, traffic class.
    private static readonly int ControlSize = CMSG_SPACE(sizeof(in6_pktinfo)) + CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(int));

    private readonly bool _isIpv6;
    private readonly FileDescriptor _descriptor;
    private readonly InetAddress _local;
    private readonly Lock _guardLock = new();
    private FileDescriptor? _guard;
    private volatile bool _isGuardSpare;
    private readonly int _fd;

    private readonly PinnedArray<mmsghdr> _received = new(MessageCount);
    private readonly PinnedArray<iovec> _receivedPieces = new(MessageCount);
    private readonly PinnedArray<sockaddr_in6> _sources = new(MessageCount);
    private readonly PinnedArray<byte> _controls = new(MessageCount * ControlSize);

    private readonly MessageSender _messages;
    private readonly PinnedArray<sockaddr_in6> _destinations = new(MessageSender.MaxMessages);
    private readonly PinnedArray<byte> _protocol = new(CMSG_SPACE(sizeof(int)));

    /// <summary>Opens the socket and its guard.</summary>
    /// <param name="isIpv6">The address family.</param>
    /// <param name="local">The address to receive at, or <see cref="InetAddress.None"/> for every local one.</param>
    /// <param name="inherited">A socket like this one that an earlier process has left, with the packets that have come meanwhile; null for a new one.</param>
    /// <exception cref="DeviceOpenException">It cannot be opened or bound; says why and what to do.</exception>
    public RawGreSocket(bool isIpv6, InetAddress local, FileDescriptor? inherited = null)
    {
        _isIpv6 = isIpv6;
        _local = local;

        // The guard comes first and goes last, so that no packet ever finds the other one alone.
        _guard = OpenGuard(isIpv6, local);
        try
        {
            _descriptor = inherited ?? OpenMain(isIpv6, local);
        }
        catch
        {
            _guard.Dispose();
            throw;
        }

        _fd = _descriptor.Number;
        _messages = new MessageSender(_fd);
        LinkMessages();
        if (!isIpv6)
        {
            SayProtocol();
        }
    }

    /// <summary>The socket to wait on.</summary>
    public int Descriptor => _fd;

    /// <summary>Packets that the kernel dropped at the full receive queue, modulo 2^32; 0 after the socket is closed. Any thread.</summary>
    public uint ReceiveQueueDrops => InetSocket.ReceiveQueueDrops(_descriptor);

    /// <summary>What waits at it. Any thread.</summary>
    public QueueDepth QueueDepth => InetSocket.QueueDepth(_descriptor);

    /// <summary>Adds packets that are waiting to the batch.</summary>
    /// <returns>Whether more may be waiting.</returns>
    public bool Receive(PacketBatch batch)
    {
        int wanted;
        int count;
        do
        {
            wanted = Math.Min(MessageCount, batch.Capacity - batch.Count);
            if (wanted == 0)
            {
                return true;
            }

            PrepareReceive(batch, wanted);

            // An error that is pending on the socket is reported once and says nothing about the packets behind it, which a next call gets.
            SysResult received = Sys.ReceiveMessages(_fd, _received.Address, wanted);
            count = received.IsError ? 0 : received.Value;
            for (int i = 0; i < count; i++)
            {
                Take(batch, _received.Address + i);
            }
        }
        while (count == wanted);

        if (_isGuardSpare)
        {
            lock (_guardLock)
            {
                CloseSpareGuard();
            }
        }

        return false;
    }

    /// <summary>Sends packets of this family in order and writes their results.</summary>
    /// <param name="batch">The batch.</param>
    /// <param name="first">The first packet.</param>
    /// <param name="end">The one after the last.</param>
    /// <param name="protocol">The protocol that their IP headers say, or of IPv4 fragments the whole packet's.</param>
    /// <param name="patience">How long the batch may still wait for room.</param>
    public void Send(GatherBatch batch, int first, int end, byte protocol, ref SendPatience patience)
    {
        // One for all messages.
        *(int*)CMSG_DATA((cmsghdr*)_protocol.Address) = protocol;
        while (first < end)
        {
            int count = _messages.Prepare(batch, first, end);
            if (count == 0)
            {
                batch[first++].Result = TransmitResult.Failed;
                continue;
            }

            for (int i = 0; i < count; i++)
            {
                InetSocket.WriteAddress(_destinations.Address + i, batch[first + i].Target!.Endpoint);
            }

            _messages.Send(batch, first, count, ref patience);
            first += count;
        }
    }

    /// <summary>
    /// Begins to take the packets of one worker's flows, or ends to take any. A socket that takes none is its own guard, and each guard
    /// costs every packet something, so then it is the only one. One thread at a time, whichever.
    /// </summary>
    public void Take(bool packets, int worker, int workers)
    {
        lock (_guardLock)
        {
            if (packets)
            {
                _guard ??= OpenGuard(_isIpv6, _local);
            }

            _ = ClassicBpf.Attach(_fd, packets ? GreFilters.FlowsOf(_isIpv6, worker, workers) : GreFilters.Nothing);

            // The kernel passes over a socket whose queue is full before it asks the filter; that one guards nothing until it is drained.
            byte unused;
            _isGuardSpare = !packets && !_isIpv6;
            if (_isGuardSpare && Sys.Receive(_fd, &unused, sizeof(byte), Uapi.MSG_PEEK).WouldBlock)
            {
                CloseSpareGuard();
            }
        }
    }

    /// <summary>Whether many more packets can wait than usual.</summary>
    public bool HasRoom
    {
        get
        {
            int size = 0;
            return !Sys.GetOption(_fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(int)).IsError && size > (ReceiveBufferSize + WaitingBufferSize) / 2 * Doubled;
        }
    }

    /// <summary>Lets many more packets wait than usual, up to what TCP connections and floods send in a second, or no longer. What waits already stays.</summary>
    public void MakeRoom(bool wanted) => _ = InetSocket.SetReceiveBuffer(_fd, wanted ? WaitingBufferSize : ReceiveBufferSize);

    /// <summary>Closes both sockets.</summary>
    public void Dispose()
    {
        _descriptor.Dispose();
        _guard?.Dispose();
    }

    private void CloseSpareGuard()
    {
        if (_isGuardSpare)
        {
            _isGuardSpare = false;
            _guard?.Dispose();
            _guard = null;
        }
    }

    // What never changes from call to call.
    private void LinkMessages()
    {
        for (int i = 0; i < MessageCount; i++)
        {
            msghdr* received = Header(_received, i);
            received->msg_iov = _receivedPieces.Address + i;
            received->msg_iovlen = 1;
            _receivedPieces.Address[i].iov_len = PacketBatch.MaxPacket;
        }

        for (int i = 0; i < MessageSender.MaxMessages; i++)
        {
            msghdr* sent = _messages.Message(i);
            sent->msg_name = _destinations.Address + i;
            sent->msg_namelen = _isIpv6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
            _destinations.Address[i].sin6_family = _isIpv6 ? AF_INET6 : AF_INET;
        }
    }

    // The same beside every packet, where the kernel knows it: one that does not refuses the message before it looks at anything else. The question
    // itself is never sent, since the socket may not broadcast.
    private void SayProtocol()
    {
        var control = (cmsghdr*)_protocol.Address;
        InetSocket.WriteControl(control, SOL_IP, Uapi.IP_PROTOCOL, sizeof(int));
        *(int*)CMSG_DATA(control) = IPPROTO_GRE;

        byte* header = stackalloc byte[Ipv4Header.Length];
        new Ipv4Header(InetAddress.None, Broadcast, IpProtocol.Gre, PayloadLength: 0).Write(new Span<byte>(header, Ipv4Header.Length));
        InetSocket.WriteAddress(_destinations.Address, Broadcast);
        var piece = new iovec { iov_base = header, iov_len = Ipv4Header.Length };
        mmsghdr question = default;
        var message = (msghdr*)&question;
        message->msg_name = _destinations.Address;
        message->msg_namelen = sizeof(sockaddr_in);
        message->msg_iov = &piece;
        message->msg_iovlen = 1;
        message->msg_control = control;
        message->msg_controllen = CMSG_SPACE(sizeof(int));
        if (Sys.SendMessages(_fd, &question, 1).Errno == EINVAL)
        {
            return;
        }

        for (int i = 0; i < MessageSender.MaxMessages; i++)
        {
            msghdr* sent = _messages.Message(i);
            sent->msg_control = control;
            sent->msg_controllen = CMSG_SPACE(sizeof(int));
        }
    }

    private void PrepareReceive(PacketBatch batch, int count)
    {
        for (int i = 0; i < count; i++)
        {
            int start = PacketBatch.SlotStart(batch.Count + i);
            _receivedPieces.Address[i].iov_base = PinnedMemory.Address(batch.Memory, start, PacketBatch.MaxPacket);
            if (_isIpv6)
            {
                // The kernel has written the lengths that it used.
                msghdr* message = Header(_received, i);
                message->msg_name = _sources.Address + i;
                message->msg_namelen = sizeof(sockaddr_in6);
                message->msg_control = _controls.Address + (i * ControlSize);
                message->msg_controllen = ControlSize;
            }
        }
    }

    private void Take(PacketBatch batch, mmsghdr* received)
    {
        int start = PacketBatch.SlotStart(batch.Count);
        int length = (int)received->msg_len;
        var message = (msghdr*)received;
        if (_isIpv6)
        {
            start -= Ipv6Header.Length;
            length += Ipv6Header.Length;
            WriteIpv6Header(batch.Memory.Slice(start, Ipv6Header.Length), message, (int)received->msg_len);
        }

        if ((message->msg_flags & MSG_TRUNC) != 0)
        {
            // No IP packet is larger than a slot, and the kernel does not coalesce encapsulated packets beyond 64 KiB. Should it ever,
            // then a header that contradicts itself makes the data plane drop the rest by name and count it.
            int lengthOffset = _isIpv6 ? Ipv6Header.PayloadLengthOffset : Ipv4Header.TotalLengthOffset;
            batch.Memory.Slice(start + lengthOffset, 2).Clear();
        }

        batch.Add(start, length);
    }

    // A raw IPv6 socket hands over what follows the header and its extensions; the header's own fields come beside it (RFC 3542).
    private static void WriteIpv6Header(Span<byte> destination, msghdr* message, int payloadLength)
    {
        InetAddress local = InetAddress.None;
        int hopLimit = 0;
        int trafficClass = 0;
        for (cmsghdr* control = CMSG_FIRSTHDR(message); control != null; control = CMSG_NXTHDR(message, control))
        {
            if (control->cmsg_level != SOL_IPV6)
            {
                continue;
            }

            byte* data = CMSG_DATA(control);
            if (control->cmsg_type == IPV6_PKTINFO)
            {
                local = ReadAddress(((in6_pktinfo*)data)->ipi6_addr.s6_addr);
            }
            else if (control->cmsg_type == IPV6_HOPLIMIT)
            {
                hopLimit = *(int*)data;
            }
            else if (control->cmsg_type == IPV6_TCLASS)
            {
                trafficClass = *(int*)data;
            }
        }

        var source = (sockaddr_in6*)message->msg_name;
        new Ipv6Header(
            ReadAddress(source->sin6_addr.s6_addr),
            local,
            IpProtocol.Gre,
            payloadLength,
            (byte)hopLimit,
            (byte)trafficClass).Write(destination);
    }

    private static InetAddress ReadAddress(byte* bytes) => new(BinaryPrimitives.ReadUInt128BigEndian(new ReadOnlySpan<byte>(bytes, 16)));

    // mmsghdr.msg_hdr is a property; the structure begins with it.
    private static msghdr* Header(PinnedArray<mmsghdr> messages, int index) => (msghdr*)(messages.Address + index);

    private static FileDescriptor OpenMain(bool isIpv6, InetAddress local)
    {
        FileDescriptor descriptor = Open(isIpv6);
        try
        {
            int fd = descriptor.Number;
            Check(InetSocket.SetReceiveBuffer(fd, ReceiveBufferSize), "set up");
            Check(InetSocket.SetSendBuffer(fd, SendBufferSize), "set up");
            if (isIpv6)
            {
                Set(fd, SOL_IPV6, IPV6_HDRINCL, 1);
                Set(fd, SOL_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
                Set(fd, SOL_IPV6, IPV6_RECVPKTINFO, 1);
                Set(fd, SOL_IPV6, IPV6_RECVHOPLIMIT, 1);
                Set(fd, SOL_IPV6, IPV6_RECVTCLASS, 1);
            }
            else
            {
                Set(fd, SOL_IP, IP_HDRINCL, 1);
                Set(fd, SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
            }

            Bind(fd, isIpv6, local);

            // What came before the socket was bound and set up may be for someone else, and lacks its ancillary data.
            Drain(fd);
            return descriptor;
        }
        catch
        {
            descriptor.Dispose();
            throw;
        }
    }

    private static FileDescriptor OpenGuard(bool isIpv6, InetAddress local)
    {
        FileDescriptor descriptor = Open(isIpv6);
        try
        {
            int fd = descriptor.Number;
            Check(ClassicBpf.Attach(fd, GreFilters.Nothing), "attach a filter to");
            Bind(fd, isIpv6, local);
            Drain(fd);
            if (isIpv6)
            {
                // Errors are queued until the smallest buffer is full, which stays short of what would make the guard refuse packets.
                Set(fd, SOL_SOCKET, SO_RCVBUF, 0);
                Set(fd, SOL_IPV6, IPV6_RECVERR, 1);
            }

            return descriptor;
        }
        catch
        {
            descriptor.Dispose();
            throw;
        }
    }

    private static FileDescriptor Open(bool isIpv6)
    {
        SysResult opened = Sys.Socket(isIpv6 ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_NONBLOCK, IPPROTO_GRE);
        return opened.IsError ? throw Refused(opened, isIpv6 ? "IPv6" : "IPv4") : new FileDescriptor(opened.Value);
    }

    private static void Bind(int fd, bool isIpv6, InetAddress local)
    {
        if (local.IsNone)
        {
            return;
        }

        SysResult bound = InetSocket.TryBind(fd, isIpv6, local, port: 0);
        if (bound.IsError)
        {
            throw bound.Errno == EADDRNOTAVAIL
                ? new DeviceOpenException($"this host has no address {local}", "set underlay.local to one of the addresses that `ip -br addr` shows")
                : new DeviceOpenException($"cannot receive at {local}: {bound.Reason}", "set underlay.local to one of the addresses that `ip -br addr` shows");
        }
    }

    private static DeviceOpenException Refused(SysResult opened, string family)
    {
        int errno = opened.Errno;
        if (errno == EPERM || errno == EACCES)
        {
            return new DeviceOpenException(
                "no permission to open a raw socket: CAP_NET_RAW is missing",
                "run as root or by the systemd unit; in a container add `--cap-add NET_RAW`");
        }

        if (errno == EAFNOSUPPORT)
        {
            return new DeviceOpenException(
                $"this host's kernel has {family} turned off",
                $"use underlay.local and endpoints of the other family, or turn {family} on");
        }

        return new DeviceOpenException($"cannot open a raw {family} socket: {opened.Reason}", "see the limits of the process and the kernel's log");
    }

    private static void Set(int fd, int level, int name, int value) => Check(Sys.SetOption(fd, level, name, value), "set up");

    private static void Check(SysResult result, string action)
    {
        if (result.IsError)
        {
            throw new DeviceOpenException($"cannot {action} a raw socket: {result.Reason}", "this kernel lacks something that the program needs; see the README");
        }
    }

    private static void Drain(int fd)
    {
        byte unused;
        while (!Sys.Receive(fd, &unused, sizeof(byte), MSG_TRUNC).IsError)
        {
        }
    }
}
