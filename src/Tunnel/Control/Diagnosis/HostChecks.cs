using Tunnel.Wire;

namespace Tunnel.Control.Diagnosis;

/// <summary>Whether this host forwards between containers and the network.</summary>
internal sealed class ForwardingCheck : ICheck
{
    private const string Name = "ip-forward";

    /// <inheritdoc/>
    public IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar) => [.. LookIpv4(facts), .. LookIpv6(facts)];

    private static IEnumerable<Finding> LookIpv4(Facts facts)
    {
        LinkFacts[] containers = [.. facts.ContainerLinks.Where(link => Has(link, isIpv4: true))];
        LinkFacts[] off = [.. Both(facts, containers).Where(link => !link.ForwardsIpv4)];
        if (off.Length == 0)
        {
            return [];
        }

        if (!facts.ForwardsIpv4)
        {
            return
            [
                new Finding(
                    Name, SeverityOf(facts, isIpv4: true), null,
                    $"net.ipv4.ip_forward is 0: nothing is forwarded between {facts.Device.Name} and {Names(containers)}",
                    Cures.Setting("net/ipv4/ip_forward", 1)),
            ];
        }

        return off.Select(link => new Finding(
            Name, SeverityOf(facts, isIpv4: true), null,
            $"forwarding is off on {link.Link.Name}: what comes by it is not forwarded",
            Cures.Setting($"net/ipv4/conf/{link.Link.Name}/forwarding", 1)));
    }

    private static IEnumerable<Finding> LookIpv6(Facts facts)
    {
        LinkFacts[] containers = [.. facts.ContainerLinks.Where(link => Has(link, isIpv4: false))];
        bool isUsed = facts.Peers.Any(peer => peer.Entry.Config.Subnets.Any(subnet => !subnet.Address.IsIpv4));
        return isUsed && Both(facts, containers).Any(link => !link.ForwardsIpv6)
            ?
            [
                new Finding(
                    Name, SeverityOf(facts, isIpv4: false), null,
                    $"net.ipv6.conf.all.forwarding is 0: no IPv6 is forwarded between {facts.Device.Name} and {Names(containers)}",
                    Cures.Setting("net/ipv6/conf/all/forwarding", 1)),
            ]
            : [];
    }

    private static IEnumerable<LinkFacts> Both(Facts facts, LinkFacts[] containers) =>
        containers.Length == 0 || facts.DeviceFacts is not LinkFacts device ? [] : containers.Prepend(device);

    private static bool Has(LinkFacts link, bool isIpv4) => link.Addresses.Any(own => own.Address.IsIpv4 == isIpv4 && !Facts.IsLinkLocal(own.Address));

    private static string Names(LinkFacts[] links) => string.Join(", ", links.Select(link => link.Link.Name));

    // Behind what the configuration names there are containers; behind other devices there may be some.
    private static Severity SeverityOf(Facts facts, bool isIpv4) =>
        facts.Config.Subnets.Any(subnet => subnet.Address.IsIpv4 == isIpv4) ? Severity.Error : Severity.Warning;
}

/// <summary>Whether a strict reverse path filter (RFC 3704) drops what comes another way than it would be answered.</summary>
internal sealed class ReversePathCheck : ICheck
{
    private const string Name = "rp-filter";
    private const int Strict = 1;
    private const int Loose = 2;

    /// <inheritdoc/>
    public IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar)
    {
        foreach (PeerFacts peer in facts.Peers)
        {
            InetAddress local = peer.Entry.Peer.Settings.Local;
            LinkFacts? arrival = local.IsNone || !local.IsIpv4 ? null : facts.FindLinkWith(local);

            // Packet sockets see packets before the filter does.
            bool isFiltered = facts.ReceivesRaw || peer.Entry.Peer.Target.UdpPort != 0;
            if (arrival is { ReversePathFilter: Strict } && isFiltered && peer.Path is { } path && path.LinkIndex != arrival.Link.Index && !peer.Answers)
            {
                yield return Of(
                    peer.Name, arrival, $"packets from {peer.Entry.Address} come by {arrival.Link.Name}, which has {local}, but would be answered by {facts.FindLink(path.LinkIndex)?.Link.Name}");
            }
        }

        if (facts.DeviceFacts is not { ReversePathFilter: Strict } device)
        {
            yield break;
        }

        foreach (PeerFacts peer in facts.Peers)
        {
            foreach (IpPrefix subnet in peer.Entry.Config.Subnets.Where(subnet => subnet.Address.IsIpv4))
            {
                if (facts.RouteLinks.TryGetValue(subnet, out int link) && link != facts.Device.Index)
                {
                    yield return Of(peer.Name, device, $"packets from {subnet} come by {facts.Device.Name}, but this host's route there leads elsewhere");
                }
            }
        }
    }

    private static Finding Of(string peer, LinkFacts link, string text) => new(
        Name, Severity.Error, peer,
        $"rp_filter on {link.Link.Name} is strict: {text}; they are dropped",
        Cures.Setting($"net/ipv4/conf/{link.Link.Name}/rp_filter", Loose));
}

