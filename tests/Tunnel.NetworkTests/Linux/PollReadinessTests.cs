using System.Net;
using System.Net.Sockets;
using Tunnel.Dataplane;
using Tunnel.Linux;
using static Tunnel.NetworkTests.Linux.RawGreLab;

namespace Tunnel.NetworkTests.Linux;

/// <summary>The worker's wait on a real TUN device and real sockets.</summary>
public sealed class PollReadinessTests
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(10);

    [SkippableFact]
    public void WaitTellsWhatIsReadable()
    {
        using RawGreLab lab = Direct();
        WorkerUnderlay a = lab.Open(lab.A);
        WorkerUnderlay b = lab.Open(lab.B);
        using TunDevice tun = OpenTun(lab);
        using var readiness = new PollReadiness(tun, b);
        WarmUp(a, b, Packet("10.77.1.1", "10.77.1.2"), Packet("fd77:1::1", "fd77:1::2"));
        var batch = new PacketBatch(8);

        a.Send(BatchOf(Packet("10.77.1.1", "10.77.1.2")));
        Assert.Equal(Ready.Underlay, readiness.Wait());
        Assert.Equal(1, b.ReceiveNow(batch));

        a.Send(BatchOf(Packet("fd77:1::1", "fd77:1::2")));
        Assert.Equal(Ready.Underlay, readiness.Wait());
        Assert.Equal(1, b.ReceiveNow(batch));

        SendIntoTun(lab);
        Assert.Equal(Ready.Tun, readiness.Wait());

        a.Send(BatchOf(Packet("10.77.1.1", "10.77.1.2")));
        Assert.True(NetnsThread.Eventually(() => readiness.Wait() == (Ready.Tun | Ready.Underlay)));
    }

    [SkippableFact]
    public async Task WaitSleepsUntilStopped()
    {
        using RawGreLab lab = Direct();
        using TunDevice tun = OpenTun(lab);
        using var readiness = new PollReadiness(tun, lab.Open(lab.B));
        Task<Ready> waiting = Task.Run(readiness.Wait);
        await Assert.ThrowsAsync<TimeoutException>(() => waiting.WaitAsync(TimeSpan.FromMilliseconds(50)));

        readiness.Stop();

        Assert.Equal(Ready.Stopped, await waiting.WaitAsync(Patience));
        Assert.Equal(Ready.Stopped, await Task.Run(readiness.Wait).WaitAsync(Patience));
        readiness.Stop();
        Assert.Equal(Ready.Stopped, await Task.Run(readiness.Wait).WaitAsync(Patience));
    }

    // Busy for a minute it never sleeps in this test; busy for a millisecond it soon does. Either way it finds what comes.
    [SkippableTheory]
    [InlineData(60_000_000)]
    [InlineData(1000)]
    public async Task ABusyWaitLooksForPacketsForItsTimeAndSleepsThen(int microseconds)
    {
        using RawGreLab lab = Direct();
        using TunDevice tun = OpenTun(lab);
        using var readiness = new PollReadiness(tun, lab.Open(lab.B), microseconds);
        var thread = new TaskCompletionSource<string>();
        Task<Ready> waiting = Task.Factory.StartNew(
            () =>
            {
                thread.SetResult($"/proc/{new FileInfo("/proc/thread-self").LinkTarget}/stat");
                return readiness.Wait();
            },
            TaskCreationOptions.LongRunning);
        string stat = await thread.Task.WaitAsync(Patience);

        // proc_pid_stat(5): behind the name the state, and as the 12th and 13th from there the ticks of its processor time.
        string[] Fields() => File.ReadAllText(stat).Split(')')[^1].Split(' ', StringSplitOptions.RemoveEmptyEntries);
        Assert.True(NetnsThread.Eventually(() => microseconds == 1000 ? Fields()[0] == "S" : long.Parse(Fields()[11]) + long.Parse(Fields()[12]) > 5));
        Assert.False(waiting.IsCompleted);

        SendIntoTun(lab);
        Assert.Equal(Ready.Tun, await waiting.WaitAsync(Patience));
    }

    [SkippableFact]
    public async Task ADeviceThatIsDownKeepsTheWaitAsleep()
    {
        using RawGreLab lab = Direct();
        using TunDevice tun = OpenTun(lab);
        using var readiness = new PollReadiness(tun, lab.Open(lab.B));
        lab.B.Ip("link set tun0 down");
        Task<Ready> waiting = Task.Run(readiness.Wait);
        await Assert.ThrowsAsync<TimeoutException>(() => waiting.WaitAsync(TimeSpan.FromMilliseconds(50)));

        readiness.Stop();

        Assert.Equal(Ready.Stopped, await waiting.WaitAsync(Patience));
    }

    [SkippableFact]
    public async Task ADeletedDeviceEndsTheWaitWithItsName()
    {
        using RawGreLab lab = Direct();
        using TunDevice tun = OpenTun(lab);
        using var readiness = new PollReadiness(tun, lab.Open(lab.B));
        Task<Ready> waiting = Task.Run(readiness.Wait);

        lab.B.Ip("link del tun0");

        DeviceGoneException gone = await Assert.ThrowsAsync<DeviceGoneException>(() => waiting.WaitAsync(Patience));
        Assert.Equal("the device tun0 has been deleted", gone.Message);
        readiness.Stop();
        Assert.Equal(Ready.Stopped, readiness.Wait() & Ready.Stopped);
    }

    [SkippableFact]
    public void StopAfterDisposeIsHarmless()
    {
        using RawGreLab lab = Direct();
        using TunDevice tun = OpenTun(lab);
        var readiness = new PollReadiness(tun, lab.Open(lab.B));
        readiness.Dispose();

        readiness.Stop();
        readiness.Dispose();
    }

    private static TunDevice OpenTun(RawGreLab lab)
    {
        TunDevice tun = lab.B.Run(() => new TunDevice("tun0"));
        lab.B.Exec("sysctl -qw net.ipv6.conf.tun0.disable_ipv6=1");
        lab.B.Ip("addr add 10.9.0.1/24 dev tun0");
        lab.B.Ip("link set tun0 up");
        return tun;
    }

    private static void SendIntoTun(RawGreLab lab) => lab.B.Run(() =>
    {
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        socket.SendTo(new byte[10], new IPEndPoint(IPAddress.Parse("10.9.0.2"), 9));
    });
}
