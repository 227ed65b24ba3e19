namespace Tunnel.Dataplane;

/// <summary>
/// Which encapsulations this host receives; sockets are opened and closed for it. Thread rule: the control plane calls, one call at a
/// time; workers follow with their next batch.
/// </summary>
public interface IUnderlayReception
{
    /// <summary>
    /// Changes what is received: all or nothing. Asking for what is received already changes nothing and can't fail; nor can asking for less.
    /// </summary>
    /// <param name="gre">Whether plain GRE is received.</param>
    /// <param name="greUdp">Whether GRE-in-UDP is received (RFC 8086), and so can be sent.</param>
    /// <exception cref="UnderlayException">A socket can't be opened, as where another process has the UDP port; what was received before still is.</exception>
    void Accept(bool gre, bool greUdp);
}

/// <summary>The underlay can't be used as asked.</summary>
/// <param name="message">What, and why; one line.</param>
/// <param name="hint">The cure, one line.</param>
public sealed class UnderlayException(string message, string hint) : Exception(message)
{
    /// <summary>The cure, one line.</summary>
    public string Hint { get; } = hint;
}
