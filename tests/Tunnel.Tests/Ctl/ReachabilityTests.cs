using System.Net.Sockets;
using System.Runtime.Versioning;

namespace Tunnel.Tests.Ctl;

/// <summary>Which socket is chosen, and what is said when nobody answers there.</summary>
public sealed class ReachabilityTests : IDisposable
{
    private const string Start = "start it: systemctl start tunneld@tun0, or tunneld --config FILE";

    private readonly CtlHarness _ctl = new();

    public void Dispose() => _ctl.Dispose();

    [Fact]
    public void No_socket_means_that_no_daemon_runs()
    {
        string line = $"tunnelctl: no tunneld is running: no socket in {_ctl.RunDirectory} " +
            "(start one: systemctl start tunneld@NETWORK, or tunneld --config FILE)\n";

        Assert.Equal(new CtlResult(3, "", line), _ctl.Run("show"));
    }

    [Theory]
    [InlineData("attach web 172.17.51.100", "'172.17.51.100' is no address with a prefix length (as 172.17.51.100/24)")]
    [InlineData("docker-config --subnet x", "--subnet does not take 'x' (--subnet CIDR, as 172.17.51.0/24)")]
    public void A_wrong_command_line_is_told_whether_a_daemon_runs_or_not(string line, string error) =>
        Assert.Equal(new CtlResult(2, "", $"tunnelctl: {error}\n"), _ctl.Run(line.Split(' ')));

    [Fact]
    public void Doctor_looks_at_what_can_be_seen_without_a_daemon()
    {
        _ctl.Files["/proc/sys/net/ipv4/ip_forward"] = "0\n";
        _ctl.Files["/proc/sys/net/ipv6/conf/all/forwarding"] = "1\n";
        _ctl.Files["/proc/misc"] = "126 udmabuf\n200 tun\n";
        CtlResult result = _ctl.Run("-n", "tun0", "doctor");

        Assert.Equal(3, result.ExitCode);
        Assert.Equal(
            """
            warning: ip-forward
              finding: net.ipv4.ip_forward is 0: this host forwards nothing between containers and a network
              cure: sysctl -w net.ipv4.ip_forward=1

            """,
            result.Output);
        Assert.Equal($"tunnelctl: no tunneld on {_ctl.SocketPath("tun0")}: there is no such socket ({Start})\n", result.Error);

        _ctl.Files["/proc/sys/net/ipv4/ip_forward"] = "1\n";
        _ctl.Files["/proc/misc"] = "126 udmabuf\n";
        Assert.StartsWith("""[{"check":"tun","severity":"warning","peer":null,""", _ctl.Run("--json", "-n", "tun0", "doctor").Output, StringComparison.Ordinal);
        _ctl.Files.Clear();
        Assert.Equal("", _ctl.Run("-n", "tun0", "doctor").Output);
    }

