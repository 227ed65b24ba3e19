using System.Net.Sockets;
using System.Text;
using Tmds.Linux;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>Sends and receives open file descriptors beside a message over a unix socket: unix(7), SCM_RIGHTS.</summary>
internal static unsafe class DescriptorMessage
{
    /// <summary>The most descriptors of one message (SCM_MAX_FD).</summary>
    public const int MaxDescriptors = 253;

    private const int LongestText = 16_384;

    /// <summary>Sends a message. The descriptors stay open here, and the receiver gets its own.</summary>
    /// <param name="socket">A connected socket.</param>
    /// <param name="text">The message, not empty.</param>
    /// <param name="descriptors">At most <see cref="MaxDescriptors"/>.</param>
    /// <returns>Whether the kernel took all of it.</returns>
    public static bool TrySend(Socket socket, string text, ReadOnlySpan<int> descriptors)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        byte* control = stackalloc byte[CMSG_SPACE(MaxDescriptors * sizeof(int))];
        fixed (byte* start = bytes)
        {
            var piece = new iovec { iov_base = start, iov_len = bytes.Length };
            mmsghdr message = default;
            var header = (msghdr*)&message;
            header->msg_iov = &piece;
            header->msg_iovlen = 1;
            if (descriptors.Length > 0)
            {
                InetSocket.WriteControl((cmsghdr*)control, SOL_SOCKET, Uapi.SCM_RIGHTS, descriptors.Length * sizeof(int));
                descriptors.CopyTo(new Span<int>(CMSG_DATA((cmsghdr*)control), descriptors.Length));
                header->msg_control = control;
                header->msg_controllen = CMSG_SPACE(descriptors.Length * sizeof(int));
            }

            return !Sys.SendMessages((int)socket.SafeHandle.DangerousGetHandle(), &message, 1).IsError && message.msg_len == bytes.Length;
        }
    }

    /// <summary>Receives a message.</summary>
    /// <param name="socket">A connected socket, in blocking mode.</param>
    /// <returns>The message, empty where the other end has closed or the time is up, and the descriptors, which are the caller's and closed on exec.</returns>
    public static (string Text, IReadOnlyList<FileDescriptor> Descriptors) Receive(Socket socket)
    {
        byte[] bytes = new byte[LongestText];
        byte* control = stackalloc byte[CMSG_SPACE(MaxDescriptors * sizeof(int))];
        var descriptors = new List<FileDescriptor>();
        fixed (byte* start = bytes)
        {
            var piece = new iovec { iov_base = start, iov_len = bytes.Length };
            mmsghdr message = default;
            var header = (msghdr*)&message;
            header->msg_iov = &piece;
            header->msg_iovlen = 1;
            header->msg_control = control;
            header->msg_controllen = CMSG_SPACE(MaxDescriptors * sizeof(int));
            if (Sys.ReceiveMessages((int)socket.SafeHandle.DangerousGetHandle(), &message, 1).IsError)
            {
                return ("", []);
            }

            for (cmsghdr* part = CMSG_FIRSTHDR(header); part != null; part = CMSG_NXTHDR(header, part))
            {
                if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == Uapi.SCM_RIGHTS)
                {
                    int count = ((int)part->cmsg_len - CMSG_SPACE(0)) / sizeof(int);
                    descriptors.AddRange(new Span<int>(CMSG_DATA(part), count).ToArray().Select(Adopt));
                }
            }

            return (Encoding.UTF8.GetString(bytes, 0, (int)message.msg_len), descriptors);
        }
    }

    /// <summary>Takes over an open descriptor; it is closed on exec from now on (ioctl_fioclex(2)).</summary>
    public static FileDescriptor Adopt(int number)
    {
        _ = Sys.Ioctl(number, Uapi.FIOCLEX, 0);
        return new FileDescriptor(number);
    }
}

