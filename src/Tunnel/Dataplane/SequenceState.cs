namespace Tunnel.Dataplane;

/// <summary>
/// The sequence numbers of one peer under one key (RFC 2890 section 2.2): what to send next and what was received last.
/// Thread rule: used by the peer's worker only.
/// </summary>
public sealed class SequenceState
{
    // A sender that restarted begins at 0 and would be taken for old during up to 2^31 packets (the RFC has no cure). So an unbroken
    // run of numbers, each one above the other and all far behind the last accepted one, counts as a restart. Duplicates and
    // reordering come close behind, or with accepted packets between them, and don't look like that.
    private const int RestartRun = 4;
    private const int RestartDistance = 64;

    private uint _nextToSend;
    private uint _lastReceived;
    private bool _hasReceived;
    private uint _lastOld;
    private int _oldRun;

    /// <summary>The number for the next packet; the first is 0.</summary>
    public uint NextToSend() => _nextToSend++;

    /// <summary>Judges a received number and remembers it.</summary>
    /// <param name="sequence">The number, host order.</param>
    /// <returns>False where the packet is a duplicate or older than one already accepted, and must be discarded. A gap is accepted at once.</returns>
    public bool Accept(uint sequence)
    {
        // A value in [last - (2^31 - 1), last] is old.
        uint behind = _lastReceived - sequence;
        if (_hasReceived && behind < 0x8000_0000u && !IsRestart(sequence, behind))
        {
            return false;
        }

        _hasReceived = true;
        _lastReceived = sequence;
        _oldRun = 0;
        return true;
    }

    private bool IsRestart(uint sequence, uint behind)
    {
        bool continues = _oldRun > 0 && sequence == _lastOld + 1;
        _oldRun = behind < RestartDistance ? 0 : continues ? _oldRun + 1 : 1;
        _lastOld = sequence;
        return _oldRun >= RestartRun;
    }
}
