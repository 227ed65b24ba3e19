using Tunnel.Tests.Fuzzing;

namespace Tunnel.Tests.Control.Configuration;

/// <summary>The same of bodies of requests as <see cref="ConfigFuzzTests"/> of files. A class of its own, so that both run at the same time.</summary>
[Trait("Category", FuzzRun.Category)]
public class ConfigBodyFuzzTests
{
    private const int Iterations = 20_000;

    [Fact]
    public void Mutated_bodies_end_in_a_peer_or_in_errors()
    {
        foreach (int seed in FuzzRun.Rounds())
        {
            var random = new Random(20260103 + seed);
            int parsed = 0;
            for (int i = 0; i < Iterations; i++)
            {
                byte[] content = ConfigFuzzTests.Mutate(ConfigFuzzTests.Json[random.Next(ConfigFuzzTests.Json.Length)], random);
                (string? failure, bool isJson) = ConfigFuzzTests.TryBody(content);
                Assert.True(failure is null, failure is null ? "" : FuzzCase.Save("json", $"seed {seed}: {failure}", content));
                parsed += isJson ? 1 : 0;
            }

            Assert.InRange(parsed, Iterations / 20, Iterations);
        }
    }
}
