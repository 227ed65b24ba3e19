using Tunnel.Dataplane;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Dataplane;

public sealed class RoutingSnapshotTests
{
    private static readonly InetAddress Endpoint = Overlay.Address("192.168.40.12");

    [Fact]
    public void A_keyless_packet_is_a_keyless_peers_only()
    {
        Peer keyless = Overlay.Peer();
        RoutingSnapshot snapshot = Overlay.Snapshot([(keyless, [])]);
        Assert.Same(keyless, snapshot.FindSender(Endpoint, hasKey: false, 0));
        Assert.Null(snapshot.FindSender(Endpoint, hasKey: true, 0));
        Assert.Null(snapshot.FindSender(Endpoint, hasKey: true, 42));
        Assert.Null(snapshot.FindSender(Overlay.Address("192.168.40.13"), hasKey: false, 0));
        Assert.Null(snapshot.FindSender(Overlay.Address("fd00:40::12"), hasKey: false, 0));
    }

    [Theory]
    [InlineData(0u)]
    [InlineData(42u)]
    [InlineData(uint.MaxValue)]
    public void A_keyed_packet_is_that_keys_peers_only(uint key)
    {
        Peer keyed = Overlay.Peer(keyIn: key, keyOut: 7);
        RoutingSnapshot snapshot = Overlay.Snapshot([(keyed, [])]);
        Assert.Same(keyed, snapshot.FindSender(Endpoint, hasKey: true, key));
        Assert.Null(snapshot.FindSender(Endpoint, hasKey: true, key ^ 1));
        Assert.Null(snapshot.FindSender(Endpoint, hasKey: true, 7));
        Assert.Null(snapshot.FindSender(Endpoint, hasKey: false, 0));
    }

    [Fact]
    public void Peers_may_share_an_endpoint_with_different_keys()
    {
        Peer keyless = Overlay.Peer("a");
        Peer zero = Overlay.Peer("b", keyIn: 0);
        Peer keyed = Overlay.Peer("c", keyIn: 42);
        RoutingSnapshot snapshot = Overlay.Snapshot([(keyless, []), (zero, []), (keyed, [])]);
        Assert.Same(keyless, snapshot.FindSender(Endpoint, hasKey: false, 0));
        Assert.Same(zero, snapshot.FindSender(Endpoint, hasKey: true, 0));
        Assert.Same(keyed, snapshot.FindSender(Endpoint, hasKey: true, 42));

        // A wrong key can't be blamed on one of them.
        Assert.True(snapshot.IsEndpoint(Endpoint, out Peer? peer));
        Assert.Null(peer);
    }

    [Fact]
    public void The_only_peer_of_an_endpoint_is_named()
    {
        Peer only = Overlay.Peer(keyIn: 42);
        RoutingSnapshot snapshot = Overlay.Snapshot([(only, [])]);
        Assert.True(snapshot.IsEndpoint(Endpoint, out Peer? peer));
        Assert.Same(only, peer);
        Assert.False(snapshot.IsEndpoint(Overlay.Address("192.168.40.99"), out peer));
        Assert.Null(peer);
    }

    [Fact]
    public void Two_peers_of_the_same_endpoint_and_key_are_refused()
    {
        Assert.Throws<ArgumentException>(() => Overlay.Snapshot([(Overlay.Peer("a"), []), (Overlay.Peer("b"), [])]));
        Assert.Throws<ArgumentException>(() => Overlay.Snapshot([(Overlay.Peer("a", keyIn: 1), []), (Overlay.Peer("b", keyIn: 1), [])]));
    }

    [Fact]
    public void Peers_whose_endpoint_is_not_resolved_are_no_senders()
    {
        RoutingSnapshot snapshot = Overlay.Snapshot(
            [(Overlay.Peer("a", endpoint: "::"), ["172.17.52.0/24"]), (Overlay.Peer("b", endpoint: "::"), [])]);
        Assert.Null(snapshot.FindSender(InetAddress.None, hasKey: false, 0));
        Assert.False(snapshot.IsEndpoint(InetAddress.None, out _));
        Assert.Equal(2, snapshot.Peers.Count);
        Assert.Equal("a", snapshot.Routes.Lookup(Overlay.Address("172.17.52.1"))!.Settings.Name);
    }

    [Fact]
    public void The_first_interface_address_of_IPv6_is_the_hosts()
    {
        RoutingSnapshot both = Overlay.Snapshot([], ["fd00:201::1", "10.0.201.1", "10.0.201.9", "fd00:201::9"]);
        Assert.Equal("fd00:201::1", both.Ipv6Address.ToString());

        Assert.True(RoutingSnapshot.Empty.Ipv6Address.IsNone);
        Assert.Empty(RoutingSnapshot.Empty.Peers);
        Assert.False(RoutingSnapshot.Empty.DropsPartialUdp);
    }

    [Fact]
    public void The_holder_begins_empty_and_gives_what_was_published()
    {
        var holder = new RoutingHolder();
        Assert.Same(RoutingSnapshot.Empty, holder.Current);
        RoutingSnapshot snapshot = Overlay.Snapshot([]);
        holder.Current = snapshot;
        Assert.Same(snapshot, holder.Current);
    }
}
