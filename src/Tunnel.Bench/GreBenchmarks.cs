using BenchmarkDotNet.Attributes;
using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Bench;

/// <summary>Parsing a GRE header, and writing all outer headers before a 1,400-byte packet.</summary>
public class GreBenchmarks
{
    private byte[] _plain = [];
    private byte[] _full = [];
    private byte[] _packet = [];
    private Peer _plainPeer = null!;
    private Peer _fullPeer = null!;

    [GlobalSetup]
    public void Setup()
    {
        byte[] inner = Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(1400 - 28));
        _plain = Packets.GrePacket(inner);
        _full = Packets.GrePacket(inner, checksum: true, key: 42, sequence: 7);
        _plainPeer = Overlay.Peer();
        _fullPeer = Overlay.Peer(keyOut: 42, sequence: true);
        _packet = [.. new byte[_fullPeer.Overhead], .. inner];
    }

    [Benchmark]
    public int ParsePlain() => GreView.TryParse(_plain, out GreView gre) == GreParseResult.Ok ? gre.HeaderLength + gre.ProtocolType : 0;

    [Benchmark]
    public uint ParseAllFields() => GreView.TryParse(_full, out GreView gre) == GreParseResult.Ok ? gre.Key + gre.Sequence + gre.ProtocolType : 0;

    [Benchmark]
    public byte EmitOuterAndPlainGre()
    {
        _plainPeer.WriteOuterHeaders(_packet.AsSpan(_fullPeer.Overhead - _plainPeer.Overhead), EtherType.Ipv4, default);
        return _packet[^1];
    }

    [Benchmark]
    public byte EmitOuterAndKeyedGreWithSequence()
    {
        _fullPeer.WriteOuterHeaders(_packet, EtherType.Ipv4, default);
        return _packet[^1];
    }
}
