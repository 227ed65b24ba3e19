using System.Buffers;
using System.Globalization;
using System.Net;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Configuration;

/// <summary>Why a text is not a value, and the cure.</summary>
internal sealed record Fault(string Message, string? Hint);

/// <summary>A value, or the <see cref="Fault"/> for which there is none.</summary>
internal readonly struct Parsed<T>
{
    private Parsed(T? value, Fault? fault)
    {
        Value = value;
        Fault = fault;
    }

    /// <summary>The value; meaningless where there is a fault.</summary>
    public T? Value { get; }

    /// <summary>What is wrong; null where there is a value.</summary>
    public Fault? Fault { get; }

    public static implicit operator Parsed<T>(T value) => new(value, null);

    public static implicit operator Parsed<T>(Fault fault) => new(default, fault);
}

/// <summary>
/// What each setting's text means: one vocabulary for YAML, JSON and the command line (whose texts arrive as JSON strings).
/// Every method takes the text as written and is pure.
/// </summary>
internal static class ConfigValues
{
    /// <summary>IFNAMSIZ less its terminator (netdevice(7)).</summary>
    public const int MaxInterfaceName = 15;

    /// <summary>The longest peer name; a DNS label's limit (RFC 1035 section 2.3.4).</summary>
    public const int MaxPeerName = 63;

    /// <summary>The smallest MTU: what every IPv4 host must accept (RFC 791 section 3.1).</summary>
    public const int MinMtu = 576;

    /// <summary>The smallest MTU of a link that carries IPv6 (RFC 8200 section 5).</summary>
    public const int MinIpv6Mtu = Ipv6Header.MinMtu;

    private const int MaxDnsName = 253;
    private const int MaxDnsLabel = 63;

    private static readonly SearchValues<char> NameCharacters =
        SearchValues.Create("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");

    // Ranges whose addresses can't be a host's unicast address: RFC 1122 section 3.2.1.3, RFC 4291 section 2.4.
    private static readonly (IpPrefix Range, string Name)[] Special =
    [
        (new IpPrefix(InetAddress.FromIpv4(0), 8), "an unspecified address"),
        (new IpPrefix(InetAddress.FromIpv4(0x7f000000), 8), "a loopback address"),
        (new IpPrefix(InetAddress.FromIpv4(0xe0000000), 4), "a multicast address"),
        (new IpPrefix(InetAddress.FromIpv4(0xffffffff), 32), "the broadcast address"),
        (new IpPrefix(InetAddress.None, 128), "the unspecified address"),
        (new IpPrefix(new InetAddress(UInt128.One), 128), "the loopback address"),
        (new IpPrefix(new InetAddress((UInt128)0xff << 120), 8), "a multicast address"),
    ];

    /// <summary>The network's name from its file's path: the base name without .yaml or .yml.</summary>
    public static Parsed<string> NetworkName(string path)
    {
        string file = Path.GetFileName(path);
        string extension = Path.GetExtension(file);
        if (extension is not (".yaml" or ".yml"))
        {
            return new Fault(
                $"the file's name {ConfigText.Quote(file)} does not end in .yaml", "name it NETWORK.yaml: the network is called so");
        }

        string name = file[..^extension.Length];
        const string Rule = "the file's name is the network's and its device's: 1 to 15 of A-Z a-z 0-9 _ . -, then .yaml";
        if (name.Length is 0 or > MaxInterfaceName || name.AsSpan().ContainsAnyExcept(NameCharacters) || name is "." or "..")
            return new Fault($"{ConfigText.Quote(name)} can't name a network", Rule);

        // The kernel keeps these for settings of all devices: /proc/sys/net/ipv4/conf/all and default.
        if (name is "all" or "default")
            return new Fault($"{ConfigText.Quote(name)} can't name a network", "the kernel keeps this name for itself");

        return name;
    }

