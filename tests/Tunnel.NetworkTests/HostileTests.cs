using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Tunnel.TestSupport;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>
/// vm1 and vm2 have a tunnel with a key; vm3 is on the same link, and no peer. It sends what it likes, with any source, as fast as it can. A flow from vm1's
/// container to vm2's goes on meanwhile.
/// </summary>
[Collection(nameof(LabCollection))]
public sealed partial class HostileTests(ITestOutputHelper output)
{
    private const string Victim = "192.168.40.12";
    private const string Peer = "192.168.40.11";
    private const string Attacker = "192.168.40.13";
    private const string PeersContainer = "172.17.51.2";
    private const string VictimsContainer = "172.17.52.2";
    private const ushort Experimental = 0x88b5;
    private const uint Key = 42;

    // What a flood may cost, in KiB of resident memory and in lines of the log.
    private const long MemoryMargin = 24_576;
    private const int MostLines = 30;

    // What a flood of questions may get of answers in a second: 256 in each tenth, and a few more where a window begins.
    private const int MostAnswers = 3000;

    // Errors that are passed on in a second.
    private const int MostRelayed = 200;

    // Sends whole IPv4 packets, given in hexadecimal as lines of a file, in turn until its input ends; says how many.
    private const string Flooder = """
        #define _GNU_SOURCE
        #include <arpa/inet.h>
        #include <netinet/in.h>
        #include <poll.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/socket.h>
        #include <unistd.h>
        enum { MOST = 64 };
        int main(int argc, char **argv)
        {
            static unsigned char packets[MOST][2048];
            static char line[5000];
            struct iovec pieces[MOST];
            struct mmsghdr messages[MOST];
            struct sockaddr_in to = { .sin_family = AF_INET };
            inet_pton(AF_INET, argv[1], &to.sin_addr);
            FILE *file = fopen(argv[2], "r");
            int count = 0;
            memset(messages, 0, sizeof messages);
            for (; count < MOST && fgets(line, sizeof line, file); count++) {
                size_t length = strspn(line, "0123456789abcdefABCDEF") / 2;
                for (size_t i = 0; i < length; i++)
                    sscanf(line + 2 * i, "%2hhx", &packets[count][i]);
                pieces[count] = (struct iovec){ packets[count], length };
                messages[count].msg_hdr = (struct msghdr){ .msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &pieces[count], .msg_iovlen = 1 };
            }
            int sender = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
            if (sender < 0 || count == 0)
                return 1;
            struct pollfd input = { .fd = 0, .events = POLLIN };
            long sent = 0;
            puts("flooding");
            fflush(stdout);
            while (poll(&input, 1, 0) == 0) {
                for (int i = 0; i < 16; i++) {
                    int done = 0;
                    while (done < count) {
                        int now = sendmmsg(sender, messages + done, count - done, 0);
                        sent += now > 0 ? now : 0;
                        done += now > 0 ? now : 1;
                    }
                }
            }
            printf("sent %ld\n", sent);
            return 0;
        }
        """;

