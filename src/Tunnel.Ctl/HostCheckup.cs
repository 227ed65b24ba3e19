using System.Text.Json;

namespace Tunnel.Ctl;

/// <summary>What doctor can see of a host whose daemon does not answer. The findings look like the daemon's.</summary>
internal static class HostCheckup
{
    /// <summary>Looks.</summary>
    /// <param name="read">Reads a file; null where there is none.</param>
    public static JsonElement Look(Func<string, string?> read) => JsonElement.Parse(Json.WriteBytes(writer =>
    {
        writer.WriteStartArray();
        if (IsOff("/proc/sys/net/ipv4/ip_forward"))
            Write("ip-forward", "warning", "net.ipv4.ip_forward is 0: this host forwards nothing between containers and a network", "sysctl -w net.ipv4.ip_forward=1");

        if (IsOff("/proc/sys/net/ipv6/conf/all/forwarding"))
            Write("ip-forward", "warning", "net.ipv6.conf.all.forwarding is 0: this host forwards no IPv6 between containers and a network", "sysctl -w net.ipv6.conf.all.forwarding=1");

        // Minor number and name of each driver: proc(5).
        if (read("/proc/misc") is { } drivers && !drivers.Split('\n').Any(line => line.EndsWith(" tun", StringComparison.Ordinal)))
            Write("tun", "warning", "the kernel's tun driver is not loaded: tunneld can't make its device unless opening /dev/net/tun loads it", "modprobe tun");

        writer.WriteEndArray();

        bool IsOff(string file) => read(file)?.Trim() == "0";

        void Write(string check, string severity, string finding, string cure)
        {
            writer.WriteStartObject();
            writer.WriteString("check", check);
            writer.WriteString("severity", severity);
            writer.WriteNull("peer");
            writer.WriteString("finding", finding);
            writer.WriteString("cure", cure);
            writer.WriteEndObject();
        }
    }));
}
