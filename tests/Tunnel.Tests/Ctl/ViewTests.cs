using Tunnel.Ctl.Views;

namespace Tunnel.Tests.Ctl;

/// <summary>
/// The text that people and scripts read, letter for letter. What show, routes and drops print for an ordinary network is
/// compared by <see cref="DocumentationTests"/>; here are the rest and the terminal.
/// </summary>
public sealed class ViewTests : IDisposable
{
    private readonly CtlHarness _ctl = new();

    public void Dispose() => _ctl.Dispose();

    [Fact]
    public void Show_names_what_is_out_of_the_ordinary()
    {
        const string Network =
            """{"name":"tun0","version":"0.1.0","pid":7,"uptime-seconds":12.7,"interface":{"index":5,"up":false,"mtu":1448,"addresses":["10.0.201.1/24","fd00:51::1/64"]},"underlay":""" +
            """{"local":["192.168.40.11","fd00::11"],"interface":"eth1","encapsulation":"gre-udp","accept":["gre","gre-udp"],"udp-port":4754,"source-port":50000},"datapath":""" +
            """{"workers":1,"receive":"raw","send":"packet","configured":{"receive":"auto","send":"packet","workers":"1","pin":true,"busy-poll":"50us"},"reasons":["receive: a netfilter rule applies to protocol 47"],""" +
            """ "offloads":[],"refused":[{"offload":"tun-tcp","reason":"Invalid argument"},{"offload":"tun-udp","reason":"Invalid argument"}]},"subnets":[],"peers":0""" +
            ""","traffic":{"sent":{"packets":1,"bytes":84},"received":{"packets":0,"bytes":0}},"drops":0,"problems":["eth1 is down","172.17.51.0/24 has no device"]}""";

        Assert.Equal(
            """
            network: tun0
              state: down
              addresses: 10.0.201.1/24, fd00:51::1/64
              mtu: 1448
              underlay: gre-udp from 192.168.40.11, fd00::11 on eth1, accepts gre, gre-udp
              udp: port 4754, source port 50000
              datapath: 1 worker, receive raw (auto), send packet, no offloads
              fallback: receive: a netfilter rule applies to protocol 47
              offload off: tun-tcp: Invalid argument
              offload off: tun-udp: Invalid argument
              traffic: 84 B (1 packet) sent, 0 B (0 packets) received
              drops: 0
              daemon: tunneld 0.1.0, pid 7, up 12s
              problem: eth1 is down
              problem: 172.17.51.0/24 has no device

            no peers (add one: tunnelctl add-peer NAME --endpoint ADDRESS --subnet CIDR)

            """,
            Show(("GET /v1/network", Network), ("GET /v1/peers", "[]")));
    }

    [Fact]
    public void A_peers_block_has_both_keys_and_the_address_behind_a_name()
    {
        const string Peer =
            """{"name":"vm2","endpoint":"vm2.example.org:4755","subnets":["fd00:52::/64"],"encapsulation":"gre-udp","key":{"in":1,"out":2},"checksum":false,"sequence":true,"dscp":"copy","ecn":"normal","ttl":"inherit","pmtud":false,"strict":true,"origin":"ephemeral","address":""" +
            """ "192.168.40.12","local":"192.168.40.11","gmtu":1464,"problems":[],"traffic":{"sent":{"packets":2,"bytes":2048},"received":{"packets":1,"bytes":1}},"last-received-seconds":0,"drops":7,"ecn-anomalies":2,"keepalive":"gre:10s","on-down":"withdraw","on-refused":"retry","state":"degraded","state-seconds":61,"rtt-ms":12.5,"loss-percent":25,"path-mtu":1500,"path-mtu-confirmed":true}""";

        Assert.Equal(
            """
            peer: vm2
              endpoint: vm2.example.org:4755 (192.168.40.12)
              local: 192.168.40.11
              subnets: fd00:52::/64
              encapsulation: gre-udp
              key: 1:2
              checksum: no
              sequence: yes
              outer header: dscp copy, ecn normal, ttl inherit, pmtud no
              strict: yes
              state: degraded for 1m1s, rtt 12.5 ms, loss 25 %
              keepalive: gre:10s, on-down withdraw, on-refused retry
              origin: ephemeral
              gmtu: 1464
              path mtu: 1500, confirmed
              traffic: 2 KiB (2 packets) sent, 1 B (1 packet) received
              last received: 0s ago
              drops: 7
              ecn anomalies: 2

            """,
            Show(("GET /v1/peers/vm2", Peer)));
    }

