using System.Runtime.InteropServices;
using Tmds.Linux;
using Tunnel.Dataplane;
using static Tmds.Linux.LibC;
using static Tunnel.Linux.Uapi;

namespace Tunnel.Linux;

/// <summary>What the kernel answered to a request.</summary>
/// <param name="Errno">Positive, or 0 for success.</param>
/// <param name="Reason">The kernel's own message where it sent one, else the errno's text.</param>
/// <param name="Interrupted">Whether a dump is inconsistent because the table changed meanwhile (NLM_F_DUMP_INTR).</param>
internal readonly record struct NetlinkResult(int Errno, string Reason, bool Interrupted);

/// <summary>Takes one reply; it is valid during the call only.</summary>
internal delegate void NetlinkReply(NetlinkMessage reply);

/// <summary>
/// A netlink(7) socket of the calling thread's network namespace: for requests, or for notifications once it has joined groups.
/// Not thread-safe.
/// </summary>
internal sealed unsafe class NetlinkSocket : IDisposable
{
    // The kernel puts at most 32 KiB of a dump in one datagram (netlink_dump), and at most one message where that is larger.
    private const int BufferLength = 64 * 1024;

    private byte[]? _buffer;
    private uint _sequence;
    private int _fd;

    /// <summary>Opens a socket of rtnetlink(7).</summary>
    /// <param name="groups">The notification groups (RTNLGRP_...) to join; none for a socket for requests.</param>
    /// <exception cref="HostNetworkException">The kernel refused.</exception>
    public NetlinkSocket(params ReadOnlySpan<int> groups)
        : this(NETLINK_ROUTE, groups)
    {
    }

    /// <summary>Opens a socket.</summary>
    /// <param name="protocol">NETLINK_...</param>
    /// <param name="groups">The notification groups to join; none for a socket for requests.</param>
    /// <exception cref="HostNetworkException">The kernel refused; EPROTONOSUPPORT where it has no such protocol.</exception>
    public NetlinkSocket(int protocol, ReadOnlySpan<int> groups)
    {
        _fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
        if (_fd < 0)
        {
            throw Failure("open a netlink socket", errno);
        }

        // Connected to the kernel, the socket takes no message from another process.
        var kernel = new sockaddr_nl { nl_family = (ushort)(int)AF_NETLINK };
        if (connect(_fd, (sockaddr*)&kernel, sizeof(sockaddr_nl)) < 0)
        {
            int error = errno;
            Dispose();
            throw Failure("connect a netlink socket", error);
        }

        // Nothing is lost where an old kernel lacks these: messages are then plainer and dumps larger.
        SetOption(NETLINK_CAP_ACK, 1);
        SetOption(NETLINK_EXT_ACK, 1);
        SetOption(NETLINK_GET_STRICT_CHK, 1);
        foreach (int group in groups)
        {
            int error = SetOption(NETLINK_ADD_MEMBERSHIP, group);

            // What a kernel has no group for can't happen there (nexthop objects before 5.3).
            if (error != 0 && error != EINVAL)
            {
                Dispose();
                throw Failure("subscribe to network changes", error);
            }
        }
    }

    /// <summary>The descriptor, for poll(2).</summary>
    public int Descriptor => _fd;

    /// <summary>Sets the receive buffer (SO_RCVBUF), in bytes; the kernel doubles it.</summary>
    public void SetReceiveBuffer(int bytes)
    {
        if (setsockopt(_fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(int)) < 0)
        {
            throw Failure("set the receive buffer of a netlink socket", errno);
        }
    }

