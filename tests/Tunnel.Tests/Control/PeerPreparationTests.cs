using Tunnel.Control;
using Tunnel.Control.Configuration;
using Tunnel.TestSupport;
using Tunnel.Tests.Control.Configuration;
using Tunnel.Wire;

namespace Tunnel.Tests.Control;

/// <summary>From a peer as it is configured to a peer that packets are sent to.</summary>
public sealed class PeerPreparationTests
{
    private static readonly InetAddress First = FakeHostNetwork.Address("192.168.40.12");
    private static readonly InetAddress Second = FakeHostNetwork.Address("192.168.40.13");

    // A name server tells the addresses of a name in turns (RFC 1794).
    [Fact]
    public void A_name_with_several_addresses_keeps_the_one_in_use()
    {
        NetworkConfig config = ConfigTesting.Parse("peers:\n  vm2: {endpoint: vm2.example.com, subnets: [172.17.52.0/24]}\n").Value!;
        var preparation = new PeerPreparation(new FakeHostNetwork(), tunIndex: 7, workers: 1, _ => throw new InvalidOperationException());
        IReadOnlyList<PeerEntry> entries = [];

        Assert.Equal(First, Prepare(First, Second));
        Assert.Equal(First, Prepare(Second, First));
        Assert.Equal(Second, Prepare(Second));
        Assert.Equal(Second, Prepare(First, Second));

        InetAddress Prepare(params InetAddress[] told)
        {
            entries = preparation.Prepare(config, entries, new Dictionary<string, Resolution> { ["vm2.example.com"] = new(told[0], null, told) });
            return Assert.Single(entries).Address;
        }
    }
}