/// <summary>Whether other routes and addresses of this host contradict the peers' subnets.</summary>
internal sealed class OverlapCheck : ICheck
{
    private const string Name = "overlap";

    // RTPROT_KERNEL (rtnetlink(7)): the route of an address.
    private const byte Kernel = 2;

    /// <inheritdoc/>
    public IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar)
    {
        foreach (PeerFacts peer in facts.Peers)
        {
            foreach (IpPrefix subnet in peer.Entry.Config.Subnets)
            {
                foreach (Finding finding in facts.Routes.Where(route => IsForeign(route, facts)).SelectMany(route => Compare(facts, peer, subnet, route)))
                {
                    yield return finding;
                }

                if (facts.RouteProblems.TryGetValue(subnet, out string? problem) && !facts.Routes.Any(route => IsForeign(route, facts) && route.Destination == subnet))
                {
                    yield return new Finding(Name, Severity.Error, peer.Name, $"no route for {subnet}: {problem}");
                }
            }
        }
    }

    private static bool IsForeign(Dataplane.HostRoute route, Facts facts) =>
        route.LinkIndex != facts.Device.Index && !KernelReconciler.IsPlain(route) && route.Destination.Length > 0 && !Facts.IsLinkLocal(route.Destination.Address);

    private static IEnumerable<Finding> Compare(Facts facts, PeerFacts peer, IpPrefix subnet, Dataplane.HostRoute route)
    {
        string link = facts.FindLink(route.LinkIndex)?.Link.Name is string name ? $"dev {name}" : "of no single device";
        if (subnet.Contains(route.Destination))
        {
            string what = route.Destination == subnet ? $"has the whole of {peer.Name}'s {subnet}" : $"takes a part of {peer.Name}'s {subnet}";
            yield return new Finding(
                Name, Severity.Error, peer.Name,
                $"the route {route.Destination} {link} {what} away from the network" + (route.Protocol == Kernel ? ": an address of this host is in there, give it another one" : ""),
                route.Protocol == Kernel ? null : $"ip route del {route.Destination} {(route.LinkIndex == 0 ? "" : link)}".TrimEnd());
        }
        else if (route.Destination.Contains(subnet) && route.Protocol == Kernel)
        {
            yield return new Finding(
                Name, Severity.Warning, peer.Name,
                $"{route.Destination} {link} contains {peer.Name}'s {subnet}: neighbours on {link[4..]} with addresses in there can't be reached; give {link[4..]} another subnet (for Docker: tunnelctl docker-config)");
        }
    }
}

/// <summary>Whether tables of iptables-legacy exist, whose changes nobody is told of.</summary>
internal sealed class LegacyTablesCheck : ICheck
{
    /// <inheritdoc/>
    public IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar) => facts.HasLegacyTables
        ?
        [
            new Finding(
                "iptables-legacy", Severity.Warning, null,
                "tables of iptables-legacy exist: they tell nobody of changes, and nft list ruleset does not show their rules; see iptables-legacy-save"),
        ]
        : [];
}

/// <summary>Whether the kernel's own GRE devices are beside tunneld (docs/interop-kernel.md).</summary>
internal sealed class KernelGreCheck : ICheck
{
    private const string Name = "kernel-gre";
    private static readonly string[] FallbackDevices = ["gre0", "ip6gre0"];

    /// <inheritdoc/>
    public IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar) => facts.Links
        .Where(link => FallbackDevices.Contains(link.Link.Name))
        .Select(link => link.Link.IsUp
            ? new Finding(
                Name, Severity.Error, null, $"{link.Link.Name} is up: the kernel takes every packet too, and this host gets each twice", $"ip link set {link.Link.Name} down")
            : new Finding(
                Name, Severity.Warning, null,
                $"{link.Link.Name} is there: the kernel's module answers tunneld's packets with Port Unreachable, which tunneld does not heed; without other use for it, remove the module",
                $"rmmod {(link.Link.Name == "gre0" ? "ip_gre" : "ip6_gre")}"));
}

/// <summary>What the daemon knows itself to be wrong with the network, and rules that could not be read.</summary>
internal sealed class NetworkCheck : ICheck
{
    /// <inheritdoc/>
    public IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar) =>
    [
        .. facts.NetworkProblems.Select(problem => new Finding("network", Severity.Error, null, problem)),
        .. facts.UnreadableRules.Select(problem => new Finding("rules", Severity.Warning, null, $"{problem}; so it is not known what they do")),
    ];
}
