using System.Net;
using System.Net.Sockets;
using Tunnel.Wire;

namespace Tunnel.Control;

/// <summary>What a name came to.</summary>
/// <param name="Address">The address; none where there is none.</param>
/// <param name="Problem">Why there is none, for people; null where there is one.</param>
/// <param name="All">All that would do, where a name has several: name servers tell them in turns.</param>
internal readonly record struct Resolution(InetAddress Address, string? Problem, IReadOnlyList<InetAddress>? All = null);

/// <summary>Turns DNS names into underlay addresses by the system's resolver, all of them at once. Thread-safe, keeps nothing.</summary>
internal static class EndpointResolver
{
    /// <summary>Resolves names. Takes no longer than <paramref name="patience"/>, however many they are.</summary>
    /// <param name="names">The names.</param>
    /// <param name="isUsable">Whether this host can send to an address of that family; the first such address is taken, else the first.</param>
    /// <param name="patience">How long to wait for answers.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    public static async Task<IReadOnlyDictionary<string, Resolution>> ResolveAsync(
        IEnumerable<string> names,
        Func<InetAddress, bool> isUsable,
        TimeSpan patience,
        CancellationToken cancellationToken)
    {
        string[] all = [.. names.Distinct(StringComparer.Ordinal)];
        Resolution[] found = await Task.WhenAll(all.Select(name => ResolveAsync(name, isUsable, patience, cancellationToken)));
        return all.Zip(found).ToDictionary(pair => pair.First, pair => pair.Second, StringComparer.Ordinal);
    }

    private static async Task<Resolution> ResolveAsync(
        string name, Func<InetAddress, bool> isUsable, TimeSpan patience, CancellationToken cancellationToken)
    {
        try
        {
            // The system's resolver does not always heed cancellation; who waits for it does.
            IPAddress[] found = await Dns.GetHostAddressesAsync(name, cancellationToken).WaitAsync(patience, cancellationToken);
            InetAddress[] addresses = [.. found.Select(InetAddress.From)];
            InetAddress[] usable = [.. addresses.Where(isUsable)];
            InetAddress chosen = usable.FirstOrDefault(addresses.FirstOrDefault());
            return new Resolution(chosen, chosen.IsNone ? $"endpoint {name} has no address" : null, usable);
        }
        catch (SocketException failure)
        {
            return new Resolution(InetAddress.None, $"endpoint {name} does not resolve: {failure.Message}");
        }
        catch (TimeoutException)
        {
            return new Resolution(InetAddress.None, $"endpoint {name} does not resolve: no answer within {patience.TotalSeconds} s");
        }
    }
}
