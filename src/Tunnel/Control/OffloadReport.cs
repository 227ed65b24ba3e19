using Microsoft.Extensions.Logging;
using Tunnel.Dataplane;

namespace Tunnel.Control;

/// <summary>Tells, once each, that the kernel has refused an offload: in the log and as an event. Thread-safe.</summary>
internal sealed partial class OffloadReport(OffloadState offloads, EventStream events, ILogger log)
{
    private readonly Lock _gate = new();
    private Offloads _told;

    /// <summary>Tells what was refused before, and from now on whatever is.</summary>
    public void Start()
    {
        offloads.OnRefused = Tell;
        foreach ((Offloads offload, string reason) in offloads.Refused)
        {
            Tell(offload, reason);
        }
    }

    private void Tell(Offloads offload, string reason)
    {
        lock (_gate)
        {
            if (_told.HasFlag(offload))
            {
                return;
            }

            _told |= offload;
        }

        string word = OffloadWords.Of(offload);
        events.Publish("offload-off", peer: null, $"{word}: {reason}");
        LogRefused(word, reason);
    }

    [LoggerMessage(Level = LogLevel.Warning, Message = "offload {Offload} is off, the kernel refused it: {Reason}")]
    private partial void LogRefused(string offload, string reason);
}

/// <summary>The words that name offloads in the log, in events and in JSON.</summary>
internal static class OffloadWords
{
    private static readonly (Offloads Offload, string Word)[] Words =
    [
        (Offloads.TunTcp, "tun-tcp"),
        (Offloads.TunUdp, "tun-udp"),
        (Offloads.UdpSegment, "udp-segment"),
        (Offloads.UdpGro, "udp-gro"),
        (Offloads.GreSegment, "gre-segment"),
        (Offloads.GreUdpSegment, "gre-udp-segment"),
    ];

    /// <summary>The word of one offload.</summary>
    public static string Of(Offloads offload) => Array.Find(Words, pair => pair.Offload == offload).Word ?? offload.ToString();

    /// <summary>The words of several, in a fixed order.</summary>
    public static IReadOnlyList<string> All(Offloads offloads) =>
        [.. Words.Where(pair => offloads.HasFlag(pair.Offload)).Select(pair => pair.Word)];
}
