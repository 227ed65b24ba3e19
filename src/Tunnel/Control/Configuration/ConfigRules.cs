using Tunnel.Wire;

namespace Tunnel.Control.Configuration;

/// <summary>The rules that bind the settings of a network to one another; those of its peers are <see cref="PeerIndex"/>'s.</summary>
internal static class ConfigRules
{
    /// <summary>Checks everything but the peers.</summary>
    public static void CheckNetwork(NetworkConfig network, ConfigErrorList errors)
    {
        CheckMtu(network, errors);
        CheckUnderlay(network, errors);
        CheckNat(network, errors);
    }

    private static void CheckNat(NetworkConfig network, ConfigErrorList errors)
    {
        if (network.Nat is { Masquerade: true } && network.Subnets.Count == 0)
        {
            errors.Warn(
                network.Source.Find("nat.masquerade"),
                "nat.masquerade",
                "masquerade does not know this host's containers",
                "name their subnets: subnets: [172.17.51.0/24]");
        }
    }

    private static void CheckMtu(NetworkConfig network, ConfigErrorList errors)
    {
        if (network.Interface.Mtu is not { } mtu || mtu >= ConfigValues.MinIpv6Mtu)
            return;

        foreach (IpPrefix prefix in network.Interface.Addresses.Concat(network.Subnets))
        {
            if (!prefix.Address.IsIpv4)
            {
                errors.Invalid(
                    network.Source.Find("interface.mtu"),
                    "interface.mtu",
                    $"mtu {mtu} is less than IPv6 needs for {prefix}",
                    $"auto, or {ConfigValues.MinIpv6Mtu} or more");
                return;
            }
        }
    }

    private static void CheckUnderlay(NetworkConfig network, ConfigErrorList errors)
    {
        UnderlayConfig underlay = network.Underlay;
        SourcePositions source = network.Source;
        if (underlay.Local.Count > 2 || (underlay.Local.Count == 2 && underlay.Local[0].IsIpv4 == underlay.Local[1].IsIpv4))
        {
            errors.Invalid(
                source.Find("underlay.local"),
                "underlay.local",
                "local has two addresses of one family",
                "at most one IPv4 and one IPv6 address");
        }

        if (underlay.Local.Count > 0 && underlay.Interface is not null)
        {
            errors.Invalid(
                source.Find("underlay.interface"),
                "underlay.interface",
                "local and interface stand together",
                "keep one: each decides the source address");
        }

        if (underlay.Interface == network.Name)
        {
            errors.Invalid(
                source.Find("underlay.interface"),
                "underlay.interface",
                $"interface {network.Name} is the network's own device",
                "name the device that reaches the other hosts, such as eth1");
        }

        foreach (InetAddress local in underlay.Local)
        {
            if (network.Interface.Addresses.Any(own => own.Address == local))
            {
                errors.Invalid(
                    source.Find("underlay.local"),
                    "underlay.local",
                    $"local {local} is also in interface.addresses",
                    "local is an address that this host has without tunneld");
            }
        }
    }
}
