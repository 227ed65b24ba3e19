using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.Wire;
using static Tunnel.Linux.Uapi;

namespace Tunnel.Tests.Linux;

/// <summary>The bytes of rtnetlink messages, as the kernel's headers lay them out on a little-endian host.</summary>
public sealed class NetlinkTests
{
    [Fact]
    public void ARequestIsWrittenAsTheKernelWantsIt()
    {
        // Filled beforehand, so that padding that is not written shows.
        byte[] buffer = new byte[NetlinkRequest.MaxLength];
        buffer.AsSpan().Fill(0xa5);
        var head = new rtmsg
        {
            rtm_family = 2,
            rtm_dst_len = 24,
            rtm_table = RT_TABLE_MAIN,
            rtm_protocol = 84,
            rtm_scope = RT_SCOPE_LINK,
            rtm_type = RTN_UNICAST,
        };
        var request = NetlinkRequest.Begin(buffer, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, head);
        request.Add(RTA_DST, Address("172.17.52.0"));
        request.Add(RTA_OIF, 5u);
        int metrics = request.BeginNested(RTA_METRICS | NLA_F_NESTED);
        request.Add(RTAX_MTU, 1400u);
        request.EndNested(metrics);
        request.Add(7, (byte)9);
        request.Add(8, "tun0");

        byte[] expected = Bytes(
            "4c000000 1800 0506 00000000 00000000", // length, type, flags, sequence, port
            "02 18 00 00 fe 54 fd 01 00000000",
            "0800 0100 ac113400",
            "0800 0400 05000000",
            "0c00 0880",
            "0800 0200 78050000",
            "0500 0700 09 000000",
            "0900 0800 74756e3000 000000");
        Assert.Equal(expected, request.Finish().ToArray());
    }

    [Theory]
    [InlineData("02 18", "0800 0100 ac113400", "172.17.52.0/24")]
    [InlineData("02 00", "", "0.0.0.0/0")]
    [InlineData("0a 40", "1400 0100 fd000052000000000000000000000000", "fd00:52::/64")]
    [InlineData("0a 00", "", "::/0")]
    public void ARouteIsRead(string family, string destination, string prefix)
    {
        byte[] message = Bytes(
            family,
            "00 00 fe 54 fd 01 00000000",
            destination,
            "0800 0f00 2c010000",
            "0800 0400 05000000",
            "0800 0600 07000000",
            "0c00 0880", // NLA_F_NESTED or not
            "0800 0200 78050000");
        Assert.True(NetlinkRecords.TryParseRoute(message, out NetlinkRoute route));
        Assert.Equal(new NetlinkRoute(300, RTN_UNICAST, 0, InetAddress.None, new HostRoute(Prefix(prefix), 5, 84, 7, 1400)), route);
    }

    [Theory]
    [InlineData("02 18", "0700 0100 ac1134 00", "an address that is too short")]
    [InlineData("02 21", "0800 0100 ac113400", "a prefix that is too long")]
    [InlineData("0a 18", "0800 0100 ac113400", "an address of the other family")]
    [InlineData("1c 18", "0800 0100 ac113400", "another family")]
    [InlineData("0a 60", "1400 0100 00000000000000000000ffff00000000", "an IPv4-mapped prefix")]
    public void ARouteThatIsNoneOfOursIsLeftOut(string family, string destination, string why)
    {
        byte[] message = Bytes(family, "00 00 fe 54 fd 01 00000000", destination);
        Assert.False(NetlinkRecords.TryParseRoute(message, out NetlinkRoute _), why);
    }

    [Theory]
    [InlineData("0800 0100 0a0000fe 0800 0200 0a000001")]
    [InlineData("0800 0200 0a000001 0800 0100 0a0000fe")]
    [InlineData("0800 0100 0a000001")]
    public void TheAddressOfAPointToPointLinkIsItsOwnEnd(string attributes)
    {
        Assert.True(NetlinkRecords.TryParseAddress(Bytes("02 20 00 00 05000000", attributes), out int link, out IpPrefix address));
        Assert.Equal(5, link);
        Assert.Equal(Prefix("10.0.0.1/32"), address);
    }

