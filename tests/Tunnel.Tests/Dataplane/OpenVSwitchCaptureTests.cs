using Tunnel.TestSupport;

namespace Tunnel.Tests.Dataplane;

/// <summary>What Open vSwitch's userspace GRE and tunneld once sent each other: we still take the one and send the other.</summary>
public sealed class OpenVSwitchCaptureTests
{
    public static TheoryData<string> FromOpenVSwitch => InteropReplay.Names(OpenVSwitchCaptures.All, fromPartner: true);

    public static TheoryData<string> FromTunneld => InteropReplay.Names(OpenVSwitchCaptures.All, fromPartner: false);

    [Theory]
    [MemberData(nameof(FromOpenVSwitch))]
    public void Delivers_what_Open_vSwitch_sent(string name) => new InteropReplay().Receive(OpenVSwitchCaptures.All.Single(one => one.Name == name));

    [Theory]
    [MemberData(nameof(FromTunneld))]
    public void Sends_what_Open_vSwitch_took(string name) => new InteropReplay().Send(OpenVSwitchCaptures.All.Single(one => one.Name == name));

    [Fact]
    public void Every_case_is_there_in_both_directions()
    {
        string[] cases = InteropReplay.Cases(OpenVSwitchCaptures.All, fromPartner: true);
        Assert.Equal(9, cases.Length);
        Assert.Equal(cases, InteropReplay.Cases(OpenVSwitchCaptures.All, fromPartner: false));
    }
}
