using Tunnel.Dataplane;

namespace Tunnel.Control.Configuration;

/// <summary>How packets are carried on this host.</summary>
/// <param name="Receive">The way in for plain GRE; null lets tunneld choose.</param>
/// <param name="Send">The way out for plain GRE; null lets tunneld choose.</param>
/// <param name="Workers">The number of packet threads, 1 to <see cref="MostWorkers"/>; null lets <see cref="WorkerCount"/> choose.</param>
/// <param name="Pin">Whether worker n runs on the n-th CPU that the process may use.</param>
/// <param name="BusyPollMicroseconds">
/// How long a worker looks for packets before it sleeps, in microseconds, up to <see cref="LongestBusyPoll"/>; 0 sleeps at once.
/// </param>
internal sealed record DatapathConfig(
    UnderlayPath? Receive = null, UnderlayPath? Send = null, int? Workers = null, bool Pin = false, int BusyPollMicroseconds = 0)
{
    /// <summary>The most packet threads that can be asked for.</summary>
    public const int MostWorkers = 64;

    /// <summary>The longest busy-poll in microseconds.</summary>
    public const int LongestBusyPoll = 1000;

    /// <summary><see cref="BusyPollMicroseconds"/> as it is written: "off", "50us", "1ms".</summary>
    public string BusyPollText => BusyPollMicroseconds switch
    {
        0 => "off",
        _ when BusyPollMicroseconds % 1000 == 0 => $"{BusyPollMicroseconds / 1000}ms",
        _ => $"{BusyPollMicroseconds}us",
    };
}

/// <summary>The words that name an <see cref="UnderlayPath"/> in files and in JSON.</summary>
internal static class UnderlayPathWords
{
    /// <summary>The word for a way that tunneld chooses.</summary>
    public const string Auto = "auto";

    /// <summary>Every way's word, in the order of <see cref="UnderlayPath"/>.</summary>
    public static IReadOnlyList<string> All { get; } = ["raw", "packet"];

    public static string ToWord(this UnderlayPath path) => All[(int)path];
}