    [Fact]
    public void ALinkIsRead()
    {
        byte[] message = Bytes("00 00 feff 05000000 01000000 00000000", "0900 0300 74756e3000 000000", "0800 0400 c4050000");
        Assert.True(NetlinkRecords.TryParseLink(message, out HostLink? link));
        Assert.Equal(new HostLink(5, "tun0", 1476, IsUp: true), link);
        Assert.False(NetlinkRecords.TryParseLink(message.AsSpan(0, 16), out _), "no name");
    }

    [Theory]
    [InlineData("0000", "00000000 14000000 18000506 01000000 00000000", 0, null)]
    [InlineData("0001", "efffffff 58000000 18000506 01000000 00000000", 17, null)]
    [InlineData("0003", "eaffffff 58000000 18000506 01000000 00000000" + "0600 0100 6e6f 0000", 22, "no")]
    [InlineData("0003", "eaffffff 58000000 18000506 01000000 00000000" + "0800 0200 14000000" + "0700 0100 6e6f00 00", 22, "no")]
    [InlineData("0002", "eaffffff 18000000 18000506 01000000 00000000" + "0102030405060708" + "0700 0100 6e6f00 00", 22, "no")]
    [InlineData("0002", "eaffffff ffffffff 18000506 01000000 00000000", 22, null)]
    [InlineData("0003", "eaffffff", 22, null)]
    [InlineData("0000", "", 0, null)]
    public void AnErrorBringsTheKernelsOwnMessage(string flags, string payload, int error, string? reason)
    {
        byte[] body = Bytes(payload);
        byte[] datagram = [.. BitConverter.GetBytes(16 + body.Length), .. Bytes("0200", flags, "01000000 00000000"), .. body];
        var reader = new NetlinkReader(datagram);
        Assert.True(reader.TryReadMessage(out NetlinkMessage message));
        Assert.True(message.IsEnd);
        Assert.Equal((error, reason), message.ReadEnd());
    }

    [Fact]
    public void TheEndOfADumpBringsItsError()
    {
        var reader = new NetlinkReader(Bytes("1c000000 0300 0202 01000000 00000000", "feffffff", "0700 0100 6e6f00 00"));
        Assert.True(reader.TryReadMessage(out NetlinkMessage message));
        Assert.Equal((2, "no"), message.ReadEnd());
    }

    [Theory]
    [InlineData("")]
    [InlineData("10000000 1800 0000 01000000 000000")]
    [InlineData("0f000000 1800 0000 01000000 00000000")]
    [InlineData("11000000 1800 0000 01000000 00000000")]
    [InlineData("ffffffff 1800 0000 01000000 00000000")]
    public void AMessageOfImpossibleLengthEndsTheReading(string datagram)
    {
        var reader = new NetlinkReader(Bytes(datagram));
        Assert.False(reader.TryReadMessage(out _));
    }