    /// <summary>A peer's name. It becomes a file's name, NAME.yaml.</summary>
    public static Parsed<string> PeerName(string text)
    {
        bool good = text.Length is > 0 and <= MaxPeerName
            && !text.AsSpan().ContainsAnyExcept(NameCharacters) && char.IsAsciiLetterOrDigit(text[0]);
        return good
            ? text
            : new Fault($"{ConfigText.Quote(text)} can't name a peer", "1 to 63 of A-Z a-z 0-9 _ . -, the first a letter or digit");
    }

    /// <summary>A network device's name (dev_valid_name in the kernel).</summary>
    public static Parsed<string> InterfaceName(string text)
    {
        bool good = text.Length is > 0 and <= MaxInterfaceName && text is not ("." or "..")
            && !text.Any(c => c is '/' or ':' or '%' || !char.IsAscii(c) || char.IsWhiteSpace(c) || char.IsControl(c));
        return good ? text : new Fault($"{ConfigText.Quote(text)} can't name a device", "1 to 15 characters, as ip link shows them");
    }

    /// <summary>An overlay address of this host, with its prefix length.</summary>
    public static Parsed<IpPrefix> InterfaceAddress(string text)
    {
        Parsed<IpPrefix> parsed = Prefix(text, "10.0.201.1/24 or fd00:201::1/64");
        if (parsed.Fault is not null)
            return parsed;

        IpPrefix prefix = parsed.Value;
        if (SpecialName(prefix.Address) is { } special)
            return new Fault($"{text} is {special}", "give a unicast address of this host");

        // RFC 3021: in a /31 both addresses are hosts.
        if (prefix.Address.IsIpv4 && prefix.Length < 31)
        {
            uint host = prefix.Address.Ipv4 & (uint.MaxValue >> prefix.Length);
            string example = new IpPrefix(InetAddress.FromIpv4(prefix.Network.Address.Ipv4 + 1), prefix.Length).ToString();
            if (prefix.Length > 0 && host == 0)
                return new Fault($"{text} is the subnet, not an address in it", $"give this host's address, such as {example}");

            if (host == uint.MaxValue >> prefix.Length)
                return new Fault($"{text} is the subnet's broadcast address", $"give this host's address, such as {example}");
        }

        return prefix;
    }

    /// <summary>An overlay subnet: unicast, host bits clear.</summary>
    public static Parsed<IpPrefix> Subnet(string text)
    {
        Parsed<IpPrefix> parsed = Prefix(text, "172.17.52.0/24 or fd00:52::/64");
        if (parsed.Fault is not null)
            return parsed;

        IpPrefix prefix = parsed.Value;
        foreach ((IpPrefix range, string name) in Special)
        {
            if (range.Contains(prefix))
                return new Fault($"{text} is not a unicast subnet: {range.Address} is {name}", "give the subnet of the containers");
        }

        if (!prefix.IsNetwork)
        {
            return new Fault(
                $"{text} has bits set beyond its prefix length",
                $"the subnet is {prefix.Network}; the one address is {prefix.Address}/{prefix.MaxLength}");
        }

        return prefix;
    }

    /// <summary>An underlay address of this host.</summary>
    public static Parsed<InetAddress> LocalAddress(string text)
    {
        if (!InetAddress.TryParse(text, out InetAddress address))
        {
            return new Fault(
                $"{ConfigText.Quote(text)} is not an IPv4 or IPv6 address", "as 192.168.40.11 or fd00:40::11, without prefix length");
        }

        return SpecialName(address) is { } special
            ? new Fault($"{text} is {special}", "give this host's own address in the underlay")
            : address;
    }

