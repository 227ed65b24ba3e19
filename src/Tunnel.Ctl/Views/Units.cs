using System.Globalization;

namespace Tunnel.Ctl.Views;

/// <summary>Numbers as people read them.</summary>
internal static class Units
{
    private static readonly string[] Binary = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

    /// <summary>Bytes in binary units (IEC 80000-13) with two decimals: "84 B", "1.21 KiB".</summary>
    /// <param name="bytes">The number of bytes.</param>
    /// <param name="separator">What stands between number and unit; nothing in tables, where a cell is one word.</param>
    public static string Bytes(long bytes, string separator = " ")
    {
        double value = bytes;
        int unit = 0;
        while (value >= 1024 && unit < Binary.Length - 1)
        {
            value /= 1024;
            unit++;
        }

        return string.Create(CultureInfo.InvariantCulture, $"{value:0.##}{separator}{Binary[unit]}");
    }

    /// <summary>A count with its noun: "1 packet", "2 packets".</summary>
    public static string Count(long count, string noun) => count == 1 ? $"1 {noun}" : $"{count} {noun}s";

    /// <summary>A duration in its two largest units: "3s", "2m5s", "1h2m", "3d4h".</summary>
    /// <param name="seconds">The duration in seconds; fractions are cut off.</param>
    public static string Duration(double seconds)
    {
        long s = (long)seconds;
        return s switch
        {
            < 60 => $"{s}s",
            < 3600 => $"{s / 60}m{s % 60}s",
            < 86400 => $"{s / 3600}h{s / 60 % 60}m",
            _ => $"{s / 86400}d{s / 3600 % 24}h",
        };
    }
}
