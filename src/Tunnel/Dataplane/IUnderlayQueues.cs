namespace Tunnel.Dataplane;

/// <summary>What waits at the sockets of one worker, in bytes as the kernel accounts for them: packets with what it keeps beside them.</summary>
/// <param name="Receive">What has come and is not read yet.</param>
/// <param name="Send">What was sent and has not left the host's queues yet.</param>
public readonly record struct QueueDepth(long Receive, long Send);

/// <summary>The queues between the kernel and the workers. Any thread, until the sockets are closed.</summary>
public interface IUnderlayQueues
{
    /// <summary>Packets that the kernel dropped at full receive queues, all workers together.</summary>
    long ReceiveQueueDrops { get; }

    /// <summary>What waits at this moment, by worker.</summary>
    IReadOnlyList<QueueDepth> QueueDepths { get; }
}
