using System.Buffers.Binary;
using Tunnel.Dataplane;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// Sends plain GRE through a packet socket, packet(7), straight to the link: the kernel neither looks for a route nor at its firewall's
/// OUTPUT nor at IPsec policies. Queueing disciplines and captures on the device see the packets. It receives nothing.
/// Thread rule: as <see cref="IUnderlay"/>'s.
/// </summary>
internal sealed unsafe class PacketSender : IDisposable
{
    private const int BufferSize = 4 << 20;
    private const int LinkAddressLength = 6;

    private readonly FileDescriptor _descriptor;
    private readonly MessageSender _messages;
    private readonly PinnedArray<sockaddr_ll> _destinations = new(MessageSender.MaxMessages);

    /// <summary>Opens the socket.</summary>
    /// <exception cref="DeviceOpenException">It cannot be opened; says why and what to do.</exception>
    public PacketSender()
    {
        SysResult opened = Sys.Socket(Uapi.AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        _descriptor = opened.IsError
            ? throw new DeviceOpenException($"cannot open a packet socket: {opened.Reason}", "set `datapath: {receive: raw, send: raw}` to do without")
            : new FileDescriptor(opened.Value);
        _ = InetSocket.SetSendBuffer(_descriptor.Number, BufferSize);

        _messages = new MessageSender(_descriptor.Number);
        for (int i = 0; i < MessageSender.MaxMessages; i++)
        {
            sockaddr_ll* destination = _destinations.Address + i;
            destination->sll_family = Uapi.AF_PACKET;
            destination->sll_protocol = BinaryPrimitives.ReverseEndianness(Uapi.ETH_P_IP);
            destination->sll_halen = LinkAddressLength;
            _messages.Message(i)->msg_name = destination;
            _messages.Message(i)->msg_namelen = sizeof(sockaddr_ll);
        }
    }

    /// <summary>Sends packets in order and writes their results.</summary>
    /// <param name="batch">The batch.</param>
    /// <param name="first">The first packet.</param>
    /// <param name="end">The one after the last.</param>
    /// <param name="neighbor">Where they all go.</param>
    /// <param name="patience">How long the batch may still wait for room.</param>
    public void Send(GatherBatch batch, int first, int end, LinkNeighbor neighbor, ref SendPatience patience)
    {
        while (first < end)
        {
            int count = _messages.Prepare(batch, first, end);
            if (count == 0)
            {
                batch[first++].Result = TransmitResult.Failed;
                continue;
            }

            for (int i = 0; i < count; i++)
            {
                sockaddr_ll* destination = _destinations.Address + i;
                destination->sll_ifindex = neighbor.LinkIndex;
                BinaryPrimitives.WriteUInt64BigEndian(new Span<byte>(destination->sll_addr, sizeof(ulong)), neighbor.Address << 16);
            }

            _messages.Send(batch, first, count, ref patience);
            first += count;
        }
    }

    /// <summary>Closes the socket.</summary>
    public void Dispose() => _descriptor.Dispose();
}
