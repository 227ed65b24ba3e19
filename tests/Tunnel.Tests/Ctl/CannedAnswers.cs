using Tunnel.Control.Api;
using Tunnel.Dataplane;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Ctl;

/// <summary>A network as in docs/tunnelctl.md: the view of vm1, with one peer that works and one whose name does not resolve.</summary>
internal static class CannedAnswers
{
    public const string Network =
        """{"name":"tun0","version":"0.1.0","pid":1234,"uptime-seconds":7512,"interface":{"index":5,"up":true,"mtu":1476,"addresses":["10.0.201.1/24"]}""" +
        ""","underlay":{"local":["192.168.40.11"],"interface":null,"encapsulation":"gre","accept":["gre"],"udp-port":4754,"source-port":"flow"}""" +
        ""","datapath":{"workers":2,"receive":"packet","send":"packet","configured":{"receive":"auto","send":"auto","workers":"auto","pin":false,"busy-poll":"off"}""" +
        ""","reasons":[],"offloads":["tun-tcp","tun-udp","udp-segment","udp-gro"],"refused":[]}""" +
        ""","subnets":["172.17.51.0/24"],"peers":2,"traffic":{"sent":{"packets":15230,"bytes":19736412},"received":{"packets":8021,"bytes":641680}},"drops":5,"problems":[]}""";

    public const string Vm2 =
        """{"name":"vm2","endpoint":"192.168.40.12","subnets":["172.17.52.0/24","10.0.201.2/32"],"encapsulation":"gre","checksum":false,"sequence":false,"dscp":0,"ecn":"auto","ttl":64,"pmtud":true,"strict":false""" +
        ""","origin":"file","address":"192.168.40.12","local":"192.168.40.11","gmtu":1476,"problems":[]""" +
        ""","traffic":{"sent":{"packets":15230,"bytes":19736412},"received":{"packets":8021,"bytes":641680}},"last-received-seconds":3.2,"drops":3,"ecn-anomalies":0,"keepalive":"auto","on-down":"keep","on-refused":"stop","state":"up","state-seconds":7500.1,"rtt-ms":0.214,"loss-percent":0,"path-mtu":1500,"path-mtu-confirmed":true}""";

    public const string Vm3 =
        """{"name":"vm3","endpoint":"vm3.example.org","subnets":["172.17.53.0/24"],"encapsulation":"gre","key":42,"checksum":true,"sequence":false,"dscp":0,"ecn":"auto","ttl":64,"pmtud":true,"strict":false""" +
        ""","origin":"stored","address":null,"local":null,"gmtu":1476,"problems":["endpoint vm3.example.org does not resolve: no answer within 3 s"]""" +
        ""","traffic":{"sent":{"packets":0,"bytes":0},"received":{"packets":0,"bytes":0}},"last-received-seconds":null,"drops":0,"ecn-anomalies":0,"keepalive":"auto","on-down":"keep","on-refused":"stop","state":"unknown","state-seconds":null,"rtt-ms":null,"loss-percent":null,"path-mtu":1500,"path-mtu-confirmed":false}""";

    public const string Vm4 =
        """{"name":"vm4","endpoint":"192.168.40.14","subnets":["172.17.54.0/24"],"encapsulation":"gre","checksum":false,"sequence":false,"dscp":0,"ecn":"auto","ttl":64,"pmtud":true,"strict":false""" +
        ""","origin":"stored","address":"192.168.40.14","local":"192.168.40.11","gmtu":1476,"problems":[]""" +
        ""","traffic":{"sent":{"packets":0,"bytes":0},"received":{"packets":0,"bytes":0}},"last-received-seconds":null,"drops":0,"ecn-anomalies":0,"keepalive":"auto","on-down":"keep","on-refused":"stop","state":"unknown","state-seconds":null,"rtt-ms":null,"loss-percent":null,"path-mtu":1500,"path-mtu-confirmed":false}""";

    public const string Routes =
        """[{"prefix":"10.0.201.2/32","peer":"vm2","mtu":1476,"installed":true,"problem":null},""" +
        """{"prefix":"172.17.52.0/24","peer":"vm2","mtu":1476,"installed":true,"problem":null},""" +
        """{"prefix":"172.17.53.0/24","peer":"vm3","mtu":1476,"installed":false,"problem":"a route that tunneld did not install is in the way: 172.17.53.0/24 dev eth2 proto 4"}]""";

    public const string Drops =
        """{"network":{"InnerNotIp":0,"NoRoute":0,"UnknownPeer":2,"KeyMismatch":0},"peers":{"vm2":{"SourceNotInPeerSubnets":3},"vm3":{"NoRoute":0}}}""";

