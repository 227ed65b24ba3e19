using System.Net;
using System.Net.Sockets;
using Tunnel.Wire;

namespace Tunnel.Control;

/// <summary>Turns an endpoint's text into an underlay address: a literal as it is, a name by the system's resolver.</summary>
internal sealed class EndpointResolver
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(3);

    /// <summary>Resolves an endpoint's host.</summary>
    /// <param name="host">An address or a DNS name.</param>
    /// <param name="families">Which families this host has a local address of; the first address of one of them is taken.</param>
    /// <returns>The address, or why there is none.</returns>
    public static async Task<(InetAddress Address, string? Problem)> ResolveAsync(string host, Func<InetAddress, bool> families)
    {
        if (InetAddress.TryParse(host, out InetAddress literal))
        {
            return (literal, null);
        }

        try
        {
            using var patience = new CancellationTokenSource(Patience);
            IPAddress[] found = await Dns.GetHostAddressesAsync(host, patience.Token);
            InetAddress[] addresses = [.. found.Select(InetAddress.From)];
            InetAddress usable = addresses.FirstOrDefault(families, addresses.FirstOrDefault());
            return usable.IsNone ? (usable, $"endpoint {host} has no address") : (usable, null);
        }
        catch (SocketException failure)
        {
            return (InetAddress.None, $"endpoint {host} does not resolve: {failure.Message}");
        }
        catch (OperationCanceledException)
        {
            return (InetAddress.None, $"endpoint {host} does not resolve: no answer within {Patience.TotalSeconds} s");
        }
    }
}
