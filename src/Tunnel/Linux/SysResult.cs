using System.Runtime.InteropServices;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>What a system call returned: a value of 0 or more, or an errno.</summary>
internal readonly struct SysResult
{
    // The kernel's own convention: negative is an errno.
    private readonly int _value;

    private SysResult(int value) => _value = value;

    /// <summary>What the call returned; meaningless where <see cref="IsError"/> is true.</summary>
    public int Value => _value;

    /// <summary>Whether the call failed.</summary>
    public bool IsError => _value < 0;

    /// <summary>The errno, positive; 0 where the call succeeded.</summary>
    public int Errno => _value < 0 ? -_value : 0;

    /// <summary>Whether a non-blocking call found nothing to do at once (EAGAIN, which is EWOULDBLOCK on Linux).</summary>
    public bool WouldBlock => Errno == EAGAIN;

    /// <summary>Whether a signal interrupted the call before it did anything (EINTR); only <see cref="Sys"/> needs to know.</summary>
    public bool IsInterrupted => Errno == EINTR;

    /// <summary>The errno in words, as strerror(3) has it.</summary>
    public string Reason => Marshal.GetPInvokeErrorMessage(Errno);

    /// <summary>Takes what the C library returned, and errno where that was negative. Call it before anything else sets errno.</summary>
    public static SysResult From(long returned) => new(returned < 0 ? -errno : (int)returned);
}