    /// <summary>Sends a request and reads its whole answer.</summary>
    /// <param name="request">A finished request; its sequence number is set here. It asks for an acknowledgement or a dump.</param>
    /// <param name="onReply">Gets every reply that is not the end, in order; null where none is expected.</param>
    /// <exception cref="HostNetworkException">The exchange itself failed.</exception>
    public NetlinkResult Exchange(Span<byte> request, NetlinkReply? onReply)
    {
        uint sequence = ++_sequence;
        MemoryMarshal.AsRef<nlmsghdr>(request).nlmsg_seq = sequence;
        Send(request);

        bool interrupted = false;
        while (true)
        {
            var reader = new NetlinkReader(Receive());
            while (reader.TryReadMessage(out NetlinkMessage message))
            {
                // Left over from an exchange that an exception cut short.
                if (message.Header.nlmsg_seq != sequence)
                {
                    continue;
                }

                interrupted |= (message.Header.nlmsg_flags & NLM_F_DUMP_INTR) != 0;
                if (message.IsEnd)
                {
                    (int error, string? reason) = message.ReadEnd();
                    return new NetlinkResult(error, reason ?? (error == 0 ? "" : ErrorText(error)), interrupted);
                }

                onReply?.Invoke(message);
            }
        }
    }

    /// <summary>Reads one waiting notification and throws its contents away.</summary>
    /// <returns>0 where there was one, else the errno: EAGAIN where none is waiting, ENOBUFS where some were lost.</returns>
    public int Discard()
    {
        byte unused;
        while (recv(_fd, &unused, 1, MSG_DONTWAIT | MSG_TRUNC) < 0)
        {
            int error = errno;
            if (error != EINTR)
            {
                return error;
            }
        }

        return 0;
    }

    /// <summary>Reads one waiting notification.</summary>
    /// <param name="onMessage">Gets its messages, in order.</param>
    /// <returns>0 where there was one, else the errno: EAGAIN where none is waiting, ENOBUFS where some were lost.</returns>
    public int Read(NetlinkReply onMessage)
    {
        _buffer ??= GC.AllocateUninitializedArray<byte>(BufferLength);
        long length;
        fixed (byte* bytes = _buffer)
        {
            while ((length = recv(_fd, bytes, _buffer.Length, MSG_DONTWAIT | MSG_TRUNC)) < 0)
            {
                int error = errno;
                if (error != EINTR)
                {
                    return error;
                }
            }
        }

        // One that does not fit is as good as lost.
        if (length > _buffer.Length)
        {
            return ENOBUFS;
        }

        var reader = new NetlinkReader(_buffer.AsSpan(0, (int)length));
        while (reader.TryReadMessage(out NetlinkMessage message))
        {
            onMessage(message);
        }

        return 0;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_fd >= 0)
        {
            _ = close(_fd);
            _fd = -1;
        }
    }

    /// <summary>The text of an errno, as strerror(3) has it.</summary>
    public static string ErrorText(int error) => Marshal.GetPInvokeErrorMessage(error);

    private static HostNetworkException Failure(string operation, int error) => new(operation, error, ErrorText(error));

    private int SetOption(int option, int value) => setsockopt(_fd, SOL_NETLINK, option, &value, sizeof(int)) < 0 ? errno : 0;

    private void Send(ReadOnlySpan<byte> message)
    {
        fixed (byte* bytes = message)
        {
            while (send(_fd, bytes, message.Length, 0) < 0)
            {
                int error = errno;
                if (error != EINTR)
                {
                    throw Failure("send a netlink request", error);
                }
            }
        }
    }

    private ReadOnlySpan<byte> Receive()
    {
        _buffer ??= GC.AllocateUninitializedArray<byte>(BufferLength);
        fixed (byte* bytes = _buffer)
        {
            while (true)
            {
                long length = recv(_fd, bytes, _buffer.Length, MSG_TRUNC);
                if (length > _buffer.Length)
                {
                    throw Failure("read a netlink reply", EMSGSIZE);
                }

                if (length >= 0)
                {
                    return _buffer.AsSpan(0, (int)length);
                }

                int error = errno;
                if (error != EINTR)
                {
                    throw Failure("read a netlink reply", error);
                }
            }
        }
    }
}
