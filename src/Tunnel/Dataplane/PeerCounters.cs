namespace Tunnel.Dataplane;

/// <summary>
/// What one worker has counted for one peer, or for the network where no peer is known.
/// Thread rule: written by its worker only, read by anyone; each value is read whole, but not all at one instant.
/// </summary>
public sealed class PeerCounters
{
    /// <summary>How many drop reasons there are.</summary>
    public static int ReasonCount { get; } = Enum.GetValues<DropReason>().Length;

    private readonly long[] _drops = new long[ReasonCount];
    private long _sentPackets;
    private long _sentBytes;
    private long _receivedPackets;
    private long _receivedBytes;
    private long _lastReceived;
    private long _receivedMessages;
    private long _ecnAnomalies;
    private long _lastMessage;

    /// <summary>Inner packets that the underlay took; of one that was fragmented inside each fragment, of one that was fragmented outside one.</summary>
    public long SentPackets => Volatile.Read(ref _sentPackets);

    /// <summary>Inner bytes that the underlay took.</summary>
    public long SentBytes => Volatile.Read(ref _sentBytes);

    /// <summary>Inner packets that the TUN device took; of those that the kernel has coalesced each, unless it did not tell their size (decision 0005): then one.</summary>
    public long ReceivedPackets => Volatile.Read(ref _receivedPackets);

    /// <summary>Inner bytes that the TUN device took.</summary>
    public long ReceivedBytes => Volatile.Read(ref _receivedBytes);

    /// <summary>Messages of the peer's daemon that were understood; they are neither packets nor drops.</summary>
    public long ReceivedMessages => Volatile.Read(ref _receivedMessages);

    /// <summary>Packets that came with an outer ECN field that nothing should have made of the inner one (<see cref="Wire.Ecn.IsAnomalous"/>); dropped ones too.</summary>
    public long EcnAnomalies => Volatile.Read(ref _ecnAnomalies);

    /// <summary>When the last packet was delivered, in milliseconds of <see cref="Environment.TickCount64"/>; 0 for never.</summary>
    public long LastReceived => Volatile.Read(ref _lastReceived);

    /// <summary>Packets discarded for a reason.</summary>
    public long Drops(DropReason reason) => Volatile.Read(ref _drops[(int)reason]);

    /// <summary>Packets discarded for any reason.</summary>
    public long TotalDrops
    {
        get
        {
            long total = 0;
            for (int i = 0; i < _drops.Length; i++)
            {
                total += Volatile.Read(ref _drops[i]);
            }

            return total;
        }
    }

    /// <summary>Counts packets sent.</summary>
    public void CountSent(int packets, int bytes)
    {
        Volatile.Write(ref _sentPackets, _sentPackets + packets);
        Volatile.Write(ref _sentBytes, _sentBytes + bytes);
    }

    /// <summary>Counts packets delivered.</summary>
    public void CountReceived(int packets, int bytes, long now)
    {
        Volatile.Write(ref _receivedPackets, _receivedPackets + packets);
        Volatile.Write(ref _receivedBytes, _receivedBytes + bytes);
        Volatile.Write(ref _lastReceived, now);
    }

    /// <summary>When the last message was understood, in milliseconds of <see cref="Environment.TickCount64"/>; 0 for never.</summary>
    public long LastMessage => Volatile.Read(ref _lastMessage);

    /// <summary>Counts a message understood.</summary>
    public void CountMessage(long now)
    {
        Volatile.Write(ref _receivedMessages, _receivedMessages + 1);
        Volatile.Write(ref _lastMessage, now);
    }

    /// <summary>Counts an anomaly of the ECN field.</summary>
    public void CountEcnAnomaly() => Volatile.Write(ref _ecnAnomalies, _ecnAnomalies + 1);

    /// <summary>Counts a packet discarded.</summary>
    public void CountDrop(DropReason reason) => CountDrops(reason, 1);

    /// <summary>Counts packets discarded for the same reason.</summary>
    public void CountDrops(DropReason reason, int packets) => Volatile.Write(ref _drops[(int)reason], _drops[(int)reason] + packets);
}
