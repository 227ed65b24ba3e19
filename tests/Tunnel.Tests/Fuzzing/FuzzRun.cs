using System.Globalization;

namespace Tunnel.Tests.Fuzzing;

/// <summary>
/// How long the fuzzers run, and from which seed: scripts/fuzz.sh sets both; scripts/test.sh the time, so that a fast machine gets to later seeds. Else it is
/// one round each, always the same. Who finds something saves the input.
/// </summary>
internal static class FuzzRun
{
    /// <summary>What all fuzz tests have as their category, so that scripts/fuzz.sh finds them.</summary>
    public const string Category = "Fuzz";

    /// <summary>Where the run begins; each round has a seed of its own that follows from it.</summary>
    public static int Seed { get; } = Number("TUNNEL_FUZZ_SEED") ?? 0;

    /// <summary>How long each fuzzer is to run; null for one round.</summary>
    private static TimeSpan? Duration { get; } = Number("TUNNEL_FUZZ_SECONDS") is int seconds ? TimeSpan.FromSeconds(seconds) : null;

    /// <summary>The seeds of the rounds: one, or as many as there is time for.</summary>
    public static IEnumerable<int> Rounds()
    {
        DateTime end = DateTime.UtcNow + (Duration ?? TimeSpan.Zero);
        int round = Seed;
        do
        {
            yield return round++;
        }
        while (DateTime.UtcNow < end);
    }

    private static int? Number(string variable) =>
        int.TryParse(Environment.GetEnvironmentVariable(variable), NumberStyles.None, CultureInfo.InvariantCulture, out int number) ? number : null;
}
