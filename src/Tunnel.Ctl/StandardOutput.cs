using Microsoft.Win32.SafeHandles;

namespace Tunnel.Ctl;

/// <summary>Standard output as a stream that tells when nobody reads it any more.</summary>
internal static class StandardOutput
{
    // errno(3).
    private const int EPIPE = 32;

    /// <summary>Opens it. Unbuffered; what can't be written is an <see cref="IOException"/>.</summary>
    public static Stream Open()
    {
        try
        {
            // The framework's own stream takes EPIPE for success, so that whoever writes on and on would never end. That of files, in turn, writes to a
            // place of its own in a regular file, over what others write there, and does not wait where writing would block.
            var handle = new SafeFileHandle(1, ownsHandle: false);
            if (!handle.IsAsync && new FileStream(handle, FileAccess.Write, bufferSize: 0) is { CanSeek: false } pipe)
                return pipe;
        }
        catch (Exception closed) when (closed is IOException or UnauthorizedAccessException or ArgumentException)
        {
            // What is wrong is told by the first write.
        }

        return Console.OpenStandardOutput();
    }

    /// <summary>Whether a write has failed because the other end of the pipe is closed.</summary>
    public static bool HasNoReader(IOException failure) => failure.HResult == EPIPE;
}
