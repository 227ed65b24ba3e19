using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Tunnel.Dataplane;

namespace Tunnel.Linux;

/// <summary>Structures that the kernel reads and writes, made once, zeroed, and never moved.</summary>
internal sealed unsafe class PinnedArray<T>
    where T : unmanaged
{
    private readonly T[] _array;

    /// <summary>Makes the array.</summary>
    public PinnedArray(int length)
    {
        _array = GC.AllocateArray<T>(length, pinned: true);
        Address = (T*)Unsafe.AsPointer(ref MemoryMarshal.GetArrayDataReference(_array));
    }

    /// <summary>Where it lies; valid while the array is referenced.</summary>
    public T* Address { get; }

    /// <summary>How many there are.</summary>
    public int Length => _array.Length;
}

/// <summary>Addresses of packet memory, for iovecs.</summary>
internal static unsafe class PinnedMemory
{
    /// <summary>The address of a run of bytes after the usual range check; valid while the memory is referenced, since it is pinned.</summary>
    public static void* Address(PacketMemory memory, int offset, int length) =>
        Unsafe.AsPointer(ref MemoryMarshal.GetReference(memory.Slice(offset, length)));
}
