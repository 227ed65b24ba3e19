using Tunnel.Control.Configuration;
using Tunnel.Control.Monitoring;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Diagnosis;

/// <summary>Whether a peer's endpoint can be reached at all.</summary>
internal sealed class EndpointCheck : ICheck
{
    private const string Name = "endpoint";

    /// <inheritdoc/>
    public IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar) =>
        from peer in facts.Peers
        from finding in Look(facts, peer)
        select finding;

    private static IEnumerable<Finding> Look(Facts facts, PeerFacts peer)
    {
        InetAddress address = peer.Entry.Address;
        if (peer.Entry.Problems.Count > 0)
        {
            // The routes of an address go with its device.
            LinkFacts? down = address.IsNone ? null : facts.Links.FirstOrDefault(link => !link.Link.IsUp && link.Addresses.Any(own => own.Contains(address)));
            string cause = down is null ? "" : $"; {down.Link.Name}, which has an address there, is down";
            return peer.Entry.Problems.Select(problem => new Finding(
                Name, Severity.Error, peer.Name, problem + cause, down is null ? null : $"ip link set {down.Link.Name} up"));
        }

        if (peer.Answers || !peer.Entry.Peer.IsReady)
        {
            return [];
        }

        if (facts.FindLinkWith(address) is LinkFacts own)
        {
            string vagrant = UnderlaySourceCheck.IsSharedNat(address) ? "; every Vagrant or VirtualBox machine has it on its NAT device" : "";
            return
            [
                new Finding(
                    Name, Severity.Error, peer.Name,
                    $"{address} is an address of this host itself, on {own.Link.Name}{vagrant}: give {peer.Name} the address of its own that this host reaches"),
            ];
        }

        // Where ARP fails this host says itself that the other is unreachable.
        if (peer is { HopFailed: true, Hop: HostNextHop hop })
        {
            return
            [
                new Finding(
                    Name, Severity.Error, peer.Name,
                    $"{(hop.Address == address ? "" : "the gateway ")}{hop.Address} does not answer ARP on {hop.LinkName}: it is down, or on another network"),
            ];
        }

        if (peer.Health is { Complaints: [string complaint, ..] })
        {
            string hint = complaint.Contains("rotocol", StringComparison.Ordinal) ? "; tunneld does not run there" : "";
            return [new Finding(Name, Severity.Error, peer.Name, $"{complaint}{hint}")];
        }

        // Who filters ping and has never answered may still be there.
        return peer is { HostAnswers: false, HeardSeconds: null }
            ? [new Finding(Name, Severity.Error, peer.Name, $"{address} answers neither tunneld's questions nor ping, and nothing comes from it: it is down, or the way there is")]
            : [];
    }
}

/// <summary>Whether this host sends from another address than its peers know, or a peer does.</summary>
internal sealed class UnderlaySourceCheck : ICheck
{
    private const string Name = "underlay-source";

