using System.Globalization;
namespace Tunnel.NetworkTests;

/// <summary>Moves bytes over one TCP connection and compares what arrived with what was sent.</summary>
internal static class TcpTransfer
{
    // Both ends print "<bytes> <SHA-256>" at the end, the receiver before it the longest time without a byte, in milliseconds.
    private const string Receiver = """
        import hashlib, socket, sys, time
        address, port = sys.argv[1], int(sys.argv[2])
        server = socket.create_server((address, port), family=socket.AF_INET6 if ':' in address else socket.AF_INET)
        print('listening', flush=True)
        connection, _ = server.accept()
        connection.settimeout(30)
        total, digest, pause, last = 0, hashlib.sha256(), 0, time.monotonic()
        while data := connection.recv(1 << 20):
            total += len(data)
            digest.update(data)
            pause, last = max(pause, time.monotonic() - last), time.monotonic()
        print(round(pause * 1000))
        print(total, digest.hexdigest())
        """;

    private const string Sender = """
        import hashlib, random, socket, sys
        address, port, total = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        block = random.Random(1).randbytes(1 << 20)
        connection = socket.create_connection((address, port), timeout=30)
        sent, digest = 0, hashlib.sha256()
        while sent < total:
            # Shifted, so that no two blocks are alike.
            shift = sent % 65521
            data = (block[shift:] + block[:shift])[:total - sent]
            connection.sendall(data)
            digest.update(data)
            sent += len(data)
        connection.close()
        print(sent, digest.hexdigest())
        """;

    /// <summary>Sends pseudo-random bytes, always the same, and checks that the receiver's hash is the sender's.</summary>
    /// <param name="from">The sending end.</param>
    /// <param name="to">The receiving end.</param>
    /// <param name="address">The receiver's address.</param>
    /// <param name="bytes">How many.</param>
    /// <param name="port">The receiver's port.</param>
    /// <returns>The longest time in which nothing arrived, in milliseconds.</returns>
    public static async Task<int> CheckAsync(Node from, Node to, string address, long bytes, int port = 5000)
    {
        TimeSpan deadline = Command.Deadline + TimeSpan.FromSeconds(bytes / 5e6);
        await using Background receiver = to.StartPython(Receiver, address, $"{port}");
        await receiver.WaitForAsync("listening");
        await using Background sender = from.StartPython(Sender, address, $"{port}", $"{bytes}");
        Assert.True(await sender.WaitAsync(deadline) == 0, $"the sender failed: {sender}");
        string sent = sender.Log.Trim();
        Assert.True(await receiver.WaitAsync() == 0, $"the receiver failed: {receiver}");
        Assert.StartsWith($"{bytes} ", sent, StringComparison.Ordinal);
        string[] received = receiver.Log.Trim().Split('\n');
        Assert.Equal(sent, received[^1]);
        return int.Parse(received[^2], CultureInfo.InvariantCulture);
    }
}
