using System.Diagnostics;

namespace Tunnel.Tests.Ctl;

/// <summary>tunnelctl as a process, where its streams are the system's.</summary>
public sealed class ProcessTests : IDisposable
{
    private readonly CtlHarness _ctl = new();
    private readonly FakeDaemon _daemon;

    public ProcessTests() => _daemon = new FakeDaemon(_ctl.SocketPath());

    public void Dispose()
    {
        _daemon.Dispose();
        _ctl.Dispose();
    }

    [Fact]
    public void It_prints_utf8_without_a_byte_order_mark()
    {
        _daemon.Answers["GET /v1/drops"] = (200, """{"é":1}""");

        Assert.Equal("0\n7b22c3a9223a317d0a\n", Shell("tunnelctl drops --json > out; echo $?; od -An -tx1 out | tr -d ' '").Output);
    }

    [Fact]
    public void The_exit_code_is_the_processes()
    {
        Assert.Equal(("2\n", "tunnelctl: unknown command 'shwo' (did you mean show? tunnelctl --help lists the commands)\n"), Shell("tunnelctl shwo; echo $?"));
    }

    [Fact]
    public void A_reader_that_leaves_early_ends_it_quietly()
    {
        // Far more than a pipe holds: pipe(7).
        string peers = string.Join(',', Enumerable.Range(0, 20_000).Select(i => $$"""{"name":"vm{{i}}"}"""));
        _daemon.Answers["GET /v1/peers"] = (200, $"[{peers}]");

        Assert.Equal(("network: tun0\n0\n", ""), Shell("{ tunnelctl show; echo $? >&3; } 3>status | head -n 1; cat status"));
    }

    [Fact]
    public void A_watch_ends_when_its_reader_leaves()
    {
        _daemon.Answers["GET /v1/peers"] = (200, """[{"name":"vm2"}]""");

        Assert.Equal(
            ("[{\"name\":\"vm2\"}]\n0\n", ""),
            Shell("{ tunnelctl top --interval 0.1 --json; echo $? >&3; } 3>status | head -n 1; cat status"));
    }

    [Fact]
    public void A_full_disk_is_told()
    {
        Assert.Equal(("1\n", "tunnelctl: cannot write the output: No space left on device\n"), Shell("tunnelctl show > /dev/full; echo $?"));
    }

    [Fact]
    public void Closed_streams_do_not_break_it()
    {
        Assert.Equal(("1\n2\n", "tunnelctl: cannot write the output: it is closed\n"), Shell("tunnelctl show >&-; echo $?; tunnelctl shwo 2>&-; echo $?"));
    }

    [Fact]
    public void It_does_not_run_over_what_others_write_to_the_same_file()
    {
        Assert.Equal("begin\nnetwork: tun0\n", Shell("{ echo begin; tunnelctl show; echo end; } > out; head -n 2 out").Output);
        Assert.Equal("end\n", Shell("{ echo begin; tunnelctl show; echo end; } > out; tail -n 1 out").Output);
    }

    private (string Output, string Error) Shell(string script)
    {
        ProcessStartInfo start = new("/bin/sh")
        {
            ArgumentList = { "-c", $"tunnelctl() {{ timeout 30 '{Environment.ProcessPath}' '{Path.Combine(AppContext.BaseDirectory, "tunnelctl.dll")}' \"$@\"; }}\n{script}" },
            WorkingDirectory = _ctl.RunDirectory,
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            Environment = { ["TUNNEL_RUN_DIR"] = _ctl.RunDirectory },
        };
        using Process process = Process.Start(start)!;
        process.StandardInput.Close();
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (output, error.Result);
    }
}
