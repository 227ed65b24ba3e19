using Tunnel.Control.Paths;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Diagnosis;

/// <summary>Whether a rule of this host's certainly drops what containers send into the network, or are sent from there. IPv4 only.</summary>
internal sealed class ForwardRulesCheck : ICheck
{
    /// <inheritdoc/>
    public IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar)
    {
        var told = new HashSet<string>(StringComparer.Ordinal);
        foreach ((LinkFacts link, InetAddress container, InnerDevice device, InetAddress remote) in InnerFlows.Of(facts))
        {
            OuterPacket sent = InnerFlows.Packet(container, remote, link.Link.Name, device.Name);
            OuterPacket received = InnerFlows.Packet(remote, container, device.Name, link.Link.Name);
            foreach ((OuterPacket packet, string direction) in new[] { (sent, $"into {device.Name}"), (received, $"from {device.Name}") })
            {
                NetfilterVerdict? verdict = facts.Rules!.FindDrop(packet with { ForwardedTo = "" }, "prerouting") ?? facts.Rules.FindDrop(packet, "forward", "postrouting");
                if (verdict is not null && told.Add($"{direction} {device.Only} {verdict.By}"))
                {
                    (string nft, string iptables) = packet != sent ? device.Inbound : verdict.Chain.Hook == "prerouting" ? device.Destination : device.Outbound;
                    string origin = packet == sent ? $"--change-interface={link.Link.Name}" : device.Origin;
                    yield return new Finding(
                        "forward-rules", Severity.Error, null,
                        $"{verdict.By} drops what is forwarded {direction}, as from {packet.Source} to {packet.Destination}",
                        Cures.Accept(verdict.Chain, nft, iptables, $"--zone=trusted {origin}"));
                }
            }
        }
    }
}

/// <summary>
/// Whether packets into the network lose their source: by a rule of this host's, or, as is seen by what arrives, by one of a peer's. IPv4 only.
/// </summary>
internal sealed class MasqueradeCheck : ICheck
{
    private const string Name = "masquerade";
    private const double Memory = 30;

    /// <inheritdoc/>
    public IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar) => [.. LookHere(facts), .. LookThere(facts)];

    private static IEnumerable<Finding> LookHere(Facts facts)
    {
        var told = new HashSet<string>(StringComparer.Ordinal);
        foreach ((LinkFacts link, InetAddress container, InnerDevice device, InetAddress remote) in InnerFlows.Of(facts))
        {
            if (facts.Rules!.FindTranslation(InnerFlows.Packet(container, remote, link.Link.Name, device.Name)) is NetfilterVerdict verdict && told.Add($"{device.Name} {device.Only} {verdict.By}"))
            {
                yield return new Finding(
                    Name, Severity.Error, null,
                    $"{verdict.By} gives what containers send into {device.Name} another source, as from {container} to {remote}",
                    Cures.Accept(verdict.Chain, device.Outbound.Nft, device.Outbound.Iptables));
            }
        }
    }

    private static IEnumerable<Finding> LookThere(Facts facts) =>
        from seen in facts.Sightings
        where seen.Packet.Reason == DropReason.SourceNotInPeerSubnets && seen.AgeSeconds < Memory && !Facts.IsLinkLocal(seen.Packet.InnerSource)
        let peer = facts.Peers.FirstOrDefault(peer => peer.Entry.Address == seen.Packet.Source)
        where peer is not null
        select new Finding(
            Name, Severity.Error, peer.Name,
            $"packets from {peer.Name} with source {seen.Packet.InnerSource} are dropped: that is in none of its subnets here; mostly masquerade on {peer.Name} (tunnelctl doctor there), or a subnet that was forgotten here");
}

