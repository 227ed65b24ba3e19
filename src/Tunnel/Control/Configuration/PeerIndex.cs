using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Configuration;

/// <summary>
/// The rules that bind a peer to its network and to the other peers. Peers are added one by one, and each is checked against
/// those before it in both directions, so the order decides only which of two is blamed. Checking n peers costs O(n log n).
/// </summary>
internal sealed class PeerIndex(NetworkConfig network)
{
    private readonly Dictionary<IpPrefix, PeerConfig> _subnets = [];
    private readonly Dictionary<InetAddress, PeerConfig> _addresses = [];

    // By host and inbound key. A port is the one that packets go to; those that come may have any.
    private readonly Dictionary<(string, uint?), PeerConfig> _inbound = [];

    // By family: the lengths of the subnets so far, and the endpoints' addresses in order.
    private readonly SortedSet<int>[] _lengths = [[], []];
    private readonly SortedSet<InetAddress>[] _endpoints = [[], []];
    private bool _mtuBlamed;

    /// <summary>A peer as messages name it, with the position of one of its fields where that is known.</summary>
    public static string Describe(PeerConfig peer, string field)
    {
        ConfigPlace place = peer.Source.Find(field);
        return place.IsNone ? $"peer {peer.Name}" : $"peer {peer.Name} ({place})";
    }

    /// <summary>Checks a peer against the network and the peers so far, then adds it.</summary>
    /// <param name="peer">The peer, whose values are good in themselves.</param>
    /// <param name="prefix">What stands before its fields in an error's field: "peers.NAME.", or nothing.</param>
    /// <param name="errors">Where errors go.</param>
    public void Add(PeerConfig peer, string prefix, ConfigErrorList errors)
    {
        var report = new Report(peer, prefix, errors);
        CheckEncapsulation(peer, report);
        CheckSequence(peer, report);
        CheckKeepalive(peer, report);
        CheckEndpoint(peer, report);
        CheckMtu(peer, report);
        for (int i = 0; i < peer.Subnets.Count; i++)
            CheckSubnet(peer, peer.Subnets[i], $"subnets[{i}]", report);

        _inbound.TryAdd((peer.Endpoint.Host, peer.Key?.In), peer);
        if (!peer.Endpoint.IsName)
        {
            _addresses.TryAdd(peer.Endpoint.Address, peer);
            _endpoints[FamilyIndex(peer.Endpoint.Address)].Add(peer.Endpoint.Address);
        }

        foreach (IpPrefix subnet in peer.Subnets)
        {
            _subnets.TryAdd(subnet, peer);
            _lengths[FamilyIndex(subnet.Address)].Add(subnet.Length);
        }
    }

    private static int FamilyIndex(InetAddress address) => address.IsIpv4 ? 0 : 1;

    private static string At(ConfigPlace place) => place.IsNone ? string.Empty : $" ({place})";

    private void CheckEncapsulation(PeerConfig peer, Report report)
    {
        PeerEndpoint endpoint = peer.Endpoint;
        Encapsulation used = network.EncapsulationOf(peer);
        bool mayUseUdp = network.MayUseUdp(peer);
        if (endpoint.Port is not null && !mayUseUdp)
            report.Invalid("endpoint", $"endpoint {endpoint}: only gre-udp has ports", $"write {endpoint with { Port = null }}");

        // A UDP socket is opened at each local address, and at all of a family only where none of either is named.
        EquatableList<InetAddress> local = network.Underlay.Local;
        if (mayUseUdp && !endpoint.IsName && local.Count > 0 && local.All(own => own.IsIpv4 != endpoint.Address.IsIpv4))
        {
            string family = endpoint.Address.IsIpv4 ? "IPv4" : "IPv6";
            report.Conflict(
                "endpoint",
                $"endpoint {endpoint} is {family}, of which underlay.local{At(network.Source.Find("underlay.local"))} has no address for gre-udp",
                $"add this host's {family} address to underlay.local");
        }

        EquatableList<Encapsulation> accept = network.Underlay.Accept;
        Encapsulation[] uses = mayUseUdp ? [used, Encapsulation.GreUdp] : [used];
        foreach (Encapsulation missing in accept.Count > 0 ? uses.Except(accept) : [])
        {
            report.Warn(
                "encapsulation",
                $"peer {peer.Name} uses {missing.ToWord()}, which underlay.accept{At(network.Source.Find("underlay.accept"))} leaves out",
                $"add {missing.ToWord()} to it, unless the peer answers by another encapsulation");
        }
    }

