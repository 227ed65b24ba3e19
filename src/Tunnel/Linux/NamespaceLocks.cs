using System.Net.Sockets;
using Tmds.Linux;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Linux;

/// <summary>A lock could not be had.</summary>
/// <param name="message">One line: what, and who has it.</param>
/// <param name="hint">The cure, one line.</param>
internal sealed class NamespaceLockException(string message, string hint) : Exception(message)
{
    /// <summary>The cure, one line.</summary>
    public string Hint { get; } = hint;
}

/// <summary>
/// A name that one process at a time can hold in a network namespace: a listening unix socket with an abstract name (unix(7)). The
/// kernel keeps those names per network namespace and drops them with the process, so that nothing is left behind to clean up.
/// </summary>
internal sealed class NamespaceLock : IDisposable
{
    private readonly Socket _socket;

    private NamespaceLock(Socket socket) => _socket = socket;

    /// <summary>Takes a name.</summary>
    /// <param name="name">The name, at most 107 bytes of UTF-8.</param>
    /// <returns>The lock, or null where another socket has the name.</returns>
    /// <exception cref="IOException">There is no descriptor left for it; the message names the cure.</exception>
    public static NamespaceLock? TryTake(string name)
    {
        Socket? socket = null;
        try
        {
            socket = NewSocket();
            socket.Bind(EndPoint(name));

            // Whoever finds the name taken connects to learn the holder's pid. Where nobody accepts, each such call stays in the backlog.
            socket.Listen(int.MaxValue);
            return new NamespaceLock(socket);
        }
        catch (SocketException e)
        {
            socket?.Dispose();
            if (e.SocketErrorCode == SocketError.AddressAlreadyInUse)
            {
                return null;
            }

            string cure = e.SocketErrorCode == SocketError.TooManyOpenSockets
                ? "; raise the limit of open files (LimitNOFILE= in the service)"
                : "";
            throw new IOException($"cannot take the lock {name}: {e.Message}{cure}", e);
        }
    }

    /// <summary>The names in this network namespace that begin with a text, as far as /proc tells them.</summary>
    public static IReadOnlyList<string> FindNames(string prefix)
    {
        try
        {
            // /proc/net is that of the process's first thread; a thread may be in another namespace.
            return
            [
                .. File.ReadLines("/proc/thread-self/net/unix")
                    .Select(line => line[(line.LastIndexOf(' ') + 1)..])
                    .Where(path => path.StartsWith('@') && path.AsSpan(1).StartsWith(prefix, StringComparison.Ordinal))
                    .Select(path => path[1..])
                    .Distinct(),
            ];
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }

    /// <summary>Finds who holds a name.</summary>
    /// <returns>The pid as this process sees it, or 0: nobody holds it any longer, or the holder is not visible from here.</returns>
    public static int FindHolder(string name)
    {
        try
        {
            using Socket socket = NewSocket();

            // Where the holder's backlog is full, say so at once rather than wait for it.
            socket.Blocking = false;
            socket.Connect(EndPoint(name));
            return PeerOf(socket).Pid;
        }
        catch (SocketException)
        {
            return 0;
        }
    }

    /// <summary>Connects to the holder of a name; null where there is none.</summary>
    public static Socket? Connect(string name)
    {
        Socket socket = NewSocket();
        try
        {
            socket.Connect(EndPoint(name));
            return socket;
        }
        catch (SocketException)
        {
            socket.Dispose();
            return null;
        }
    }

    /// <summary>The process at the other end as it was when it connected or began to listen: its pid as this process sees it, its effective user.</summary>
    public static (int Pid, uint User) PeerOf(Socket socket)
    {
        Span<byte> credentials = stackalloc byte[12];
        socket.GetRawSocketOption(LibC.SOL_SOCKET, LibC.SO_PEERCRED, credentials);
        return (BitConverter.ToInt32(credentials), BitConverter.ToUInt32(credentials[4..]));
    }

    /// <summary>The next one who connects. Most only want to know the holder's pid, and have gone by then.</summary>
    public Task<Socket> AcceptAsync(CancellationToken cancellationToken) => _socket.AcceptAsync(cancellationToken).AsTask();

    /// <inheritdoc/>
    public void Dispose() => _socket.Dispose();

    private static Socket NewSocket() => new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);

    private static UnixDomainSocketEndPoint EndPoint(string name) => new('\0' + name);
}

/// <summary>
/// What must be unique among the daemons of a network namespace: a network's name, each peer's (local address, endpoint, key), and
/// where GRE-in-UDP is received.
/// </summary>
internal sealed class NamespaceLocks : IEndpointClaims
{
    private const string PortPrefix = "tunneld-udp/";
    private const string AnyAddress = "any";

    private readonly Lock _gate = new();
    private readonly Dictionary<EndpointClaim, NamespaceLock> _claims = [];
    private readonly Dictionary<UdpPortClaim, NamespaceLock> _ports = [];
    private bool _disposed;

    /// <summary>Makes this process the only one that serves a network in this network namespace, until the lock is disposed.</summary>
    /// <param name="network">The network's name, at most 15 bytes.</param>
    /// <exception cref="NamespaceLockException">Another process serves it.</exception>
    /// <exception cref="IOException">There is no descriptor left for it.</exception>
    public static NamespaceLock AcquireNetwork(string network)
    {
        string name = NameOf(network);
        return NamespaceLock.TryTake(name) ?? throw Served(network, Holder.Find(name));
    }

