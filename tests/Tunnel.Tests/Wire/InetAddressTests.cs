using System.Net;
using System.Net.Sockets;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

public sealed class InetAddressTests
{
    [Theory]
    [InlineData("0.0.0.0")]
    [InlineData("10.0.201.1")]
    [InlineData("255.255.255.255")]
    [InlineData("::")]
    [InlineData("::1")]
    [InlineData("fe80::1")]
    [InlineData("2001:db8::1:0:0:1")]
    [InlineData("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]
    public void Text_that_is_in_normal_form_survives(string text)
    {
        Assert.True(InetAddress.TryParse(text, out InetAddress address));
        Assert.Equal(text, address.ToString());
        Assert.Equal(IPAddress.Parse(text), address.ToIPAddress());
        Assert.Equal(address, InetAddress.From(IPAddress.Parse(text)));
        Assert.Equal(address, InetAddress.Read(IPAddress.Parse(text).GetAddressBytes()));
    }

    [Theory]
    [InlineData("2001:DB8:0:0:0:0:0:1", "2001:db8::1")]
    [InlineData("::ffff:10.0.0.1", "10.0.0.1")]
    [InlineData("::ffff:a00:1", "10.0.0.1")]
    [InlineData("64:ff9b::10.0.0.1", "64:ff9b::a00:1")]
    public void Other_forms_are_read_too(string text, string expected)
    {
        Assert.True(InetAddress.TryParse(text, out InetAddress address));
        Assert.Equal(expected, address.ToString());
    }

    [Theory]
    [InlineData(null)]
    [InlineData("")]
    [InlineData(" ")]
    [InlineData("10.1")]
    [InlineData("10")]
    [InlineData("10.0.0.1 ")]
    [InlineData(" 10.0.0.1")]
    [InlineData("10.0.0.01")]
    [InlineData("010.0.0.1")]
    [InlineData("0x0a.0.0.1")]
    [InlineData("256.0.0.1")]
    [InlineData("10.0.0.1.2")]
    [InlineData("10.0.0.1/24")]
    [InlineData("10.0.0.1:80")]
    [InlineData("[::1]")]
    [InlineData("[::1]:80")]
    [InlineData("::1]")]
    [InlineData("fe80::1%eth0")]
    [InlineData("fe80::1%1")]
    [InlineData("::1/64")]
    [InlineData(" ::1")]
    [InlineData("::1 ")]
    [InlineData("1::2::3")]
    [InlineData("1:2:3:4:5:6:7")]
    [InlineData("1:2:3:4:5:6:7:8:9")]
    [InlineData("::10000")]
    [InlineData("::g")]
    [InlineData("::ffff:10.0.0")]
    [InlineData("::ffff:10.0.0.256")]
    [InlineData("vm2.example")]
    public void What_is_no_address_is_refused(string? text)
    {
        Assert.False(InetAddress.TryParse(text, out InetAddress address));
        Assert.Equal(InetAddress.None, address);
    }

    [Fact]
    public void Knows_its_family()
    {
        InetAddress ipv4 = Overlay.Address("0.0.0.0");
        Assert.True(ipv4.IsIpv4);
        Assert.False(ipv4.IsIpv6);
        Assert.False(ipv4.IsNone);
        Assert.Equal(AddressFamily.InterNetwork, ipv4.Family);

        InetAddress ipv6 = Overlay.Address("::1");
        Assert.False(ipv6.IsIpv4);
        Assert.True(ipv6.IsIpv6);
        Assert.False(ipv6.IsNone);
        Assert.Equal(AddressFamily.InterNetworkV6, ipv6.Family);

        Assert.False(InetAddress.None.IsIpv4);
        Assert.False(InetAddress.None.IsIpv6);
        Assert.True(InetAddress.None.IsNone);
        Assert.Equal(InetAddress.None, Overlay.Address("::"));
    }

    [Fact]
    public void Is_read_and_written_in_network_order()
    {
        InetAddress ipv4 = InetAddress.Read([10, 0, 201, 1]);
        Assert.Equal(0x0a00c901u, ipv4.Ipv4);
        Assert.Equal(ipv4, InetAddress.FromIpv4(0x0a00c901));
        var written = new byte[18];
        written.AsSpan().Fill(0xa5);
        Assert.Equal(4, ipv4.Write(written));
        Assert.Equal([10, 0, 201, 1, 0xa5], written[..5]);

        byte[] bytes = Packets.Payload(16);
        InetAddress ipv6 = InetAddress.Read(bytes);
        Assert.Equal(16, ipv6.Write(written));
        Assert.Equal([.. bytes, 0xa5, 0xa5], written);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(3)]
    [InlineData(5)]
    [InlineData(15)]
    [InlineData(17)]
    public void Reading_another_length_throws(int length) =>
        Assert.Throws<ArgumentException>(() => InetAddress.Read(new byte[length]));

    [Fact]
    public void Orders_by_family_then_by_number()
    {
        string[] ordered = ["0.0.0.0", "9.255.255.255", "10.0.0.0", "255.255.255.255", "::1", "2001:db8::", "ffff::"];
        InetAddress[] sorted = [.. ordered.Reverse().Select(Overlay.Address).Order()];
        Assert.Equal(ordered, sorted.Select(a => a.ToString()));
    }
}
