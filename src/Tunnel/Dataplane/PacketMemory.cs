namespace Tunnel.Dataplane;

/// <summary>
/// A block of bytes that packets live in and that system calls read and write in place. It never moves, so an address taken from it
/// stays true. Thread rule: owned by one worker; whoever shares a slice of it says until when the bytes stay valid.
/// </summary>
public abstract class PacketMemory
{
    /// <summary>A part of the block; the usual range checks apply.</summary>
    /// <param name="offset">Where it begins, in bytes.</param>
    /// <param name="length">How long it is, in bytes.</param>
    public abstract Span<byte> Slice(int offset, int length);
}

/// <summary>Packet memory of the process's own, pinned for its whole life; nothing on the packet's way allocates after it.</summary>
public sealed class PinnedPacketMemory : PacketMemory
{
    /// <summary>Takes a block from the pinned object heap; pages are touched only when used, so reserving room is free.</summary>
    /// <param name="length">Size in bytes.</param>
    public PinnedPacketMemory(int length) => Array = GC.AllocateUninitializedArray<byte>(length, pinned: true);

    /// <summary>The pinned bytes.</summary>
    public byte[] Array { get; }

    /// <inheritdoc/>
    public override Span<byte> Slice(int offset, int length) => Array.AsSpan(offset, length);
}

/// <summary>A run of bytes in a <see cref="PacketMemory"/>: what one iovec will describe.</summary>
/// <param name="Memory">The block.</param>
/// <param name="Offset">Where the run begins, in bytes.</param>
/// <param name="Length">How long it is, in bytes.</param>
public readonly record struct Piece(PacketMemory Memory, int Offset, int Length)
{
    /// <summary>The bytes.</summary>
    public Span<byte> Span => Memory.Slice(Offset, Length);
}
