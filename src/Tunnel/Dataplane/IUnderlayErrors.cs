using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>An ICMP or ICMPv6 error that this host received.</summary>
/// <param name="Router">Who sent it.</param>
/// <param name="IsIpv6">Whether it is ICMPv6.</param>
/// <param name="Type">Its type.</param>
/// <param name="Code">Its code.</param>
/// <param name="Parameter">The four bytes after the checksum, host order: for Fragmentation Needed (lower half) and Packet Too Big the MTU.</param>
/// <param name="Quoted">The packet that caused it, from its IP header, as much as was quoted: a copy.</param>
public readonly record struct UnderlayError(InetAddress Router, bool IsIpv6, byte Type, byte Code, uint Parameter, ReadOnlyMemory<byte> Quoted);

/// <summary>
/// The ICMP errors that reach this host, whatever they are about: Destination Unreachable, Packet Too Big, Time Exceeded, Parameter Problem.
/// Nobody has checked what they quote. One reader at a time.
/// </summary>
public interface IUnderlayErrors : IDisposable
{
    /// <summary>Waits for the next.</summary>
    ValueTask<UnderlayError> ReadAsync(CancellationToken cancellationToken);
}

/// <summary>Hands single packets to the kernel as if they had come from the TUN device's far end. Any thread.</summary>
public interface ITunInjector
{
    /// <summary>Hands over a packet.</summary>
    /// <param name="packet">A whole IP packet, checksums complete.</param>
    /// <returns>Whether the device took it.</returns>
    bool Inject(ReadOnlySpan<byte> packet);
}
