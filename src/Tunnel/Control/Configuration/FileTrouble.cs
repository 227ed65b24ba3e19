namespace Tunnel.Control.Configuration;

/// <summary>
/// Says in plain words why the system refused a file operation. The framework's own messages may be left out of the build
/// (UseSystemResourceKeys).
/// </summary>
internal static class FileTrouble
{
    /// <summary>Whether the exception is the system's refusal of a file operation.</summary>
    public static bool Is(Exception exception) => exception is IOException or UnauthorizedAccessException;

    /// <summary>The cause, as "no space left on the device".</summary>
    public static string Reason(Exception exception) => exception switch
    {
        FileNotFoundException or DirectoryNotFoundException => "no such file or directory",
        PathTooLongException => "the path is too long",
        UnauthorizedAccessException => "no permission",
        _ => exception.HResult switch
        {
            // errno(3); the framework hands it on where it has no exception of its own for it.
            5 => "the device reports an error",
            12 => "out of memory",
            17 => "it exists already",
            20 => "a part of the path is a file, not a directory",
            21 => "it is a directory",
            23 or 24 => "too many open files",
            27 => "the file is too large",
            28 => "no space left on the device",
            30 => "the file system is read-only",
            36 => "the name is too long",
            40 => "too many symbolic links",
            122 => "the disk quota is used up",
            _ => ConfigText.OneLine(exception.Message),
        },
    };
}
