using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text.Json;

namespace Tunnel.Ctl;

/// <summary>What attach has done, or found done.</summary>
/// <param name="Interface">The interface in the container.</param>
/// <param name="Address">Its address and prefix length.</param>
/// <param name="Bridge">The host's bridge that it is on.</param>
/// <param name="Gateway">The bridge's address.</param>
/// <param name="Routes">What the container reaches by that.</param>
/// <param name="WasThere">Whether the interface was there before.</param>
internal sealed record Attached(string Interface, string Address, string Bridge, string Gateway, string[] Routes, bool WasThere);

/// <summary>
/// Puts a container on the host's bridge of the overlay: a veth pair whose one end is the bridge's port and whose other end is in the
/// container's network namespace. The system's programs do it: ip(8), nsenter(1), and docker or podman to find the container. The interface
/// in the container bears an alias, by which detach knows it. With the namespace the kernel removes the pair and all that hangs on it.
/// </summary>
/// <param name="host">The host.</param>
/// <param name="pause">Waits.</param>
internal sealed class Attachment(IHost host, Action<TimeSpan> pause)
{
    private const string Alias = "tunnelctl attach";
    private static readonly TimeSpan AskPause = TimeSpan.FromMilliseconds(100);

    /// <summary>Attaches.</summary>
    /// <param name="target">The container, process or network namespace.</param>
    /// <param name="wanted">The address in the container, and its prefix length.</param>
    /// <param name="bridge">The bridge; null for the one with an address in the subnet.</param>
    /// <param name="interfaceName">The interface's name; null for the first free one from eth1.</param>
    /// <param name="network">GET /v1/network.</param>
    /// <param name="routes">GET /v1/routes.</param>
    /// <exception cref="Failure">It can't be done; then nothing has changed.</exception>
    public Attached Attach(string target, (IPAddress Address, int Length) wanted, string? bridge, string? interfaceName, JsonElement network, JsonElement routes)
    {
        (IPAddress address, int length) = wanted;
        IPNetwork subnet = Subnet(address, length, network);
        RequireRoot("attach");
        string netns = Find(target);
        JsonElement[] hostLinks = Links([]);
        (JsonElement port, IPAddress gateway) = Bridge(bridge, subnet, hostLinks);
        string bridgeName = port.Member("ifname").Text()!;
        if (!new IPNetwork(Masked(address, length), length).Contains(gateway))
            throw new Failure(ExitCode.Failed, $"{bridgeName}'s address {gateway} is not in {address}/{length}", $"as tunnelctl attach {target} {address}/{subnet.PrefixLength}");

        string[] enter = Enter(netns, target);
        JsonElement[] links = Links(enter);
        string[] reached = Reached(address, subnet, network, routes);
        string mtuOfTunnel = network.Member("interface").Member("mtu").Text() ?? "1280";

        if (links.FirstOrDefault(link => Addresses(link).Any(one => one.Address.Equals(address))) is { ValueKind: JsonValueKind.Object } holder)
        {
            string name = holder.Member("ifname").Text()!;
            if (holder.Member("ifalias").Text() != Alias)
                throw new Failure(ExitCode.Failed, $"{address} is {name}'s in {target} already", "it needs no attach");

            (IPAddress _, int there) = Addresses(holder).First(one => one.Address.Equals(address));
            if (there != length || (interfaceName is not null && interfaceName != name))
                throw new Failure(ExitCode.Failed, $"{target} has {address}/{there} at {name} already", $"first tunnelctl detach {target} {address}");

            RunBatch(enter, $"link set {name} up\n" + Routes(reached, gateway, name, mtuOfTunnel), target);
            return new Attached(name, $"{address}/{length}", bridgeName, gateway.ToString(), reached, WasThere: true);
        }

        // Two interfaces on one link: packets would leave by the one and come in by the other, where a reverse path filter drops them.
        if (links.FirstOrDefault(link => Addresses(link).Any(one => subnet.Contains(one.Address))) is { ValueKind: JsonValueKind.Object } beside)
        {
            throw new Failure(
                ExitCode.Failed,
                $"{target} is in {subnet} already, by {Addresses(beside).First(one => subnet.Contains(one.Address)).Address} at {beside.Member("ifname").Text()}",
                beside.Member("ifalias").Text() == Alias ? $"first tunnelctl detach {target}" : "it needs no attach");
        }

        RefuseUsed(address, bridgeName, hostLinks);
        HashSet<string?> names = [.. links.Select(link => link.Member("ifname").Text())];
        if (interfaceName is not null && names.Contains(interfaceName))
            throw new Failure(ExitCode.Failed, $"{target} has an interface {interfaceName} already", "give another --interface NAME, or none");

        string inside = interfaceName ?? Enumerable.Range(1, names.Count + 1).Select(n => $"eth{n.ToString(CultureInfo.InvariantCulture)}").First(name => !names.Contains(name));
        string outside = $"tc{Random.Shared.Next():x8}";
        string mtu = port.Member("mtu").Text() ?? "1500";
        Must(host.Run(["ip", "link", "add", outside, "mtu", mtu, "type", "veth", "peer", "name", inside, "mtu", mtu, "netns", netns]), $"an interface {inside} can't be made in {target}");
        try
        {
            // Whoever finds the address finds the rest done, too.
            Must(host.Run(["ip", "link", "set", outside, "master", bridgeName, "up"]), $"{bridgeName} does not take {outside}");
            string nodad = address.AddressFamily == AddressFamily.InterNetworkV6 ? " nodad" : "";
            RunBatch(
                enter,
                $"link set {inside} alias \"{Alias}\"\naddr add {address}/{length} dev {inside}{nodad}\nlink set {inside} up\n",
                target);
            RunBatch(enter, Routes(reached, gateway, inside, mtuOfTunnel), target);
        }
        catch (Failure)
        {
            // The other end goes with it.
            host.Run(["ip", "link", "del", outside]);
            throw;
        }

        return new Attached(inside, $"{address}/{length}", bridgeName, gateway.ToString(), reached, WasThere: false);
    }