    // Sequence numbers are taken and checked by one thread, in the packets' order.
    private void CheckSequence(PeerConfig peer, Report report)
    {
        if (peer.Sequence && network.Datapath.Workers is > 1)
        {
            report.Conflict(
                "sequence",
                $"sequence numbers need one worker, and datapath.workers is {network.Datapath.Workers}{At(network.Source.Find("datapath.workers"))}",
                "set datapath: {workers: 1}, or leave sequence out");
        }
    }

    // The way back that such a packet carries is plain GRE over IPv4.
    private void CheckKeepalive(PeerConfig peer, Report report)
    {
        if (peer.Keepalive.Kind != ProbeKind.ReturnPacket)
            return;

        bool isIpv6 = !peer.Endpoint.IsName && !peer.Endpoint.Address.IsIpv4;
        if (isIpv6 || network.EncapsulationOf(peer) == Encapsulation.GreUdp)
        {
            report.Conflict(
                "keepalive",
                $"keepalive {peer.Keepalive} is for plain GRE over IPv4, and peer {peer.Name} is reached by {(isIpv6 ? "IPv6" : "gre-udp")}",
                $"ask its daemon: {peer.Keepalive with { Kind = ProbeKind.Echo }}, or auto");
        }
    }

    private void CheckEndpoint(PeerConfig peer, Report report)
    {
        PeerEndpoint endpoint = peer.Endpoint;
        if (_inbound.TryGetValue((endpoint.Host, peer.Key?.In), out PeerConfig? twin))
        {
            string key = peer.Key is { } keys ? $"with inbound key {keys.In}" : "without a key";
            report.Conflict(
                "endpoint",
                $"endpoint {endpoint} {key} is already that of {Describe(twin, "endpoint")}",
                "their packets could not be told apart: give each its own inbound key");
        }

        if (endpoint.IsName)
            return;

        if (network.Underlay.Local.Contains(endpoint.Address))
        {
            report.Conflict("endpoint", $"endpoint {endpoint} is this host's own underlay.local", "give the other host's address");
            return;
        }

        for (int i = 0; i < network.Interface.Addresses.Count; i++)
        {
            IpPrefix own = network.Interface.Addresses[i];
            if (own.Contains(endpoint.Address))
            {
                report.Conflict(
                    "endpoint",
                    $"endpoint {endpoint} lies in interface.addresses {own}{At(network.Source.Find($"interface.addresses[{i}]"))}",
                    "packets to it would enter the network again: give the peer's address in the underlay");
                return;
            }
        }

        foreach (int length in _lengths[FamilyIndex(endpoint.Address)])
        {
            var subnet = new IpPrefix(endpoint.Address, length);
            if (_subnets.TryGetValue(subnet.Network, out PeerConfig? holder))
            {
                report.Conflict(
                    "endpoint",
                    $"endpoint {endpoint} lies in subnet {subnet.Network} of {DescribeSubnet(holder, subnet.Network)}",
                    "packets to it would enter the network again: split that subnet so that it leaves the endpoint out");
                return;
            }
        }
    }

    private void CheckMtu(PeerConfig peer, Report report)
    {
        int ipv6 = peer.Subnets.TakeWhile(subnet => subnet.Address.IsIpv4).Count();
        if (ipv6 == peer.Subnets.Count || network.Interface.Mtu is not { } mtu || mtu >= ConfigValues.MinIpv6Mtu || _mtuBlamed)
            return;

        _mtuBlamed = true;
        report.Conflict(
            $"subnets[{ipv6}]",
            $"subnet {peer.Subnets[ipv6]} is IPv6, for which interface.mtu {mtu}{At(network.Source.Find("interface.mtu"))} is too small",
            $"set interface.mtu to auto or to {ConfigValues.MinIpv6Mtu} or more");
    }

