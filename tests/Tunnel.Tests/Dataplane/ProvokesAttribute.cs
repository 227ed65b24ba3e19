using System.Reflection;
using Tunnel.Dataplane;

namespace Tunnel.Tests.Dataplane;

/// <summary>Marks a test that makes the data plane drop a packet for a reason, and checks that it was counted there and nowhere else.</summary>
[AttributeUsage(AttributeTargets.Method, AllowMultiple = true)]
public sealed class ProvokesAttribute(DropReason reason) : Attribute
{
    public DropReason Reason => reason;
}

public sealed class DropReasonCoverageTests
{
    // Only a real socket's queue can be full; the network tests fill one.
    private static readonly DropReason[] NeedsAKernel = [DropReason.ReceiveQueueFull];

    [Fact]
    public void Every_reason_is_provoked_by_a_test()
    {
        var provoked = typeof(ProvokesAttribute).Assembly.GetTypes()
            .SelectMany(type => type.GetMethods(BindingFlags.Public | BindingFlags.Instance))
            .Where(method => method.IsDefined(typeof(FactAttribute), inherit: true))
            .SelectMany(method => method.GetCustomAttributes<ProvokesAttribute>())
            .Select(attribute => attribute.Reason)
            .ToHashSet();
        Assert.Equal([], Enum.GetValues<DropReason>().Except(NeedsAKernel).Except(provoked));
        Assert.Empty(NeedsAKernel.Intersect(provoked));
    }
}
