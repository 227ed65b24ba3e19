namespace Tunnel.Wire;

/// <summary>An address and a prefix length, as in 172.17.51.0/24. Host bits may be set (an interface's address) or not (a route's destination).</summary>
/// <param name="Address">The address.</param>
/// <param name="Length">Prefix length in bits: 0 to 32 for IPv4, 0 to 128 for IPv6.</param>
public readonly record struct IpPrefix(InetAddress Address, int Length) : IComparable<IpPrefix>
{
    /// <summary>fe80::/10, the addresses that IPv6 gives every link (RFC 4291 section 2.5.6).</summary>
    public static readonly IpPrefix Ipv6LinkLocal = new(new InetAddress((UInt128)0xfe80 << 112), 10);

    /// <summary>The longest prefix of the address's family: 32 or 128.</summary>
    public int MaxLength => Address.IsIpv4 ? 32 : 128;

    /// <summary>The same prefix with all host bits cleared.</summary>
    public IpPrefix Network => new(new InetAddress(Address.Bits & Mask(BitLength)), Length);

    /// <summary>Whether no host bit is set.</summary>
    public bool IsNetwork => Network == this;

    // Counted from the top of the 128-bit form, in which IPv4 begins at bit 96.
    private int BitLength => Address.IsIpv4 ? Length + 96 : Length;

    /// <summary>Whether the address lies in this prefix; false where the families differ.</summary>
    public bool Contains(InetAddress address) =>
        address.IsIpv4 == Address.IsIpv4 && ((address.Bits ^ Address.Bits) & Mask(BitLength)) == UInt128.Zero;

    /// <summary>Whether every address of the other prefix lies in this one.</summary>
    public bool Contains(IpPrefix other) => other.Length >= Length && Contains(other.Address);

    /// <summary>Parses "ADDRESS/LENGTH".</summary>
    /// <param name="text">The text; a bare address is refused, since its prefix length could only be guessed, and so is an IPv4-mapped one.</param>
    /// <param name="prefix">The prefix as written, host bits kept.</param>
    public static bool TryParse(string? text, out IpPrefix prefix)
    {
        prefix = default;
        int slash = text?.IndexOf('/', StringComparison.Ordinal) ?? -1;
        if (slash < 0 || !InetAddress.TryParse(text![..slash], out InetAddress address))
        {
            return false;
        }

        ReadOnlySpan<char> digits = text.AsSpan(slash + 1);
        if (digits.Length is 0 or > 3 || digits.ContainsAnyExceptInRange('0', '9') || (digits.Length > 1 && digits[0] == '0'))
        {
            return false;
        }

        // The length of "::ffff:10.0.0.0/104" counts from the IPv6 form's first bit, that of "10.0.0.0/8" from the IPv4 form's.
        if (address.IsIpv4 && text.Contains(':', StringComparison.Ordinal))
        {
            return false;
        }

        prefix = new IpPrefix(address, int.Parse(digits));
        return prefix.Length <= prefix.MaxLength;
    }

    /// <summary>Orders by address, shorter prefixes first.</summary>
    public int CompareTo(IpPrefix other)
    {
        int byAddress = Address.CompareTo(other.Address);
        return byAddress != 0 ? byAddress : Length.CompareTo(other.Length);
    }

    /// <summary>"ADDRESS/LENGTH".</summary>
    public override string ToString() => $"{Address}/{Length}";

    private static UInt128 Mask(int bits) => bits == 0 ? UInt128.Zero : UInt128.MaxValue << (128 - bits);
}
