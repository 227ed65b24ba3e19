namespace Tunnel.Tests.Ctl;

/// <summary>What the shells' completion is told.</summary>
public sealed class CompletionTests : IDisposable
{
    private readonly CtlHarness _ctl = new() { Timeout = TimeSpan.FromMilliseconds(200) };

    public void Dispose() => _ctl.Dispose();

    [Theory]
    [InlineData("sh", "show")]
    [InlineData("remove", "remove-peer")]
    [InlineData("--so", "--socket")]
    [InlineData("show --j", "--json")]
    [InlineData("add-peer vm4 --en", "--encapsulation --endpoint")]
    [InlineData("add-peer vm4 --encapsulation ", "auto direct gre gre-udp")]
    [InlineData("set-peer vm4 --on-down w", "withdraw")]
    [InlineData("set-peer vm4 --strict t", "true")]
    [InlineData("show v", "vm2 vm3")]
    [InlineData("set-peer vm3", "vm3")]
    [InlineData("ping ", "vm2 vm3")]
    [InlineData("add-peer v", "")]
    [InlineData("-n tun0 remove-peer v", "vm2 vm3")]
    [InlineData("-n tun1 remove-peer v", "")]
    [InlineData("-n t", "tun0")]
    [InlineData("shwo v", "")]
    public void Commands_options_values_peers_and_networks(string typed, string expected)
    {
        using FakeDaemon daemon = new(_ctl.SocketPath());

        // Options stand beside peers where the last word is empty.
        Assert.Equal(expected, string.Join(' ', Complete(typed).Where(word => typed.Contains('-', StringComparison.Ordinal) || word[0] != '-')));
    }

    [Fact]
    public void A_candidate_has_its_description_behind_a_tab()
    {
        using FakeDaemon daemon = new(_ctl.SocketPath());

        Assert.Equal("routes\tShows the overlay route table.\n", _ctl.Run("[complete]", "tunnelctl rou").Output);
        Assert.Equal("vm2\t192.168.40.12\n", _ctl.Run("[complete]", "tunnelctl show vm2").Output);
    }

    [Fact]
    public void Without_a_daemon_there_are_no_peers_and_no_error()
    {
        Assert.Equal(new CtlResult(0, "", ""), _ctl.Run("[complete]", "tunnelctl show v"));
        Assert.Equal(new CtlResult(0, "", ""), _ctl.Run("[complete]", "tunnelctl -n t"));
    }

    private string[] Complete(string typed)
    {
        CtlResult result = _ctl.Run("[complete]", "tunnelctl " + typed);
        Assert.Equal(("", 0), (result.Error, result.ExitCode));
        return [.. result.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split('\t')[0])];
    }
}
