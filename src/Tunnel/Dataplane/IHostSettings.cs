using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>The kernel's settings for this process's network namespace, and whether other hosts are there. Any thread.</summary>
public interface IHostSettings
{
    /// <summary>Reads a setting of sysctl(8).</summary>
    /// <param name="name">Its name with slashes, as a device may have dots in its own: net/ipv4/conf/eth0.5/forwarding.</param>
    /// <returns>Its first line; null where it does not exist or can't be read.</returns>
    string? Read(string name);

    /// <summary>Whether a host answers an ICMP echo request on the underlay.</summary>
    /// <param name="address">The host.</param>
    /// <param name="patience">How long to wait.</param>
    /// <returns>Null where this host can't ask.</returns>
    Task<bool?> AnswersAsync(InetAddress address, TimeSpan patience);
}
