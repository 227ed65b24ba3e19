using System.Net.Sockets;
using System.Text;

namespace Tunnel.Linux;

/// <summary>The earlier process of a network will not hand it over.</summary>
/// <param name="message">One line with the cure.</param>
internal sealed class HandoverException(string message) : Exception(message);

/// <summary>
/// A network goes from one process to the next with its device and sockets, so that packets wait instead of being lost. They talk over the socket that
/// is the network's lock (<see cref="NamespaceLocks.AcquireNetwork"/>): the new one asks; the old one sends all descriptors with their names, stops its
/// workers, and closes the connection when its locks are free.
/// </summary>
internal sealed class Handover : IDisposable
{
    private const string Question = "handover 1";
    private const string RefusalPrefix = "refused: ";
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan LongestEnd = TimeSpan.FromMinutes(1);
    private static readonly TimeSpan QuestionPatience = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan AfterFailure = TimeSpan.FromMilliseconds(100);

    private readonly Socket _connection;

    private Handover(Socket connection, int successor)
    {
        _connection = connection;
        Successor = successor;
    }

    /// <summary>The pid of the process that takes over.</summary>
    public int Successor { get; }

    /// <summary>Completes when another process asks for the network.</summary>
    /// <param name="networkLock">The network's lock.</param>
    /// <param name="refusal">Why a process, by its pid, can't have it, for people; null where it can.</param>
    /// <param name="descriptors">What it gets, by the names that it knows: asked for when it is wanted.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <returns>The handover, begun: the other process has the descriptors, and uses them once this is disposed.</returns>
    public static async Task<Handover> WaitAsync(
        NamespaceLock networkLock, Func<int, string?> refusal, Func<IReadOnlyList<(string Name, int Descriptor)>> descriptors, CancellationToken cancellationToken)
    {
        while (true)
        {
            Socket? connection = null;
            try
            {
                connection = await networkLock.AcceptAsync(cancellationToken);
                (int pid, uint user) = NamespaceLock.PeerOf(connection);
                if (await ReadAsync(connection, cancellationToken) == Question && (user == 0 || user == UnixFiles.EffectiveUser))
                {
                    IReadOnlyList<(string Name, int Descriptor)> all = descriptors();
                    string? reason = refusal(pid) ??
                        (all.Count > DescriptorMessage.MaxDescriptors ? $"it has {all.Count} descriptors, and one message takes {DescriptorMessage.MaxDescriptors}" : null);
                    if (reason is not null)
                    {
                        DescriptorMessage.TrySend(connection, RefusalPrefix + reason, []);
                    }
                    else if (DescriptorMessage.TrySend(connection, string.Join(':', all.Select(one => one.Name)), [.. all.Select(one => one.Descriptor)]))
                    {
                        return new Handover(connection, pid);
                    }
                }
            }
            catch (SocketException)
            {
                // Who only wanted to know the holder's pid has gone; or there is no descriptor left, which is no reason to end, nor to spin.
                await Task.Delay(AfterFailure, cancellationToken);
            }

            connection?.Dispose();
        }
    }

    /// <summary>Asks the process that serves a network for it, and waits until it has ended.</summary>
    /// <param name="network">The network's name.</param>
    /// <returns>What it has left; nothing where nobody serves the network.</returns>
    /// <exception cref="HandoverException">It won't, or does not answer.</exception>
    public static InheritedDescriptors Ask(string network)
    {
        using Socket? connection = NamespaceLocks.ConnectToHolder(network);
        if (connection is null)
        {
            return InheritedDescriptors.None;
        }

        connection.ReceiveTimeout = (int)Patience.TotalMilliseconds;
        DescriptorMessage.TrySend(connection, Question, []);
        (string answer, IReadOnlyList<FileDescriptor> descriptors) = DescriptorMessage.Receive(connection);
        string[] names = answer.Split(':');
        if (answer.StartsWith(RefusalPrefix, StringComparison.Ordinal) || names.Length != descriptors.Count)
        {
            foreach (FileDescriptor descriptor in descriptors)
            {
                descriptor.Dispose();
            }

            throw new HandoverException(answer.StartsWith(RefusalPrefix, StringComparison.Ordinal)
                ? $"cannot take over network {network}: {answer[RefusalPrefix.Length..]}"
                : $"the tunneld that serves network {network} does not hand it over; stop it first, and start without --handover");
        }

        var inherited = new InheritedDescriptors(names.Zip(descriptors));

        // Its end says that its locks are free.
        connection.ReceiveTimeout = (int)LongestEnd.TotalMilliseconds;
        DescriptorMessage.Receive(connection);
        return inherited;
    }

    /// <summary>Says that the workers have stopped and the locks are free.</summary>
    public void Dispose() => _connection.Dispose();

    private static async Task<string> ReadAsync(Socket connection, CancellationToken cancellationToken)
    {
        using var timeout = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        timeout.CancelAfter(QuestionPatience);
        byte[] bytes = new byte[Question.Length];
        try
        {
            int count = await connection.ReceiveAsync(bytes, timeout.Token);
            return Encoding.UTF8.GetString(bytes, 0, count);
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            return "";
        }
    }
}
