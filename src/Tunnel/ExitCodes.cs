namespace Tunnel;

/// <summary>How tunneld ends.</summary>
internal static class ExitCodes
{
    /// <summary>As asked.</summary>
    public const int Done = 0;

    /// <summary>Refused or failed; the log says why.</summary>
    public const int Failed = 1;

    /// <summary>The command line is wrong.</summary>
    public const int Usage = 2;

    /// <summary>The configuration is wrong (EX_CONFIG of sysexits.h); systemd is told not to try again.</summary>
    public const int BadConfiguration = 78;
}
