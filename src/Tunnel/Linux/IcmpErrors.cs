using System.Net;
using System.Net.Sockets;
using System.Threading.Channels;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Linux;

/// <summary>
/// Reads ICMP errors by raw ICMP sockets of both families: icmp(7), raw(7), RFC 3542 section 3.2. Unlike the error queues of the sockets that
/// send, they are there whichever socket has sent, tell everything that was quoted, and keep nobody from sending.
/// </summary>
internal sealed class IcmpErrors : IUnderlayErrors
{
    private const int LevelRaw = 255;
    private const int LevelIcmpv6 = 58;
    private const int Filter = 1;
    private const int Longest = 2048;

    // A storm of errors is one error told often: the rest of the second the kernel drops them.
    private const int MostPerSecond = 1000;
    private const int MostWaiting = 256;

    private readonly List<Socket> _sockets = [];
    private readonly CancellationTokenSource _stop = new();
    private readonly Task[] _reading;
    private readonly Channel<UnderlayError> _errors = Channel.CreateBounded<UnderlayError>(
        new BoundedChannelOptions(MostWaiting) { FullMode = BoundedChannelFullMode.DropWrite, SingleReader = true });

    /// <summary>Opens the sockets; a family that this host has not is left out.</summary>
    /// <exception cref="DeviceOpenException">There is no permission.</exception>
    public IcmpErrors()
    {
        try
        {
            Open(AddressFamily.InterNetwork);
            if (Socket.OSSupportsIPv6)
            {
                Open(AddressFamily.InterNetworkV6);
            }
        }
        catch (SocketException refused)
        {
            _sockets.ForEach(socket => socket.Dispose());
            throw new DeviceOpenException($"cannot open a raw ICMP socket: {refused.Message}", "run as root or by the systemd unit; in a container add `--cap-add NET_RAW`");
        }

        _reading = [.. _sockets.Select(socket => Task.Run(() => ReadAsync(socket)))];
    }

    /// <inheritdoc/>
    public ValueTask<UnderlayError> ReadAsync(CancellationToken cancellationToken) => _errors.Reader.ReadAsync(cancellationToken);

    /// <inheritdoc/>
    public void Dispose()
    {
        _stop.Cancel();
        _sockets.ForEach(socket => socket.Dispose());
        Task.WaitAll(_reading);
        _stop.Dispose();
    }

    private void Open(AddressFamily family)
    {
        bool isIpv6 = family == AddressFamily.InterNetworkV6;
        var socket = new Socket(family, SocketType.Raw, isIpv6 ? ProtocolType.IcmpV6 : ProtocolType.Icmp);
        _sockets.Add(socket);
        socket.Bind(AnyAddress(isIpv6));

        // A set bit keeps a type out: all but Destination Unreachable, Time Exceeded and Parameter Problem; ICMPv6's errors are 1 to 4.
        if (isIpv6)
        {
            byte[] blocked = new byte[32];
            Array.Fill(blocked, byte.MaxValue);
            blocked[0] = 0b1110_0001;
            socket.SetRawSocketOption(LevelIcmpv6, Filter, blocked);
        }
        else
        {
            socket.SetRawSocketOption(LevelRaw, Filter, BitConverter.GetBytes(~((1u << 3) | (1u << 11) | (1u << 12))));
        }
    }

    private async Task ReadAsync(Socket socket)
    {
        bool isIpv6 = socket.AddressFamily == AddressFamily.InterNetworkV6;
        byte[] buffer = new byte[Longest];
        IPEndPoint any = AnyAddress(isIpv6);
        long second = 0;
        int read = 0;
        while (!_stop.IsCancellationRequested)
        {
            try
            {
                long now = Environment.TickCount64;
                if (now >= second + 1000)
                {
                    (second, read) = (now, 0);
                }
                else if (++read > MostPerSecond)
                {
                    await Task.Delay((int)(second + 1000 - now), _stop.Token);
                }

                SocketReceiveFromResult received = await socket.ReceiveFromAsync(buffer, SocketFlags.None, any, _stop.Token);
                if (TryParse(buffer.AsSpan(0, received.ReceivedBytes), isIpv6, out UnderlayError error, out int bodyLength))
                {
                    byte[] quoted = buffer.AsSpan(received.ReceivedBytes - bodyLength, bodyLength).ToArray();
                    _errors.Writer.TryWrite(error with { Router = InetAddress.From(((IPEndPoint)received.RemoteEndPoint).Address), Quoted = quoted });
                }
            }
            catch (Exception ended) when (ended is OperationCanceledException or ObjectDisposedException)
            {
                return;
            }
            catch (SocketException)
            {
                // A pending error of the socket's own, or a message longer than the buffer: it says nothing of the next.
            }
        }
    }

    private static IPEndPoint AnyAddress(bool isIpv6) => new(isIpv6 ? IPAddress.IPv6Any : IPAddress.Any, 0);

    // A raw IPv4 socket hands over the IP header too.
    private static bool TryParse(ReadOnlySpan<byte> bytes, bool isIpv6, out UnderlayError error, out int bodyLength)
    {
        error = default;
        bodyLength = 0;
        ReadOnlySpan<byte> message = bytes;
        if (!isIpv6)
        {
            if (!Ipv4View.TryParse(bytes, out Ipv4View packet))
            {
                return false;
            }

            message = packet.Payload;

            // A raw socket is handed a message before the kernel looks at its checksum; ICMPv6's are looked at before.
            if (InternetChecksum.Compute(message) != 0)
            {
                return false;
            }
        }

        if (!IcmpView.TryParse(message, out IcmpView icmp))
        {
            return false;
        }

        bodyLength = icmp.Body.Length;
        error = new UnderlayError(InetAddress.None, isIpv6, icmp.Type, icmp.Code, icmp.RestOfHeader, default);
        return true;
    }
}
