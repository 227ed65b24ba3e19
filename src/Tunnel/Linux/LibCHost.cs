using System.Runtime.InteropServices;

namespace Tmds.Linux;

/// <summary>Files: what <c>UnixFiles</c> needs beyond LibC.cs.</summary>
internal static unsafe partial class LibC
{
    public static int ENOTDIR => 20;

    /// <summary>chmod(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial int chmod(byte* path, mode_t mode);

    /// <summary>mkdir(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial int mkdir(byte* path, mode_t mode);

    /// <summary>fsync(2)</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial int fsync(int fd);
}
