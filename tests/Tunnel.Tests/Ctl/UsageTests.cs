namespace Tunnel.Tests.Ctl;

/// <summary>Command lines that cannot be run: exit 2, and one line with the right form.</summary>
public sealed class UsageTests : IDisposable
{
    private const string AddPeer =
        "tunnelctl add-peer NAME --endpoint ADDRESS --subnet CIDR... [--encapsulation E] [--key N|IN:OUT] " +
        "[--checksum] [--sequence] [--dscp copy|N] [--ecn MODE] [--ttl inherit|N] [--pmtud true|false] [--strict] [--keepalive TIME] [--on-down keep|withdraw] [--on-refused stop|retry] [--ephemeral]";

    private const string SetPeer =
        "tunnelctl set-peer NAME [--endpoint ADDRESS] [--subnet CIDR...] [--encapsulation E] [--key N|IN:OUT|none] " +
        "[--checksum [true|false]] [--sequence [true|false]] [--dscp copy|N] [--ecn MODE] [--ttl inherit|N] [--pmtud true|false] [--strict [true|false]] [--keepalive TIME] [--on-down keep|withdraw] [--on-refused stop|retry] [--ephemeral [true|false]]";

    private const string Attach = "tunnelctl attach CONTAINER|PID|NETNS ADDRESS/PREFIX [--bridge NAME] [--interface NAME]";

    private const string Root = "tunnelctl [-n NETWORK | --socket PATH] [--json] COMMAND";

    private readonly CtlHarness _ctl = new();

    public void Dispose() => _ctl.Dispose();

    [Theory]
    [InlineData("shwo", "unknown command 'shwo'", "did you mean show? tunnelctl --help lists the commands")]
    [InlineData("add", "unknown command 'add'", "did you mean add-peer? tunnelctl --help lists the commands")]
    [InlineData("remove-pere vm2", "unknown command 'remove-pere'", "did you mean remove-peer? tunnelctl --help lists the commands")]
    [InlineData("xyzzy", "unknown command 'xyzzy'", "tunnelctl --help lists the commands")]
    [InlineData("--jsn", "unknown option --jsn", $"did you mean --json? usage: {Root}")]
    [InlineData("-x", "unknown option -x", $"usage: {Root}")]
    [InlineData("-n", "-n needs a value", "-n, --network NETWORK")]
    [InlineData("-n --json show", "-n needs a value", "-n, --network NETWORK")]
    [InlineData("-n a show -n b", "-n is given more than once", "-n, --network NETWORK")]
    [InlineData("show --sokcet=x", "unknown option --sokcet", "did you mean --socket? usage: tunnelctl show [PEER]")]
    [InlineData("show vm2 vm3", "unexpected argument 'vm3'", "usage: tunnelctl show [PEER]")]
    [InlineData("show .", "no peer is called '.'", "usage: tunnelctl show [PEER]")]
    [InlineData("remove-peer ..", "no peer is called '..'", "usage: tunnelctl remove-peer NAME")]
    [InlineData("remove-peer", "NAME is missing", "usage: tunnelctl remove-peer NAME")]
    [InlineData("routes vm2", "unexpected argument 'vm2'", "usage: tunnelctl routes")]
    [InlineData("explain 172.17.51.2", "DESTINATION is missing", "usage: tunnelctl explain SOURCE DESTINATION [--size BYTES]")]
    [InlineData("ping vm2 -c 0", "--count does not take '0'", "-c, --count N")]
    [InlineData("ping vm2 -c x", "--count does not take 'x'", "-c, --count N")]
    [InlineData("ping", "PEER is missing", "usage: tunnelctl ping PEER [-c, --count N] [--size BYTES]")]
    [InlineData("attach", "CONTAINER|PID|NETNS is missing", $"usage: {Attach}")]
    [InlineData("attach web", "ADDRESS/PREFIX is missing", $"usage: {Attach}")]
    [InlineData("attach --bridg br0 web 172.17.51.100/24", "unknown option --bridg", $"did you mean --bridge? usage: {Attach}")]
    [InlineData("attach web 172.17.51.100/24 --bridge", "--bridge needs a value", "--bridge NAME")]
    [InlineData("detach", "CONTAINER|PID|NETNS is missing", "usage: tunnelctl detach CONTAINER|PID|NETNS [ADDRESS]")]
    [InlineData("detach web a b", "unexpected argument 'b'", "usage: tunnelctl detach CONTAINER|PID|NETNS [ADDRESS]")]
    [InlineData("detach web 172.17.51", "'172.17.51' is no address", "as 172.17.51.100")]
    [InlineData("capture -c 0", "--count does not take '0'", "-c, --count N")]
    [InlineData("capture -w", "-w needs a value", "-w, --write FILE")]
    [InlineData("top --interval 0", "--interval does not take '0'", "--interval SECONDS")]
    [InlineData("doctor vm2 vm3", "unexpected argument 'vm3'", "usage: tunnelctl doctor [PEER]")]
    [InlineData("add-peer", "NAME is missing", $"usage: {AddPeer}")]
    [InlineData("add-peer vm2", "--endpoint is missing", $"usage: {AddPeer}")]
    [InlineData("add-peer vm2 --endpoint a", "--subnet is missing", $"usage: {AddPeer}")]
    [InlineData("add-peer vm2 --endpoint --subnet b", "--endpoint needs a value", "--endpoint ADDRESS")]
    [InlineData("add-peer vm2 --endpoint a --subnet", "--subnet needs a value", "--subnet CIDR...")]
    [InlineData("add-peer vm2 --endpoint a --endpoint b --subnet c", "--endpoint is given more than once", "--endpoint ADDRESS")]
    [InlineData("add-peer vm2 --endpoint a --subnt b", "unknown option --subnt", $"did you mean --subnet? usage: {AddPeer}")]
    [InlineData("add-peer --subnt b", "unknown option --subnt", $"did you mean --subnet? usage: {AddPeer}")]
    [InlineData("add-peer vm2 --endpoint a --subnet b c", "unexpected argument 'c'", $"usage: {AddPeer}")]
    [InlineData("add-peer vm2 --endpoint a --subnet b --key none", "--key does not take 'none'", "--key N|IN:OUT, decimal")]
    [InlineData("set-peer", "NAME is missing", $"usage: {SetPeer}")]
    [InlineData("set-peer vm2", "nothing to change is named", $"usage: {SetPeer}")]
    [InlineData("set-peer vm2 --checksum maybe", "unexpected argument 'maybe'", $"usage: {SetPeer}")]
    [InlineData("set-peer vm2 --key x", "--key does not take 'x'", "--key N|IN:OUT|none, decimal")]
    [InlineData("set-peer vm2 --key 0x2a", "--key does not take '0x2a'", "--key N|IN:OUT|none, decimal")]
    [InlineData("set-peer vm2 --key +5", "--key does not take '+5'", "--key N|IN:OUT|none, decimal")]
    [InlineData("set-peer vm2 --key 1:2:3", "--key does not take '1:2:3'", "--key N|IN:OUT|none, decimal")]
    [InlineData("set-peer vm2 --key 1:", "--key does not take '1:'", "--key N|IN:OUT|none, decimal")]
    [InlineData("set-peer vm2 --key -5", "--key needs a value", "--key N|IN:OUT|none")]
    [InlineData("@/etc/hostname", "unknown command '@/etc/hostname'", "tunnelctl --help lists the commands")]
    public void A_wrong_command_line_is_one_line_and_exit_2(string commandLine, string error, string hint)
    {
        string[] args = commandLine.Split(' ');

        Assert.Equal(new CtlResult(2, "", $"tunnelctl: {error} ({hint})\n"), _ctl.Run(args));
    }