    [Theory]
    [InlineData("192.168.40.12", "192.168.40.12")]
    [InlineData("192.168.40.12:4755", "192.168.40.12:4755")]
    [InlineData("[fd00::12]:4755", "[fd00::12]:4755")]
    public void An_endpoint_that_is_an_address_stands_alone(string endpoint, string shown)
    {
        string address = endpoint[0] == '[' ? "fd00::12" : "192.168.40.12";
        string output = Show(("GET /v1/peers/vm2", $$"""{"name":"vm2","endpoint":"{{endpoint}}","address":"{{address}}"}"""));

        Assert.Contains($"\n  endpoint: {shown}\n", output, StringComparison.Ordinal);
    }

    [Fact]
    public void What_another_daemon_leaves_out_shows_as_unknown()
    {
        Assert.Equal(
            """
            network: -
              state: down
              addresses: -
              mtu: -
              underlay: -, accepts -
              traffic: 0 B (0 packets) sent, 0 B (0 packets) received
              drops: 0
              daemon: tunneld -, pid -, up -

            PEER  STATE  ENDPOINT  SUBNETS  ENCAPSULATION  GMTU  SENT  RECEIVED   LAST  DROPS  PROBLEMS
            -     -      -         -        -                 -    0B        0B  never      0  -

            """,
            Show(("GET /v1/network", "{}"), ("GET /v1/peers", "[{}]")));
    }

    [Fact]
    public void A_long_row_is_neither_wrapped_nor_cut()
    {
        string subnets = string.Join(',', Enumerable.Range(0, 200).Select(i => $"\"10.9.{i}.0/24\""));
        string output = Show(("GET /v1/network", "{}"), ("GET /v1/peers", $$"""[{"name":"vm2","subnets":[{{subnets}}]}]"""));

        Assert.Contains(subnets.Replace("\"", "", StringComparison.Ordinal), output, StringComparison.Ordinal);
    }

