namespace Tunnel.Dataplane;

/// <summary>
/// One queue of the network's TUN device: whole inner IP packets, no link-layer header.
/// Thread rule: one worker calls <see cref="Read"/> and <see cref="Write"/>; no call blocks.
/// </summary>
public interface ITunDevice : IDisposable
{
    /// <summary>The device's name as `ip link` shows it (at most 15 characters).</summary>
    string Name { get; }

    /// <summary>
    /// Fills the batch with the packets that are waiting, at most its capacity, each at <see cref="PacketBatch.SlotStart"/>.
    /// </summary>
    /// <returns>How many there were; 0 where none is waiting, the device is down or gone.</returns>
    int Read(PacketBatch batch);

    /// <summary>
    /// Hands every packet of the batch to the kernel as received on the device, in order, and writes each one's
    /// <see cref="GatherPacket.Result"/>. A refused packet does not keep the others back.
    /// </summary>
    void Write(GatherBatch batch);
}
