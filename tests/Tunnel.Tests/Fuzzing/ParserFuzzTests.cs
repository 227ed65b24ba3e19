using Tunnel.TestSupport;

namespace Tunnel.Tests.Fuzzing;

/// <summary>Mutated packets through every parser: none throws, and what each says agrees with the bytes.</summary>
[Trait("Category", FuzzRun.Category)]
public sealed class ParserFuzzTests
{
#if DEBUG
    private const int Packets = 20_000;
#else
    private const int Packets = 200_000;
#endif

    [Fact]
    public void Parsers_say_what_the_bytes_say()
    {
        List<byte[]> corpus = [.. FuzzCorpus.ForParsers()];
        Assert.All(corpus, packet => Assert.Null(ParserCheck.Run(packet)));
        var buffer = new byte[70_000];
        foreach (int seed in FuzzRun.Rounds())
        {
            var mutator = new PacketMutator((ulong)seed, corpus, corpus) { Remaining = Packets };
            for (int length = mutator.Next(buffer); length >= 0; length = mutator.Next(buffer))
            {
                string? failure = Check(buffer.AsSpan(0, length));
                Assert.True(failure is null, failure is null ? "" : FuzzCase.Save("parsers", $"seed {seed}: {failure}", buffer.AsSpan(0, length)));
            }
        }
    }

    internal static string? Check(ReadOnlySpan<byte> packet)
    {
        try
        {
            return ParserCheck.Run(packet);
        }
#pragma warning disable CA1031 // Whatever is thrown is the finding.
        catch (Exception thrown)
#pragma warning restore CA1031
        {
            return FuzzCase.Describe(thrown);
        }
    }
}