    [Fact]
    public void Text_from_the_daemon_cannot_break_a_line_or_steer_the_terminal()
    {
        string output = Show(("GET /v1/peers/vm2", """{"name":"vm2","problems":["a\nb\u001b[31mc\u009b"]}"""));

        Assert.Contains("\n  problem: a b [31mc \n", output, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("routes", "GET /v1/routes", "[]", "no routes\n")]
    [InlineData("drops", "GET /v1/drops", """{"network":{"NoRoute":0},"peers":{}}""", "no drops\n")]
    [InlineData("drops", "GET /v1/drops", """{"network":{"NoRoute":0},"peers":{"vm2":{"KeyMismatch":12345678901}}}""", "PEER  REASON           PACKETS\nvm2   KeyMismatch  12345678901\n")]
    public void Empty_and_small_tables(string command, string line, string answer, string output)
    {
        using FakeDaemon daemon = new(_ctl.SocketPath());
        daemon.Answers[line] = (200, answer);

        Assert.Equal(new CtlResult(0, output, ""), _ctl.Run(command));
    }

    [Fact]
    public void A_terminal_shows_colour_and_one_subnet_a_line()
    {
        using CtlHarness ctl = new() { TerminalWidth = 200, ["TERM"] = "xterm" };
        using FakeDaemon daemon = new(ctl.SocketPath());
        string output = ctl.Run("show").Output;

        Assert.Contains("\e[1;32mnetwork\e[0m: \e[32mtun0\e[0m\n  \e[1mstate\e[0m: \e[32mup\e[0m\n", output, StringComparison.Ordinal);
        Assert.Contains("\e[1mPEER\e[0m", output, StringComparison.Ordinal);
        Assert.Contains("\e[31mendpoint vm3.example.org does not resolve: no answer within 3 s\e[0m", output, StringComparison.Ordinal);
        Assert.Matches(@"172\.17\.52\.0/24 .*\n +10\.0\.201\.2/32 ", output);
    }

    [Theory]
    [InlineData("NO_COLOR", "1")]
    [InlineData("TERM", "dumb")]
    public void Colour_can_be_turned_off(string variable, string value)
    {
        using CtlHarness ctl = new() { TerminalWidth = 200, ["TERM"] = "xterm", [variable] = value };
        using FakeDaemon daemon = new(ctl.SocketPath());
        string output = ctl.Run("show").Output;

        Assert.DoesNotContain('\e', output);
        Assert.Matches(@"(?m)^PEER +STATE +ENDPOINT +SUBNETS +ENCAPSULATION +GMTU +SENT +RECEIVED +LAST +DROPS +PROBLEMS *$", output);
    }

    [Fact]
    public void A_terminal_leaves_out_a_column_without_problems()
    {
        using CtlHarness ctl = new() { TerminalWidth = 200 };
        using FakeDaemon daemon = new(ctl.SocketPath());
        daemon.Answers["GET /v1/peers"] = (200, $"[{CannedAnswers.Vm2}]");

        Assert.DoesNotContain("PROBLEMS", ctl.Run("show").Output, StringComparison.Ordinal);
    }

    [Fact]
    public void On_a_narrow_terminal_rows_become_blocks()
    {
        using CtlHarness ctl = new() { TerminalWidth = 60 };
        using FakeDaemon daemon = new(ctl.SocketPath());

        Assert.EndsWith(
            """

            peer: vm2
              state: up
              endpoint: 192.168.40.12
              subnets: 172.17.52.0/24,10.0.201.2/32
              encapsulation: gre
              gmtu: 1476
              sent: 18.82MiB
              received: 626.64KiB
              last: 3s
              drops: 3

            peer: vm3
              state: unknown
              endpoint: vm3.example.org
              subnets: 172.17.53.0/24
              encapsulation: gre,key=42,checksum
              gmtu: 1476
              sent: 0B
              received: 0B
              last: never
              drops: 0
              problems: endpoint vm3.example.org does not resolve: no answer within 3 s

            """,
            ctl.Run("show").Output,
            StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0, "0 B")]
    [InlineData(1023, "1023 B")]
    [InlineData(1024, "1 KiB")]
    [InlineData(1240, "1.21 KiB")]
    [InlineData(1048576 * 3 / 2, "1.5 MiB")]
    [InlineData(long.MaxValue, "8 EiB")]
    public void Bytes_are_in_binary_units(long bytes, string text) => Assert.Equal(text, Units.Bytes(bytes));

    [Theory]
    [InlineData(0, "0s")]
    [InlineData(0.9, "0s")]
    [InlineData(59.99, "59s")]
    [InlineData(60, "1m0s")]
    [InlineData(3599, "59m59s")]
    [InlineData(3600, "1h0m")]
    [InlineData(86399, "23h59m")]
    [InlineData(86400 + 3600, "1d1h")]
    public void Durations_have_two_units(double seconds, string text) => Assert.Equal(text, Units.Duration(seconds));

    private string Show(params (string Line, string Body)[] answers)
    {
        using FakeDaemon daemon = new(_ctl.SocketPath());
        foreach ((string line, string body) in answers)
            daemon.Answers[line] = (200, body);

        bool onePeer = answers.Length == 1;
        CtlResult result = onePeer ? _ctl.Run("show", "vm2") : _ctl.Run("show");
        Assert.Equal((0, ""), (result.ExitCode, result.Error));
        return result.Output;
    }
}
