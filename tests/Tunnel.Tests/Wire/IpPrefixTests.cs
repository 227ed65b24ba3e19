using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

public sealed class IpPrefixTests
{
    [Theory]
    [InlineData("0.0.0.0/0")]
    [InlineData("172.17.51.0/24")]
    [InlineData("10.0.201.1/24")]
    [InlineData("10.0.201.1/32")]
    [InlineData("::/0")]
    [InlineData("fd00:51::1/64")]
    [InlineData("fd00:51::1/128")]
    public void Text_survives_with_its_host_bits(string text)
    {
        Assert.True(IpPrefix.TryParse(text, out IpPrefix prefix));
        Assert.Equal(text, prefix.ToString());
    }

    [Theory]
    [InlineData(null)]
    [InlineData("")]
    [InlineData("/")]
    [InlineData("/24")]
    [InlineData("172.17.51.0")]
    [InlineData("172.17.51.0/")]
    [InlineData("172.17.51.0/33")]
    [InlineData("172.17.51.0/-1")]
    [InlineData("172.17.51.0/+1")]
    [InlineData("172.17.51.0/024")]
    [InlineData("172.17.51.0/00")]
    [InlineData("172.17.51.0/ 24")]
    [InlineData("172.17.51.0/24 ")]
    [InlineData("172.17.51.0 /24")]
    [InlineData("172.17.51.0/2x")]
    [InlineData("172.17.51.0/255.255.255.0")]
    [InlineData("172.17.51.0/24/24")]
    [InlineData("172.17.51/24")]
    [InlineData("::/129")]
    [InlineData("::/1000")]
    [InlineData("::ffff:172.17.51.0/24")]
    [InlineData("::ffff:172.17.51.0/120")]
    [InlineData("vm2/24")]
    public void What_is_no_prefix_is_refused(string? text) => Assert.False(IpPrefix.TryParse(text, out _));

    [Theory]
    [InlineData("10.0.201.1/24", "10.0.201.0/24", false)]
    [InlineData("10.0.201.0/24", "10.0.201.0/24", true)]
    [InlineData("255.255.255.255/0", "0.0.0.0/0", false)]
    [InlineData("10.0.201.1/32", "10.0.201.1/32", true)]
    [InlineData("fd00:51::1/64", "fd00:51::/64", false)]
    [InlineData("fd00:51::/64", "fd00:51::/64", true)]
    [InlineData("ffff::/0", "::/0", false)]
    [InlineData("fd00:51:0:8000::/48", "fd00:51::/48", false)]
    public void The_network_has_no_host_bits(string text, string network, bool isNetwork)
    {
        Assert.Equal(network, Overlay.Prefix(text).Network.ToString());
        Assert.Equal(isNetwork, Overlay.Prefix(text).IsNetwork);
    }

    [Theory]
    [InlineData("172.17.51.0/24", "172.17.51.0", true)]
    [InlineData("172.17.51.0/24", "172.17.51.255", true)]
    [InlineData("172.17.51.0/24", "172.17.50.255", false)]
    [InlineData("172.17.51.0/24", "172.17.52.0", false)]
    [InlineData("172.17.51.7/24", "172.17.51.9", true)]
    [InlineData("172.17.51.7/32", "172.17.51.7", true)]
    [InlineData("172.17.51.7/32", "172.17.51.6", false)]
    [InlineData("0.0.0.0/0", "255.255.255.255", true)]
    [InlineData("0.0.0.0/0", "::1", false)]
    [InlineData("::/0", "1.2.3.4", false)]
    [InlineData("::/0", "ffff::", true)]
    [InlineData("fd00:51::/64", "fd00:51::ffff", true)]
    [InlineData("fd00:51::/64", "fd00:51:0:1::", false)]
    [InlineData("fd00:51::1/128", "fd00:51::1", true)]
    [InlineData("fd00:51::1/128", "fd00:51::", false)]
    public void Knows_which_addresses_it_holds(string prefix, string address, bool expected) =>
        Assert.Equal(expected, Overlay.Prefix(prefix).Contains(Overlay.Address(address)));

    [Theory]
    [InlineData("10.0.0.0/8", "10.1.0.0/16", true)]
    [InlineData("10.1.0.0/16", "10.0.0.0/8", false)]
    [InlineData("10.0.0.0/16", "10.0.0.0/8", false)]
    [InlineData("10.0.0.0/8", "10.0.0.0/8", true)]
    [InlineData("10.0.0.0/8", "11.0.0.0/16", false)]
    [InlineData("0.0.0.0/0", "fd00::/8", false)]
    [InlineData("::/0", "fd00::/8", true)]
    public void Knows_which_prefixes_it_holds(string prefix, string other, bool expected) =>
        Assert.Equal(expected, Overlay.Prefix(prefix).Contains(Overlay.Prefix(other)));

    [Fact]
    public void Contains_agrees_with_a_comparison_bit_by_bit()
    {
        var random = new Random(66);
        for (int i = 0; i < 20_000; i++)
        {
            int bits = i % 2 == 0 ? 32 : 128;
            var bytes = new byte[bits / 8];
            random.NextBytes(bytes);
            byte[] other = [.. bytes];
            int flipped = random.Next(bits);
            other[flipped / 8] ^= (byte)(0x80 >> (flipped % 8));
            int length = random.Next(bits + 1);
            var prefix = new IpPrefix(InetAddress.Read(bytes), length);
            Assert.True(prefix.Contains(InetAddress.Read(bytes)));
            Assert.Equal(flipped >= length, prefix.Contains(InetAddress.Read(other)));
        }
    }

    [Fact]
    public void Orders_by_address_shorter_prefixes_first()
    {
        string[] ordered = ["10.0.0.0/8", "10.0.0.0/16", "10.1.0.0/16", "172.17.51.0/24", "fd00::/8", "fd00::/64", "fd00:51::/64"];
        Assert.Equal(ordered, ordered.Reverse().Select(Overlay.Prefix).Order().Select(p => p.ToString()));
        Assert.Equal(32, Overlay.Prefix("10.0.0.0/8").MaxLength);
        Assert.Equal(128, Overlay.Prefix("fd00::/8").MaxLength);
    }
}