    /// <summary>A peer's endpoint: IPv4, IPv6 or DNS name; with ":PORT" where IPv6 stands in brackets.</summary>
    public static Parsed<PeerEndpoint> Endpoint(string text)
    {
        if (InetAddress.TryParse(text, out InetAddress whole))
            return EndpointAt(text, whole, null);

        Fault NotOne(string hint) => new($"{ConfigText.Quote(text)} is not an endpoint", hint);
        if (text.Contains('/', StringComparison.Ordinal))
            return NotOne("one address or DNS name, without prefix length and without a scheme");

        if (text.Contains('%', StringComparison.Ordinal))
            return NotOne("leave the zone out; underlay: {interface: ...} chooses the device");

        string host = text;
        int? port = null;
        bool bracketed = text.StartsWith('[');
        int close = text.IndexOf(']', StringComparison.Ordinal);
        int colon = text.IndexOf(':', Math.Max(0, close));
        if (colon >= 0 && (bracketed ? colon == close + 1 : text.LastIndexOf(':') == colon))
        {
            Parsed<int> parsed = Number(text[(colon + 1)..], 1, ushort.MaxValue, "a port");
            if (parsed.Fault is { } fault)
                return fault;

            port = parsed.Value;
            host = text[..colon];
        }

        if (bracketed)
        {
            if (!host.EndsWith(']') || !InetAddress.TryParse(host[1..^1], out InetAddress inside) || !inside.IsIpv6)
                return NotOne("in brackets stands an IPv6 address: \"[fd00:40::12]:4754\"");

            return EndpointAt(text, inside, port);
        }

        if (InetAddress.TryParse(host, out InetAddress address))
            return EndpointAt(text, address, port);

        return IsDnsName(host)
            ? new PeerEndpoint(host.ToLowerInvariant(), InetAddress.None, port)
            : NotOne("an address or a DNS name: 192.168.40.12, fd00:40::12, vm2.example.com");
    }

