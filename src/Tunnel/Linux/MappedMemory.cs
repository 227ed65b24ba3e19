using Tunnel.Dataplane;

namespace Tunnel.Linux;

/// <summary>Memory that the kernel shares with this process: mmap(2).</summary>
internal sealed unsafe class MappedMemory : PacketMemory, IDisposable
{
    private readonly byte* _address;
    private readonly int _length;
    private bool _isUnmapped;

    private MappedMemory(byte* address, int length)
    {
        _address = address;
        _length = length;
    }

    /// <summary>Where it lies; valid until it is disposed of.</summary>
    public byte* Address => _address;

    /// <summary>Maps a descriptor's memory for reading and writing.</summary>
    /// <param name="fd">The descriptor.</param>
    /// <param name="length">How much, in bytes.</param>
    /// <param name="memory">The memory; null where the result is an error.</param>
    public static SysResult Map(int fd, int length, out MappedMemory? memory)
    {
        nint address = Uapi.mmap(null, (nuint)length, Uapi.PROT_READ | Uapi.PROT_WRITE, Uapi.MAP_SHARED, fd, 0);
        memory = address == -1 ? null : new MappedMemory((byte*)address, length);
        return SysResult.From(address == -1 ? -1 : 0);
    }

    /// <inheritdoc/>
    public override Span<byte> Slice(int offset, int length)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((ulong)(uint)offset + (uint)length, (ulong)_length, nameof(length));
        return new Span<byte>(_address + offset, length);
    }

    /// <summary>Unmaps it. Nobody may use it any more.</summary>
    public void Dispose()
    {
        if (!_isUnmapped)
        {
            _isUnmapped = true;
            _ = Uapi.munmap(_address, (nuint)_length);
        }
    }
}
