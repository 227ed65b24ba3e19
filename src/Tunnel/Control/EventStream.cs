using System.Collections.Concurrent;
using System.Threading.Channels;

namespace Tunnel.Control;

/// <summary>Something that happened, as /v1/events tells it.</summary>
/// <param name="Time">When, in UTC.</param>
/// <param name="Event">What: a fixed word such as peer-added.</param>
/// <param name="Peer">The peer it is about; null where it is about the network.</param>
/// <param name="Detail">The rest for people, one line.</param>
internal sealed record NetworkEvent(DateTimeOffset Time, string Event, string? Peer, string? Detail);

/// <summary>
/// Hands events to everyone who listens. A listener that doesn't keep up loses its oldest events, never holds anyone else up.
/// Thread-safe.
/// </summary>
internal sealed class EventStream(TimeProvider time)
{
    private const int MostWaiting = 1024;

    private readonly ConcurrentDictionary<Channel<NetworkEvent>, byte> _listeners = new();

    /// <summary>Tells every listener.</summary>
    public void Publish(string name, string? peer = null, string? detail = null)
    {
        var happened = new NetworkEvent(time.GetUtcNow(), name, peer, detail);
        foreach (Channel<NetworkEvent> listener in _listeners.Keys)
        {
            listener.Writer.TryWrite(happened);
        }
    }

    /// <summary>Listens from now on.</summary>
    public Subscription Subscribe()
    {
        var channel = Channel.CreateBounded<NetworkEvent>(
            new BoundedChannelOptions(MostWaiting) { FullMode = BoundedChannelFullMode.DropOldest, SingleReader = true });
        _listeners.TryAdd(channel, 0);
        return new Subscription(this, channel);
    }

    /// <summary>A listener's end; disposing it ends the listening.</summary>
    internal sealed class Subscription(EventStream stream, Channel<NetworkEvent> channel) : IDisposable
    {
        /// <summary>The events, as they come.</summary>
        public ChannelReader<NetworkEvent> Events => channel.Reader;

        /// <inheritdoc/>
        public void Dispose() => stream._listeners.TryRemove(channel, out _);
    }
}
