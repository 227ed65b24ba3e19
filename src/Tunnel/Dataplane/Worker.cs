namespace Tunnel.Dataplane;

/// <summary>
/// One packet thread: sleeps until its TUN queue or its underlay has packets, then carries them both ways until neither has any.
/// It batches where packets are waiting and never waits for a batch.
/// </summary>
public sealed class Worker : IHeartbeat, IDisposable
{
    private const int LastRounds = 64;

    private readonly Outbound _outbound;
    private readonly Inbound _inbound;
    private readonly IReadiness _readiness;
    private readonly Action? _prepare;
    private readonly Thread _thread;
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private volatile bool _stopping;
    private long _beats;

    /// <summary>Wires a worker; <see cref="Start"/> starts it.</summary>
    /// <param name="name">The thread's name, as `top -H` shows it (15 characters).</param>
    /// <param name="outbound">Its outbound half.</param>
    /// <param name="inbound">Its inbound half.</param>
    /// <param name="readiness">Where it sleeps. The worker owns it.</param>
    /// <param name="prepare">What the thread calls first, if anything.</param>
    public Worker(string name, Outbound outbound, Inbound inbound, IReadiness readiness, Action? prepare = null)
    {
        _prepare = prepare;
        _outbound = outbound;
        _inbound = inbound;
        _readiness = readiness;
        _thread = new Thread(Run) { Name = name, IsBackground = true };
    }

    /// <summary>Completes when the thread has ended: normally after <see cref="Dispose"/>, or with the exception that ended it.</summary>
    public Task Ended => _ended.Task;

    /// <inheritdoc/>
    public string Name => _thread.Name!;

    /// <inheritdoc/>
    public long Beats => Volatile.Read(ref _beats);

    /// <inheritdoc/>
    public void Nudge() => _readiness.Wake();

    /// <summary>Starts the thread.</summary>
    public void Start() => _thread.Start();

    /// <summary>
    /// Stops the thread and waits for it. Packets of a batch in hand are still handled, and some of those that wait at the underlay: those that are in this
    /// process's own memory, before any that a next process could go on with.
    /// </summary>
    public void Stop()
    {
        _stopping = true;
        _readiness.Stop();
        if (_thread.ThreadState.HasFlag(ThreadState.Unstarted))
        {
            _ended.TrySetResult();
        }
        else
        {
            _thread.Join();
        }
    }

    /// <summary>Stops the thread, if that is not done yet, and gives up where it sleeps.</summary>
    public void Dispose()
    {
        Stop();
        _readiness.Dispose();
    }

    private void Run()
    {
        try
        {
            _prepare?.Invoke();
            while (!_readiness.Wait().HasFlag(Ready.Stopped))
            {
                // Both ways in turn, whichever woke the thread: an answer is often there by the time the question is written. Where the TUN
                // queue was empty and nothing has been received since, another look would be a system call for nothing.
                bool mayHaveAnswer = true;
                while (!_stopping)
                {
                    Volatile.Write(ref _beats, _beats + 1);
                    int received = _inbound.Run();
                    int sent = mayHaveAnswer || received > 0 ? _outbound.Run() : 0;
                    if (received + sent == 0)
                    {
                        break;
                    }

                    mayHaveAnswer = sent > 0;
                }
            }

            for (int i = 0; i < LastRounds && _inbound.Run() > 0; i++)
            {
                // Nothing but that.
            }

            _ended.TrySetResult();
        }
#pragma warning disable CA1031 // Whatever ends a packet thread must end the process in an orderly way, not tear it down.
        catch (Exception exception)
#pragma warning restore CA1031
        {
            _ended.TrySetException(exception);
        }
    }
}
