using System.Collections.Concurrent;
using System.Globalization;
using System.Net.Sockets;
using System.Text;

namespace Tunnel.NetworkTests.Interop;

/// <summary>
/// A virtual machine with Debian's kernel (scripts/kernel-vm.sh), which does what it is asked over its port "control". Software does the
/// processor's work, so everything takes ten times as long as on the host.
/// </summary>
internal sealed class KernelVm : IAsyncDisposable
{
    /// <summary>How long a request may take before it counts as hung.</summary>
    public static readonly TimeSpan Deadline = TimeSpan.FromSeconds(180);

    private readonly Background _machine;
    private readonly Socket _control;
    private readonly StreamReader _answers;
    private readonly TaskCompletionSource _up = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly ConcurrentDictionary<string, TaskCompletionSource<CommandResult>> _pending = new();
    private readonly SemaphoreSlim _writing = new(1, 1);
    private readonly Task _reading;
    private int _requests;

    private KernelVm(string name, Background machine, Socket control)
    {
        Name = name;
        _machine = machine;
        _control = control;
        _answers = new StreamReader(new NetworkStream(control));
        _reading = ReadAsync();
    }

    /// <summary>What it is called in the lab.</summary>
    public string Name { get; }

    /// <summary>What it wrote on its console.</summary>
    public string Console => _machine.Log;

    /// <summary>Boots one, with its network device on a bridge, and waits until it takes requests.</summary>
    /// <param name="bridge">Where the bridge br0 is.</param>
    /// <param name="directory">For its socket.</param>
    /// <param name="number">Its number n: vm&lt;n&gt;, with the underlay addresses 192.168.40.1n and fd40::1n.</param>
    /// <param name="image">base or full.</param>
    public static async Task<KernelVm> StartAsync(Node bridge, string directory, int number, string image)
    {
        string name = $"vm{number}";
        string socket = Path.Combine(directory, name + ".control");
        await bridge.IpAsync(
            $"""
            tuntap add dev {name} mode tap
            link set {name} master br0 up
            """);
        Background machine = bridge.Start(null, KernelVmLab.Script, "run", image, socket, name, $"02:00:00:00:40:1{number}");
        try
        {
            await machine.WaitForAsync("waiting for connection");
            var control = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            await control.ConnectAsync(new UnixDomainSocketEndPoint(socket));
            var vm = new KernelVm(name, machine, control);
            try
            {
                await vm._up.Task.WaitAsync(Deadline);
            }
            catch (TimeoutException)
            {
                throw new LabException($"{name} does not come up: {machine}");
            }

            await vm.SucceedAsync(
                $"""
                ip addr add 192.168.40.1{number}/24 dev eth0
                ip addr add fd40::1{number}/64 dev eth0
                ip link set eth0 up
                """);
            return vm;
        }
        catch
        {
            await machine.DisposeAsync();
            throw;
        }
    }

    /// <summary>Runs a shell script there to its end. Several may run at the same time.</summary>
    /// <returns>Its exit code, that of the last command; standard output and standard error together as output.</returns>
    /// <exception cref="LabException">It ran past the deadline, or the machine has ended.</exception>
    public async Task<CommandResult> RunAsync(string script)
    {
        string id = Interlocked.Increment(ref _requests).ToString(CultureInfo.InvariantCulture);
        var answer = new TaskCompletionSource<CommandResult>(TaskCreationOptions.RunContinuationsAsynchronously);
        _pending[id] = answer;
        byte[] request = Encoding.ASCII.GetBytes($"{id} {Convert.ToBase64String(Encoding.UTF8.GetBytes(script))}\n");
        await _writing.WaitAsync();
        try
        {
            for (int sent = 0; sent < request.Length;)
            {
                sent += await _control.SendAsync(request.AsMemory(sent));
            }
        }
        finally
        {
            _writing.Release();
        }

        Task first = await Task.WhenAny(answer.Task, _reading, Task.Delay(Deadline));
        if (first != answer.Task && !answer.Task.IsCompleted)
        {
            throw new LabException($"{Name} does not answer ({(first == _reading ? "it has ended" : $"for {Deadline.TotalSeconds} s")}): {script}\n{Console}");
        }

        return await answer.Task with { Line = $"{Name}: {script}" };
    }

    /// <summary>Runs a shell script there that must succeed, each of its commands.</summary>
    /// <returns>What it wrote.</returns>
    public async Task<string> SucceedAsync(string script) => (await RunAsync("set -e\n" + script)).Succeeded().Out;

    /// <summary>Runs shell scripts there one after another, in one request: each costs a quarter of a second.</summary>
    /// <returns>What came of each, as of <see cref="RunAsync"/>.</returns>
    public async Task<CommandResult[]> RunEachAsync(params string[] scripts)
    {
        const char Separator = '\x1e';
        string all = await SucceedAsync(string.Concat(scripts.Select(script => $"(set +e\n{script}\n) && code=0 || code=$?\nprintf '\\036%s\\036' $code\n")));
        string[] parts = all.Split(Separator);
        return [.. scripts.Select((script, i) =>
            new CommandResult($"{Name}: {script}", int.Parse(parts[(2 * i) + 1], CultureInfo.InvariantCulture), parts[2 * i], ""))];
    }

    /// <summary>Pings from there.</summary>
    /// <param name="address">Where to.</param>
    /// <param name="options">More of ping(8)'s options.</param>
    public Task<CommandResult> PingAsync(string address, string options = "") => RunAsync(Ping(address, options));

    /// <summary>The script of <see cref="PingAsync"/>.</summary>
    public static string Ping(string address, string options = "") => $"ping -n -c 3 -i 0.01 -W 5 {options} {address}";

    /// <summary>Switches it off.</summary>
    public async ValueTask DisposeAsync()
    {
        await _machine.DisposeAsync();
        await _reading;
        _answers.Dispose();
        _control.Dispose();
        _writing.Dispose();
    }

    /// <inheritdoc/>
    public override string ToString() => $"{Name}\n{Console}";

    private async Task ReadAsync()
    {
        try
        {
            while (await _answers.ReadLineAsync() is string line)
            {
                string[] words = line.Split(' ');
                if (words[0] == "up")
                {
                    _up.TrySetResult();
                }
                else if (_pending.TryRemove(words[0], out TaskCompletionSource<CommandResult>? pending))
                {
                    pending.TrySetResult(new CommandResult(
                        words[0], int.Parse(words[1], CultureInfo.InvariantCulture), Encoding.UTF8.GetString(Convert.FromBase64String(words[2])), ""));
                }
            }
        }
        catch (IOException)
        {
            // The machine has ended.
        }
    }
}
