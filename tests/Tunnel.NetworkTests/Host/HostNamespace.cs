using System.Diagnostics;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;

namespace Tunnel.NetworkTests.Host;

/// <summary>
/// A network namespace of one test, with two devices, and ways to look at it and to act in it from outside.
/// <code>
///   d0 ("our" device) ==veth== p0        d1 (where somebody else's routes lead) ==veth== p1
/// </code>
/// </summary>
internal sealed partial class HostNamespace : IDisposable
{
    private const int CLONE_NEWNET = 0x40000000;

    private static int _count;

    public HostNamespace()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "needs root");
        Name = $"tunnel-host-{Environment.ProcessId}-{Interlocked.Increment(ref _count)}";
        Command("ip", "netns", "add", Name);
    }

    public string Name { get; }

    /// <summary>Makes the devices, up and without IPv6 link-local addresses of their own.</summary>
    public HostNamespace WithDevices()
    {
        try
        {
            foreach (string pair in new[] { "0", "1" })
            {
                Ip($"link add d{pair} type veth peer name p{pair}");
                foreach (string end in new[] { "p", "d" })
                {
                    Ip($"link set {end}{pair} addrgenmode none");
                    Ip($"link set {end}{pair} up");
                }
            }

            return this;
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Runs `ip -n NAMESPACE ARGUMENTS` and returns what it printed.</summary>
    public string Ip(string arguments) => Command("ip", ["-n", Name, .. arguments.Split(' ')]);

    /// <summary>Runs lines of ip commands in one process.</summary>
    public void IpBatch(IEnumerable<string> lines) => CommandWithInput("ip", string.Join('\n', lines) + "\n", "-n", Name, "-batch", "-");

    /// <summary>Runs code on a thread that is in the namespace; sockets that it opens stay there.</summary>
    public T Run<T>(Func<T> code)
    {
        T result = default!;
        Exception? failure = null;
        var thread = new Thread(() =>
        {
            try
            {
                using var handle = File.OpenHandle($"/var/run/netns/{Name}");
                if (SetNetworkNamespace((int)handle.DangerousGetHandle(), CLONE_NEWNET) != 0)
                {
                    throw new InvalidOperationException($"setns: {Marshal.GetLastPInvokeErrorMessage()}");
                }

                result = code();
            }
            catch (Exception e)
            {
                failure = e;
            }
        });
        thread.Start();
        thread.Join();
        if (failure is not null)
        {
            ExceptionDispatchInfo.Throw(failure);
        }

        return result;
    }

    public void Dispose() => Command("ip", "netns", "del", Name);

    public static string Command(string program, params string[] arguments) => CommandWithInput(program, "", arguments);

    private static string CommandWithInput(string program, string input, params string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using Process process = Process.Start(start)!;
        Task<string> errors = process.StandardError.ReadToEndAsync();
        Task<string> output = process.StandardOutput.ReadToEndAsync();
        process.StandardInput.Write(input);
        process.StandardInput.Close();
        process.WaitForExit();
        return process.ExitCode == 0
            ? output.Result
            : throw new InvalidOperationException($"{program} {string.Join(' ', arguments)}: {errors.Result.Trim()}");
    }

    [DllImport("libc", EntryPoint = "setns", SetLastError = true)]
    private static extern int SetNetworkNamespace(int descriptor, int kind);
}