    [Fact]
    public void An_empty_name_is_refused()
    {
        Assert.Equal(new CtlResult(2, "", "tunnelctl: no peer is called '' (usage: tunnelctl show [PEER])\n"), _ctl.Run("show", ""));
    }

    [Fact]
    public void With_json_the_error_is_an_object()
    {
        Assert.Equal(
            new CtlResult(2, "", """{"error":"NAME is missing","hint":"usage: tunnelctl remove-peer NAME","field":null}""" + "\n"),
            _ctl.Run("--json", "remove-peer"));
    }

    [Fact]
    public void Version_is_one_line()
    {
        CtlResult result = _ctl.Run("--version");

        Assert.Equal((0, ""), (result.ExitCode, result.Error));
        Assert.Matches(@"\Atunnelctl \d+\.\d+\.\d+\n\z", result.Output);
    }

    [Theory]
    [InlineData("--help", $"Usage: {Root}\n")]
    [InlineData("-h", "Exit codes: 0 done; 1 refused or failed; 2 usage; 3 daemon not reachable; 4 doctor found something.\n")]
    [InlineData("--help", "\n  add-peer       Adds a peer. It is kept over restarts unless --ephemeral is given.\n")]
    [InlineData("show --help", "Usage: tunnelctl show [PEER]\n")]
    [InlineData("show -h --bogus", "\nExample:\n  tunnelctl show vm2\n")]
    [InlineData("add-peer --help", $"Usage: {AddPeer}\n")]
    [InlineData("set-peer --help", $"Usage: {SetPeer}\n")]
    [InlineData("set-peer --help", "\n  --key N|IN:OUT|none       the GRE key, one for each way, or none\n")]
    [InlineData("reload --help", "\nOptions of every command:\n  -n, --network NETWORK  the network to talk about")]
    public void Help_has_usage_options_and_an_example(string commandLine, string part)
    {
        CtlResult result = _ctl.Run(commandLine.Split(' '));

        Assert.Equal((0, ""), (result.ExitCode, result.Error));
        Assert.Contains(part, result.Output, StringComparison.Ordinal);
        Assert.Contains("\nExample:\n  tunnelctl ", result.Output, StringComparison.Ordinal);
    }
}
