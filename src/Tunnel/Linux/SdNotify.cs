using System.Diagnostics;
using System.IO.Pipes;
using System.Net.Sockets;

namespace Tunnel.Linux;

/// <summary>
/// Tells the service manager about this process: sd_notify(3), the protocol without the library. Without a manager every call does
/// nothing. May be called from any thread.
/// </summary>
/// <param name="socket">The datagram socket to write to: a path, or "@" and an abstract name; null or empty for none.</param>
internal sealed class SdNotify(string? socket)
{
    // A manager that doesn't read must not hold the daemon up.
    private const int SendTimeoutMilliseconds = 1000;
    private static readonly TimeSpan JobsPatience = TimeSpan.FromSeconds(1);

    /// <summary>Uses $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID, and leaves them set.</summary>
    public static SdNotify FromEnvironment()
    {
        bool isMeant = Environment.GetEnvironmentVariable("WATCHDOG_PID") is not string pid || pid == $"{Environment.ProcessId}";
        bool isWatched = long.TryParse(Environment.GetEnvironmentVariable("WATCHDOG_USEC"), out long microseconds) && microseconds > 0;
        return new SdNotify(Environment.GetEnvironmentVariable("NOTIFY_SOCKET"))
        {
            WatchdogTime = isMeant && isWatched ? TimeSpan.FromMicroseconds(microseconds) : null,
        };
    }

    /// <summary>Packets can flow, for the first time or again after <see cref="Reloading"/>.</summary>
    /// <param name="status">One line for a person.</param>
    /// <returns>Whether the manager was told; false where there is none.</returns>
    public bool Ready(string status) => Send($"READY=1\nSTATUS={OneLine(status)}");

    /// <summary>The configuration is being read again; <see cref="Ready"/> ends that.</summary>
    /// <returns>Whether the manager was told; false where there is none.</returns>
    public bool Reloading()
    {
        // Type=notify-reload wants the time, from CLOCK_MONOTONIC, which is what Stopwatch reads.
        long microseconds = (long)((Int128)Stopwatch.GetTimestamp() * 1_000_000 / Stopwatch.Frequency);
        return Send($"RELOADING=1\nMONOTONIC_USEC={microseconds}");
    }

    /// <summary>The process is about to end.</summary>
    /// <returns>Whether the manager was told; false where there is none.</returns>
    public bool Stopping() => Send("STOPPING=1");

    /// <summary>How soon the manager must hear <see cref="Watchdog"/> again (sd_watchdog_enabled(3)); null where it does not watch this process.</summary>
    public TimeSpan? WatchdogTime { get; init; }

    /// <summary>Packets can flow.</summary>
    /// <returns>Whether the manager was told; false where there is none.</returns>
    public bool Watchdog() => Send("WATCHDOG=1");

    /// <summary>Whether there is a manager.</summary>
    public bool HasManager => !string.IsNullOrEmpty(socket);

    /// <summary>Whether the manager would take a process for its service's own: it is in this one's control group (cgroups(7)).</summary>
    public static bool SharesControlGroup(int pid)
    {
        try
        {
            return File.ReadAllText($"/proc/{pid}/cgroup") == File.ReadAllText("/proc/self/cgroup");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>
    /// Whether the manager is about to start the service again, as far as it tells (list-jobs in systemctl(1)): this process ends for a restart.
    /// </summary>
    public static bool IsRestarting()
    {
        try
        {
            // cgroups(7): "0::/system.slice/system-tunneld.slice/tunneld@tun0.service".
            string unit = Path.GetFileName(File.ReadLines("/proc/self/cgroup").Last());
            return unit.EndsWith(".service", StringComparison.Ordinal) && HostProgram.Find("systemctl") is string systemctl &&
                HostProgram.Run([systemctl, "list-jobs", "--no-legend", "--no-pager", "--full"], "", JobsPatience).Output is string jobs &&
                jobs.Split('\n').Select(line => line.Split(' ', StringSplitOptions.RemoveEmptyEntries))
                    .Any(job => job.Length >= 3 && job[1] == unit && job[2] is "restart" or "start");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>Another process goes on with the service.</summary>
    /// <param name="pid">Which.</param>
    /// <returns>Whether the manager was told; false where there is none.</returns>
    public bool MainProcess(int pid) => Send($"MAINPID={pid}");

    /// <summary>Asks the manager to keep a descriptor open when this process ends, and to pass it to the next one (FDSTORE in sd_notify(3)).</summary>
    /// <param name="name">What the next process knows it by: letters, digits, "-".</param>
    /// <param name="descriptor">The descriptor. One that the manager has already is not kept twice.</param>
    /// <returns>Whether the manager was told; it may keep none (FileDescriptorStoreMax=).</returns>
    public bool Store(string name, int descriptor) =>

        // Without FDPOLL=0 it would give up a socket with a pending error, such as that a peer can't be reached.
        Send($"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", descriptor);

    /// <summary>Takes back what was stored under a name.</summary>
    /// <returns>Whether the manager was told; false where there is none.</returns>
    public bool RemoveFromStore(string name) => Send($"FDSTOREREMOVE=1\nFDNAME={name}");

    /// <summary>Waits until the manager has dealt with all that it was told, up to a second (sd_notify_barrier(3)).</summary>
    public void Barrier()
    {
        using var reader = new AnonymousPipeServerStream(PipeDirection.In, HandleInheritability.None);
        bool isTold = Send("BARRIER=1", (int)reader.ClientSafePipeHandle.DangerousGetHandle());
        reader.DisposeLocalCopyOfClientHandle();
        if (isTold)
        {
            // It closes its copy, and nobody writes.
            using var patience = new CancellationTokenSource(SendTimeoutMilliseconds);
            try
            {
                _ = reader.ReadAsync(new byte[1], patience.Token).AsTask().GetAwaiter().GetResult();
            }
            catch (OperationCanceledException)
            {
                // An older manager (before systemd 246) knows no barrier.
            }
        }
    }

    /// <summary>What the process is doing, for a person.</summary>
    /// <param name="text">One line.</param>
    /// <returns>Whether the manager was told; false where there is none.</returns>
    public bool Status(string text) => Send($"STATUS={OneLine(text)}");

    // A line break would begin another assignment.
    private static string OneLine(string text) => text.ReplaceLineEndings(" ");

    private bool Send(string state, params ReadOnlySpan<int> descriptors)
    {
        if (string.IsNullOrEmpty(socket) || socket[0] is not ('/' or '@'))
        {
            return false;
        }

        try
        {
            using var sender = new Socket(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified)
            {
                SendTimeout = SendTimeoutMilliseconds,
            };
            string address = socket[0] == '@' ? '\0' + socket[1..] : socket;
            sender.Connect(new UnixDomainSocketEndPoint(address));
            return DescriptorMessage.TrySend(sender, state, descriptors);
        }
        catch (Exception e) when (e is SocketException or ArgumentException)
        {
            // A manager that is gone, or a name that is too long for a socket: the daemon works without.
            return false;
        }
    }
}
