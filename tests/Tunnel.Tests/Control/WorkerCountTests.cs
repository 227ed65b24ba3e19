using Tunnel.Control;
using static Tunnel.Tests.Control.Configuration.ConfigTesting;

namespace Tunnel.Tests.Control;

public class WorkerCountTests
{
    private const string Peer = "peers:\n  vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24]}\n";
    private const string SequencePeer = "peers:\n  vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24], sequence: true}\n";

    [Theory]
    [InlineData(Peer, 1, 1)]
    [InlineData(Peer, 2, 1)]
    [InlineData(Peer, 6, 3)]
    [InlineData(Peer, 64, 4)]
    [InlineData(SequencePeer, 64, 1)]
    [InlineData("datapath: {workers: 8}\n" + Peer, 2, 8)]
    [InlineData("datapath: {workers: 1}\n" + Peer, 8, 1)]
    [InlineData("datapath: {workers: 1}\n" + SequencePeer, 8, 1)]
    public void What_is_configured_or_one_for_sequence_numbers_or_one_for_every_two_cpus(string yaml, int cpus, int workers) =>
        Assert.Equal(workers, WorkerCount.Choose(Network(yaml), cpus));
}
