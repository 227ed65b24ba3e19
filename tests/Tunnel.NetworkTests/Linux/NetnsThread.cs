using System.Collections.Concurrent;
using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using Xunit.Sdk;

namespace Tunnel.NetworkTests.Linux;

/// <summary>
/// A network namespace of its own, and a thread that lives in it: what <see cref="Run(Action)"/> opens, it opens there, and it stays there
/// whichever thread uses it later. Needs root. The namespace has no name: it vanishes with the thread and the last socket in it, and
/// so leaves nothing behind even where the test process is killed.
/// </summary>
internal sealed class NetnsThread : IDisposable
{
    private const int CLONE_NEWNS = 0x0002_0000;
    private const int CLONE_NEWNET = 0x4000_0000;
    private const ulong MS_REC = 0x4000;
    private const ulong MS_PRIVATE = 0x4_0000;
    private const uint LINUX_CAPABILITY_VERSION_3 = 0x2008_0522;

    private readonly BlockingCollection<Action> _work = [];
    private readonly Thread _thread;

    /// <summary>Makes a namespace, with loopback up.</summary>
    /// <param name="label">What it stands for: the thread's name.</param>
    public NetnsThread(string label)
    {
        _thread = new Thread(Serve) { IsBackground = true, Name = label };
        _thread.Start();
        ThreadId = Run(() =>
        {
            ThrowIfNegative(unshare(CLONE_NEWNET), nameof(unshare));
            return int.Parse(Path.GetFileName(File.ResolveLinkTarget("/proc/thread-self", returnFinalTarget: false)!.Name), CultureInfo.InvariantCulture);
        });
        Ip("link set lo up");
    }

    /// <summary>The thread's id, which `ip link ... netns ID` takes for the namespace.</summary>
    public int ThreadId { get; }

    /// <summary>The namespace's file, for `nsenter --net=FILE`.</summary>
    public string NamespaceFile => $"/proc/{Environment.ProcessId}/task/{ThreadId}/ns/net";

    /// <summary>Whether this process may make namespaces.</summary>
    public static bool IsRoot => Environment.UserName == "root";

    /// <summary>Runs something on the namespace's thread and waits for it; what it throws is thrown here.</summary>
    public void Run(Action action) => Run(() =>
    {
        action();
        return 0;
    });

    /// <summary>Runs something on the namespace's thread and returns what it returns; what it throws is thrown here.</summary>
    public T Run<T>(Func<T> function)
    {
        using var done = new ManualResetEventSlim();
        T result = default!;
        ExceptionDispatchInfo? failure = null;
        _work.Add(() =>
        {
            try
            {
                result = function();
            }
#pragma warning disable CA1031 // Whatever it is, it belongs to the caller.
            catch (Exception exception)
#pragma warning restore CA1031
            {
                failure = ExceptionDispatchInfo.Capture(exception);
            }

            done.Set();
        });
        done.Wait();
        failure?.Throw();
        return result;
    }

    /// <summary>Runs `ip` with these arguments, split at spaces, in the namespace; fails the test where it fails. Returns its output.</summary>
    public string Ip(string arguments) => Exec("ip " + arguments);

    /// <summary>Runs a command line, split at spaces, in the namespace; fails the test where it fails. Returns its output.</summary>
    public string Exec(string commandLine) => Execute("nsenter", ["--net=" + NamespaceFile, .. commandLine.Split(' ')]);

    /// <summary>Runs a line of shell in the namespace, with mounts of its own; fails the test where it fails. Returns its output.</summary>
    public string Shell(string line) => Execute("nsenter", ["--net=" + NamespaceFile, "unshare", "--mount", "sh", "-c", line]);

    /// <summary>From now on the namespace's thread has no capability at all.</summary>
    public void DropCapabilities() => Run(() =>
    {
        var header = new CapabilityHeader { Version = LINUX_CAPABILITY_VERSION_3 };
        var none = default(CapabilityData);
        ThrowIfNegative(capset(ref header, ref none), nameof(capset));
    });

    /// <summary>From now on the namespace's thread sees an empty directory in place of this one.</summary>
    public void HideDirectory(string path) => Run(() =>
    {
        ThrowIfNegative(unshare(CLONE_NEWNS), nameof(unshare));
        ThrowIfNegative(mount("none", "/", null, MS_REC | MS_PRIVATE, 0), nameof(mount));
        ThrowIfNegative(mount("none", path, "tmpfs", 0, 0), nameof(mount));
    });

    /// <summary>Waits until something is true, asking again and again; false where that takes longer than the time limit of 10 s.</summary>
    public static bool Eventually(Func<bool> condition)
    {
        var time = Stopwatch.StartNew();
        while (!condition())
        {
            if (time.Elapsed > TimeSpan.FromSeconds(10))
            {
                return false;
            }

            Thread.Yield();
        }

        return true;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _work.CompleteAdding();
        _thread.Join();
        _work.Dispose();
    }

    private static string Execute(string program, string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments) { UseShellExecute = false, RedirectStandardOutput = true, RedirectStandardError = true };
        using Process process = Process.Start(start)!;
        Task<string> errors = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return process.ExitCode == 0
            ? output
            : throw new XunitException($"{program} {string.Join(' ', arguments)}: {errors.GetAwaiter().GetResult().Trim()}");
    }

    private void Serve()
    {
        foreach (Action action in _work.GetConsumingEnumerable())
        {
            action();
        }
    }

    private static void ThrowIfNegative(int result, string call)
    {
        if (result < 0)
        {
            throw new Win32Exception(Marshal.GetLastPInvokeError(), call);
        }
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int unshare(int flags);

    [DllImport("libc", SetLastError = true, BestFitMapping = false, ThrowOnUnmappableChar = true)]
    private static extern int mount(
        [MarshalAs(UnmanagedType.LPUTF8Str)] string source,
        [MarshalAs(UnmanagedType.LPUTF8Str)] string target,
        [MarshalAs(UnmanagedType.LPUTF8Str)] string? type,
        ulong flags,
        nint data);

    [DllImport("libc", SetLastError = true)]
    private static extern int capset(ref CapabilityHeader header, ref CapabilityData data);

    // linux/capability.h
    private struct CapabilityHeader
    {
        public uint Version;
        public int Process;
    }

    [StructLayout(LayoutKind.Sequential, Size = 24)]
    private struct CapabilityData
    {
        public uint Effective;
    }
}