    /// <summary>Removes what attach made.</summary>
    /// <param name="target">The container, process or network namespace.</param>
    /// <param name="wanted">The address, with or without prefix length; null for all.</param>
    /// <returns>What was removed: interface and addresses.</returns>
    public (string Interface, string[] Addresses)[] Detach(string target, string? wanted)
    {
        IPAddress? address = wanted is null ? null : ParseAny(wanted);
        RequireRoot("detach");
        string[] enter = Enter(Find(target), target);
        JsonElement[] links = Links(enter);
        if (address is not null && links.FirstOrDefault(link => link.Member("ifalias").Text() != Alias && Addresses(link).Any(one => one.Address.Equals(address)))
            is { ValueKind: JsonValueKind.Object } other)
        {
            throw new Failure(ExitCode.Failed, $"{address} is {other.Member("ifname").Text()}'s in {target}, which attach did not make", $"nsenter --net=NETNS ip link del {other.Member("ifname").Text()}");
        }

        (string Interface, string[] Addresses)[] mine =
        [
            .. links.Where(link => link.Member("ifalias").Text() == Alias && (address is null || Addresses(link).Any(one => one.Address.Equals(address))))
                .Select(link => (link.Member("ifname").Text()!, Addresses(link).Where(one => !one.Address.IsIPv6LinkLocal).Select(one => $"{one.Address}/{one.Length}").ToArray())),
        ];
        foreach ((string name, _) in mine)
            Must(host.Run([.. enter, "ip", "link", "del", name]), $"{name} of {target} can't be removed");

        return mine;
    }

    /// <summary>Reads an address with its prefix length.</summary>
    /// <exception cref="Failure">It is none.</exception>
    public static (IPAddress Address, int Length) ParseAddress(string text)
    {
        string[] parts = text.Split('/');
        if (parts.Length == 2 && IPAddress.TryParse(parts[0], out IPAddress? address) && parts[0] == address.ToString()
            && int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out int length) && length <= Bits(address) && length > 0)
        {
            return (address, length);
        }

