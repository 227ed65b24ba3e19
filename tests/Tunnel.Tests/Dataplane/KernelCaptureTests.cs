using Tunnel.TestSupport;

namespace Tunnel.Tests.Dataplane;

/// <summary>What the Linux kernel's GRE and tunneld once sent each other: we still take the one and send the other.</summary>
public sealed class KernelCaptureTests
{
    public static TheoryData<string> FromKernel => InteropReplay.Names(KernelCaptures.All, fromPartner: true);

    public static TheoryData<string> FromTunneld => InteropReplay.Names(KernelCaptures.All, fromPartner: false);

    [Theory]
    [MemberData(nameof(FromKernel))]
    public void Delivers_what_the_kernel_sent(string name) => new InteropReplay().Receive(KernelCaptures.All.Single(one => one.Name == name));

    [Theory]
    [MemberData(nameof(FromTunneld))]
    public void Sends_what_the_kernel_took(string name) => new InteropReplay().Send(KernelCaptures.All.Single(one => one.Name == name));

    [Fact]
    public void Every_case_is_there_in_both_directions()
    {
        string[] cases = InteropReplay.Cases(KernelCaptures.All, fromPartner: true);
        Assert.Equal(12, cases.Length);
        Assert.Equal(cases, InteropReplay.Cases(KernelCaptures.All, fromPartner: false));
    }
}
