using Tunnel.Ctl.Views;

namespace Tunnel.Tests.Ctl;

/// <summary>Each command: the requests that it sends, what it prints, and how it fails.</summary>
public sealed class CommandTests : IDisposable
{
    private readonly CtlHarness _ctl = new();
    private readonly FakeDaemon _daemon;

    public CommandTests() => _daemon = new FakeDaemon(_ctl.SocketPath());

    public void Dispose()
    {
        _daemon.Dispose();
        _ctl.Dispose();
    }

    [Theory]
    [InlineData("")]
    [InlineData("show")]
    [InlineData("-n tun0 show")]
    [InlineData("show --network tun0")]
    public void Show_asks_for_the_network_and_its_peers(string commandLine)
    {
        CtlResult result = Run(commandLine);

        Assert.Equal((0, ""), (result.ExitCode, result.Error));
        Assert.Equal(["GET /v1/network", "GET /v1/peers"], Lines());
        Assert.StartsWith("network: tun0\n", result.Output, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("show vm2", "GET /v1/peers/vm2")]
    [InlineData("routes", "GET /v1/routes")]
    [InlineData("drops", "GET /v1/drops")]
    [InlineData("reload", "POST /v1/reload")]
    [InlineData("remove-peer vm4", "DELETE /v1/peers/vm4")]
    public void A_command_sends_one_request_without_a_body(string commandLine, string line)
    {
        CtlResult result = Run(commandLine);

        Assert.Equal((0, ""), (result.ExitCode, result.Error));
        Assert.Equal(new SeenRequest(line, "", "", ""), Assert.Single(_daemon.Requests));
    }

    [Fact]
    public void Ping_without_an_answer_is_a_failure()
    {
        CtlResult result = Run("ping vm4 --size 1400 -c 2");

        Assert.Equal(1, result.ExitCode);
        Assert.Equal(
            "vm4 (192.168.40.14): 1400 bytes, seq=1, no answer\nvm4 (192.168.40.14): 1400 bytes, seq=2, no answer\n2 sent, 0 answered, 100 % lost\n", result.Output);
        Assert.Equal("""{"peer":"vm4","sent":1,"received":0,"loss-percent":100}""" + "\n", Run("--json ping vm4 --size 1400 -c 1").Output);
        Assert.Equal("""{"peer":"vm2","sent":3,"received":3,"loss-percent":0,"rtt-ms":{"min":0.214,"avg":0.214,"max":0.214}}""" + "\n", Run("--json ping vm2 -c 3").Output);
    }

    [Fact]
    public void Explain_of_what_is_dropped_is_a_failure()
    {
        Assert.Equal(1, Run("explain 172.17.51.2 172.17.53.2").ExitCode);
        Assert.Equal(0, Run("explain 172.17.51.2 172.17.52.2").ExitCode);
    }

    [Fact]
    public void Doctor_exits_with_4_where_it_found_something()
    {
        Assert.Equal(4, Run("doctor").ExitCode);
        Assert.Equal(new CtlResult(0, "[]\n", ""), Run("--json doctor vm2"));
        _daemon.Answers["GET /v1/doctor"] = (200, """{"error":"?"}""");
        Assert.Equal(1, Run("doctor").ExitCode);
    }

    [Fact]
    public void Capture_writes_what_the_daemon_sends_and_counts()
    {
        CtlResult result = Run("capture -w there.pcapng");
        Assert.Equal(new CtlResult(0, "", "3 packets captured, 7 not captured: they came too fast\n"), result);
        Assert.Equal(CannedAnswers.Capture(), _ctl.Written["there.pcapng"].ToArray());

        Assert.Equal("1 packet captured\n", Run("capture -w there.pcapng -c 1").Error);
        Assert.EndsWith("10:00:00.000300Z in - fd00:52::2 > fd00:51::2: ICMPv6, length 48, dropped: UnknownPeer\n", Run("capture").Output, StringComparison.Ordinal);
        Assert.Equal(
            """{"time":"2026-01-02T10:00:00.000000Z","direction":"out","peer":"vm2","source":"172.17.51.2:33000","destination":"172.17.52.2:6379","protocol":"TCP","length":40,"comment":null}""" + "\n",
            Run("--json capture -c 1").Output);
    }

    [Fact]
    public void Capture_that_is_refused_or_no_capture_is_told()
    {
        _daemon.Streams.Clear();
        _daemon.Answers["GET /v1/capture?snaplen=1"] = (400, """{"error":"'1' is not a length here","hint":"20 to 262144 bytes","field":"length"}""");
        Assert.Equal(new CtlResult(1, "", "tunnelctl: '1' is not a length here (20 to 262144 bytes)\n"), Run("capture --snaplen 1"));
        _daemon.Streams["GET /v1/capture"] = [1, 2, 3, 4, 255, 255, 255, 255, 0];
        Assert.Equal(1, Run("capture").ExitCode);
        _daemon.Streams["GET /v1/capture"] = CannedAnswers.Capture()[..^5];
        Assert.Equal((0, "3 packets captured\n"), (Run("capture").ExitCode, Run("capture").Error));
    }

    [Fact]
    public void Top_shows_what_has_changed_in_a_second_the_busiest_first()
    {
        string before = CannedAnswers.Vm2.Replace("15230,\"bytes\":19736412", "15000,\"bytes\":19000000", StringComparison.Ordinal).Replace("\"drops\":3", "\"drops\":1", StringComparison.Ordinal);
        TopView view = new();
        view.Start(System.Text.Json.JsonElement.Parse($"[{CannedAnswers.Vm3},{before}]"));
        StringWriter text = new();
        view.Draw(new PlainPage(text), System.Text.Json.JsonElement.Parse($"[{CannedAnswers.Vm3},{CannedAnswers.Vm2},{CannedAnswers.Vm4}]"), 2);
        Assert.Equal(
            """
            PEER  STATE    OUT/s  OUT-BIT/s  IN/s  IN-BIT/s  DROPS/s      RTT  LOSS
            vm2   up         115      2.95M     0         0        1  0.214ms    0%
            vm3   unknown      0          0     0         0        0        -     -
            vm4   unknown      0          0     0         0        0        -     -

            """,
            text.ToString());

        Assert.Equal(2, Run("top -c 2").Output.Split("PEER").Length - 1);
        Assert.Equal(2, Run("--json top -c 2").Output.Trim().Split('\n').Length);
    }

    [Theory]
    [InlineData("docker-config --subnet 172.17.51.0/33", 2, "--subnet does not take '172.17.51.0/33' (--subnet CIDR, as 172.17.51.0/24)")]
    [InlineData("docker-config --subnet fd00::/64", 1, "fd00::/64 is no IPv4 subnet for containers (as 172.17.51.0/24)")]
    public void Docker_config_refuses_what_is_no_subnet(string commandLine, int exitCode, string error) =>
        Assert.Equal(new CtlResult(exitCode, "", $"tunnelctl: {error}\n"), Run(commandLine));

    [Fact]
    public void Docker_config_takes_another_subnet() =>
        Assert.Equal("{\"bip\":\"10.9.0.1/16\",\"mtu\":1476}\n", Run("--json docker-config --subnet 10.9.0.0/16").Output);

    [Theory]
    [InlineData("--endpoint 192.168.40.14 --subnet 172.17.54.0/24", """{"endpoint":"192.168.40.14","subnets":["172.17.54.0/24"]}""")]
    [InlineData("--endpoint a --subnet x --subnet y", """{"endpoint":"a","subnets":["x","y"]}""")]
    [InlineData("--endpoint a --subnet x,y --subnet=z", """{"endpoint":"a","subnets":["x","y","z"]}""")]
    [InlineData("--endpoint a --subnet x --encapsulation gre-udp", """{"endpoint":"a","subnets":["x"],"encapsulation":"gre-udp"}""")]
    [InlineData("--endpoint a --subnet x --key 42", """{"endpoint":"a","subnets":["x"],"key":42}""")]
    [InlineData("--endpoint a --subnet x --key 1:4294967295", """{"endpoint":"a","subnets":["x"],"key":{"in":1,"out":4294967295}}""")]
    [InlineData("--endpoint a --subnet x --key 4294967296", """{"endpoint":"a","subnets":["x"],"key":4294967296}""")]
    [InlineData(
        "--checksum --sequence --ephemeral --endpoint a --subnet x",
        """{"endpoint":"a","subnets":["x"],"checksum":true,"sequence":true,"ephemeral":true}""")]
    [InlineData("--endpoint [fd00::2]:4754 --subnet é\"", """{"endpoint":"[fd00::2]:4754","subnets":["é\""]}""")]
    public void Add_peer_creates_and_never_replaces(string options, string body)
    {
        CtlResult result = Run($"add-peer vm4 {options}");

        Assert.Equal((0, "added peer vm4: 192.168.40.14, 172.17.54.0/24\n", ""), (result.ExitCode, result.Output, result.Error));
        Assert.Equal(new SeenRequest("PUT /v1/peers/vm4", "*", "application/json", body), Assert.Single(_daemon.Requests));
    }

    [Theory]
    [InlineData("--endpoint 192.168.40.24", """{"endpoint":"192.168.40.24"}""")]
    [InlineData("--subnet x --subnet y,z", """{"subnets":["x","y","z"]}""")]
    [InlineData("--key none", """{"key":null}""")]
    [InlineData("--key 7", """{"key":7}""")]
    [InlineData("--key 1:2 --encapsulation direct", """{"encapsulation":"direct","key":{"in":1,"out":2}}""")]
    [InlineData("--checksum --sequence true --ephemeral false", """{"checksum":true,"sequence":true,"ephemeral":false}""")]
    [InlineData("--checksum=false --sequence false", """{"checksum":false,"sequence":false}""")]
    [InlineData("--dscp copy --ecn normal --ttl 255 --pmtud false --strict", """{"dscp":"copy","ecn":"normal","ttl":"255","pmtud":false,"strict":true}""")]
    public void Set_peer_sends_what_its_options_name(string options, string body)
    {
        CtlResult result = Run($"set-peer vm4 {options}");

        Assert.Equal((0, "changed peer vm4: 192.168.40.24, 172.17.54.0/24\n", ""), (result.ExitCode, result.Output, result.Error));
        Assert.Equal(new SeenRequest("PATCH /v1/peers/vm4", "", "application/json", body), Assert.Single(_daemon.Requests));
    }

    [Fact]
    public void A_flag_does_not_swallow_the_name_behind_it()
    {
        Assert.Equal(0, Run("set-peer --checksum vm4").ExitCode);
        Assert.Equal("""{"checksum":true}""", Assert.Single(_daemon.Requests).Body);
    }

    [Fact]
    public void A_problem_that_a_change_leaves_is_told_on_stderr()
    {
        CtlResult result = Run("add-peer vm3 --endpoint vm3.example.org --subnet 172.17.53.0/24 --key 42");

        Assert.Equal(0, result.ExitCode);
        Assert.Equal("added peer vm3: vm3.example.org, 172.17.53.0/24\n", result.Output);
        Assert.Equal("tunnelctl: vm3: endpoint vm3.example.org does not resolve: no answer within 3 s\n", result.Error);
    }

    [Fact]
    public void A_key_is_not_printed_with_a_change()
    {
        CtlResult result = Run("add-peer vm3 --endpoint vm3.example.org --subnet 172.17.53.0/24 --key 42");

        Assert.DoesNotContain("42", result.Output + result.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("a b", "GET /v1/peers/a%20b")]
    [InlineData("a/b", "GET /v1/peers/a%2Fb")]
    [InlineData("a?b#c%2F", "GET /v1/peers/a%3Fb%23c%252F")]
    [InlineData("é", "GET /v1/peers/%C3%A9")]
    public void A_name_stays_one_segment_of_the_path(string name, string line)
    {
        Assert.Equal(1, _ctl.Run("show", name).ExitCode);
        Assert.Equal([line], Lines());
    }

    [Theory]
    [InlineData("""{"added":["vm5"],"changed":["vm2"],"removed":[]}""", "reloaded: added vm5; changed vm2\n")]
    [InlineData("""{"added":["a","b"],"changed":[],"removed":["c"]}""", "reloaded: added a, b; removed c\n")]
    [InlineData("""{"added":[],"changed":[],"removed":[]}""", "reloaded: nothing changed\n")]
    [InlineData("""{"added":["a"],"changed":[],"removed":[],"network":true}""", "reloaded: added a; changed the network's own settings\n")]
    public void Reload_says_what_changed(string answer, string output)
    {
        _daemon.Answers["POST /v1/reload"] = (200, answer);

        Assert.Equal(new CtlResult(0, output, ""), Run("reload"));
    }

    [Theory]
    [InlineData("show vm2", CannedAnswers.Vm2)]
    [InlineData("routes", CannedAnswers.Routes)]
    [InlineData("drops", CannedAnswers.Drops)]
    [InlineData("reload", """{"added":["vm5"],"changed":["vm2"],"removed":[]}""")]
    [InlineData("add-peer vm3 --endpoint a --subnet b", CannedAnswers.Vm3)]
    [InlineData("show", $$"""{"network":{{CannedAnswers.Network}},"peers":[{{CannedAnswers.Vm2}},{{CannedAnswers.Vm3}}]}""")]
    [InlineData("remove-peer vm4", """{"removed":"vm4"}""")]
    public void With_json_the_answer_is_handed_on(string commandLine, string json)
    {
        Assert.Equal(new CtlResult(0, json + "\n", ""), Run($"--json {commandLine}"));
        Assert.Equal(new CtlResult(0, json + "\n", ""), Run($"{commandLine} --json"));
    }

    [Fact]
    public void Json_is_one_line_with_the_daemons_own_numbers_and_letters()
    {
        _daemon.Answers["GET /v1/routes"] = (200, "[\n  1.50,\n  \"é <&> \\n\"\n]\n");

        Assert.Equal("""[1.50,"é <&> \n"]""" + "\n", Run("routes --json").Output);
    }

    [Theory]
    [InlineData("add-peer vm2 --endpoint a --subnet b", "peer vm2 exists already (change it with: tunnelctl set-peer vm2)")]
    [InlineData("set-peer vm2 --key 1", "peer vm2 (/etc/tunnel/tun0.yaml:6:3) comes from the network's file and is not changed by command (edit the file, then: tunnelctl -n tun0 reload)")]
    [InlineData("remove-peer vm9", "no peer is called vm9 (list them with: tunnelctl show)")]
    [InlineData("show vm8", "no such path")]
    public void A_refusal_is_one_line_and_exit_1(string commandLine, string error)
    {
        Assert.Equal(new CtlResult(1, "", $"tunnelctl: {error}\n"), Run(commandLine));
    }

    [Fact]
    public void With_json_a_refusal_is_the_daemons_object_on_stderr()
    {
        const string Refusal = """{"error":"'x' is no CIDR prefix","hint":"write it as 172.17.52.0/24","field":"subnets"}""";
        _daemon.Answers["PATCH /v1/peers/vm4"] = (400, Refusal);

        Assert.Equal(new CtlResult(1, "", Refusal + "\n"), Run("--json set-peer vm4 --subnet x"));
    }

    [Fact]
    public void A_refusal_cannot_break_the_line_or_steer_the_terminal()
    {
        _daemon.Answers["GET /v1/drops"] = (400, """{"error":"a\nb\u001b[31m"}""");

        Assert.Equal("tunnelctl: a b [31m\n", Run("drops").Error);
    }

    [Theory]
    [InlineData(502, "<h1>Bad Gateway</h1>", "the daemon answered with HTTP status 502")]
    [InlineData(500, "", "the daemon answered with HTTP status 500")]
    [InlineData(302, "{}", "the daemon answered with HTTP status 302")]
    public void An_answer_without_an_error_object_is_named_by_its_status(int status, string body, string error)
    {
        _daemon.Answers["GET /v1/drops"] = (status, body);

        Assert.Equal(new CtlResult(1, "", $"tunnelctl: {error}\n"), Run("drops"));
    }

    [Theory]
    [InlineData("drops", "GET /v1/drops", "[]")]
    [InlineData("routes", "GET /v1/routes", "{}")]
    [InlineData("show", "GET /v1/peers", "{}")]
    [InlineData("show vm2", "GET /v1/peers/vm2", "")]
    [InlineData("reload", "POST /v1/reload", "3")]
    public void An_answer_of_another_shape_is_refused(string commandLine, string line, string body)
    {
        _daemon.Answers[line] = (200, body);
        CtlResult result = Run(commandLine);

        Assert.Equal((1, ""), (result.ExitCode, result.Output));
        Assert.StartsWith("tunnelctl: the daemon's answer is not what was expected (", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void An_answer_that_is_not_json_is_refused()
    {
        _daemon.Answers["GET /v1/drops"] = (200, "<h1>");

        Assert.Equal(
            new CtlResult(1, "", $"tunnelctl: the answer on {_ctl.SocketPath()} is not JSON (is this tunneld's control socket?)\n"),
            Run("drops"));
    }

    private CtlResult Run(string commandLine) => _ctl.Run(commandLine.Split(' ', StringSplitOptions.RemoveEmptyEntries));

    private string[] Lines() => [.. _daemon.Requests.Select(request => request.Line)];
}