/// <summary>
/// What an earlier process of this network has left open: TUN queues and sockets in which packets have waited meanwhile. They come from the
/// service manager's descriptor store (sd_listen_fds(3), FDSTORE in sd_notify(3)) or from the earlier process itself (<see cref="Handover"/>).
/// Each is named by its kind, its worker and the number of workers, because what was set up for another number is of no use.
/// Thread rule: used by one thread at a time.
/// </summary>
internal sealed class InheritedDescriptors : IDisposable
{
    private const int FirstDescriptor = 3;

    private readonly Dictionary<string, FileDescriptor> _byName = new(StringComparer.Ordinal);
    private readonly SdNotify? _store;

    /// <summary>Takes over descriptors with their names; two of one name can't be told apart, and only the first is kept.</summary>
    /// <param name="descriptors">The descriptors.</param>
    /// <param name="store">The manager that keeps them in store; null where none does.</param>
    public InheritedDescriptors(IEnumerable<(string Name, FileDescriptor Descriptor)> descriptors, SdNotify? store = null)
    {
        _store = store;
        foreach ((string name, FileDescriptor descriptor) in descriptors)
        {
            if (!_byName.TryAdd(name, descriptor))
            {
                descriptor.Dispose();
            }
        }
    }

    /// <summary>None.</summary>
    public static InheritedDescriptors None => new([]);

    /// <summary>The name of a descriptor.</summary>
    /// <param name="kind">What it is: letters and digits.</param>
    /// <param name="worker">Whose it is.</param>
    /// <param name="workers">How many workers there are.</param>
    public static string NameOf(string kind, int worker, int workers) => $"{kind}-{worker}-of-{workers}";

    /// <summary>What the service manager passes: $LISTEN_PID, $LISTEN_FDS and $LISTEN_FDNAMES.</summary>
    /// <param name="store">The manager, which keeps them until it is told otherwise.</param>
    public static InheritedDescriptors FromEnvironment(SdNotify store)
    {
        bool isMeant = Environment.GetEnvironmentVariable("LISTEN_PID") == $"{Environment.ProcessId}";
        if (!isMeant || !int.TryParse(Environment.GetEnvironmentVariable("LISTEN_FDS"), out int count))
        {
            return None;
        }

        string[] names = (Environment.GetEnvironmentVariable("LISTEN_FDNAMES") ?? "").Split(':');
        return new InheritedDescriptors(
            Enumerable.Range(0, count).Select(i => (names.ElementAtOrDefault(i) ?? "", DescriptorMessage.Adopt(FirstDescriptor + i))), store);
    }

    /// <summary>Takes those of a kind, one for each worker.</summary>
    /// <param name="kind">The kind.</param>
    /// <param name="workers">How many workers there are.</param>
    /// <param name="isUsable">Whether one is what it should be.</param>
    /// <returns>They are the caller's; null where one is missing, or of no use: then all of that kind are closed and forgotten.</returns>
    public FileDescriptor[]? TryTake(string kind, int workers, Func<FileDescriptor, bool> isUsable)
    {
        string[] names = [.. Enumerable.Range(0, workers).Select(i => NameOf(kind, i, workers))];
        if (!Array.TrueForAll(names, name => _byName.TryGetValue(name, out FileDescriptor? one) && isUsable(one)))
        {
            Forget(name => name.StartsWith(kind + "-", StringComparison.Ordinal));
            return null;
        }

        // Of another number of workers there may be more.
        FileDescriptor[] taken = [.. names.Select(name => _byName[name])];
        Array.ForEach(names, name => _byName.Remove(name));
        Forget(name => name.StartsWith(kind + "-", StringComparison.Ordinal));
        return taken;
    }

    /// <summary>Closes and forgets what nobody has taken.</summary>
    public void Dispose() => Forget(_ => true);

    // What the manager keeps open too lives on, so it must have closed it as well before somebody else can have the device or the port.
    private void Forget(Func<string, bool> isUnwanted)
    {
        string[] names = [.. _byName.Keys.Where(isUnwanted)];
        foreach (string name in names)
        {
            _store?.RemoveFromStore(name);
            _byName[name].Dispose();
            _byName.Remove(name);
        }

        if (names.Length > 0)
        {
            _store?.Barrier();
        }
    }
}
