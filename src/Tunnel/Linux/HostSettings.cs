using System.Net.NetworkInformation;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Linux;

/// <summary>The settings in /proc/sys, and ICMP.</summary>
internal sealed class HostSettings : IHostSettings
{
    /// <inheritdoc/>
    public string? Read(string name)
    {
        try
        {
            return File.ReadLines(Path.Combine("/proc/sys", name)).FirstOrDefault();
        }
        catch (Exception refused) when (refused is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <inheritdoc/>
    public async Task<bool?> AnswersAsync(InetAddress address, TimeSpan patience)
    {
        try
        {
            using var ping = new Ping();
            PingReply reply = await ping.SendPingAsync(address.ToIPAddress(), patience);
            return reply.Status == IPStatus.Success;
        }
        catch (Exception refused) when (refused is PingException or PlatformNotSupportedException)
        {
            return null;
        }
    }
}