    /// <summary>What is sent, the reason that it is counted under, and whether by the peer or by nobody.</summary>
    private static readonly (string Name, byte[] Packet, string Reason)[] Attacks =
    [
        ("no peer", From(Attacker, Packets.GrePacket(Inner())), "UnknownPeer"),
        ("no peer with a key", From(Attacker, Gre(Inner())), "UnknownPeer"),
        ("garbage", From(Attacker, [.. Enumerable.Range(0, 60).Select(i => (byte)(i * 37))]), "GreVersionUnsupported"),
        ("no key", From(Peer, Packets.GrePacket(Inner())), "KeyMismatch"),
        ("another key", From(Peer, Packets.GrePacket(Inner(), key: 43)), "KeyMismatch"),
        ("a wrong checksum", From(Peer, WithAnotherByte(Packets.GrePacket(Inner(), checksum: true, key: Key), 40)), "ChecksumMismatch"),
        ("another peer's source inside", From(Peer, Gre(Inner(source: "172.17.53.2"))), "SourceNotInPeerSubnets"),
        ("the victim's source inside", From(Peer, Gre(Inner(source: VictimsContainer))), "SourceNotInPeerSubnets"),
        ("the loopback's source inside", From(Peer, Gre(Inner(source: "127.0.0.1"))), "SourceNotInPeerSubnets"),
        ("an old sequence number", From(Peer, Packets.GrePacket(Inner(), key: Key, sequence: 7)), "SequenceOld"),
        ("GRE in GRE", From(Peer, Gre(Packets.Ipv4(PeersContainer, Peer, Packets.Gre, Packets.GrePacket(Inner(), key: Key)))), "InnerDestinationIsEndpoint"),
        ("GRE in GRE in GRE", From(Peer, Gre(Packets.Ipv4(Peer, Victim, Packets.Gre, Gre(Inner())))), "SourceNotInPeerSubnets"),
        ("version 1", From(Peer, [0x20, 1, 8, 0, 0, 0, 0, 42, .. Inner()]), "GreVersionUnsupported"),
        ("routing", From(Peer, [0x60, 0, 8, 0, 0, 0, 0, 42, .. Inner()]), "GreReservedBits"),
        ("a cut GRE header", From(Peer, [0x20, 0, 8, 0, 0]), "GreTruncated"),
        ("another protocol", From(Peer, Packets.GrePacket(Inner(), key: Key, protocolType: 0x6558)), "GreProtocolUnknown"),
        ("an unknown message", From(Peer, Packets.GrePacket([1, 77, 0, 0], key: Key, protocolType: Experimental)), "ControlMessageUnknown"),
        ("a cut inner packet", From(Peer, Gre(Inner()[..24])), "InnerHeaderMalformed"),
    ];

