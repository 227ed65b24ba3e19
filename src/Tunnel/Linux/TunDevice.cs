using System.Text;
using Tmds.Linux;
using Tunnel.Dataplane;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// A queue of a TUN device: tuntap.rst in the kernel's documentation. A device that does not exist is made and vanishes when its
/// last queue is disposed of; a persistent one (`ip tuntap add`) is attached to and stays.
/// It is opened with IFF_VNET_HDR, so that super-packets can be written with the word that says how to cut them. The other way the
/// kernel hands over only ordinary, finished packets, unless <see cref="EnableOffloads"/> was called.
/// </summary>
internal sealed unsafe class TunDevice : ITunDevice, ITunInjector
{
    private const string ControlDevice = "/dev/net/tun";

    // What the next process knows queues by.
    private const string Kind = "tun";

    // Super-packets read together should still be in the processor's cache when they are sent.
    private const int ReadBudget = 4 * 65_536;

    private readonly FileDescriptor _descriptor;
    private readonly int _fd;
    private readonly PinnedArray<virtio_net_hdr_v1_hash_tunnel> _header = new(1);
    private readonly PinnedArray<iovec> _pieces = new(Uapi.UIO_MAXIOV);

    /// <summary>Opens a device with one queue.</summary>
    /// <param name="name">Its name, 1 to 15 bytes.</param>
    /// <exception cref="DeviceOpenException">It cannot be opened; says why and what to do.</exception>
    public TunDevice(string name)
        : this(name, Attach(name, isMultiQueue: false))
    {
    }

    private TunDevice(string name, FileDescriptor descriptor)
    {
        Name = name;
        _descriptor = descriptor;
        _fd = _descriptor.Number;
        _pieces.Address[0].iov_base = _header.Address;
        _pieces.Address[0].iov_len = sizeof(virtio_net_hdr_v1_hash_tunnel);
    }

    /// <inheritdoc/>
    public string Name { get; }

    /// <summary>Whether an earlier process has opened it: addresses and routes may be there already.</summary>
    public bool IsInherited { get; private init; }

    /// <summary>The name by which a next process goes on with a queue.</summary>
    /// <param name="queue">Its number.</param>
    /// <param name="count">How many there are.</param>
    public static string NameOf(int queue, int count) => InheritedDescriptors.NameOf(Kind, queue, count);

    /// <summary>What to wait on: readable where packets are waiting, in error once the device is deleted.</summary>
    internal int Descriptor => _fd;

    /// <summary>Whether the device stays when its last queue is closed, because somebody else has made it.</summary>
    public bool IsPersistent => (Describe(_descriptor).ifr_flags & Uapi.IFF_PERSIST) != 0;

    /// <summary>How many packets wait for a reader of each queue before more are dropped (txqueuelen in ip-link(8)); 0 where it is not known.</summary>
    public int QueueLength
    {
        get
        {
            ifreq request = Describe(_descriptor);
            return AskInterface(Uapi.SIOCGIFTXQLEN, &request) ? request.ifr_qlen : 0;
        }

        set
        {
            ifreq request = Describe(_descriptor);
            request.ifr_qlen = value;
            _ = AskInterface(Uapi.SIOCSIFTXQLEN, &request);
        }
    }

    /// <summary>Opens a device with several queues: flows are spread over them, and the answers to what one queue wrote are read from it.</summary>
    /// <param name="name">Its name, 1 to 15 bytes.</param>
    /// <param name="count">How many queues; at least 1.</param>
    /// <param name="inherited">Queues of an earlier process, with the packets that have come meanwhile.</param>
    /// <exception cref="DeviceOpenException">It cannot be opened; says why and what to do.</exception>
    public static TunDevice[] OpenQueues(string name, int count, InheritedDescriptors inherited)
    {
        var queues = new TunDevice[count];
        FileDescriptor[]? left = inherited.TryTake(Kind, count, descriptor => IsQueueOf(descriptor, name));
        try
        {
            for (int i = 0; i < count; i++)
            {
                queues[i] = new TunDevice(name, left?[i] ?? Attach(name, isMultiQueue: count > 1)) { IsInherited = left is not null };
            }

            return queues;
        }
        catch
        {
            foreach (TunDevice? queue in queues)
            {
                queue?.Dispose();
            }

            throw;
        }
    }