    /// <inheritdoc/>
    public IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar) => [.. LookHere(facts), .. LookThere(facts)];

    /// <summary>Whether an address is the one that VirtualBox's and QEMU's NAT gives each machine: 10.0.2.15.</summary>
    public static bool IsSharedNat(InetAddress address) => address == InetAddress.FromIpv4(0x0a00_020f);

    private static IEnumerable<Finding> LookHere(Facts facts)
    {
        foreach (PeerFacts peer in facts.Peers.Where(peer => !peer.Answers && peer.Entry.Peer.IsReady && peer.Path is not null))
        {
            InetAddress local = peer.Entry.Peer.Settings.Local;
            LinkFacts? way = facts.FindLink(peer.Path!.LinkIndex);
            bool isWayOwn = way is not null && way.Addresses.Any(own => own.Address == local);
            if (!isWayOwn && way is not null && !peer.KernelSource.IsNone && peer.KernelSource != local && facts.FindLinkWith(peer.Entry.Address) is null)
            {
                yield return new Finding(
                    Name, Severity.Error, peer.Name,
                    $"packets to {peer.Entry.Address} leave by {way.Link.Name} with the source {local} of {facts.FindLinkWith(local)?.Link.Name ?? "no device"}; " +
                    $"by itself this host would take {peer.KernelSource}, and {peer.Name} drops what comes from another address than its endpoint for this host",
                    $"edit {facts.ConfigPath}: underlay: {{local: {peer.KernelSource}}}; then: systemctl restart tunneld@{facts.Config.Name}");
            }
            else if (IsSharedNat(local))
            {
                yield return new Finding(
                    Name, Severity.Error, peer.Name,
                    $"packets to {peer.Entry.Address} leave by {way?.Link.Name} from {local}, the NAT device that every Vagrant or VirtualBox machine has: {peer.Name} can't know this host by that; " +
                    "bring up the private network's device, and name it in underlay.interface");
            }
        }
    }

    private static IEnumerable<Finding> LookThere(Facts facts)
    {
        foreach (NetworkMonitor.Sighting seen in facts.Sightings.Where(seen => seen.Packet.Reason == DropReason.UnknownPeer))
        {
            InetAddress source = seen.Packet.Source;
            PeerFacts[] silent = [.. facts.Peers.Where(peer => !peer.Answers)];
            PeerFacts? like = NetworkMonitor.PeerLike(facts.Config, seen.Packet) is PeerConfig config ? silent.FirstOrDefault(peer => peer.Name == config.Name) : null;
            string nat = IsSharedNat(source) ? ", the address of the NAT device that every Vagrant or VirtualBox machine has" : "";
            if (like is not null)
            {
                yield return new Finding(
                    Name, Severity.Error, like.Name,
                    $"packets like {like.Name}'s come from {source}{nat} and are dropped: its endpoint here is {like.Entry.Config.Endpoint}; set underlay.local there, or its endpoint here",
                    facts.FindLinkWith(source) is null && nat.Length == 0 ? Cures.SetPeer(facts, like, $"--endpoint {source}", $"endpoint: {source}") : null);
            }
            else if (seen.Packet.IsMessage && silent.Length > 0)
            {
                yield return new Finding(
                    Name, Severity.Warning, silent.Length == 1 ? silent[0].Name : null,
                    $"a tunneld sends from {source}{nat}, which is no peer's endpoint, and is not answered; no answers come from {string.Join(", ", silent.Select(peer => $"{peer.Name} ({peer.Entry.Config.Endpoint})"))}: " +
                    "if it is the same host, set underlay.local there, or its endpoint here");
            }
        }
    }
}

/// <summary>Whether keys differ: by what comes with another one, or by what the peer says of ours.</summary>
internal sealed class KeyCheck : ICheck
{
    private const string Name = "key";

    /// <inheritdoc/>
    public IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar)
    {
        foreach (PeerFacts peer in facts.Peers.Where(peer => !peer.Answers && !peer.IsShared))
        {
            GreKeys? keys = peer.Entry.Config.Key;
            if (peer.WrongKeySeconds is double seconds)
            {
                Stranger? seen = facts.Sightings
                    .FirstOrDefault(seen => seen.Packet.Reason == DropReason.KeyMismatch && seen.Packet.Source == peer.Entry.Address)?.Packet;
                string came = seen is not Stranger packet ? "another key" : packet.HasKey ? $"key {packet.Key}" : "no key";
                yield return new Finding(
                    Name, Severity.Error, peer.Name,
                    $"packets from {peer.Entry.Address} come with {came}, the last {seconds:0} s ago; expected is {(keys is GreKeys own ? $"key {own.In}" : "none")}: change it on one of the two hosts",
                    seen is Stranger known ? CureOf(facts, peer, keys, known) : null);
            }
            else if (peer.Hearing is { HasWrongKey: true })
            {
                yield return new Finding(
                    Name, Severity.Error, peer.Name,
                    $"{peer.Name} says that this host's packets come with a key that it does not expect: they have {(keys is GreKeys own ? $"key {own.Out}" : "none")}; tunnelctl doctor on {peer.Name} names the cure");
            }
        }
    }

    // A key of one's own for each direction stays so.
    private static string CureOf(Facts facts, PeerFacts peer, GreKeys? keys, Stranger seen)
    {
        if (!seen.HasKey)
        {
            return Cures.SetPeer(facts, peer, "--key none", "without key");
        }

        bool isOne = keys is not GreKeys own || own.In == own.Out;
        return isOne
            ? Cures.SetPeer(facts, peer, $"--key {seen.Key}", $"key: {seen.Key}")
            : Cures.SetPeer(facts, peer, $"--key {seen.Key}:{keys!.Value.Out}", $"key: {{in: {seen.Key}, out: {keys.Value.Out}}}");
    }
}

/// <summary>
/// Whether something on the way drops the tunnel's packets, and in which direction, where nothing that is known explains why a peer does not answer.
/// What the peer's own questions say of what it hears makes the difference between knowing and guessing.
/// </summary>
internal sealed class BlockedCheck : ICheck
{
    private const string Name = "blocked";

    // A daemon that was never answered asks once a minute.
    private const double LongestPause = 70;

    // Questions go every 5 seconds; one that does not hear three of them hears none.
    private const int Deaf = 15;