        throw new Failure(ExitCode.Usage, $"'{text}' is no address with a prefix length", "as 172.17.51.100/24");
    }

    private static IPAddress ParseAny(string text) => text.Contains('/', StringComparison.Ordinal)
        ? ParseAddress(text).Address
        : IPAddress.TryParse(text, out IPAddress? address) && text == address.ToString()
            ? address
            : throw new Failure(ExitCode.Usage, $"'{text}' is no address", "as 172.17.51.100");

    private static int Bits(IPAddress address) => address.GetAddressBytes().Length * 8;

    private static IPAddress Masked(IPAddress address, int length)
    {
        byte[] bytes = address.GetAddressBytes();
        for (int bit = length; bit < bytes.Length * 8; bit++)
            bytes[bit / 8] &= (byte)~(0x80 >> (bit % 8));

        return new IPAddress(bytes);
    }

    // This host's subnet that the address is in, the most specific one.
    private static IPNetwork Subnet(IPAddress address, int length, JsonElement network)
    {
        string name = network.Member("name").Text() ?? "NETWORK";
        IPNetwork[] subnets = [.. network.Member("subnets").Texts().Select(text => IPNetwork.Parse(text))];
        if (subnets.Length == 0)
        {
            throw new Failure(
                ExitCode.Failed, $"the subnets of this host are not configured", $"name them under subnets: in the file of {name}, then: tunnelctl -n {name} reload");
        }

        IPNetwork[] around = [.. subnets.Where(one => one.BaseAddress.AddressFamily == address.AddressFamily && one.Contains(address)).OrderByDescending(one => one.PrefixLength)];
        if (around.Length == 0)
            throw new Failure(ExitCode.Failed, $"{address} is in no subnet of this host", $"take one of {string.Join(", ", subnets)}");

        IPNetwork subnet = around[0];
        if (length < subnet.PrefixLength)
            throw new Failure(ExitCode.Failed, $"{address}/{length} is wider than this host's subnet {subnet}", $"as {address}/{subnet.PrefixLength}");

        bool wide = subnet.PrefixLength < Bits(address) - 1;
        if (wide && (address.Equals(subnet.BaseAddress) || (address.AddressFamily == AddressFamily.InterNetwork && IsLast(address, subnet.PrefixLength))))
            throw new Failure(ExitCode.Failed, $"{address} is the first or last address of {subnet}, which no container can have", $"take another of {subnet}");

        return subnet;
    }

    private static bool IsLast(IPAddress address, int length)
    {
        byte[] bytes = address.GetAddressBytes();
        return Enumerable.Range(length, (bytes.Length * 8) - length).All(bit => (bytes[bit / 8] & (0x80 >> (bit % 8))) != 0);
    }

    private static IEnumerable<(IPAddress Address, int Length)> Addresses(JsonElement link) =>
        link.Member("addr_info").Items().Where(one => one.Member("local").Text() is not null)
            .Select(one => (IPAddress.Parse(one.Member("local").Text()!), (int)one.Member("prefixlen").Count()));

    // What is behind the peers, this host's other subnets, and its own overlay addresses.
    private static string[] Reached(IPAddress address, IPNetwork subnet, JsonElement network, JsonElement routes) =>
    [
        .. routes.Items().Select(route => route.Member("prefix").Text())
            .Concat(network.Member("subnets").Texts())
            .Concat(network.Member("interface").Member("addresses").Texts().Select(text => text.Split('/')[0]).Select(text => $"{text}/{Bits(IPAddress.Parse(text))}"))
            .OfType<string>().Select(text => IPNetwork.Parse(text))
            .Where(prefix => prefix.BaseAddress.AddressFamily == address.AddressFamily && !prefix.Equals(subnet))
            .Select(prefix => prefix.ToString()).Distinct(StringComparer.Ordinal),
    ];

    private static string Routes(string[] prefixes, IPAddress gateway, string interfaceName, string mtu) =>
        string.Concat(prefixes.Select(prefix => $"route replace {prefix} via {gateway} dev {interfaceName} mtu {mtu}\n"));

    private static ProgramEnd Must(ProgramEnd end, string failure) =>
        end.Output is not null ? end : throw new Failure(ExitCode.Failed, $"{failure}: {end.Error}");

    private void RequireRoot(string command)
    {
        if (!host.IsRoot)
            throw new Failure(ExitCode.Failed, $"{command} needs root", $"sudo tunnelctl {command} ...");
    }

    // The path of the target's network namespace.
    private string Find(string target)
    {
        if (target.Contains('/', StringComparison.Ordinal))
            return host.Exists(target) ? target : throw new Failure(ExitCode.Failed, $"there is no {target}", "the file of a network namespace, as /run/netns/NAME");

        if (target.All(char.IsAsciiDigit) && host.Exists($"/proc/{target}/ns/net"))
            return $"/proc/{target}/ns/net";

        if (host.Exists($"/run/netns/{target}"))
            return $"/run/netns/{target}";

        foreach (string engine in new[] { "docker", "podman" })
        {
            if (host.Run([engine, "inspect", "--type", "container", "--format", "{{.State.Pid}}", target]).Output?.Trim() is not { Length: > 0 } pid)
                continue;

            return pid != "0" ? $"/proc/{pid}/ns/net" : throw new Failure(ExitCode.Failed, $"the container {target} does not run", $"{engine} start {target}");
        }

        throw new Failure(
            ExitCode.Failed, $"no container, process or network namespace is called '{target}'", "docker ps, podman ps and ip netns list what is there; or a process id");
    }

    private string[] Enter(string netns, string target)
    {
        string[] enter = ["nsenter", $"--net={netns}"];
        string there = Must(host.Run([.. enter, "readlink", "/proc/self/ns/net"]), $"{target} can't be entered").Output!;
        return there != Must(host.Run(["readlink", "/proc/self/ns/net"]), "this namespace can't be told").Output
            ? enter
            : throw new Failure(ExitCode.Failed, $"{target} has the host's own network", "it is in the overlay by the host's address and needs no attach");
    }

    // Aliases are among the details.
    private JsonElement[] Links(string[] enter)
    {
        string answer = Must(host.Run([.. enter, "ip", "-j", "-d", "addr", "show"]), "addresses can't be read").Output!;
        return [.. JsonElement.Parse(answer).Items().Where(link => link.Member("ifname").Text() is not null)];
    }

    // The bridge and its address in the subnet.
    private (JsonElement Link, IPAddress Gateway) Bridge(string? name, IPNetwork subnet, JsonElement[] links)
    {
        string answer = Must(host.Run(["ip", "-j", "link", "show", "type", "bridge"]), "bridges can't be read").Output!;
        HashSet<string?> bridges = [.. answer.Trim().Length == 0 ? [] : JsonElement.Parse(answer).Items().Select(link => link.Member("ifname").Text())];
        string make = $"ip link add {name ?? "br0"} type bridge && ip addr add {First(subnet)} dev {name ?? "br0"} && ip link set {name ?? "br0"} up";
        if (name is not null && !bridges.Contains(name))
            throw new Failure(ExitCode.Failed, $"no bridge of this host is called {name}", $"make it: {make}");

        (JsonElement Link, IPAddress Gateway)[] found =
        [
            .. links.Where(link => bridges.Contains(link.Member("ifname").Text()) && (name is null || link.Member("ifname").Text() == name))
                .SelectMany(link => Addresses(link).Where(one => one.Address.AddressFamily == subnet.BaseAddress.AddressFamily && subnet.Contains(one.Address)).Take(1).Select(one => (link, one.Address))),
        ];
        if (found.Length == 0)
        {
            throw name is null
                ? new Failure(ExitCode.Failed, $"no bridge of this host has an address in {subnet}", $"let Docker have it (tunnelctl docker-config), or make one: {make}")
                : new Failure(ExitCode.Failed, $"{name} has no address in {subnet}", $"ip addr add {First(subnet)} dev {name}");
        }

        if (found.Length > 1)
            throw new Failure(ExitCode.Failed, $"several bridges have an address in {subnet}", $"choose one: --bridge {found[0].Link.Member("ifname").Text()}");

        string bridge = found[0].Link.Member("ifname").Text()!;
        return found[0].Link.Member("flags").Texts().Contains("UP", StringComparer.Ordinal)
            ? found[0]
            : throw new Failure(ExitCode.Failed, $"{bridge} is down", $"ip link set {bridge} up");
    }

    private static string First(IPNetwork subnet)
    {
        byte[] bytes = subnet.BaseAddress.GetAddressBytes();
        bytes[^1] |= 1;
        return $"{new IPAddress(bytes)}/{subnet.PrefixLength}";
    }

    // By the host's own addresses, and by asking on the bridge.
    private void RefuseUsed(IPAddress address, string bridge, JsonElement[] hostLinks)
    {
        if (hostLinks.FirstOrDefault(link => Addresses(link).Any(one => one.Address.Equals(address))) is { ValueKind: JsonValueKind.Object } holder)
            throw new Failure(ExitCode.Failed, $"{address} is this host's own, at {holder.Member("ifname").Text()}", "take another");

        // What the host remembers may be of a container that is gone.
        host.Run(["ip", "neigh", "flush", "to", address.ToString(), "dev", bridge]);
        host.AskFor(address);
        for (int i = 0; i < 10; i++)
        {
            string answer = host.Run(["ip", "-j", "neigh", "show", "to", address.ToString(), "dev", bridge]).Output ?? "";
            JsonElement? known = answer.Trim().Length == 0 ? null : JsonElement.Parse(answer).Items().FirstOrDefault();
            if (known?.Member("lladdr").Text() is { } owner)
                throw new Failure(ExitCode.Failed, $"{address} is in use on {bridge}, by {owner}", "take another; detach, or the container that has it, gives it back");

            pause(AskPause);
        }
    }

    private void RunBatch(string[] enter, string batch, string target)
    {
        if (batch.Length > 0)
            Must(host.Run([.. enter, "ip", "-batch", "-"], batch), $"{target} can't be set up");
    }
}
