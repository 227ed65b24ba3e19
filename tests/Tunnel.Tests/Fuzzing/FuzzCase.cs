using System.Security.Cryptography;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;
using Tunnel.Dataplane;
using Tunnel.Tests.Architecture;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Fuzzing;

/// <summary>One packet, file or request that a fuzzer made, and what was said beside a packet.</summary>
/// <param name="Hex">Its bytes.</param>
internal sealed record FuzzInput(string Hex)
{
    /// <summary>How a packet was received.</summary>
    public Reception Reception { get; init; }

    /// <summary>What the kernel said of it.</summary>
    public Offload Offload { get; init; }

    /// <summary>The length of each of its datagrams, in bytes; 0 where it is one.</summary>
    public ushort SegmentSize { get; init; }

    /// <summary>The outer source of datagrams.</summary>
    public string? Source { get; init; }

    /// <summary>The outer ECN field of datagrams.</summary>
    public byte OuterEcn { get; init; }

    /// <summary>The bytes.</summary>
    [JsonIgnore]
    public byte[] Bytes => Convert.FromHexString(Hex);

    /// <summary>The packet for an underlay in memory.</summary>
    [JsonIgnore]
    public ReceivedPacket Received => new(Bytes)
    {
        Reception = Reception,
        Offload = Offload,
        SegmentSize = SegmentSize,
        Source = Source is null ? InetAddress.None : Overlay.Address(Source),
        OuterEcn = OuterEcn,
    };
}

/// <summary>Input that something failed with, kept below tests/golden/fuzz; FuzzRegressionTests replays all of them.</summary>
/// <param name="Target">What it was given to: a key of FuzzRegressionTests.Targets.</param>
/// <param name="Failure">What went wrong when it was found, one line.</param>
/// <param name="Inputs">The input, in order.</param>
internal sealed record FuzzCase(string Target, string Failure, IReadOnlyList<FuzzInput> Inputs)
{
    private static readonly string Directory = Path.Combine(Repository.Root, "tests", "golden", "fuzz");

    private static readonly JsonSerializerOptions Format = new()
    {
        WriteIndented = true,
        PropertyNamingPolicy = JsonNamingPolicy.KebabCaseLower,
        DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingDefault,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        Converters = { new JsonStringEnumConverter() },
    };

    /// <summary>All that were ever saved, by file name.</summary>
    public static IEnumerable<(string File, FuzzCase Case)> All() =>
        System.IO.Directory.EnumerateFiles(Directory, "*.json").Order(StringComparer.Ordinal)
            .Select(file => (Path.GetFileName(file), JsonSerializer.Deserialize<FuzzCase>(File.ReadAllText(file), Format)!));

    /// <summary>What was thrown, and by which method; no path of this machine, since it may be saved.</summary>
    public static string Describe(Exception thrown) =>
        $"{thrown.GetType().Name}: {thrown.Message} {thrown.StackTrace?.Split('\n')[0].Split(" in ")[0].Trim()}";

    /// <summary>Saves a failure, and says so in one line.</summary>
    public static string Save(string target, string failure, params IReadOnlyList<FuzzInput> inputs)
    {
        failure = failure.ReplaceLineEndings(" ");
        var found = new FuzzCase(target, failure.Length > 300 ? failure[..300] : failure, inputs);
        byte[] hash = SHA256.HashData(System.Text.Encoding.ASCII.GetBytes(string.Join('\n', inputs.Select(input => input.ToString()))));
        string name = $"{target}-{Convert.ToHexStringLower(hash.AsSpan(0, 6))}.json";
        File.WriteAllText(Path.Combine(Directory, name), JsonSerializer.Serialize(found, Format) + "\n");
        return $"{failure} (saved as tests/golden/fuzz/{name})";
    }

    /// <summary>Saves a failure that one input alone has caused.</summary>
    public static string Save(string target, string failure, ReadOnlySpan<byte> input) => Save(target, failure, new FuzzInput(Convert.ToHexString(input)));
}
