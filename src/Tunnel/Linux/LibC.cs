using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;

namespace Tmds.Linux;

/// <summary>
/// The C library's functions, constants and structures in use, under C's own names and in the shapes of the package Tmds.LibC,
/// which takes the place of the LibC*.cs files when the build is told <c>-p:UseTmdsLibC=true</c>. Nothing may be added here that
/// version 0.5.0 of the package does not have in the same shape: that belongs to <see cref="global::Tunnel.Linux.Uapi"/>. As in the package,
/// constants are static properties. A test compares every value, size and offset with the system's headers.
/// The values hold for 64-bit little-endian Linux (x86-64, arm64).
/// </summary>
[SuppressMessage("ApiDesign", "RS0030", Justification = "The generated half of the class lies outside the folder that the ban leaves out.")]
internal static unsafe partial class LibC
{
    private const string Library = "libc";

    /// <summary>The errno of the last call made by this thread that sets it (all but poll and geteuid).</summary>
    public static int errno => Marshal.GetLastPInvokeError();

    public static int O_RDONLY => 0;
    public static int O_RDWR => 2;
    public static int O_NONBLOCK => 0x800;
    public static int O_CLOEXEC => 0x80000;

    public static short POLLIN => 0x001;
    public static short POLLOUT => 0x004;

    public static int EFD_CLOEXEC => 0x80000;
    public static int EFD_NONBLOCK => 0x800;

    /// <summary>open(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial int open(byte* pathname, int flags, mode_t mode = default);

    /// <summary>close(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial int close(int fd);

    /// <summary>write(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial ssize_t write(int fd, void* buf, size_t count);

    /// <summary>ioctl(2)</summary>
    public static int ioctl(int fd, int request, int arg) => Ioctl(fd, (uint)request, arg);

    /// <summary>ioctl(2)</summary>
    public static int ioctl(int fd, int request, void* arg) => Ioctl(fd, (uint)request, (nint)arg);

    /// <summary>poll(2); leaves <see cref="errno"/> alone.</summary>
    [LibraryImport(Library)]
    public static partial int poll(pollfd* fds, ulong_t nfds, int timeout);

    /// <summary>eventfd(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial int eventfd(uint initval, int flags);

    /// <summary>chown(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial int chown(byte* path, uid_t owner, gid_t group);

    /// <summary>geteuid(2)</summary>
    [LibraryImport(Library)]
    public static partial uid_t geteuid();

    [LibraryImport(Library, EntryPoint = "ioctl", SetLastError = true)]
    private static partial int Ioctl(int fd, nuint request, nint arg);
}