    /// <summary>A packet that was sent, one that was dropped, and one of nobody's; and that some found no room.</summary>
    public static byte[] Capture()
    {
        long time = new DateTime(2026, 1, 2, 10, 0, 0, DateTimeKind.Utc).Ticks;
        Peer vm2 = Overlay.Peer();
        var writer = new PcapngWriter("tun0", "tunneld 0.1.0", 262_144);
        writer.Begin();
        Add(vm2, false, null, "4500002800004000400600" + "00ac113302ac113402" + "80e818eb" + new string('0', 32), 0);
        Add(vm2, true, DropReason.SourceNotInPeerSubnets, "4500001c00000000400100" + "00ac116309ac113302" + new string('0', 16), 250);
        Add(null, true, DropReason.UnknownPeer, "6000000000083a40" + "fd000052000000000000000000000002" + "fd000051000000000000000000000002" + new string('0', 16), 300);
        writer.AddMissed(7, time);
        return writer.Take();

        void Add(Peer? peer, bool isReceived, DropReason? reason, string hex, int microseconds)
        {
            byte[] bytes = Convert.FromHexString(hex);
            writer.Add(new CapturedPacket(isReceived, peer, reason, bytes.Length, bytes.Length, time + (microseconds * TimeSpan.TicksPerMicrosecond)), bytes);
        }
    }

    public static IReadOnlyDictionary<string, (int Status, string Body)> All { get; } = new Dictionary<string, (int Status, string Body)>(StringComparer.Ordinal)
    {
        ["GET /v1/network"] = (200, Network),
        ["GET /v1/peers"] = (200, $"[{Vm2},{Vm3}]"),
        ["GET /v1/peers/vm2"] = (200, Vm2),
        ["GET /v1/peers/vm3"] = (200, Vm3),
        ["GET /v1/routes"] = (200, Routes),
        ["GET /v1/drops"] = (200, Drops),
        ["PUT /v1/peers/vm3"] = (201, Vm3),
        ["PUT /v1/peers/vm4"] = (201, Vm4),
        ["PUT /v1/peers/vm6"] = (201, Vm4.Replace("vm4", "vm6", StringComparison.Ordinal).Replace("192.168.40.14\",\"subnets", "192.168.40.16:4755\",\"subnets", StringComparison.Ordinal)
            .Replace("172.17.54", "172.17.56", StringComparison.Ordinal).Replace("\"gre\"", "\"gre-udp\"", StringComparison.Ordinal)),
        ["PUT /v1/peers/vm2"] = (409, """{"error":"peer vm2 exists already","hint":"change it with: tunnelctl set-peer vm2","field":null}"""),
        ["PATCH /v1/peers/vm2"] = (409, """{"error":"peer vm2 (/etc/tunnel/tun0.yaml:6:3) comes from the network's file and is not changed by command","hint":"edit the file, then: tunnelctl -n tun0 reload","field":null}"""),
        ["PATCH /v1/peers/vm4"] = (200, Vm4.Replace("192.168.40.14", "192.168.40.24", StringComparison.Ordinal)),
        ["DELETE /v1/peers/vm4"] = (204, ""),
        ["DELETE /v1/peers/vm9"] = (404, """{"error":"no peer is called vm9","hint":"list them with: tunnelctl show","field":null}"""),
        ["GET /v1/explain?source=172.17.51.2&destination=172.17.52.2"] = (200,
            """{"source":"172.17.51.2","destination":"172.17.52.2","length":84,"verdict":"sent","reason":null,"peer":"vm2","steps":[{"step":"host route","ok":true,"text":"into tun0"}""" +
            """,{"step":"overlay route","ok":true,"text":"172.17.52.0/24: peer vm2"},{"step":"peer","ok":true,"text":"vm2 at 192.168.40.12"},{"step":"size","ok":true,"text":"84 of 1476 bytes"}""" +
            """,{"step":"encapsulation","ok":true,"text":"gre, 192.168.40.11 to 192.168.40.12, 24 bytes more"}]}"""),
        ["GET /v1/explain?source=172.17.51.2&destination=172.17.53.2"] = (200,
            """{"source":"172.17.51.2","destination":"172.17.53.2","length":84,"verdict":"dropped","reason":"PeerNotReady","peer":"vm3","steps":[{"step":"host route","ok":true,"text":"into tun0"}""" +
            """,{"step":"overlay route","ok":true,"text":"172.17.53.0/24: peer vm3"},{"step":"peer","ok":false,"text":"endpoint vm3.example.org does not resolve: no answer within 3 s"}]}"""),
        ["POST /v1/peers/vm2/ping"] = (200, """{"peer":"vm2","address":"192.168.40.12","length":84,"rtt-ms":0.214}"""),
        ["POST /v1/peers/vm4/ping?length=1400"] = (200, """{"peer":"vm4","address":"192.168.40.14","length":1400,"rtt-ms":null}"""),
        ["GET /v1/doctor"] = (200,
            """[{"check":"ip-forward","severity":"error","peer":null,"finding":"net.ipv4.ip_forward is 0: nothing is forwarded between tun0 and br0","cure":"sysctl -w net.ipv4.ip_forward=1"},""" +
            """{"check":"blocked","severity":"error","peer":"vm3","finding":"outbound: vm3's packets arrive, and it says that it hears nothing of this host: protocol 47 (GRE) is blocked from here to 192.168.40.13; gre-udp, on both hosts, goes around that","cure":"tunnelctl -n tun0 set-peer vm3 --encapsulation gre-udp"}]"""),
        ["GET /v1/doctor?peer=vm2"] = (200, "[]"),
        ["POST /v1/reload"] = (200, """{"added":["vm5"],"changed":["vm2"],"removed":[]}"""),
    };
}