    private void CheckSubnet(PeerConfig peer, IpPrefix subnet, string field, Report report)
    {
        int own = IndexOf(network.Subnets, subnet);
        if (own >= 0)
        {
            report.Conflict(
                field,
                $"subnet {subnet} is also in this host's own subnets{At(network.Source.Find($"subnets[{own}]"))}",
                "a subnet is behind one host");
            return;
        }

        int address = network.Interface.Addresses.TakeWhile(owned => owned.Address != subnet.Address).Count();
        if (address < network.Interface.Addresses.Count && subnet.Length == subnet.MaxLength)
        {
            report.Conflict(
                field,
                $"subnet {subnet} is this host's own address{At(network.Source.Find($"interface.addresses[{address}]"))}",
                "give the peer's address");
            return;
        }

        if (_subnets.TryGetValue(subnet, out PeerConfig? other) && (peer.OnDown != OnDown.Withdraw || other.OnDown != OnDown.Withdraw))
        {
            report.Conflict(
                field,
                $"subnet {subnet} is already that of {DescribeSubnet(other, subnet)}",
                "a subnet is behind one peer; a longer prefix in it may be behind another, or both may say on-down: withdraw");
            return;
        }

        if (!peer.Endpoint.IsName && subnet.Contains(peer.Endpoint.Address))
        {
            report.Invalid(
                field,
                $"subnet {subnet} holds the peer's own endpoint {peer.Endpoint}",
                "packets to the endpoint would enter the network again: split the subnet so that it leaves the endpoint out");
            return;
        }

        foreach (InetAddress local in network.Underlay.Local)
        {
            if (subnet.Contains(local))
            {
                report.Conflict(
                    field,
                    $"subnet {subnet} holds this host's underlay.local {local}{At(network.Source.Find("underlay.local"))}",
                    "split the subnet so that it leaves this address out");
                return;
            }
        }

        if (FirstEndpointIn(subnet) is { } held)
        {
            report.Conflict(
                field,
                $"subnet {subnet} holds endpoint {held.Endpoint} of {Describe(held, "endpoint")}",
                "packets to that endpoint would enter the network again: split the subnet so that it leaves the endpoint out");
        }
    }

    private PeerConfig? FirstEndpointIn(IpPrefix subnet)
    {
        // An IPv4 address is held in its IPv4-mapped form, so its prefix begins at bit 96.
        int bits = subnet.Address.IsIpv4 ? subnet.Length + 96 : subnet.Length;
        UInt128 hosts = bits == 128 ? UInt128.Zero : UInt128.MaxValue >> bits;
        var last = new InetAddress(subnet.Address.Bits | hosts);
        InetAddress first = _endpoints[FamilyIndex(subnet.Address)].GetViewBetween(subnet.Address, last).Min;
        return first.IsNone ? null : _addresses[first];
    }

    private static string DescribeSubnet(PeerConfig peer, IpPrefix subnet) => Describe(peer, $"subnets[{IndexOf(peer.Subnets, subnet)}]");

    private static int IndexOf(EquatableList<IpPrefix> subnets, IpPrefix subnet)
    {
        for (int i = 0; i < subnets.Count; i++)
        {
            if (subnets[i] == subnet)
                return i;
        }

        return -1;
    }

    private readonly struct Report(PeerConfig peer, string prefix, ConfigErrorList errors)
    {
        public void Invalid(string field, string message, string hint) =>
            errors.Invalid(peer.Source.Find(field), prefix + field, message, hint);

        public void Conflict(string field, string message, string hint) =>
            errors.Conflict(peer.Source.Find(field), prefix + field, message, hint);

        public void Warn(string field, string message, string hint) =>
            errors.Warn(peer.Source.Find(field), prefix + field, message, hint);
    }
}