    /// <summary>Connects to the process that serves a network; null where nobody does.</summary>
    public static Socket? ConnectToHolder(string network) => NamespaceLock.Connect(NameOf(network));

    /// <inheritdoc/>
    public void Claim(EndpointClaim claim)
    {
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (_claims.ContainsKey(claim))
            {
                return;
            }

            string name = NameOf(claim);
            _claims.Add(claim, NamespaceLock.TryTake(name) ?? throw new ClaimConflictException(claim, Holder.Find(name).ToString()));
        }
    }

    /// <inheritdoc/>
    public void Release(EndpointClaim claim)
    {
        lock (_gate)
        {
            if (_claims.Remove(claim, out NamespaceLock? held))
            {
                held.Dispose();
            }
        }
    }

    /// <inheritdoc/>
    public bool IsShared(InetAddress local, InetAddress endpoint)
    {
        lock (_gate)
        {
            HashSet<string> own = [.. _claims.Keys.Select(NameOf)];
            return NamespaceLock.FindNames(PrefixOf(local, endpoint)).Any(name => !own.Contains(name));
        }
    }

    /// <inheritdoc/>
    /// <remarks>
    /// Takes its own name first and looks for others that overlap afterwards: of two that do so at once, both may be refused, but never
    /// none.
    /// </remarks>
    public void Claim(UdpPortClaim claim)
    {
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (_ports.ContainsKey(claim))
            {
                return;
            }

            string name = NameOf(claim);
            NamespaceLock taken = NamespaceLock.TryTake(name) ?? throw new ClaimConflictException(claim, Holder.Find(name).ToString());
            if (FindOverlap(claim, name) is string other)
            {
                taken.Dispose();
                throw new ClaimConflictException(claim, Holder.Find(other).ToString());
            }

            _ports.Add(claim, taken);
        }
    }

    /// <inheritdoc/>
    public void Release(UdpPortClaim claim)
    {
        lock (_gate)
        {
            if (_ports.Remove(claim, out NamespaceLock? held))
            {
                held.Dispose();
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_gate)
        {
            _disposed = true;
            foreach (NamespaceLock held in _claims.Values.Concat(_ports.Values))
            {
                held.Dispose();
            }

            _claims.Clear();
            _ports.Clear();
        }
    }

    private static string NameOf(string network) => "tunneld/" + network;

    /// <summary>The name of a claim's lock, as `ss -xl` shows it after an "@".</summary>
    public static string NameOf(EndpointClaim claim)
    {
        string key = claim.Key is uint number ? number.ToString() : "none";
        return PrefixOf(claim.Local, claim.Endpoint) + key;
    }

    private static string PrefixOf(InetAddress local, InetAddress endpoint) => $"tunneld-claim/{Text(local)},{Text(endpoint)},";

    /// <summary>The name of a port's lock.</summary>
    public static string NameOf(UdpPortClaim claim) => $"{PortPrefix}{Text(claim.Local)},{claim.Port}";

    private string? FindOverlap(UdpPortClaim claim, string name)
    {
        HashSet<string> own = [name, .. _ports.Keys.Select(NameOf)];
        return NamespaceLock.FindNames(PortPrefix).FirstOrDefault(
            other => !own.Contains(other) && TryParsePort(other, out UdpPortClaim held) && held.Overlaps(claim));
    }

    private static bool TryParsePort(string name, out UdpPortClaim claim)
    {
        claim = default;
        string[] parts = name[PortPrefix.Length..].Split(',');
        if (parts.Length != 2 || !ushort.TryParse(parts[1], out ushort port))
        {
            return false;
        }

        InetAddress local = InetAddress.None;
        bool good = parts[0] == AnyAddress || InetAddress.TryParse(parts[0], out local);
        claim = new UdpPortClaim(local, port);
        return good;
    }

    // Two IPv6 addresses in full length and a key must fit in the 107 bytes of a socket's name. They do: 14 + 39 + 1 + 39 + 1 + 10.
    private static string Text(InetAddress address) => address.IsNone ? AnyAddress : address.ToString();

    private static NamespaceLockException Served(string network, Holder holder)
    {
        string hint = holder.Pid == 0
            ? "stop that one, or give this network another name"
            : $"stop that one (kill {holder.Pid}), or give this network another name";
        return new($"network {network} is already served by {holder.Process} in this network namespace", hint);
    }

    // Who has a lock, as far as it can be seen from here.
    private readonly record struct Holder(int Pid, string? Config)
    {
        public string Process
        {
            get
            {
                string config = Config is null ? "" : $", --config {Config}";
                return Pid == 0 ? "another process" : $"tunneld (pid {Pid}{config})";
            }
        }

        public static Holder Find(string name)
        {
            int pid = NamespaceLock.FindHolder(name);
            return new Holder(pid, pid == 0 ? null : ConfigOf(pid));
        }

        public override string ToString() =>
            Config is null ? Process : $"network {Path.GetFileNameWithoutExtension(Config)} (tunneld, pid {Pid}, --config {Config})";

        private static string? ConfigOf(int pid)
        {
            try
            {
                string[] arguments = File.ReadAllText($"/proc/{pid}/cmdline").Split('\0');
                int option = Array.FindIndex(arguments, argument => argument == "--config" || argument.StartsWith("--config=", StringComparison.Ordinal));
                return option < 0 ? null
                    : arguments[option].Length > "--config".Length ? arguments[option]["--config=".Length..]
                    : arguments.ElementAtOrDefault(option + 1);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                return null;
            }
        }
    }
}
