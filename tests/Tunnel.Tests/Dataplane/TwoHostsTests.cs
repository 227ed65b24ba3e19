using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Dataplane;

/// <summary>
/// vm1 (172.17.51.0/24, fd00:51::/64) == underlay in memory == vm2 (172.17.52.0/24, fd00:52::/64): what goes into one TUN device comes out
/// of the other unchanged.
/// </summary>
public sealed class TwoHostsTests
{
    private static readonly (string Endpoint1, string Endpoint2)[] Underlays =
        [("192.168.40.11", "192.168.40.12"), ("fd00:40::11", "fd00:40::12")];

    private readonly MemoryHost _vm1 = new();
    private readonly MemoryHost _vm2 = new();
    private Peer _to2 = Overlay.Peer();
    private Peer _to1 = Overlay.Peer();

    public static TheoryData<int, bool, bool, bool> Combinations
    {
        get
        {
            var data = new TheoryData<int, bool, bool, bool>();
            for (int i = 0; i < 16; i++)
            {
                data.Add(i >> 3, (i & 4) != 0, (i & 2) != 0, (i & 1) != 0);
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Combinations))]
    public void There_and_back_is_identity(int underlay, bool checksum, bool key, bool sequence)
    {
        Join(underlay, checksum, key, sequence);
        var there = new List<byte[]>();
        var back = new List<byte[]>();
        foreach (int length in (int[])[0, 1, 2, 3, 100, 511, 1300, 1365, 1380])
        {
            foreach ((string first, string second) in ((string, string)[])[("172.17.51.2", "172.17.52.2"), ("fd00:51::2", "fd00:52::2")])
            {
                byte[] payload = Packets.Payload(length);
                there.Add(Packets.TcpPacket(first, second, payload, trafficClass: 0xbb));
                there.Add(Packets.UdpPacket(first, second, payload, trafficClass: 0x01));
                there.Add(Packets.IcmpPacket(first, second, first.Contains(':', StringComparison.Ordinal) ? (byte)128 : (byte)8, 0, payload));
                back.Add(Packets.UdpPacket(second, first, payload));
                back.Add(Packets.TcpPacket(second, first, payload, tcpOptions: [1, 1, 1, 0]));
            }
        }

        there.ForEach(p => _vm1.Tun.Enqueue(p));
        back.ForEach(p => _vm2.Tun.Enqueue(p));
        Assert.Equal(there.Count, _vm1.RunOutbound());
        Assert.Equal(there.Count, _vm2.RunInbound());
        Assert.Equal(back.Count, _vm2.RunOutbound());
        Assert.Equal(back.Count, _vm1.RunInbound());

        Assert.Equal(there, _vm2.Tun.Written.Select(w => w.Bytes));
        Assert.Equal(back, _vm1.Tun.Written.Select(w => w.Bytes));
        Assert.All(_vm2.Tun.Written.Concat(_vm1.Tun.Written), w => Assert.Equal(default, w.Offload));
        Assert.Empty(_vm1.Drops());
        Assert.Empty(_vm2.Drops());
        Assert.Equal(
            (there.Count, there.Sum(p => p.Length), back.Count, back.Sum(p => p.Length)),
            (_to2.Counters[0].SentPackets, _to2.Counters[0].SentBytes, _to2.Counters[0].ReceivedPackets, _to2.Counters[0].ReceivedBytes));
        Assert.Equal(
            (back.Count, back.Sum(p => p.Length), there.Count, there.Sum(p => p.Length)),
            (_to1.Counters[0].SentPackets, _to1.Counters[0].SentBytes, _to1.Counters[0].ReceivedPackets, _to1.Counters[0].ReceivedBytes));
        Assert.All(_vm1.Underlay.Sent, s => Assert.Equal(GreFlags(checksum, key, sequence), s.Bytes[underlay == 0 ? 20 : 40]));
    }

    [Fact]
    public void Keys_may_differ_by_direction()
    {
        _to2 = Overlay.Peer("vm2", keyIn: 1, keyOut: 2);
        _to1 = Overlay.Peer("vm1", endpoint: "192.168.40.11", local: "192.168.40.12", keyIn: 2, keyOut: 1);
        Wire();
        _vm1.Send(Packets.UdpPacket("172.17.51.2", "172.17.52.2", []));
        _vm2.RunInbound();
        _vm2.Send(Packets.UdpPacket("172.17.52.2", "172.17.51.2", []));
        _vm1.RunInbound();
        Assert.Single(_vm1.Tun.Written);
        Assert.Single(_vm2.Tun.Written);
    }

    [Fact]
    public void The_answer_to_a_packet_too_big_reaches_its_sender_beyond_another_host()
    {
        // vm2's container sends by way of vm1 to a third host whose path is narrow; vm1 answers through the tunnel.
        Join(0, checksum: false, key: false, sequence: false);
        _vm2.With([(_to1, ["172.17.51.0/24", "172.17.53.0/24"])], ["172.17.52.1"]);
        Peer narrow = Overlay.Peer("vm3", endpoint: "192.168.40.13", gmtu: 1000);
        _vm1.With([(_to2, ["172.17.52.0/24"]), (narrow, ["172.17.53.0/24"])], ["172.17.51.1"]);
        byte[] large = Packets.UdpPacket("172.17.52.2", "172.17.53.2", new byte[1200]);
        _vm1.Send(large);
        byte[] answer = Assert.Single(_vm1.Tun.Written).Bytes;

        // The kernel routes the answer back into the TUN device.
        _vm1.Send(answer);
        _vm2.RunInbound();
        Assert.Equal(answer, Assert.Single(_vm2.Tun.Written).Bytes);
    }

    private static byte GreFlags(bool checksum, bool key, bool sequence) =>
        (byte)((checksum ? 0x80 : 0) | (key ? 0x20 : 0) | (sequence ? 0x10 : 0));

    private void Join(int underlay, bool checksum, bool key, bool sequence)
    {
        (string one, string two) = Underlays[underlay];
        uint? number = key ? 0xfedcba98 : null;
        _to2 = Overlay.Peer("vm2", two, one, number, number, checksum, sequence);
        _to1 = Overlay.Peer("vm1", one, two, number, number, checksum, sequence);
        Wire();
    }

    private void Wire()
    {
        _vm1.With([(_to2, ["172.17.52.0/24", "fd00:52::/64"])], ["172.17.51.1", "fd00:51::1"]);
        _vm2.With([(_to1, ["172.17.51.0/24", "fd00:51::/64"])], ["172.17.52.1", "fd00:52::1"]);
        _vm1.Underlay.FarEnd = _vm2.Underlay;
        _vm2.Underlay.FarEnd = _vm1.Underlay;
    }
}
