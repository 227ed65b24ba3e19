using System.Net;
using System.Net.Sockets;
using System.Text.Json;

namespace Tunnel.Ctl;

/// <summary>What Docker's daemon.json needs on this host: the bridge's address in the container subnet, and the network's MTU.</summary>
internal static class DockerSettings
{
    /// <summary>Writes the settings as JSON.</summary>
    /// <param name="network">GET /v1/network.</param>
    /// <param name="subnet">The container subnet; null for the configured one.</param>
    /// <param name="compact">Whether on one line.</param>
    public static string Write(JsonElement network, IPNetwork? subnet, bool compact)
    {
        string[] configured = [.. network.Member("subnets").Texts()];
        IPNetwork ipv4 = subnet ?? Parse(configured.FirstOrDefault(text => !text.Contains(':', StringComparison.Ordinal)) ?? throw new Failure(
            ExitCode.Failed,
            "this host's container subnet is not configured",
            "name it: tunnelctl docker-config --subnet 172.17.51.0/24; or under subnets: in the network's file"));
        if (ipv4.BaseAddress.AddressFamily != AddressFamily.InterNetwork || ipv4.PrefixLength > 30)
            throw new Failure(ExitCode.Failed, $"{ipv4} is no IPv4 subnet for containers", "as 172.17.51.0/24");

        byte[] bridge = ipv4.BaseAddress.GetAddressBytes();
        bridge[^1]++;
        string? ipv6 = subnet is null ? configured.FirstOrDefault(text => text.Contains(':', StringComparison.Ordinal)) : null;
        JsonElement mtu = network.Member("interface").Member("mtu");
        return Json.Write(
            writer =>
            {
                writer.WriteStartObject();
                writer.WriteString("bip", $"{new IPAddress(bridge)}/{ipv4.PrefixLength}");
                writer.WriteNumber("mtu", mtu.GetInt32());
                if (ipv6 is not null)
                {
                    writer.WriteBoolean("ipv6", true);
                    writer.WriteString("fixed-cidr-v6", ipv6);
                }

                writer.WriteEndObject();
            },
            indented: !compact);
    }

    /// <summary>Reads the value of --subnet.</summary>
    /// <exception cref="Failure">It is no subnet.</exception>
    public static IPNetwork Parse(string text) => IPNetwork.TryParse(text, out IPNetwork network)
        ? network
        : throw new Failure(ExitCode.Usage, $"--subnet does not take '{text}'", "--subnet CIDR, as 172.17.51.0/24");
}