/// <summary>Whether a rule of this host's certainly drops the tunnel's own packets. IPv4 only.</summary>
internal sealed class OuterRulesCheck : ICheck
{
    /// <inheritdoc/>
    public IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar)
    {
        foreach (PeerFacts peer in facts.Peers)
        {
            PeerSettings settings = peer.Entry.Peer.Settings;
            if (facts.Rules is null || peer.Answers || !peer.Entry.Peer.IsReady || !settings.Endpoint.IsIpv4 || facts.FindLink(peer.Path?.LinkIndex ?? 0) is not LinkFacts link)
            {
                continue;
            }

            bool isUdp = settings.UdpPort != 0;
            byte protocol = isUdp ? IpProtocol.Udp : IpProtocol.Gre;
            ushort port = isUdp ? (ushort)facts.Config.Underlay.UdpPort : (ushort)0;

            // GRE-in-UDP goes from other ports than it comes to, unless it is told to.
            bool isUnanswered = isUdp && facts.Config.Underlay.SourcePort is null;
            var received = new OuterPacket(IsReceived: true, settings.Endpoint, settings.Local, link.Link.Name, protocol, PortRange.Any, port, IsUnanswered: isUnanswered);
            var sent = new OuterPacket(IsReceived: false, settings.Local, settings.Endpoint, link.Link.Name, protocol, PortRange.Any, settings.UdpPort, IsUnanswered: isUnanswered);
            string what = isUdp ? "GRE-in-UDP" : "protocol 47 (GRE)";
            if (facts.Rules.FindDrop(received, "prerouting", "input") is NetfilterVerdict input)
            {
                (string nft, string iptables) = isUdp ? ($"udp dport {port}", $"-p udp --dport {port}") : ("ip protocol gre", "-p gre");
                string rule = isUdp ? $"port port=\"{port}\" protocol=\"udp\"" : "protocol value=\"gre\"";
                yield return new Finding(
                    "firewall", Severity.Error, peer.Name, $"{input.By} drops {what} from {settings.Endpoint}: inbound is blocked here",
                    Cures.Accept(
                        input.Chain, $"ip saddr {settings.Endpoint} {nft}", $"-s {settings.Endpoint} {iptables}",
                        $"--add-rich-rule='rule family=\"ipv4\" source address=\"{settings.Endpoint}\" {rule} accept'"));
            }

            if (facts.Rules.FindDrop(sent, "output", "postrouting") is NetfilterVerdict output)
            {
                (string nft, string iptables) = isUdp ? ($"udp dport {settings.UdpPort}", $"-p udp --dport {settings.UdpPort}") : ("ip protocol gre", "-p gre");
                yield return new Finding(
                    "firewall", Severity.Error, peer.Name, $"{output.By} drops {what} to {settings.Endpoint}: outbound is blocked here",
                    Cures.Accept(output.Chain, $"ip daddr {settings.Endpoint} {nft}", $"-d {settings.Endpoint} {iptables}"));
            }
        }
    }
}

/// <summary>Pairs of addresses between which containers would talk.</summary>
internal static class InnerFlows
{
    // Rules for single peers are rare, and each flow walks all rules.
    private const int MostPeers = 32;

    /// <summary>
    /// A container's device and address, and where packets to a peer's subnet leave with an address there. One subnet stands for all that are reached by the
    /// network's device, whose rules seldom tell one from another. None where the rules are not known.
    /// </summary>
    public static IEnumerable<(LinkFacts Link, InetAddress Container, InnerDevice Device, InetAddress Remote)> Of(Facts facts) =>
        from link in facts.Rules is null ? [] : facts.ContainerLinks
        from own in link.Addresses
        where own.Address.IsIpv4 && !Facts.IsLinkLocal(own.Address)
        from peer in facts.Peers.Take(MostPeers)
        from device in DevicesOf(facts, peer)
        select (link, Facts.AddressIn(own), device, Facts.AddressIn(device.Subnet));

    // The network's device, and that of the link to the peer's host for what has no tunnel.
    private static IEnumerable<InnerDevice> DevicesOf(Facts facts, PeerFacts peer)
    {
        LinkFacts? under = facts.FindLink(peer.Path?.LinkIndex ?? 0);
        return peer.Entry.Config.Subnets.Where(subnet => subnet.Address.IsIpv4)
            .Select(subnet => under is not null && NetworkState.IsDirect(peer.Entry, subnet)
                ? new InnerDevice(under.Link.Name, subnet, IsDirect: true)
                : new InnerDevice(facts.Device.Name, subnet, IsDirect: false))
            .DistinctBy(device => (device.Name, device.Only));
    }

    /// <summary>The first packet of a connection.</summary>
    public static OuterPacket Packet(InetAddress source, InetAddress destination, string from, string to) =>
        new(IsReceived: true, source, destination, from, IpProtocol.Tcp, PortRange.Any, ForwardedTo: to);
}

/// <summary>Where packets to and from a peer's subnet leave and enter, and how rules of nftables and iptables say so.</summary>
/// <param name="Name">The device.</param>
/// <param name="Subnet">The peer's subnet.</param>
/// <param name="IsDirect">Whether it is a link of the underlay, on which not all is the network's.</param>
internal readonly record struct InnerDevice(string Name, IpPrefix Subnet, bool IsDirect)
{
    /// <summary>The subnet, where it stands for itself alone; else null.</summary>
    public IpPrefix? Only => IsDirect ? Subnet : null;

    /// <summary>Whatever is for the subnet, by any device.</summary>
    public (string Nft, string Iptables) Destination => ($"ip daddr {Subnet}", $"-d {Subnet}");

    /// <summary>What leaves by it to the subnet.</summary>
    public (string Nft, string Iptables) Outbound =>
        ($"oifname \"{Name}\"{(IsDirect ? $" ip daddr {Subnet}" : "")}", $"-o {Name}{(IsDirect ? $" -d {Subnet}" : "")}");

    /// <summary>What enters by it from the subnet.</summary>
    public (string Nft, string Iptables) Inbound =>
        ($"iifname \"{Name}\"{(IsDirect ? $" ip saddr {Subnet}" : "")}", $"-i {Name}{(IsDirect ? $" -s {Subnet}" : "")}");

    /// <summary>Where that comes from, as what is to be in a zone of firewalld's.</summary>
    public string Origin => IsDirect ? $"--add-source={Subnet}" : $"--change-interface={Name}";
}