    [Fact]
    public void SeveralMessagesAndAttributesAreReadInTurn()
    {
        byte[] datagram = Bytes(
            "15000000 1800 0200 01000000 00000000", "0500 0100 07 000000",
            "1c000000 1900 0200 01000000 00000000", "0400 0200", "0500 0380 09 000000");
        var reader = new NetlinkReader(datagram);
        Assert.True(reader.TryReadMessage(out NetlinkMessage first));
        Assert.True(reader.TryReadMessage(out NetlinkMessage second));
        Assert.False(reader.TryReadMessage(out _));
        Assert.Equal((RTM_NEWROUTE, RTM_DELROUTE), (first.Header.nlmsg_type, second.Header.nlmsg_type));

        var attributes = new NetlinkReader(first.Payload);
        Assert.True(attributes.TryReadAttribute(out ushort type, out ReadOnlySpan<byte> value));
        Assert.Equal((1, 7, 1), (type, value[0], value.Length));
        Assert.False(attributes.TryReadAttribute(out _, out _));

        attributes = new NetlinkReader(second.Payload);
        Assert.True(attributes.TryReadAttribute(out type, out value));
        Assert.Equal((2, 0), (type, value.Length));
        Assert.True(attributes.TryReadAttribute(out type, out value));
        Assert.Equal((3, 9), (type, value[0]));
        Assert.False(attributes.TryReadAttribute(out _, out _));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(NetlinkList.MaxAttempts - 1)]
    public void AListThatChangedMeanwhileIsReadAgain(int interruptions)
    {
        int asked = 0;
        List<int> records = [];
        NetlinkResult result = NetlinkList.Read(Exchange, [], Parse, records);

        Assert.Equal(0, result.Errno);
        Assert.Equal(interruptions + 1, asked);
        Assert.Equal([interruptions + 1, 7], records);

        NetlinkResult Exchange(Span<byte> request, NetlinkReply? onReply)
        {
            asked++;
            onReply!(new NetlinkMessage { Payload = [(byte)asked] });
            onReply!(new NetlinkMessage { Payload = [] });
            onReply!(new NetlinkMessage { Payload = [7] });
            return new NetlinkResult(0, "", asked <= interruptions);
        }
    }

    [Theory]
    [InlineData(0, true, 11, NetlinkList.MaxAttempts)]
    [InlineData(1, false, 1, 1)]
    [InlineData(1, true, 1, 1)]
    [InlineData(2, false, 0, 1)]
    public void AListThatNeverSettlesOrFailsIsGivenUp(int errno, bool interrupted, int expected, int expectedAttempts)
    {
        int asked = 0;
        NetlinkResult result = NetlinkList.Read<int>(
            (_, _) =>
            {
                asked++;
                return new NetlinkResult(errno, "no", interrupted);
            },
            [],
            Parse,
            []);
        Assert.Equal(expected, result.Errno);
        Assert.Equal(expectedAttempts, asked);
    }

    [Fact]
    public void DamagedMessagesAreReadWithoutHarm()
    {
        byte[] good = Bytes(
            "58000000 1800 0203 01000000 00000000", "02 18 00 00 fe 54 fd 01 00000000",
            "0800 0f00 fe000000", "0800 0100 ac113400", "0800 0400 05000000", "0800 0700 0a000001", "0c00 0800", "0800 0200 78050000",
            "1000 0900", "0800 00 00 05000000", "00000000");
        var random = new Random(2784);
        int routes = 0;
        int others = 0;
        for (int i = 0; i < 100_000; i++)
        {
            byte[] damaged = good[..random.Next(good.Length + 1)];
            for (int hits = random.Next(4); hits > 0 && damaged.Length > 0; hits--)
            {
                damaged[random.Next(damaged.Length)] = (byte)random.Next(256);
            }

            var reader = new NetlinkReader(damaged);
            while (reader.TryReadMessage(out NetlinkMessage message))
            {
                routes += NetlinkRecords.TryParseRoute(message.Payload, out NetlinkRoute _) ? 1 : 0;
                others += NetlinkRecords.TryParseAddress(message.Payload, out int _, out IpPrefix _) ? 1 : 0;
                others += NetlinkRecords.TryParseLink(message.Payload, out HostLink? _) ? 1 : 0;
                message.ReadEnd();
            }
        }

        Assert.InRange(routes, 100, 100_000);
        Assert.InRange(others, 0, 100_000);
    }

    private static bool Parse(NetlinkMessage message, out int record)
    {
        record = message.Payload.IsEmpty ? 0 : message.Payload[0];
        return !message.Payload.IsEmpty;
    }

    private static byte[] Bytes(params string[] hex) => Convert.FromHexString(string.Concat(hex).Replace(" ", "", StringComparison.Ordinal));

    private static IpPrefix Prefix(string text) => IpPrefix.TryParse(text, out IpPrefix prefix) ? prefix : throw new FormatException(text);

    private static InetAddress Address(string text) => InetAddress.TryParse(text, out InetAddress address) ? address : throw new FormatException(text);
}
