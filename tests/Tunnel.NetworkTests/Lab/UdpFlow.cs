using System.Text.Json;
using System.Text.Json.Serialization;

namespace Tunnel.NetworkTests;

/// <summary>What became of a flow's datagrams.</summary>
/// <param name="Sent">How many were sent.</param>
/// <param name="Received">How many arrived for the first time and intact.</param>
/// <param name="Repeated">How many arrived again.</param>
/// <param name="Corrupt">How many arrived with another length or content than they were sent with.</param>
/// <param name="Overtaken">How many arrived after one that was sent later.</param>
internal sealed record FlowResult(
    [property: JsonPropertyName("sent")] int Sent,
    [property: JsonPropertyName("received")] int Received,
    [property: JsonPropertyName("repeated")] int Repeated,
    [property: JsonPropertyName("corrupt")] int Corrupt,
    [property: JsonPropertyName("overtaken")] int Overtaken)
{
    /// <summary>How many never arrived intact.</summary>
    public int Lost => Sent - Received;
}

/// <summary>Numbered UDP datagrams in one direction, from the start to the stop, so that every single loss is seen.</summary>
internal sealed class UdpFlow : IAsyncDisposable
{
    private const string Receiver = """
        import json, random, select, socket, sys
        address, size = sys.argv[1], int(sys.argv[2])
        pattern = random.Random(2).randbytes(size - 4)
        receiver = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUFFORCE if hasattr(socket, 'SO_RCVBUFFORCE') else 33, 64 << 20)
        receiver.bind((address, 5001))
        print('listening', flush=True)
        seen, repeated, corrupt, overtaken, last, sent = set(), 0, 0, 0, b'', None
        while sent is None or len(seen) < sent:
            # The sender's number comes when it has stopped; what isn't there two seconds later was lost.
            ready, _, _ = select.select([receiver] if sent is not None else [receiver, sys.stdin], [], [], None if sent is None else 2)
            if not ready:
                break
            if sys.stdin in ready:
                sent = int(sys.stdin.readline())
            if receiver in ready:
                data = receiver.recv(65535)
                number = data[:4]
                if len(data) != size or data[4:] != pattern:
                    corrupt += 1
                elif number in seen:
                    repeated += 1
                else:
                    if not seen:
                        print('arriving', flush=True)
                    seen.add(number)
                    overtaken += number < last
                    last = max(number, last)
        print(json.dumps({'sent': sent, 'received': len(seen), 'repeated': repeated, 'corrupt': corrupt, 'overtaken': overtaken}))
        """;

    private const string Sender = """
        import random, select, socket, sys, time
        address, size, burst, pause, vary = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5] == 'vary'
        pattern = random.Random(2).randbytes(size - 4)
        any = random.Random(3)
        sender = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
        sender.connect((address, 5001))
        number = 0
        def send(count):
            global number
            for _ in range(count):
                try:
                    sender.send(number.to_bytes(4, 'big') + pattern)
                except OSError:
                    pass  # a refusal that came back by ICMP; the datagram counts as sent
                number += 1
        while not select.select([sys.stdin], [], [], 0)[0]:
            if vary:
                send(1)
                # A sleep would be longer than what it is about: how long a receiving device holds a packet back.
                end = time.perf_counter() + any.uniform(0, 0.0003)
                while time.perf_counter() < end:
                    pass
            send(any.randint(2, burst) if vary else burst)
            time.sleep(pause)
        print('sent', number)
        """;

    private readonly Background _receiver;
    private readonly Background _sender;

    private UdpFlow(Background receiver, Background sender)
    {
        _receiver = receiver;
        _sender = sender;
    }

    /// <summary>Starts a flow, and waits until its first datagram has arrived.</summary>
    /// <param name="from">The sending end.</param>
    /// <param name="to">The receiving end.</param>
    /// <param name="address">The receiver's address.</param>
    /// <param name="size">The datagrams' payload, in bytes, 5 or more.</param>
    /// <param name="burst">How many are sent back to back.</param>
    /// <param name="pause">Seconds between bursts.</param>
    /// <param name="vary">Whether each burst is of any length up to that, and one datagram comes up to 300 us before it.</param>
    public static async Task<UdpFlow> StartAsync(Node from, Node to, string address, int size = 200, int burst = 1, double pause = 0.001, bool vary = false)
    {
        Background receiver = to.StartPython(Receiver, address, $"{size}");
        await receiver.WaitForAsync("listening");
        var flow = new UdpFlow(receiver, from.StartPython(Sender, address, $"{size}", $"{burst}", FormattableString.Invariant($"{pause}"), vary ? "vary" : "steady"));
        try
        {
            await receiver.WaitForAsync("arriving");
        }
        catch
        {
            await flow.DisposeAsync();
            throw;
        }

        return flow;
    }

    /// <summary>Stops it, and counts.</summary>
    public async Task<FlowResult> StopAsync()
    {
        await _sender.WriteAsync("stop\n");
        Assert.True(await _sender.WaitAsync() == 0, $"the sender failed: {_sender}");
        await _receiver.WriteAsync(_sender.Log.Trim().Split(' ')[^1] + "\n");
        Assert.True(await _receiver.WaitAsync() == 0, $"the receiver failed: {_receiver}");
        return JsonSerializer.Deserialize<FlowResult>(_receiver.Log.Trim().Split('\n')[^1])!;
    }

    /// <summary>Ends both ends.</summary>
    public async ValueTask DisposeAsync()
    {
        await _sender.DisposeAsync();
        await _receiver.DisposeAsync();
    }
}
