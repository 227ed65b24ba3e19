using System.Globalization;
using System.Text;

namespace Tunnel.Control.Configuration;

/// <summary>How messages quote what people wrote, and what they may have meant.</summary>
internal static class ConfigText
{
    private const int LongestQuote = 64;
    private const int LongestLine = 1000;

    /// <summary>The text in double quotes, cut where it is long.</summary>
    public static string Quote(string text) =>
        text.Length <= LongestQuote ? $"\"{OneLine(text)}\"" : $"\"{OneLine(text[..LongestQuote])}...\"";

    /// <summary>
    /// The same text with each control character, line separator and lone surrogate written as \uXXXX, so that nothing in it
    /// breaks the line or commands a terminal. Cut at 1000 characters: a person reads it, and it may hold a whole file.
    /// </summary>
    public static string OneLine(string text)
    {
        if (text.Length > LongestLine)
            text = text[..LongestLine] + "...";

        StringBuilder? copy = null;
        for (int i = 0; i < text.Length; i++)
        {
            bool pair = i + 1 < text.Length && char.IsSurrogatePair(text[i], text[i + 1]);
            bool hidden = !pair && CharUnicodeInfo.GetUnicodeCategory(text[i]) is UnicodeCategory.Control or UnicodeCategory.Format
                or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator or UnicodeCategory.Surrogate;
            if (hidden)
                (copy ??= new StringBuilder(text, 0, i, text.Length + 8)).Append("\\u").Append(((int)text[i]).ToString("x4"));
            else
                copy?.Append(text[i]);

            if (pair)
            {
                i++;
                copy?.Append(text[i]);
            }
        }

        return copy?.ToString() ?? text;
    }

    /// <summary>The candidate that the word most likely stands for; null where none is near.</summary>
    public static string? Closest(string word, IEnumerable<string> candidates)
    {
        string typed = word.ToLowerInvariant().Replace('_', '-');
        string? best = null;
        int bestDistance = int.MaxValue;
        foreach (string candidate in candidates)
        {
            // A longer word may have more slips; of a short one, two wrong letters leave nothing.
            int limit = Math.Max(1, candidate.Length / 3);
            if (Math.Abs(candidate.Length - typed.Length) > limit)
                continue;

            int distance = Distance(typed, candidate.ToLowerInvariant());
            if (distance <= limit && distance < bestDistance)
                (best, bestDistance) = (candidate, distance);
        }

        return best;
    }

    // Edit distance in which two neighbours swapped count as one slip ("optimal string alignment").
    private static int Distance(string a, string b)
    {
        int[,] d = new int[a.Length + 1, b.Length + 1];
        for (int i = 0; i <= a.Length; i++)
            d[i, 0] = i;

        for (int j = 0; j <= b.Length; j++)
            d[0, j] = j;

        for (int i = 1; i <= a.Length; i++)
        {
            for (int j = 1; j <= b.Length; j++)
            {
                int change = d[i - 1, j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
                d[i, j] = Math.Min(change, Math.Min(d[i - 1, j], d[i, j - 1]) + 1);
                if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                    d[i, j] = Math.Min(d[i, j], d[i - 2, j - 2] + 1);
            }
        }

        return d[a.Length, b.Length];
    }
}
