using Tunnel.NetworkTests;
using Tunnel.NetworkTests.Interop;
using Xunit.Abstractions;

// Much of the time is spent on waiting: three classes at the same time keep two processors busy.
[assembly: CollectionBehavior(MaxParallelThreads = 3)]
[assembly: TestCollectionOrderer("Tunnel.NetworkTests." + nameof(LongestFirst), "Tunnel.NetworkTests")]

namespace Tunnel.NetworkTests;

/// <summary>Begins with the classes that take longest, so that none of them is left to run alone at the end.</summary>
public sealed class LongestFirst : ITestCollectionOrderer
{
    private static readonly string[] First =
    [
        .. ((Type[])[typeof(KernelVmTests), typeof(DoctorTests), typeof(DecoderTests), typeof(OpenVSwitchTests), typeof(DockerTests), typeof(NatTests), typeof(PeerChangeTests), typeof(MonitorTests), typeof(OuterHeaderTests),
            typeof(FragmentTests)]).Select(type => type.FullName!),
    ];

    /// <inheritdoc/>
    public IEnumerable<ITestCollection> OrderTestCollections(IEnumerable<ITestCollection> testCollections) =>
        testCollections.OrderBy(collection => Rank(collection.DisplayName)).ThenBy(collection => collection.DisplayName, StringComparer.Ordinal);

    // A class without a collection of its own is a collection whose name has its full name in it.
    private static int Rank(string name)
    {
        int rank = Array.FindIndex(First, type => name.Contains(type, StringComparison.Ordinal));
        return rank < 0 ? First.Length : rank;
    }
}
