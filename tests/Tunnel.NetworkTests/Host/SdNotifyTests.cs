using System.Net.Sockets;
using System.Text;
using Tunnel.Linux;

namespace Tunnel.NetworkTests.Host;

public sealed class SdNotifyTests
{
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void TheManagerIsTold(bool isAbstract)
    {
        string name = isAbstract ? $"@tunnel-notify-{Environment.ProcessId}" : Path.Combine(Path.GetTempPath(), Path.GetRandomFileName());
        using var manager = new Socket(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified) { ReceiveTimeout = 10_000 };
        manager.Bind(new UnixDomainSocketEndPoint(isAbstract ? '\0' + name[1..] : name));
        try
        {
            var notify = new SdNotify(name);
            Assert.True(notify.Ready("2 peers"));
            Assert.Equal("READY=1\nSTATUS=2 peers", Receive(manager));
            Assert.True(notify.Status("one\nREADY=1\r\ntwo"));
            Assert.Equal("STATUS=one READY=1 two", Receive(manager));
            Assert.True(notify.Watchdog());
            Assert.Equal("WATCHDOG=1", Receive(manager));
            Assert.True(notify.Stopping());
            Assert.Equal("STOPPING=1", Receive(manager));

            // Type=notify-reload: the manager compares with its own clock.
            long before = Monotonic();
            Assert.True(notify.Reloading());
            string[] lines = Receive(manager).Split('\n');
            Assert.Equal("RELOADING=1", lines[0]);
            Assert.StartsWith("MONOTONIC_USEC=", lines[1], StringComparison.Ordinal);
            Assert.InRange(long.Parse(lines[1]["MONOTONIC_USEC=".Length..]), before, Monotonic());
        }
        finally
        {
            File.Delete(name);
        }
    }

    [Fact]
    public void WithoutAManagerNothingHappens()
    {
        Assert.False(new SdNotify(null).Ready("2 peers"));
        Assert.False(new SdNotify("").Stopping());
        Assert.False(new SdNotify("vsock:2:1234").Stopping());
        Assert.False(new SdNotify("/nonexistent/notify").Reloading());
        Assert.False(new SdNotify('/' + new string('x', 200)).Status("2 peers"));
        Assert.False(new SdNotify("@tunnel-nobody-listens").Status("2 peers"));
    }

    [Fact]
    public void AManagerThatDoesNotReadHoldsNobodyUp()
    {
        string name = $"@tunnel-full-{Environment.ProcessId}";
        using var manager = new Socket(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        manager.Bind(new UnixDomainSocketEndPoint('\0' + name[1..]));
        var notify = new SdNotify(name);
        int sent = 0;
        while (notify.Status("2 peers"))
        {
            sent++;
        }

        Assert.InRange(sent, 1, 10_000);
    }

    private static string Receive(Socket manager)
    {
        byte[] bytes = new byte[1000];
        return Encoding.UTF8.GetString(bytes, 0, manager.Receive(bytes));
    }

    private static long Monotonic() => long.Parse(HostNamespace.Command(
        "perl", "-MTime::HiRes=clock_gettime,CLOCK_MONOTONIC", "-e", "printf '%d', 1e6 * clock_gettime(CLOCK_MONOTONIC)"));
}