    /// <summary>A GRE key: decimal, 0x and hexadecimal digits, or a dotted quad, as ip-tunnel(8) takes it.</summary>
    public static Parsed<uint> Key(string text)
    {
        if (text.StartsWith("0x", StringComparison.OrdinalIgnoreCase) && text.Length is > 2 and <= 10
            && uint.TryParse(text.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out uint hex))
        {
            return hex;
        }

        if (InetAddress.TryParse(text, out InetAddress quad) && quad.IsIpv4 && !text.Contains(':', StringComparison.Ordinal))
            return quad.Ipv4;

        return IsDecimal(text) && uint.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out uint key)
            ? key
            : new Fault($"{ConfigText.Quote(text)} is not a key", "0 to 4294967295, as 42, 0x2a or 0.0.0.42");
    }

    /// <summary>The device's MTU: null for "auto".</summary>
    public static Parsed<int?> Mtu(string text)
    {
        if (text == "auto")
            return (int?)null;

        Parsed<int> number = Number(text, MinMtu, ushort.MaxValue, "an MTU");
        return number.Fault is null ? (int?)number.Value : number.Fault with { Hint = $"auto, or {number.Fault.Hint}" };
    }

    /// <summary>A UDP port.</summary>
    public static Parsed<int> Port(string text) => Number(text, 1, ushort.MaxValue, "a port");

    /// <summary>The TCP address for metrics: null for "off".</summary>
    public static Parsed<IPEndPoint?> MetricsAddress(string text)
    {
        if (text == "off")
            return (IPEndPoint?)null;

        // Without a port IPEndPoint says 0.
        return IPEndPoint.TryParse(text, out IPEndPoint? address) && address.Port != 0
            ? address
            : new Fault($"{ConfigText.Quote(text)} is not ADDRESS:PORT", "off, or an address of this host and a port, as 127.0.0.1:9586 or [::1]:9586");
    }

    /// <summary>GRE-in-UDP's source port: null for "flow".</summary>
    public static Parsed<int?> SourcePort(string text)
    {
        if (text == "flow")
            return (int?)null;

        Parsed<int> number = Port(text);
        return number.Fault is null ? (int?)number.Value : number.Fault with { Hint = $"flow, or {number.Fault.Hint}" };
    }

    /// <summary>A way for plain GRE: null for "auto".</summary>
    public static Parsed<UnderlayPath?> UnderlayPath(string text)
    {
        if (text == UnderlayPathWords.Auto)
            return (UnderlayPath?)null;

        Parsed<UnderlayPath> word = Word<UnderlayPath>(text, UnderlayPathWords.All, "a way for packets", UnderlayPathWords.Auto);
        return word.Fault is null ? (UnderlayPath?)word.Value : word.Fault;
    }

    /// <summary>The number of workers: null for "auto".</summary>
    public static Parsed<int?> Workers(string text)
    {
        if (text == "auto")
            return (int?)null;

        Parsed<int> number = Number(text, 1, DatapathConfig.MostWorkers, "a number of workers");
        return number.Fault is null ? (int?)number.Value : number.Fault with { Hint = $"auto, or {number.Fault.Hint}" };
    }

    /// <summary>A busy-poll in microseconds, written as "50us" or "1ms": 0 for "off".</summary>
    public static Parsed<int> BusyPoll(string text)
    {
        if (text == "off")
            return 0;

        int scale = text.EndsWith("us", StringComparison.Ordinal) ? 1 : text.EndsWith("ms", StringComparison.Ordinal) ? 1000 : 0;
        Parsed<int> number = scale == 0 ? default : Number(text[..^2], 1, DatapathConfig.LongestBusyPoll / scale, string.Empty);
        return scale > 0 && number.Fault is null
            ? number.Value * scale
            : new Fault($"{ConfigText.Quote(text)} is not a time to busy-poll", "off, or 1us to 1000us, as 50us or 1ms");
    }

    /// <summary>How a peer is asked whether it is there.</summary>
    public static Parsed<Keepalive> Keepalive(string text)
    {
        if (text == "auto")
            return Configuration.Keepalive.Auto;

        if (text == "off")
            return Configuration.Keepalive.Off;

        bool isReturned = text.StartsWith(Configuration.Keepalive.ReturnPrefix, StringComparison.Ordinal);
        string time = isReturned ? text[Configuration.Keepalive.ReturnPrefix.Length..] : text;
        bool isMilliseconds = time.EndsWith("ms", StringComparison.Ordinal);
        int scale = isMilliseconds ? 1 : time.EndsWith('s') ? 1000 : 0;
        int least = isMilliseconds ? Configuration.Keepalive.Shortest : 1;
        Parsed<int> number = scale == 0 ? default : Number(time[..^(isMilliseconds ? 2 : 1)], least, Configuration.Keepalive.Longest / scale, string.Empty);
        return scale > 0 && number.Fault is null
            ? new Keepalive(number.Value * scale, isReturned ? ProbeKind.ReturnPacket : ProbeKind.Echo)
            : new Fault($"{ConfigText.Quote(text)} is not a keepalive", "auto, off, or 100ms to 600s, as 5s; for a router's kind gre:10s");
    }

    /// <summary>The word of what becomes of routes to a peer that is down.</summary>
    public static Parsed<OnDown> OnDown(string text) => Word<OnDown>(text, ReactionWords.OnDown, "what to do about a peer that is down");

    /// <summary>The word of what to do about a closed port.</summary>
    public static Parsed<OnRefused> OnRefused(string text) => Word<OnRefused>(text, ReactionWords.OnRefused, "what to do about a closed port");

    /// <summary>The smallest inner packet that path MTU discovery may end at.</summary>
    public static Parsed<int> PathMtuFloor(string text) => Number(text, Ipv4Header.MinMtu, ushort.MaxValue, "a floor for path MTUs");

    /// <summary>An outer DSCP: null for "copy".</summary>
    public static Parsed<byte?> Dscp(string text) => ByteOr(text, OuterHeaderWords.Copy, 0, 63, "a DSCP");

    /// <summary>An outer TTL: null for "inherit".</summary>
    public static Parsed<byte?> TimeToLive(string text) => ByteOr(text, OuterHeaderWords.Inherit, 1, byte.MaxValue, "a TTL");

    /// <summary>The word of a way to make the outer ECN field.</summary>
    public static Parsed<EcnMode> Ecn(string text) => Word<EcnMode>(text, OuterHeaderWords.EcnModes, "an ECN mode");

    /// <summary>An encapsulation's word.</summary>
    public static Parsed<Encapsulation> Encapsulation(string text) =>
        Word<Encapsulation>(text, EncapsulationWords.All, "an encapsulation");

    /// <summary>The word of an encapsulation that can be received.</summary>
    public static Parsed<Encapsulation> ReceivedEncapsulation(string text) =>
        Word<Encapsulation>(text, EncapsulationWords.Receivable, "an encapsulation that is received");

    /// <summary>What kind of special address this is, as "a loopback address"; null for a usable unicast one.</summary>
    private static string? SpecialName(InetAddress address)
    {
        foreach ((IpPrefix range, string name) in Special)
        {
            if (range.Contains(address))
                return name;
        }

        return null;
    }

    private static Parsed<PeerEndpoint> EndpointAt(string text, InetAddress address, int? port) =>
        SpecialName(address) is { } special
            ? new Fault($"{text} is {special}", "give the peer's address in the underlay")
            : new PeerEndpoint(address.ToString(), address, port);

    private static Parsed<IpPrefix> Prefix(string text, string examples)
    {
        if (IpPrefix.TryParse(text, out IpPrefix prefix))
            return prefix;

        if (InetAddress.TryParse(text, out InetAddress bare))
            return new Fault($"{text} has no prefix length", $"as {examples}; the one address is {bare}/{LongestPrefix(bare)}");

        int slash = text.IndexOf('/', StringComparison.Ordinal);
        if (slash > 0 && InetAddress.TryParse(text[..slash], out InetAddress address))
            return new Fault($"{ConfigText.Quote(text)} has no valid prefix length", $"0 to {LongestPrefix(address)} for this address");

        return new Fault($"{ConfigText.Quote(text)} is not ADDRESS/LENGTH", $"as {examples}");
    }

    private static int LongestPrefix(InetAddress address) => new IpPrefix(address, 0).MaxLength;

    // The value whose word the text is; the words are in the order of the values.
    private static Parsed<T> Word<T>(string text, IReadOnlyList<string> words, string what, params string[] others)
        where T : struct, Enum
    {
        for (int i = 0; i < words.Count; i++)
        {
            if (words[i] == text)
                return Enum.GetValues<T>()[i];
        }

        string[] all = [.. others, .. words];
        string allowed = $"allowed: {string.Join(", ", all)}";
        string? closest = ConfigText.Closest(text, all);
        return new Fault($"{ConfigText.Quote(text)} is not {what}", closest is null ? allowed : $"did you mean {closest}? {allowed}");
    }

    // A number, or the word that stands for the inner packet's.
    private static Parsed<byte?> ByteOr(string text, string word, int least, int most, string what)
    {
        if (text == word)
            return (byte?)null;

        Parsed<int> number = Number(text, least, most, what);
        return number.Fault is null ? (byte?)number.Value : number.Fault with { Hint = $"{word}, or {number.Fault.Hint}" };
    }

    // "010" is refused: some would read eight.
    private static bool IsDecimal(string text) =>
        text.Length > 0 && !text.AsSpan().ContainsAnyExceptInRange('0', '9') && (text.Length == 1 || text[0] != '0');

    private static Parsed<int> Number(string text, int least, int most, string what) =>
        IsDecimal(text) && int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int number)
        && number >= least && number <= most
            ? number
            : new Fault($"{ConfigText.Quote(text)} is not {what}", $"a number from {least} to {most}");

    // RFC 1123 section 2.1, with the underscore that private names have. A last label of digits would be a mistyped IPv4 address.
    private static bool IsDnsName(string host)
    {
        string[] labels = (host.EndsWith('.') ? host[..^1] : host).Split('.');
        return host.Length <= MaxDnsName && !labels[^1].All(char.IsAsciiDigit) && labels.All(IsDnsLabel);
    }

    private static bool IsDnsLabel(string label) =>
        label.Length is > 0 and <= MaxDnsLabel && label[0] != '-' && label[^1] != '-'
        && label.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_');
}
