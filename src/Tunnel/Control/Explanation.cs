using Tunnel.Control.Api;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control;

/// <summary>
/// Says step by step what would become of a packet, by the rules of <see cref="Outbound"/> and <see cref="Inbound"/> and the host's routes. Nothing is sent.
/// What the firewall, and the peer's host, would do is not looked at.
/// </summary>
/// <param name="state">The network at this moment.</param>
/// <param name="routing">What the packet threads use.</param>
/// <param name="host">The host's routes.</param>
/// <param name="device">The TUN device.</param>
internal sealed class Explanation(NetworkState state, RoutingSnapshot routing, IHostNetwork host, HostLink device)
{
    private const string Sent = "sent";
    private const string Delivered = "delivered";
    private const string Dropped = "dropped";
    private const string Elsewhere = "elsewhere";

    private readonly List<StepModel> _steps = [];
    private string? _verdict;
    private DropReason? _reason;

    /// <summary>Explains a packet.</summary>
    /// <param name="source">Its source.</param>
    /// <param name="destination">Its destination, of the same family.</param>
    /// <param name="length">Its length in bytes, from the IP header.</param>
    public ExplanationModel Of(InetAddress source, InetAddress destination, int length)
    {
        Peer? sender = routing.Routes.Lookup(source);
        Peer? receiver = routing.Routes.Lookup(destination);
        if (sender is not null)
        {
            Receive(sender, destination);
        }

        if (_verdict is null && receiver is not null)
        {
            Send(receiver, source, destination, length);
        }
        else if (_verdict is null && sender is null)
        {
            Fail("overlay route", Elsewhere, null, $"no peer has a subnet with {destination}, nor with {source}: the host's own routes decide");
        }
        else if (_verdict is null)
        {
            Deliver(destination);
        }

        return new ExplanationModel(
            source.ToString(), destination.ToString(), length, _verdict!, _reason?.ToString(), (receiver ?? sender)?.Settings.Name, _steps);
    }

    private void Receive(Peer sender, InetAddress destination)
    {
        PeerSettings settings = sender.Settings;
        Pass("source", $"belongs to peer {settings.Name}: taken from {settings.Endpoint}{Key(settings.KeyIn)} only, from others it is SourceNotInPeerSubnets");
        if (destination == settings.Endpoint)
        {
            Fail("destination", Dropped, DropReason.InnerDestinationIsEndpoint, $"it is {settings.Name}'s own endpoint: a packet would go round and round");
        }
    }

    private void Deliver(InetAddress destination)
    {
        HostPath? path = host.GetPath(destination, InetAddress.None);
        if (path is null)
        {
            Fail("host route", Dropped, null, $"this host has no route to {destination}: ip route get {destination}");
        }
        else
        {
            Pass("host route", $"the host takes it, or sends it on by {NameOf(path.LinkIndex)}");
            _verdict = Delivered;
        }
    }

    private void Send(Peer peer, InetAddress source, InetAddress destination, int length)
    {
        PeerSettings settings = peer.Settings;
        HostPath? path = host.GetPath(destination, InetAddress.None);
        PeerEntry? entry = state.FindPeer(settings.Name);
        IpPrefix prefix = state.Prefixes.Where(one => one.Contains(destination)).MaxBy(one => one.Length);
        if (path is not null && entry?.OnLink is DirectWay way && NetworkState.IsDirect(entry, prefix) && path.LinkIndex == way.LinkIndex &&
            !state.RouteProblems.ContainsKey(prefix))
        {
            Pass("host route", $"{prefix}: peer {settings.Name}, by way of {way.Gateway} on {NameOf(way.LinkIndex)}");
            Pass("encapsulation", $"direct: {entry.EncapsulationReason}");
            _verdict = Sent;
            return;
        }

        if (path is null || path.LinkIndex != device.Index)
        {
            string where = path is null ? "this host has no route to it" : $"the host's route leads to {NameOf(path.LinkIndex)}";
            Fail("host route", Elsewhere, null, $"{where}, not into {state.Config.Name}: tunnelctl routes; ip route get {destination}");
            return;
        }

        Pass("host route", $"into {state.Config.Name}");
        Pass("overlay route", $"{prefix}: peer {settings.Name}");
        if (!peer.IsReady)
        {
            string problem = string.Join("; ", entry?.Problems ?? []);
            Fail("peer", Dropped, DropReason.PeerNotReady, problem.Length > 0 ? problem : "its endpoint has no usable address yet");
            return;
        }

        if (peer.Target.Refuses)
        {
            Fail("peer", Dropped, DropReason.EndpointRefuses, $"nobody listens at {settings.Endpoint} port {settings.UdpPort}; to try again: tunnelctl reload");
            return;
        }

        Pass("peer", peer.Target.IsDown ? $"{settings.Name} is down; packets are sent all the same" : $"{settings.Name} at {settings.Endpoint}");
        if (source == settings.Local || source == settings.Endpoint)
        {
            Fail("source", Dropped, DropReason.InnerSourceIsEndpoint, $"{source} is an end of the tunnel itself: a packet would go round and round");
            return;
        }

        Size(peer, destination, length);
        if (_verdict is null)
        {
            string kind = settings.UdpPort == 0 ? "gre" : $"gre-udp to port {settings.UdpPort}";
            Pass("encapsulation", $"{kind}{Key(settings.KeyOut)}, {settings.Local} to {settings.Endpoint}, {settings.Overhead} bytes more");
            _verdict = Sent;
        }
    }

    private void Size(Peer peer, InetAddress destination, int length)
    {
        if (length <= peer.Gmtu)
        {
            Pass("size", $"{length} of {peer.Gmtu} bytes");
        }
        else if (destination.IsIpv4)
        {
            Pass("size", $"{length} bytes are more than the GMTU of {peer.Gmtu}: fragmented; with DF dropped (ExceedsGmtu) and answered with Fragmentation Needed");
        }
        else if (length <= peer.LargestIpv6)
        {
            Pass("size", $"{length} bytes are more than the GMTU of {peer.Gmtu}: the outer packet is fragmented");
        }
        else
        {
            Fail("size", Dropped, DropReason.ExceedsGmtu, $"{length} bytes are more than {peer.LargestIpv6}: answered with Packet Too Big");
        }
    }

    private void Pass(string step, string text) => _steps.Add(new StepModel(step, true, text));

    private void Fail(string step, string verdict, DropReason? reason, string text)
    {
        _steps.Add(new StepModel(step, false, text));
        (_verdict, _reason) = (verdict, reason);
    }

    private string NameOf(int linkIndex) => host.FindLink(linkIndex)?.Name ?? $"device {linkIndex}";

    private static string Key(uint? key) => key is uint number ? $", key {number}" : "";
}
