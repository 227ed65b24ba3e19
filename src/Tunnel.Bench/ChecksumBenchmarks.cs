using BenchmarkDotNet.Attributes;
using Tunnel.Wire;

namespace Tunnel.Bench;

/// <summary>The Internet checksum over a small packet, a full one and a coalesced one.</summary>
public class ChecksumBenchmarks
{
    private byte[] _data = [];

    [Params(64, 1400, 65_000)]
    public int Bytes { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        _data = new byte[Bytes];
        new Random(1).NextBytes(_data);
    }

    [Benchmark]
    public ushort Sum() => InternetChecksum.Sum(_data);
}
