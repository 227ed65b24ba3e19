using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

public sealed class AbilitiesMessageTests
{
    [Theory]
    [InlineData(Abilities.None, true, "01010100")]
    [InlineData(Abilities.TcpSuperPackets, false, "01010001")]
    [InlineData(Abilities.TcpSuperPackets | Abilities.UdpSuperPackets, false, "01010003")]
    public void Is_four_bytes(Abilities abilities, bool isQuestion, string bytes)
    {
        var written = new byte[AbilitiesMessage.Length];
        new AbilitiesMessage(abilities, isQuestion).Write(written);
        Assert.Equal(bytes, Convert.ToHexString(written));
        Assert.True(AbilitiesMessage.TryParse(written, out AbilitiesMessage read));
        Assert.Equal((abilities, isQuestion), (read.Abilities, read.IsQuestion));
        Assert.True(AbilitiesMessage.TryParse([.. written, 1, 2, 3], out _));
    }

    [Theory]
    [InlineData("")]
    [InlineData("010100")]
    [InlineData("00010001")]
    [InlineData("02010001")]
    [InlineData("01000001")]
    [InlineData("01020001")]
    public void Another_version_or_type_or_less_is_none(string bytes) =>
        Assert.False(AbilitiesMessage.TryParse(Convert.FromHexString(bytes), out _));
}