    /// <summary>
    /// Asks the kernel to hand over super-packets and unfinished checksums (TUNSETOFFLOAD), as much of it as this kernel knows. Once for
    /// all queues of the device.
    /// </summary>
    /// <param name="offloads">Where those are turned off that it refuses: of TCP, of UDP, and of what is inside UDP tunnels.</param>
    public void EnableOffloads(OffloadState offloads)
    {
        const int Tcp = Uapi.TUN_F_CSUM | Uapi.TUN_F_TSO4 | Uapi.TUN_F_TSO6;
        const int Udp = Uapi.TUN_F_USO4 | Uapi.TUN_F_USO6;

        // Asked for only to learn whether this kernel knows them; nobody here could cut those that would be read.
        if (Sys.Ioctl(_fd, Uapi.TUNSETOFFLOAD, Tcp | Udp | Uapi.TUN_F_UDP_TUNNEL_GSO | Uapi.TUN_F_UDP_TUNNEL_GSO_CSUM).IsError)
        {
            offloads.Refuse(Offloads.GreUdpSegment, "the TUN device takes no super-packets inside UDP tunnels (Linux 6.17)");
        }

        if (!Sys.Ioctl(_fd, Uapi.TUNSETOFFLOAD, Tcp | Udp).IsError)
        {
            return;
        }

        offloads.Refuse(Offloads.TunUdp, "the TUN device has no UDP super-packets (Linux 6.2)");
        SysResult tcp = Sys.Ioctl(_fd, Uapi.TUNSETOFFLOAD, Tcp);
        if (tcp.IsError)
        {
            offloads.Refuse(Offloads.TunTcp, $"the TUN device has no super-packets: {tcp.Reason}");
        }
    }

    /// <inheritdoc/>
    public int Read(PacketBatch batch)
    {
        virtio_net_hdr_v1_hash_tunnel* header = _header.Address;
        iovec* packet = _pieces.Address + 1;
        int budget = ReadBudget;
        batch.Clear();
        while (batch.Count < batch.Capacity && budget > 0)
        {
            int start = PacketBatch.SlotStart(batch.Count);
            packet->iov_base = PinnedMemory.Address(batch.Memory, start, PacketBatch.MaxPacket);
            packet->iov_len = PacketBatch.MaxPacket;
            SysResult read = Sys.ReadVector(_fd, _pieces.Address, 2);

            // EAGAIN where nothing is waiting, EBADFD once the device is deleted: PollReadiness tells these apart.
            if (read.IsError || read.Value < sizeof(virtio_net_hdr_v1_hash_tunnel))
            {
                break;
            }

            batch.Add(start, read.Value - sizeof(virtio_net_hdr_v1_hash_tunnel), Decode(header->hash_hdr.hdr));
            budget -= read.Value;
        }

        return batch.Count;
    }

    /// <inheritdoc/>
    public void Write(GatherBatch batch)
    {
        for (int i = 0; i < batch.Count; i++)
        {
            ref GatherPacket packet = ref batch[i];
            packet.Result = Write(batch.Pieces(i), packet.Offload);
        }
    }

