using Microsoft.Win32.SafeHandles;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// An open file descriptor, closed once. <see cref="Number"/> is for the thread that owns the object and disposes of it; another
/// thread holds it first, so that the number can't be closed and given to another file meanwhile.
/// </summary>
internal sealed class FileDescriptor : SafeHandleMinusOneIsInvalid
{
    /// <summary>Takes over an open descriptor.</summary>
    public FileDescriptor(int number)
        : base(ownsHandle: true) => SetHandle(number);

    /// <summary>The descriptor's number.</summary>
    public int Number => (int)handle;

    /// <summary>Keeps it open until <see cref="System.Runtime.InteropServices.SafeHandle.DangerousRelease"/>; false where it is closed already.</summary>
    public bool TryHold()
    {
        bool held = false;
        try
        {
            DangerousAddRef(ref held);
        }
        catch (ObjectDisposedException)
        {
            // What the answer says.
        }

        return held;
    }

    /// <summary>Closes it. On Linux the number is free after close(2) whatever that returns.</summary>
    protected override bool ReleaseHandle() => close((int)handle) == 0;
}