    [Fact]
    public void A_missing_run_directory_means_that_no_daemon_runs()
    {
        CtlResult result = _ctl.Run("--run-dir", "/nonexistent/tunnel", "show");

        Assert.Equal(3, result.ExitCode);
        Assert.StartsWith("tunnelctl: no tunneld is running: no socket in /nonexistent/tunnel (", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void The_run_directory_defaults_to_run_tunnel()
    {
        _ctl["TUNNEL_RUN_DIR"] = "";

        Assert.StartsWith(
            "tunnelctl: no tunneld on /run/tunnel/no-such-network.sock: ", _ctl.Run("-n", "no-such-network", "drops").Error, StringComparison.Ordinal);
    }

    [Fact]
    public void Of_several_sockets_one_must_be_named()
    {
        using FakeDaemon tun0 = new(_ctl.SocketPath("tun0"));
        using FakeDaemon blue = new(_ctl.SocketPath("blue"));
        File.WriteAllText(Path.Combine(_ctl.RunDirectory, "tun0.lock"), "");

        Assert.Equal(new CtlResult(2, "", "tunnelctl: several networks are here: blue, tun0 (choose one: tunnelctl -n blue COMMAND)\n"), _ctl.Run("drops"));
        Assert.Equal(0, _ctl.Run("-n", "tun0", "drops").ExitCode);
        Assert.Single(tun0.Requests);
        Assert.Empty(blue.Requests);
    }

    [Fact]
    public void A_socket_path_wins_over_the_network_and_the_option_over_the_environment()
    {
        using FakeDaemon daemon = new(_ctl.SocketPath());
        _ctl["TUNNEL_RUN_DIR"] = "/nonexistent";

        Assert.Equal(0, _ctl.Run("--socket", _ctl.SocketPath(), "-n", "other", "drops").ExitCode);
        Assert.Equal(0, _ctl.Run("drops", "--run-dir", _ctl.RunDirectory).ExitCode);
        Assert.Equal(3, _ctl.Run("drops").ExitCode);
    }

    [Fact]
    public void A_network_that_does_not_run_is_told_with_those_that_do()
    {
        using FakeDaemon daemon = new(_ctl.SocketPath("blue"));
        string line = $"tunnelctl: no tunneld on {_ctl.SocketPath("tun0")}: there is no such socket ({Start}; here are: blue)\n";

        Assert.Equal(new CtlResult(3, "", line), _ctl.Run("-n", "tun0", "show"));
    }

    [Fact]
    public void A_socket_that_a_dead_daemon_left_is_told()
    {
        using (Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            socket.Bind(new UnixDomainSocketEndPoint(_ctl.SocketPath() + ".tmp"));

            // Closing unlinks the path that was bound; under another name the socket stays, as after kill -9.
            File.Move(_ctl.SocketPath() + ".tmp", _ctl.SocketPath());
        }

        Assert.Equal(new CtlResult(3, "", $"tunnelctl: no tunneld on {_ctl.SocketPath()}: nothing listens there ({Start})\n"), _ctl.Run("show"));
    }

    [SkippableFact]
    [SupportedOSPlatform("linux")]
    public void A_socket_without_permission_is_told_with_the_cure()
    {
        Skip.If(Environment.IsPrivilegedProcess, "root may open every socket");
        using FakeDaemon daemon = new(_ctl.SocketPath());
        File.SetUnixFileMode(_ctl.SocketPath(), UnixFileMode.None);
        string line = $"tunnelctl: permission denied: {_ctl.SocketPath()} " +
            "(run as root, or join the group tunnel: usermod -aG tunnel USER, then log in again)\n";

        Assert.Equal(new CtlResult(3, "", line), _ctl.Run("show"));
    }

    [SkippableFact]
    [SupportedOSPlatform("linux")]
    public void A_run_directory_without_permission_is_told_with_the_cure()
    {
        Skip.If(Environment.IsPrivilegedProcess, "root may read every directory");
        string directory = Directory.CreateDirectory(Path.Combine(_ctl.RunDirectory, "closed"), UnixFileMode.None).FullName;
        CtlResult result = _ctl.Run("--run-dir", directory, "show");
        File.SetUnixFileMode(directory, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);

        Assert.Equal(3, result.ExitCode);
        Assert.StartsWith($"tunnelctl: permission denied: {directory} (run as root", result.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")]
    public void A_daemon_that_does_not_answer_or_stops_in_its_answer_is_given_up(string? begun)
    {
        using CtlHarness ctl = new() { Timeout = TimeSpan.FromMilliseconds(500) };
        using OddDaemon daemon = new(ctl.SocketPath(), begun, thenHang: true);
        string line = $"tunnelctl: tunneld on {ctl.SocketPath()} gave no answer within 0.5 s " +
            "(journalctl -u tunneld@tun0 may say why; systemctl restart tunneld@tun0 starts it anew)\n";

        Assert.Equal(new CtlResult(3, "", line), ctl.Run("drops"));
    }

    [Fact]
    public void A_daemon_that_does_not_even_accept_is_given_up()
    {
        using CtlHarness ctl = new() { Timeout = TimeSpan.FromMilliseconds(500) };
        using Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        UnixDomainSocketEndPoint endPoint = new(ctl.SocketPath());
        listener.Bind(endPoint);
        listener.Listen(backlog: 0);

        // One connection fills the queue of length 0: unix(7) takes one more than listen(2) says.
        using Socket waiting = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        waiting.Connect(endPoint);

        CtlResult result = ctl.Run("drops");
        Assert.Equal(3, result.ExitCode);
        Assert.Contains("gave no answer within 0.5 s", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void A_daemon_that_breaks_off_its_answer_is_told()
    {
        using OddDaemon daemon = new(_ctl.SocketPath(), "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{");

        Assert.Equal(
            new CtlResult(3, "", $"tunnelctl: tunneld on {_ctl.SocketPath()} closed the connection before it answered (journalctl -u tunneld@tun0 may say why)\n"),
            _ctl.Run("drops"));
    }

    [Fact]
    public void A_daemon_that_closes_without_an_answer_is_told()
    {
        using OddDaemon daemon = new(_ctl.SocketPath(), answer: null);
        CtlResult result = _ctl.Run("drops");

        Assert.Equal(3, result.ExitCode);
        Assert.Contains("closed the connection before it answered", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void Something_else_on_the_socket_is_told()
    {
        using OddDaemon daemon = new(_ctl.SocketPath(), "SSH-2.0-OpenSSH\r\n\r\n");

        Assert.Equal(
            new CtlResult(3, "", $"tunnelctl: the answer on {_ctl.SocketPath()} is not HTTP (is this tunneld's control socket?)\n"), _ctl.Run("drops"));
    }

    [Fact]
    public void A_path_that_no_socket_can_have_is_a_usage_error()
    {
        string path = "/" + new string('x', 107);

        Assert.Equal(
            new CtlResult(2, "", $"tunnelctl: the path of a unix socket has at most 107 bytes: {path} (use a shorter or a relative path)\n"),
            _ctl.Run("--socket", path, "show"));
    }

    [Fact]
    public void With_json_it_is_an_object()
    {
        Assert.Equal(
            $$"""{"error":"no tunneld on {{_ctl.SocketPath()}}: there is no such socket","hint":"{{Start}}","field":null}""" + "\n",
            _ctl.Run("-n", "tun0", "--json").Error);
    }
}