    /// <inheritdoc/>
    public bool Inject(ReadOnlySpan<byte> packet)
    {
        if (!_descriptor.TryHold())
        {
            return false;
        }

        try
        {
            // One call is one packet, so it does not mix with what the worker writes.
            virtio_net_hdr_v1_hash_tunnel header = default;
            fixed (byte* bytes = packet)
            {
                iovec* pieces = stackalloc iovec[2];
                pieces[0] = new iovec { iov_base = &header, iov_len = sizeof(virtio_net_hdr_v1_hash_tunnel) };
                pieces[1] = new iovec { iov_base = bytes, iov_len = packet.Length };
                return !Sys.WriteVector(_fd, pieces, 2).IsError;
            }
        }
        finally
        {
            _descriptor.DangerousRelease();
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _descriptor.Dispose();

    private TransmitResult Write(ReadOnlySpan<Piece> pieces, in Offload offload)
    {
        if (pieces.Length >= _pieces.Length)
        {
            return TransmitResult.Failed;
        }

        *_header.Address = Encode(offload);
        iovec* next = _pieces.Address + 1;
        foreach (ref readonly Piece piece in pieces)
        {
            next->iov_base = PinnedMemory.Address(piece.Memory, piece.Offset, piece.Length);
            next->iov_len = piece.Length;
            next++;
        }

        SysResult written = Sys.WriteVector(_fd, _pieces.Address, 1 + pieces.Length);
        return !written.IsError ? TransmitResult.Sent : IsGone(written) ? TransmitResult.Unreachable : SendErrors.ResultOf(written);
    }

    // A device that is down, or was deleted, refuses whatever it is given: that says nothing about the packet.
    private static bool IsGone(SysResult refusal) => refusal.Errno == EIO || refusal.Errno == EBADFD;

    // linux/virtio_net.h. The GSO type may carry the ECN bit, which says nothing that the TCP header does not.
    private static Offload Decode(in virtio_net_hdr_v1 header) => new(
        (GsoType)(header.gso_type & ~Uapi.VIRTIO_NET_HDR_GSO_ECN),
        header.gso_size,
        header.hdr_len,
        (header.flags & Uapi.VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0,
        header.csum_start,
        header.csum_offset);

    private static virtio_net_hdr_v1_hash_tunnel Encode(in Offload offload)
    {
        bool isTunnel = offload.OuterTransport != 0;
        byte flags = offload.NeedsChecksum ? Uapi.VIRTIO_NET_HDR_F_NEEDS_CSUM : (byte)0;
        var header = new virtio_net_hdr_v1
        {
            flags = isTunnel ? (byte)(flags | Uapi.VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM) : flags,
            gso_type = isTunnel ? (byte)((byte)offload.Gso | Uapi.VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4) : (byte)offload.Gso,
            hdr_len = offload.HeaderLength,
            gso_size = offload.SegmentSize,
            csum_start = offload.ChecksumStart,
            csum_offset = offload.ChecksumOffset,
        };
        return new virtio_net_hdr_v1_hash_tunnel
        {
            hash_hdr = new virtio_net_hdr_v1_hash { hdr = header },
            outer_th_offset = offload.OuterTransport,
            inner_nh_offset = offload.InnerNetwork,
        };
    }

    // The name and the flags that it was made with.
    private static ifreq Describe(FileDescriptor descriptor)
    {
        ifreq request = default;
        _ = Sys.Ioctl(descriptor.Number, Uapi.TUNGETIFF, &request);
        return request;
    }

    // Fails for what is no queue; a device may have been renamed or deleted since.
    private static bool IsQueueOf(FileDescriptor descriptor, string name)
    {
        ifreq request = Describe(descriptor);
        return new Span<byte>(request.ifr_name, Uapi.IFNAMSIZ).TrimEnd((byte)0).SequenceEqual(Encoding.UTF8.GetBytes(name));
    }

    private static bool AskInterface(int question, ifreq* request)
    {
        SysResult opened = Sys.Socket(AF_INET, SOCK_DGRAM, 0);
        if (opened.IsError)
        {
            return false;
        }

        using var socket = new FileDescriptor(opened.Value);
        return !Sys.Ioctl(socket.Number, question, request).IsError;
    }

    private static FileDescriptor Attach(string name, bool isMultiQueue)
    {
        byte[] nameBytes = Encoding.UTF8.GetBytes(name);
        if (nameBytes.Length is 0 or >= Uapi.IFNAMSIZ)
        {
            throw new DeviceOpenException(
                $"'{name}' cannot be a device's name: it has {nameBytes.Length} bytes",
                $"choose a name of 1 to {Uapi.IFNAMSIZ - 1} characters; the configuration file is named like the device");
        }

        SysResult opened = Sys.Open(ControlDevice, O_RDWR | O_NONBLOCK);
        if (opened.IsError)
        {
            throw ControlDeviceMissing(opened);
        }

        var descriptor = new FileDescriptor(opened.Value);
        try
        {
            SetUp(descriptor.Number, name, nameBytes, isMultiQueue);
            return descriptor;
        }
        catch
        {
            descriptor.Dispose();
            throw;
        }
    }

    private static void SetUp(int fd, string name, byte[] nameBytes, bool isMultiQueue)
    {
        ifreq request = default;
        var requested = new Span<byte>(request.ifr_name, Uapi.IFNAMSIZ);
        nameBytes.CopyTo(requested);
        request.ifr_flags = (short)(Uapi.IFF_TUN | Uapi.IFF_NO_PI | Uapi.IFF_VNET_HDR | (isMultiQueue ? Uapi.IFF_MULTI_QUEUE : 0));
        Check(Sys.Ioctl(fd, Uapi.TUNSETIFF, &request), name, isMultiQueue);

        // The kernel reads "%d" as a pattern and chooses a name of its own.
        if (!requested.TrimEnd((byte)0).SequenceEqual(nameBytes))
        {
            throw new DeviceOpenException(
                $"the kernel called the device '{Encoding.UTF8.GetString(requested.TrimEnd((byte)0))}' instead of '{name}'",
                "choose a name of letters, digits, '-' and '_'");
        }

        // A persistent device keeps what its last user set.
        int headerSize = sizeof(virtio_net_hdr_v1_hash_tunnel);
        Check(Sys.Ioctl(fd, Uapi.TUNSETVNETHDRSZ, &headerSize), name, isMultiQueue);
        Check(Sys.Ioctl(fd, Uapi.TUNSETOFFLOAD, 0), name, isMultiQueue);
    }

    private static void Check(SysResult result, string name, bool isMultiQueue)
    {
        if (result.IsError)
        {
            throw AttachRefused(name, result, isMultiQueue);
        }
    }

    private static DeviceOpenException ControlDeviceMissing(SysResult result)
    {
        int errno = result.Errno;
        if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
        {
            return new DeviceOpenException(
                $"{ControlDevice} is missing: this host has no TUN driver",
                $"run `modprobe tun`; in a container add `--device {ControlDevice}`");
        }

        if (errno == EPERM || errno == EACCES)
        {
            return new DeviceOpenException(
                $"no permission to open {ControlDevice}",
                $"run as root or by the systemd unit; in a container add `--device {ControlDevice} --cap-add NET_ADMIN`");
        }

        return new DeviceOpenException($"cannot open {ControlDevice}: {result.Reason}", $"see `ls -l {ControlDevice}`");
    }

    private static DeviceOpenException AttachRefused(string name, SysResult result, bool isMultiQueue)
    {
        int errno = result.Errno;
        if (errno == EPERM)
        {
            return new DeviceOpenException(
                $"no permission to create the device {name}: CAP_NET_ADMIN is missing",
                "run as root or by the systemd unit; in a container add `--cap-add NET_ADMIN`");
        }

        if (errno == EBUSY)
        {
            return new DeviceOpenException(
                $"the device {name} is in use by another process",
                $"stop that process, or choose another name; `ip -d link show {name}` shows the device");
        }

        if (errno == EINVAL)
        {
            return new DeviceOpenException(
                $"cannot use {name}: a device of that name exists and is not a TUN device with {(isMultiQueue ? "several queues" : "one queue")}, or the name is not allowed",
                $"see `ip -d link show {name}`; choose another name, or delete that device");
        }

        return new DeviceOpenException($"cannot create the device {name}: {result.Reason}", $"see `ip -d link show {name}`");
    }
}
