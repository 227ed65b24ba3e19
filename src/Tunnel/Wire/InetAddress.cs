using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;

namespace Tunnel.Wire;

/// <summary>
/// An IPv4 or IPv6 address as a value: no allocation, cheap to compare and to hash. IPv4 is held in its IPv4-mapped form
/// (RFC 4291 section 2.5.5.2), so that one number names an address of either family.
/// </summary>
/// <param name="Bits">The 128 address bits, most significant first (::ffff:a.b.c.d for IPv4).</param>
public readonly record struct InetAddress(UInt128 Bits) : IComparable<InetAddress>
{
    private static readonly UInt128 MappedPrefix = (UInt128)0xffff << 32;

    /// <summary>:: or "no address".</summary>
    public static InetAddress None => default;

    /// <summary>Whether this is an IPv4 address.</summary>
    public bool IsIpv4 => Bits >> 32 == 0xffff;

    /// <summary>Whether this is an IPv6 address; false for <see cref="None"/>.</summary>
    public bool IsIpv6 => !IsIpv4 && Bits != UInt128.Zero;

    /// <summary>Whether this is <see cref="None"/>.</summary>
    public bool IsNone => Bits == UInt128.Zero;

    /// <summary>The IPv4 address in host byte order; meaningless where <see cref="IsIpv4"/> is false.</summary>
    public uint Ipv4 => (uint)Bits;

    /// <summary>Makes an IPv4 address from its 32 bits in host byte order.</summary>
    public static InetAddress FromIpv4(uint address) => new(MappedPrefix | address);

    /// <summary>Reads an address in network byte order.</summary>
    /// <param name="bytes">4 bytes (IPv4) or 16 bytes (IPv6).</param>
    /// <exception cref="ArgumentException">The span is of another length.</exception>
    public static InetAddress Read(ReadOnlySpan<byte> bytes) => bytes.Length switch
    {
        4 => FromIpv4(BinaryPrimitives.ReadUInt32BigEndian(bytes)),
        16 => new(BinaryPrimitives.ReadUInt128BigEndian(bytes)),
        _ => throw new ArgumentException("an address has 4 or 16 bytes", nameof(bytes)),
    };

    /// <summary>Writes the address in network byte order and returns the bytes written: 4 for IPv4, else 16.</summary>
    public int Write(Span<byte> destination)
    {
        if (IsIpv4)
        {
            BinaryPrimitives.WriteUInt32BigEndian(destination, Ipv4);
            return 4;
        }

        BinaryPrimitives.WriteUInt128BigEndian(destination, Bits);
        return 16;
    }

    /// <summary>Converts from the framework's type; an IPv4-mapped address counts as IPv4.</summary>
    public static InetAddress From(IPAddress address)
    {
        Span<byte> bytes = stackalloc byte[16];
        address.TryWriteBytes(bytes, out int length);
        return Read(bytes[..length]);
    }

    /// <summary>Converts to the framework's type.</summary>
    public IPAddress ToIPAddress()
    {
        Span<byte> bytes = stackalloc byte[16];
        return new IPAddress(bytes[..Write(bytes)]);
    }

    /// <summary>The framework's name of the family.</summary>
    public AddressFamily Family => IsIpv4 ? AddressFamily.InterNetwork : AddressFamily.InterNetworkV6;

    /// <summary>Parses dotted-quad IPv4 or RFC 4291 text; no zone, no abbreviated IPv4 ("10.1"), no surrounding space.</summary>
    public static bool TryParse(string? text, out InetAddress address)
    {
        address = None;
        if (string.IsNullOrEmpty(text) || text.Contains('%', StringComparison.Ordinal) || text.Contains('[', StringComparison.Ordinal) ||
            !IPAddress.TryParse(text, out IPAddress? parsed))
        {
            return false;
        }

        // IPAddress also takes "10.1", "0x0a000001" and octal parts; people who write those have made a mistake.
        if (parsed.AddressFamily == AddressFamily.InterNetwork && parsed.ToString() != text)
        {
            return false;
        }

        address = From(parsed);
        return true;
    }

    /// <summary>Orders by family, then by number.</summary>
    public int CompareTo(InetAddress other)
    {
        int byFamily = IsIpv6.CompareTo(other.IsIpv6);
        return byFamily != 0 ? byFamily : Bits.CompareTo(other.Bits);
    }

    /// <summary>The usual text form: dotted quad, or RFC 5952.</summary>
    public override string ToString() => ToIPAddress().ToString();
}
