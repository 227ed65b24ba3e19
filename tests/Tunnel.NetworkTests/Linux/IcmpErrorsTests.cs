using System.Net;
using System.Net.Sockets;
using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.NetworkTests.Linux;

/// <summary>ICMP errors as raw sockets hand them over.</summary>
public sealed class IcmpErrorsTests
{
    [SkippableFact]
    public async Task WhatIsDamagedIsNotRead()
    {
        using RawGreLab lab = RawGreLab.Direct();
        using IcmpErrors errors = lab.A.Run(() => new IcmpErrors());
        byte[] quoted = RawGreLab.Packet("10.77.1.1", "10.77.1.2");
        lab.B.Run(() =>
        {
            using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Raw, ProtocolType.Icmp);
            var there = new IPEndPoint(IPAddress.Parse("10.77.1.1"), 0);
            byte[] Message(ushort mtu) => Packets.IcmpPacket("10.77.1.2", "10.77.1.1", type: 3, code: 4, quoted, mtu)[Ipv4Header.Length..];
            byte[] damaged = Message(mtu: 1300);
            damaged[^1] ^= 1;
            socket.SendTo(damaged, there);
            socket.SendTo(Message(mtu: 1400), there);
        });

        // They come in the order in which they were sent.
        using var patience = new CancellationTokenSource(TimeSpan.FromSeconds(30));
        UnderlayError error = await errors.ReadAsync(patience.Token);
        Assert.Equal((3, 4, 1400u), (error.Type, error.Code, error.Parameter));
        Assert.Equal(RawGreLab.Address("10.77.1.2"), error.Router);
        Assert.Equal(quoted, error.Quoted.ToArray());
    }
}
