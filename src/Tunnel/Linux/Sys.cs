using System.Text;
using Tmds.Linux;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// The edge to the kernel: system calls that give a <see cref="SysResult"/>. An interrupted call is made again here, and nowhere
/// else does anyone look for EINTR. None allocates, apart from <see cref="Open"/>.
/// </summary>
internal static unsafe class Sys
{
    /// <summary>open(2), close-on-exec.</summary>
    public static SysResult Open(string path, int flags)
    {
        fixed (byte* name = Encoding.UTF8.GetBytes(path + '\0'))
        {
            SysResult result;
            do
            {
                result = SysResult.From(open(name, flags | O_CLOEXEC));
            }
            while (result.IsInterrupted);

            return result;
        }
    }

    /// <summary>socket(2), close-on-exec.</summary>
    public static SysResult Socket(int domain, int type, int protocol) => SysResult.From(socket(domain, type | SOCK_CLOEXEC, protocol));

    /// <summary>bind(2)</summary>
    public static SysResult Bind(int fd, void* address, int length) => SysResult.From(bind(fd, (sockaddr*)address, length));

    /// <summary>setsockopt(2) of an int.</summary>
    public static SysResult SetOption(int fd, int level, int name, int value) => SysResult.From(setsockopt(fd, level, name, &value, sizeof(int)));

    /// <summary>setsockopt(2) of a structure.</summary>
    public static SysResult SetOption(int fd, int level, int name, void* value, int size) =>
        SysResult.From(setsockopt(fd, level, name, value, size));

    /// <summary>getsockopt(2) into a buffer of a size in bytes.</summary>
    public static SysResult GetOption(int fd, int level, int name, void* value, int size)
    {
        socklen_t length = size;
        return SysResult.From(getsockopt(fd, level, name, value, &length));
    }

    /// <summary>ioctl(2) with a number.</summary>
    public static SysResult Ioctl(int fd, int request, int argument)
    {
        SysResult result;
        do
        {
            result = SysResult.From(ioctl(fd, request, argument));
        }
        while (result.IsInterrupted);

        return result;
    }

    /// <summary>ioctl(2) with a structure.</summary>
    public static SysResult Ioctl(int fd, int request, void* argument)
    {
        SysResult result;
        do
        {
            result = SysResult.From(ioctl(fd, request, argument));
        }
        while (result.IsInterrupted);

        return result;
    }

    /// <summary>write(2)</summary>
    public static SysResult Write(int fd, void* bytes, int count)
    {
        SysResult result;
        do
        {
            result = SysResult.From(write(fd, bytes, count));
        }
        while (result.IsInterrupted);

        return result;
    }

    /// <summary>read(2)</summary>
    public static SysResult Read(int fd, void* bytes, int count)
    {
        iovec piece = default;
        piece.iov_base = bytes;
        piece.iov_len = count;
        return ReadVector(fd, &piece, 1);
    }

    /// <summary>readv(2)</summary>
    public static SysResult ReadVector(int fd, iovec* pieces, int count)
    {
        SysResult result;
        do
        {
            result = SysResult.From(Uapi.readv(fd, pieces, count));
        }
        while (result.IsInterrupted);

        return result;
    }

    /// <summary>writev(2)</summary>
    public static SysResult WriteVector(int fd, iovec* pieces, int count)
    {
        SysResult result;
        do
        {
            result = SysResult.From(Uapi.writev(fd, pieces, count));
        }
        while (result.IsInterrupted);

        return result;
    }

    /// <summary>recv(2)</summary>
    public static SysResult Receive(int fd, void* buffer, int length, int flags)
    {
        SysResult result;
        do
        {
            result = SysResult.From(recv(fd, buffer, length, flags));
        }
        while (result.IsInterrupted);

        return result;
    }

    /// <summary>recvmmsg(2) without a timeout.</summary>
    public static SysResult ReceiveMessages(int fd, mmsghdr* messages, int count)
    {
        SysResult result;
        do
        {
            result = SysResult.From(Uapi.recvmmsg(fd, messages, (uint)count, 0, null));
        }
        while (result.IsInterrupted);

        return result;
    }

    /// <summary>sendmmsg(2)</summary>
    public static SysResult SendMessages(int fd, mmsghdr* messages, int count)
    {
        SysResult result;
        do
        {
            result = SysResult.From(Uapi.sendmmsg(fd, messages, (uint)count, 0));
        }
        while (result.IsInterrupted);

        return result;
    }

    /// <summary>
    /// poll(2): how many entries are ready; 0 where the time ran out or a signal came. It is not called again here, since only the
    /// caller knows how much of its time is left.
    /// </summary>
    /// <param name="entries">What to wait for.</param>
    /// <param name="count">How many entries.</param>
    /// <param name="milliseconds">The longest wait; -1 waits for ever.</param>
    public static int Poll(pollfd* entries, int count, int milliseconds) => Math.Max(0, poll(entries, (uint)count, milliseconds));
}
