using System.Diagnostics;
using System.Text;

namespace Tunnel.NetworkTests;

/// <summary>A program that runs while the test goes on. What it writes is kept for conditions and for failure messages.</summary>
internal sealed class Background : IAsyncDisposable
{
    private readonly Process _process;
    private readonly StringBuilder _log = new();
    private readonly Lock _gate = new();
    private readonly Task _ended;
    private TaskCompletionSource _grown = NewSignal();

    /// <summary>Starts a program; its first word is the program.</summary>
    public Background(IReadOnlyList<string> words, IReadOnlyDictionary<string, string>? environment = null)
    {
        Line = string.Join(' ', words);
        var start = new ProcessStartInfo(words[0], words.Skip(1))
        {
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach ((string name, string value) in environment ?? new Dictionary<string, string>())
        {
            start.Environment[name] = value;
        }

        _process = Process.Start(start) ?? throw new LabException($"cannot start: {Line}");
        Pid = _process.Id;
        _ended = EndAsync();
    }

    /// <summary>The command as one would type it.</summary>
    public string Line { get; }

    /// <summary>The process's id; `ip netns exec` becomes the program, so it is the program's own.</summary>
    public int Pid { get; }

    /// <summary>Completes when the process has ended and all that it wrote is read.</summary>
    public Task Ended => _ended;

    /// <summary>Its exit code, 128 + n where signal n ended it.</summary>
    public int ExitCode { get; private set; }

    /// <summary>What it wrote so far, standard output and standard error in the order of arrival.</summary>
    public string Log
    {
        get
        {
            lock (_gate)
            {
                return _log.ToString();
            }
        }
    }

    /// <summary>Waits until what it wrote contains a text.</summary>
    /// <exception cref="LabException">It ended before, or the deadline passed.</exception>
    public async Task WaitForAsync(string text, TimeSpan? deadline = null)
    {
        using var timer = new CancellationTokenSource(deadline ?? Command.Deadline);
        while (true)
        {
            Task grown;
            lock (_gate)
            {
                if (_log.ToString().Contains(text, StringComparison.Ordinal))
                {
                    return;
                }

                grown = _grown.Task;
            }

            // Its end may come with the last of its output: then that is looked at once more.
            bool ended = _ended.IsCompleted;
            if (ended && !Log.Contains(text, StringComparison.Ordinal))
            {
                throw new LabException($"ended without saying \"{text}\": {this}");
            }

            try
            {
                await Task.WhenAny(grown, _ended).WaitAsync(timer.Token);
            }
            catch (OperationCanceledException)
            {
                throw new LabException($"did not say \"{text}\" in time: {this}");
            }
        }
    }

    /// <summary>Writes to its standard input.</summary>
    public async Task WriteAsync(string text)
    {
        await _process.StandardInput.WriteAsync(text);
        await _process.StandardInput.FlushAsync();
    }

    /// <summary>Sends a signal, by its name without SIG.</summary>
    public async Task SignalAsync(string name)
    {
        if (!_ended.IsCompleted)
        {
            await Command.RunAsync(["sh", "-c", $"kill -{name} {Pid}"]);
        }
    }

    /// <summary>Waits for its end, and returns its exit code.</summary>
    /// <exception cref="LabException">The deadline passed.</exception>
    public async Task<int> WaitAsync(TimeSpan? deadline = null)
    {
        try
        {
            await _ended.WaitAsync(deadline ?? Command.Deadline);
        }
        catch (TimeoutException)
        {
            throw new LabException($"has not ended in time: {this}");
        }

        return ExitCode;
    }

    /// <summary>Ends it, whatever it takes.</summary>
    public async ValueTask DisposeAsync()
    {
        _process.Kill();
        await _ended;
        _process.Dispose();
    }

    /// <inheritdoc/>
    public override string ToString() => $"{Line}\n{(_ended.IsCompleted ? $"exit code {ExitCode}" : $"running, pid {Pid}")}\n{Log}";

    private static TaskCompletionSource NewSignal() => new(TaskCreationOptions.RunContinuationsAsynchronously);

    private async Task EndAsync()
    {
        await Task.WhenAll(CollectAsync(_process.StandardOutput), CollectAsync(_process.StandardError), _process.WaitForExitAsync());
        ExitCode = _process.ExitCode;
    }

    private async Task CollectAsync(StreamReader reader)
    {
        while (await reader.ReadLineAsync() is string line)
        {
            TaskCompletionSource grown;
            lock (_gate)
            {
                _log.Append(line).Append('\n');
                grown = _grown;
                _grown = NewSignal();
            }

            grown.TrySetResult();
        }
    }
}
