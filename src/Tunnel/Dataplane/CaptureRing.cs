namespace Tunnel.Dataplane;

/// <summary>A packet that was captured.</summary>
/// <param name="IsReceived">Whether it came from a peer, rather than from this host.</param>
/// <param name="Peer">The peer; null where none is known.</param>
/// <param name="Reason">Why it was dropped; null where it was not.</param>
/// <param name="Length">Its length in bytes.</param>
/// <param name="Captured">How many of them were captured.</param>
/// <param name="Time">When, in ticks of <see cref="DateTime.UtcNow"/>.</param>
public readonly record struct CapturedPacket(bool IsReceived, Peer? Peer, DropReason? Reason, int Length, int Captured, long Time);

/// <summary>
/// Takes copies of one worker's inner packets to whoever watches. What finds no room is counted and left out, so that no packet waits. Exists while a
/// capture runs only. Thread rule: the worker adds, one other thread takes; adding neither locks nor allocates.
/// </summary>
/// <param name="snapLength">How many bytes of a packet are taken at most.</param>
public sealed class CaptureRing(int snapLength)
{
    private const int MostPackets = 8192;
    private const int MostBytes = 1 << 20;

    private readonly CapturedPacket[] _packets = new CapturedPacket[MostPackets];
    private readonly byte[] _bytes = new byte[MostBytes];
    private long _added;
    private long _taken;
    private long _bytesAdded;
    private long _bytesTaken;
    private long _missed;

    /// <summary>How many packets found no room.</summary>
    public long Missed => Volatile.Read(ref _missed);

    /// <summary>Adds a packet. Its worker only.</summary>
    /// <param name="isReceived">Whether it came from a peer.</param>
    /// <param name="peer">The peer; null where none is known.</param>
    /// <param name="reason">Why it was dropped; null where it was not.</param>
    /// <param name="packet">Its bytes from the IP header on.</param>
    public void Add(bool isReceived, Peer? peer, DropReason? reason, ReadOnlySpan<byte> packet)
    {
        int captured = Math.Min(packet.Length, snapLength);
        if (_added - Volatile.Read(ref _taken) == MostPackets || _bytesAdded + captured - Volatile.Read(ref _bytesTaken) > MostBytes)
        {
            Volatile.Write(ref _missed, _missed + 1);
            return;
        }

        int start = (int)(_bytesAdded % MostBytes);
        int whole = Math.Min(captured, MostBytes - start);
        packet[..whole].CopyTo(_bytes.AsSpan(start));
        packet[whole..captured].CopyTo(_bytes);
        _packets[_added % MostPackets] = new CapturedPacket(isReceived, peer, reason, packet.Length, captured, DateTime.UtcNow.Ticks);
        _bytesAdded += captured;
        Volatile.Write(ref _added, _added + 1);
    }

    /// <summary>Takes the packet that has waited longest. One thread at a time.</summary>
    /// <param name="packet">The packet.</param>
    /// <param name="bytes">Gets its bytes.</param>
    /// <returns>False where none waits.</returns>
    public bool TryTake(out CapturedPacket packet, out byte[] bytes)
    {
        if (Volatile.Read(ref _added) == _taken)
        {
            (packet, bytes) = (default, []);
            return false;
        }

        packet = _packets[_taken % MostPackets];
        _packets[_taken % MostPackets] = default;
        bytes = new byte[packet.Captured];
        int start = (int)(_bytesTaken % MostBytes);
        int whole = Math.Min(bytes.Length, MostBytes - start);
        _bytes.AsSpan(start, whole).CopyTo(bytes);
        _bytes.AsSpan(0, bytes.Length - whole).CopyTo(bytes.AsSpan(whole));
        Volatile.Write(ref _bytesTaken, _bytesTaken + bytes.Length);
        Volatile.Write(ref _taken, _taken + 1);
        return true;
    }
}

/// <summary>Where the workers look once a batch whether anybody watches their packets. Thread rule: any thread.</summary>
public sealed class CaptureTap
{
    private CaptureRing[]? _rings;
    private readonly Lock _lock = new();

    /// <summary>A worker's ring; null while nobody watches.</summary>
    /// <param name="worker">The worker's number.</param>
    public CaptureRing? RingOf(int worker) => Volatile.Read(ref _rings)?[worker];

    /// <summary>Begins a capture.</summary>
    /// <param name="workers">How many workers there are.</param>
    /// <param name="snapLength">How many bytes of a packet are taken at most.</param>
    /// <returns>The rings, one for each worker; null where a capture runs already.</returns>
    public CaptureRing[]? TryStart(int workers, int snapLength)
    {
        lock (_lock)
        {
            if (_rings is not null)
            {
                return null;
            }

            CaptureRing[] rings = [.. Enumerable.Range(0, workers).Select(_ => new CaptureRing(snapLength))];
            Volatile.Write(ref _rings, rings);
            return rings;
        }
    }

    /// <summary>Ends the capture. A worker may still finish the batch that it is at.</summary>
    public void Stop()
    {
        lock (_lock)
        {
            Volatile.Write(ref _rings, null);
        }
    }
}
