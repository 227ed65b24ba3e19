using System.Diagnostics;
using System.Net.NetworkInformation;
using PacketDotNet;
using SharpPcap;
using SharpPcap.LibPcap;
using Tunnel.NetworkTests;
using Tunnel.NetworkTests.Linux;
using Xunit.Abstractions;
using GrePacket = PacketDotNet.GrePacket;
using Packet = PacketDotNet.Packet;

namespace Tunnel.PacketDotNetTests;

/// <summary>
/// A running tunneld on vm1, and on the other end of the underlay, in place of vm2, nothing but a veth: SharpPcap captures what tunneld sends there,
/// PacketDotNet decodes it and builds the answer.
/// </summary>
[Collection(nameof(LabCollection))]
public sealed class WireTests(ITestOutputHelper output)
{
    private const string PartnerHardware = "02:00:00:00:40:12";

    [SkippableTheory]
    [InlineData(4, 4, null)]
    [InlineData(4, 4, 42u)]
    [InlineData(4, 6, null)]
    [InlineData(4, 6, 42u)]
    [InlineData(6, 4, 42u)]
    [InlineData(6, 6, null)]
    public async Task SharpPcapAndPacketDotNetAnswerAPing(int outer, int inner, uint? key)
    {
        await using Lab lab = await Lab.CreateAsync(output, hosts: 1);
        Vm vm1 = lab.Hosts[0];
        using var partner = new NetnsThread("partner");
        await lab.Switch.IpAsync($"link add port2 type veth peer name eth1 netns {partner.ThreadId}\nlink set port2 master br0 up");
        partner.Ip($"link set eth1 address {PartnerHardware}");
        partner.Ip("link set eth1 addrgenmode none");
        partner.Ip("link set eth1 up");
        // Nobody there answers ARP.
        string endpoint = outer == 4 ? "192.168.40.12" : "fd40::12";
        await vm1.IpAsync($"neigh replace {endpoint} lladdr {PartnerHardware} dev eth1 nud permanent");
        string target = inner == 4 ? "172.17.52.2" : "fd17:52::2";
        await vm1.StartDaemonAsync(vm1.Configuration(
            $"""
              partner:
                endpoint: "{endpoint}"
                subnets: ["{target}{(inner == 4 ? "/32" : "/128")}"]
            {(key is null ? "" : $"    key: {key}")}
            """,
            outer));

        string hardware = (await vm1.RunAsync("cat", "/sys/class/net/eth1/address")).Succeeded().Out.Trim();
        using LibPcapLiveDevice device = partner.Run(Open);
        Task<IPPacket> answering = Task.Run(() => Answer(device, vm1.Underlay(outer), endpoint, key, PhysicalAddress.Parse(hardware.ToUpperInvariant().Replace(':', '-'))));
        PingResult ping = await vm1.Container.PingAsync(target, 1, "-W", "20");
        IPPacket request = await answering;
        Assert.True(ping.Received == 1, $"{ping.Result}\n{request}");

        Assert.Equal(vm1.Underlay(outer), request.SourceAddress.ToString());
        Assert.True(request is not IPv4Packet { ValidIPChecksum: false }, $"{request}");
        GrePacket gre = Assert.IsType<GrePacket>(request.PayloadPacket);
        Assert.Equal(key is null ? 0 : 0x2000, gre.FlagsAndVersion);
        Assert.Equal(inner == 4 ? EthernetType.IPv4 : EthernetType.IPv6, gre.Protocol);
        IPPacket question = Assert.IsAssignableFrom<IPPacket>(gre.PayloadPacket);
        Assert.Equal(vm1.ContainerAddress(inner), question.SourceAddress.ToString());
        Assert.Equal(target, question.DestinationAddress.ToString());
        Assert.Equal(63, question.TimeToLive);
        Assert.True(inner == 4 ? question.Extract<IcmpV4Packet>().ValidIcmpChecksum : question.Extract<IcmpV6Packet>().ValidIcmpChecksum);
    }

    private static LibPcapLiveDevice Open()
    {
        LibPcapLiveDevice device = LibPcapLiveDeviceList.New().Single(one => one.Name == "eth1");
        device.Open(new DeviceConfiguration { Mode = DeviceModes.Promiscuous, Immediate = true, ReadTimeout = 100 });
        device.Filter = "ip proto 47 or ip6 proto 47";
        return device;
    }

    // Waits for the echo request, and answers it. Messages between daemons are not answered: the partner doesn't know them.
    private static IPPacket Answer(LibPcapLiveDevice device, string local, string endpoint, uint? key, PhysicalAddress hardware)
    {
        var time = Stopwatch.StartNew();
        while (time.Elapsed < TimeSpan.FromSeconds(20))
        {
            if (device.GetNextPacket(out PacketCapture capture) != GetPacketStatus.PacketRead)
            {
                continue;
            }

            RawCapture raw = capture.GetPacket();
            if (Packet.ParsePacket(raw.LinkLayerType, raw.Data).PayloadPacket is IPPacket { PayloadPacket: GrePacket { PayloadPacket: IPPacket inner } } outer
                && (inner.Extract<IcmpV4Packet>()?.TypeCode == IcmpV4TypeCode.EchoRequest || inner.Extract<IcmpV6Packet>()?.Type == IcmpV6Type.EchoRequest))
            {
                IPPacket reply = PacketDotNetFrames.Encapsulate(PacketDotNetFrames.EchoReply(inner), endpoint, local, key);
                device.SendPacket(new EthernetPacket(
                    PhysicalAddress.Parse(PartnerHardware.Replace(':', '-')), hardware, reply is IPv4Packet ? EthernetType.IPv4 : EthernetType.IPv6)
                {
                    PayloadPacket = reply,
                }.Bytes);
                return outer;
            }
        }

        throw new LabException("no echo request was captured");
    }
}