    [SkippableFact]
    public async Task EachAttackIsCountedUnderItsReason()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 3);
        (Daemon _, Daemon two) = await StartAsync(lab);

        // The number before which others are old.
        await SendAsync(lab, From(Peer, Packets.GrePacket(Inner(), key: Key, sequence: 1000)));
        foreach ((string name, byte[] packet, string reason) in Attacks)
        {
            string? peer = packet.AsSpan(12, 4).SequenceEqual(IPAddress.Parse(Attacker).GetAddressBytes()) ? null : "vm1";
            (long before, long received) = (await two.DropsAsync(reason), await ReceivedAsync(two));
            await SendAsync(lab, packet, packet, packet);
            await Poll.UntilAsync(
                $"{name} is {reason}",
                async () => await two.DropsAsync(reason) == before + 3,
                async () => (await two.GetAsync("/v1/drops")).ToJsonString());
            Assert.True(received == await ReceivedAsync(two), $"{name} was delivered");
            Assert.True(peer is null == await two.DropsAsync(reason, "vm1") < 3, $"{name} is counted for the wrong one");
        }

        // A jump forwards is not to be told from a loss, and passes; one backwards is old (RFC 2890 section 2.2).
        long old = await two.DropsAsync("SequenceOld");
        foreach (uint sequence in (uint[])[0x7000_0000, 1001, 0xd000_0000, 0x7000_0001])
        {
            await SendAsync(lab, From(Peer, Packets.GrePacket(Inner(), key: Key, sequence: sequence)));
        }

        await Poll.UntilAsync("two are old", async () => await two.DropsAsync("SequenceOld") == old + 2);
        await AssertPingAsync(lab);
    }

    [SkippableFact]
    public async Task FragmentsThatOverlapComeToNothing()
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 3);
        (Daemon _, Daemon two) = await StartAsync(lab);
        byte[] gre = Packets.GrePacket(Packets.UdpPacket(PeersContainer, VictimsContainer, Packets.Payload(200)), key: Key);
        byte[] Fragment(ushort id, int from, int to, bool more, byte fill = 0) => Packets.Ipv4(
            Peer, Victim, Packets.Gre, [.. gre[from..to].Select(b => (byte)(b ^ fill))], id: id, df: false, mf: more, fragmentOffset: from);

        // Whole ones are put together, so that it is the overlap that counts.
        long received = await ReceivedAsync(two);
        await SendAsync(lab, Fragment(1, 0, 104, more: true), Fragment(1, 104, gre.Length, more: false));
        await Poll.UntilAsync("a packet in fragments is delivered", async () => await ReceivedAsync(two) == received + 1);

        byte[][] overlapping =
        [
            Fragment(2, 0, 104, more: true), Fragment(2, 40, 120, more: true, fill: 0xff), Fragment(2, 104, gre.Length, more: false),
            Fragment(3, 104, gre.Length, more: false), Fragment(3, 0, 128, more: true), Fragment(3, 8, 104, more: true, fill: 0x55),
            Fragment(4, 0, 104, more: true), Fragment(4, 0, 96, more: true, fill: 0x55), Fragment(4, 96, gre.Length, more: false),
            Packets.Ipv4(Peer, Victim, Packets.Gre, gre, id: 5, df: false, fragmentOffset: 65_528), Fragment(6, 0, 8, more: true),
        ];
        await SendAsync(lab, overlapping);
        await AssertPingAsync(lab);
        Assert.Equal(received + 1 + 3, await ReceivedAsync(two));
        Assert.Equal(0, await two.DropsAsync("ChecksumMismatch") + await two.DropsAsync("InnerHeaderMalformed"));
    }

    /// <summary>The floods: everything at once, and what costs the most to answer.</summary>
    public static TheoryData<string> Floods => new() { "everything", "messages", "garbage", "datagrams", "errors" };

    [SkippableTheory]
    [MemberData(nameof(Floods))]
    public async Task AFlowKeepsHalfItsRateInAFlood(string flood)
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 3);
        Vm attacker = lab.Hosts[2];
        (Daemon _, Daemon two) = await StartAsync(lab, flood == "datagrams" ? "gre-udp" : "gre");
        string program = await BuildAsync(lab);
        await File.WriteAllLinesAsync(Path.Combine(lab.Directory, "packets"), PacketsOf(flood).Select(Convert.ToHexString));

        // Best of several: a busy machine takes its time from everybody.
        double before = 0;
        double during = 0;
        long sent = 0;
        long memory = 0;
        long answers = 0;
        double flooded = 0;
        int lines = two.Log.Count(c => c == '\n');
        for (int i = 0; i < 3 && (during == 0 || during < before / 2); i++)
        {
            before = Math.Max(before, await RateAsync(lab));
            memory = memory == 0 ? Memory(two) : memory;
            long answered = await SentAsync(lab);
            long start = Stopwatch.GetTimestamp();
            await using Background flooder = attacker.Start(null, program, Victim, Path.Combine(lab.Directory, "packets"));
            await flooder.WaitForAsync("flooding");
            during = Math.Max(during, await RateAsync(lab));
            await flooder.WriteAsync("stop\n");
            Assert.Equal(0, await flooder.WaitAsync());
            flooded += Stopwatch.GetElapsedTime(start).TotalSeconds;
            answers += await SentAsync(lab) - answered;
            sent += long.Parse(flooder.Log.Trim().Split(' ')[^1], CultureInfo.InvariantCulture);
        }

        JsonNode drops = await two.GetAsync("/v1/drops");
        long counted = drops["network"]!.AsObject().Concat(drops["peers"]!["vm1"]!.AsObject()).Sum(reason => reason.Value!.GetValue<long>());
        output.WriteLine(FormattableString.Invariant(
            $"{flood}: {before:F0} datagrams a second before, {during:F0} in a flood of {sent} packets, {answers} answered in {flooded:F1} s; memory {memory} to {Memory(two)} KiB, {two.Log.Count(c => c == '\n') - lines} lines; {drops.ToJsonString()}"));
        Assert.InRange(during, before / 2, double.MaxValue);
        Assert.InRange(Memory(two), 0, memory + MemoryMargin);
        Assert.InRange(two.Log.Count(c => c == '\n') - lines, 0, MostLines);

        // Nobody can make this host flood somebody else, and the answers take no time from the flow.
        Assert.InRange(answers, 0, MostAnswers * (flooded + 1));

        // Some are passed on to who seems to have sent what they are about, and people are told.
        if (flood == "errors")
        {
            Assert.InRange(await ErrorsAsync(lab), 1, MostRelayed * (flooded + 1));
            Assert.Contains(Attacker, (await two.GetAsync("/v1/peers/vm1"))["problems"]!.ToJsonString(), StringComparison.Ordinal);
        }

        // Not all reach the daemon: links and queues overflow. What does is counted, each by its reason.
        foreach (string reason in ReasonsOf(flood))
        {
            Assert.True(await two.DropsAsync(reason) > 0, $"no {reason}");
        }

        Assert.True(flood is "messages" or "errors" || counted > sent / 100, $"{counted} of {sent} packets counted");
        await AssertPingAsync(lab);
    }

    private static IEnumerable<byte[]> PacketsOf(string flood)
    {
        byte[] echo = [1, 2, 0, 0, .. new byte[16]];
        byte[][] messages =
        [
            From(Peer, Packets.GrePacket([1, 1, 1, 0], key: Key, protocolType: Experimental)),
            From(Peer, Packets.GrePacket(echo, key: Key, protocolType: Experimental)),
            From(Peer, Packets.GrePacket([1, 3, 5, 0xdc, .. echo[4..]], key: Key, protocolType: Experimental)),
            From(Peer, Gre(Packets.Outer(Victim, Peer, Packets.GrePacket([], key: Key, protocolType: 0)))),
        ];
        byte[] gre = Gre(Inner());
        byte[][] fragments =
        [
            Packets.Ipv4(Peer, Victim, Packets.Gre, gre[..16], id: 9, df: false, mf: true),
            Packets.Ipv4(Peer, Victim, Packets.Gre, gre[8..], id: 9, df: false, fragmentOffset: 8),
        ];
        return flood switch
        {
            "messages" => messages,
            "garbage" => Attacks.Where(attack => attack.Name is "no peer" or "garbage").Select(attack => attack.Packet),
            "datagrams" => Attacks.Where(attack => attack.Name is "no peer" or "garbage" or "another key" or "version 1").Select(attack => attack.Packet).Append(messages[0])
                .Select(packet => Packets.UdpPacket(new IPAddress(packet.AsSpan(12, 4)).ToString(), Victim, packet[20..], destinationPort: 4754)),

            // As if routers complained of what the victim sends.
            "errors" => new (byte Type, byte Code)[] { (3, 1), (3, 2), (3, 4), (11, 0) }
                .Select(kind => Packets.IcmpPacket(
                    Attacker, Victim, kind.Type, kind.Code, Packets.Outer(Victim, Peer, Gre(Packets.UdpPacket(VictimsContainer, PeersContainer, Packets.Payload(1300))))[..80], mtu: 700)),
            _ => [From(Peer, Packets.GrePacket(Inner(), key: Key, sequence: 1000)), .. Attacks.Select(attack => attack.Packet), .. messages, .. fragments],
        };
    }

    private static IEnumerable<string> ReasonsOf(string flood) => flood switch
    {
        "messages" or "errors" => [],
        "datagrams" => ["UnknownPeer", "GreVersionUnsupported", "KeyMismatch"],
        "garbage" => ["UnknownPeer", "GreVersionUnsupported"],
        _ => Attacks.Select(attack => attack.Reason).Distinct(),
    };

    private static byte[] Inner(string source = PeersContainer) => Packets.UdpPacket(source, VictimsContainer, Packets.Payload(20));

    private static byte[] Gre(byte[] inner) => Packets.GrePacket(inner, key: Key);

    private static byte[] From(string source, byte[] gre) => Packets.Outer(source, Victim, gre);

    private static byte[] WithAnotherByte(byte[] packet, int at)
    {
        packet[at] ^= 0xff;
        return packet;
    }

    // One worker: more do not look at sequence numbers, and each answers as often as one.
    private static async Task<(Daemon One, Daemon Two)> StartAsync(Lab lab, string encapsulation = "gre")
    {
        string[] options = [$"key: {Key}", $"encapsulation: {encapsulation}"];
        (Vm vm1, Vm vm2) = (lab.Hosts[0], lab.Hosts[1]);
        Daemon one = await vm1.StartDaemonAsync(vm1.Configuration(vm2.PeerEntry(4, options)));
        string other = "  vm9:\n    endpoint: 192.168.40.19\n    subnets: [172.17.53.0/24]\n";
        Daemon two = await vm2.StartDaemonAsync(vm2.Configuration(vm1.PeerEntry(4, options) + other) + "\ndatapath: {workers: 1}\n");

        // While the packet sockets take over from the raw ones, a packet may be lost (HostUnderlay).
        await Poll.UntilAsync("the tunnel is up", async () => (await vm1.Container.PingAsync(VictimsContainer)).Received == 3);
        return (one, two);
    }

    private static async Task AssertPingAsync(Lab lab) =>
        Assert.Equal(3, (await lab.Hosts[0].Container.PingAsync(VictimsContainer)).Received);

    // Single packets, in order.
    private static async Task SendAsync(Lab lab, params byte[][] packets) => (await lab.Hosts[2].PythonAsync(
        """
        import socket, sys
        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        for packet in sys.argv[2:]:
            sender.sendto(bytes.fromhex(packet), (sys.argv[1], 0))
        """,
        [Victim, .. packets.Select(Convert.ToHexString)])).Succeeded();

    private static async Task<string> BuildAsync(Lab lab)
    {
        string program = Path.Combine(lab.Directory, "flooder");
        await File.WriteAllTextAsync(program + ".c", Flooder);
        (await Command.RunAsync(["gcc", "-O2", "-o", program, program + ".c"])).Succeeded();
        return program;
    }

    /// <summary>How many datagrams a second of a paced flow arrive, over some two seconds.</summary>
    private static async Task<double> RateAsync(Lab lab)
    {
        await using UdpFlow flow = await UdpFlow.StartAsync(lab.Hosts[0].Container, lab.Hosts[1].Container, VictimsContainer, burst: 5);
        long start = Stopwatch.GetTimestamp();
        long before = await DatagramsAsync(lab);
        await Task.Delay(2000);

        // Not what arrives later, out of buffers.
        double rate = (await DatagramsAsync(lab) - before) / Stopwatch.GetElapsedTime(start).TotalSeconds;
        Assert.Equal(0, (await flow.StopAsync()).Corrupt);
        return rate;
    }

    // UDP datagrams that a program in the victim's container has read; the flood's find none.
    private static async Task<long> DatagramsAsync(Lab lab) => long.Parse(
        (await lab.Hosts[1].Container.ShellAsync("awk '/^Udp: [0-9]/ { print $2 }' /proc/net/snmp")).Succeeded().Out, CultureInfo.InvariantCulture);

    // ICMP errors that the victim's container has got.
    private static async Task<long> ErrorsAsync(Lab lab) => long.Parse(
        (await lab.Hosts[1].Container.ShellAsync("awk '/^Icmp: [0-9]/ { print $5 }' /proc/net/snmp")).Succeeded().Out, CultureInfo.InvariantCulture);

    private static async Task<long> ReceivedAsync(Daemon daemon) =>
        (await daemon.GetAsync("/v1/peers/vm1"))["traffic"]!["received"]!["packets"]!.GetValue<long>();

    // Packets that the victim's host has put on the underlay.
    private static async Task<long> SentAsync(Lab lab) =>
        (await lab.Hosts[1].IpJsonAsync("-s", "link", "show", "eth1"))[0]!["stats64"]!["tx"]!["packets"]!.GetValue<long>();

    private static long Memory(Daemon daemon) =>
        long.Parse(ResidentMemory().Match(File.ReadAllText($"/proc/{daemon.Process.Pid}/status")).Groups["size"].Value, CultureInfo.InvariantCulture);

    [GeneratedRegex(@"VmRSS:\s+(?<size>\d+)", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex ResidentMemory();
}
