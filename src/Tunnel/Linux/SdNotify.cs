using System.Diagnostics;
using System.Net.Sockets;
using System.Text;

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

    /// <summary>What the process is doing, for a person.</summary>
    /// <param name="text">One line.</param>
    /// <returns>Whether the manager was told; false where there is none.</returns>
    public bool Status(string text) => Send($"STATUS={OneLine(text)}");

    // A line break would begin another assignment.
    private static string OneLine(string text) => text.ReplaceLineEndings(" ");

    private bool Send(string state)
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
            byte[] bytes = Encoding.UTF8.GetBytes(state);
            return sender.SendTo(bytes, new UnixDomainSocketEndPoint(address)) == bytes.Length;
        }
        catch (Exception e) when (e is SocketException or ArgumentException)
        {
            // A manager that is gone, or a name that is too long for a socket: the daemon works without.
            return false;
        }
    }
}