    /// <inheritdoc/>
    public IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar) =>
        from peer in facts.Peers
        where !peer.Answers && peer.Entry.Peer.IsReady && peer.Entry.Config.Keepalive.Kind == ProbeKind.Echo
        where !soFar.Any(finding => finding.Severity == Severity.Error && finding.Peer == peer.Name)
        let finding = Look(facts, peer)
        where finding is not null
        select finding;

    private static Finding? Look(Facts facts, PeerFacts peer)
    {
        bool isUdp = peer.Entry.Peer.Target.UdpPort != 0;
        string what = isUdp ? $"UDP port {peer.Entry.Peer.Target.UdpPort}" : "protocol 47 (GRE)";
        string suggestion = isUdp ? "" : "; gre-udp, on both hosts, goes around that";
        string? cure = isUdp ? null : Cures.SetPeer(facts, peer, "--encapsulation gre-udp", "encapsulation: gre-udp");
        PeerState state = peer.Health?.State ?? PeerState.Unknown;

        // Of a peer that has answered before, the watch knows whether anything has come since it stopped.
        bool hasAnswered = peer.Health?.RoundTrip is not null;
        bool arrives = peer.HeardSeconds is double seconds && (hasAnswered ? state == PeerState.Degraded || (peer.Health!.HearsNothing && seconds < LongestPause) : seconds < LongestPause);
        if (hasAnswered && state == PeerState.Up)
        {
            return new Finding(Name, Severity.Warning, peer.Name, $"{peer.Name} does not answer at this moment, and did just before: look again in some seconds");
        }

        if (arrives)
        {
            if (peer.Hearing is Hearing { Seconds: >= Deaf } hearing)
            {
                string last = hearing.Seconds == Hearing.Never ? "nothing" : $"nothing for {hearing.Seconds} s";
                return new Finding(
                    Name, Severity.Error, peer.Name,
                    $"outbound: {peer.Name}'s packets arrive, and it says that it hears {last} of this host: {what} is blocked from here to {peer.Entry.Address}{suggestion}", cure);
            }

            return peer.IsDaemon
                ? new Finding(
                    Name, Severity.Error, peer.Name,
                    $"outbound: {peer.Name}'s packets arrive, but it does not answer: probably {what} is blocked from here to {peer.Entry.Address}, or it drops them (tunnelctl doctor there){suggestion}", cure)
                : null;
        }

        string far = $"tunnelctl doctor on {peer.Name} tells: it says outbound if it is this way only, and what this says if both";
        return peer.HostAnswers == true
            ? new Finding(
                Name, Severity.Error, peer.Name,
                $"inbound, perhaps both ways: nothing of {peer.Name} arrives, though its host answers ping: {what} is blocked from {peer.Entry.Address} to here, or tunneld does not run there; {far}{suggestion}", cure)
            : new Finding(
                Name, Severity.Error, peer.Name,
                $"nothing of {peer.Name} arrives, and it answers neither tunneld's questions nor ping: it is down, or {what} is blocked; {far}{suggestion}", cure);
    }
}

/// <summary>Whether the path takes less than the device on it says.</summary>
internal sealed class PathMtuCheck : ICheck
{
    /// <inheritdoc/>
    public IEnumerable<Finding> Look(Facts facts, IReadOnlyList<Finding> soFar)
    {
        foreach (PeerFacts peer in facts.Peers.Where(peer => peer.Entry.Peer.IsReady && peer.Entry.FollowsPathMtu))
        {
            PeerSettings settings = peer.Entry.Peer.Settings;
            int mtu = settings.Gmtu + settings.Overhead;
            if (peer.IsLongLost)
            {
                yield return new Finding(
                    "path-mtu", Severity.Warning, peer.Name,
                    $"the path to {settings.Endpoint} loses packets of {mtu} bytes, and no short ones; what it takes is being found out, look again in some seconds");
            }
            else if (mtu < peer.Entry.LinkMtu)
            {
                string link = facts.FindLink(peer.Path?.LinkIndex ?? 0)?.Link.Name ?? "the device";
                string? cure = peer.Hop is { Address.IsNone: false } hop
                    ? $"ip route replace {settings.Endpoint} {(hop.Address == settings.Endpoint ? "" : $"via {hop.Address} ")}dev {hop.LinkName} src {settings.Local} mtu {mtu}"
                    : null;
                yield return new Finding(
                    "path-mtu", Severity.Warning, peer.Name,
                    $"the path to {settings.Endpoint} takes {mtu} bytes, {link} says {peer.Entry.LinkMtu}: packets into the network are kept to {settings.Gmtu}, others to that host are not", cure);
            }
        }
    }
}
