namespace Tunnel.NetworkTests;

/// <summary>Moves bytes over one TCP connection and compares what arrived with what was sent.</summary>
internal static class TcpTransfer
{
    // Both ends print "<bytes> <SHA-256>" at the end.
    private const string Receiver = """
        import hashlib, socket, sys
        address, port = sys.argv[1], int(sys.argv[2])
        server = socket.create_server((address, port), family=socket.AF_INET6 if ':' in address else socket.AF_INET)
        print('listening', flush=True)
        connection, _ = server.accept()
        connection.settimeout(30)
        total, digest = 0, hashlib.sha256()
        while data := connection.recv(1 << 20):
            total += len(data)
            digest.update(data)
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
    public static async Task CheckAsync(Node from, Node to, string address, long bytes, int port = 5000)
    {
        TimeSpan deadline = Command.Deadline + TimeSpan.FromSeconds(bytes / 5e6);
        await using Background receiver = to.StartPython(Receiver, address, $"{port}");
        await receiver.WaitForAsync("listening");
        await using Background sender = from.StartPython(Sender, address, $"{port}", $"{bytes}");
        Assert.True(await sender.WaitAsync(deadline) == 0, $"the sender failed: {sender}");
        string sent = sender.Log.Trim();
        Assert.True(await receiver.WaitAsync() == 0, $"the receiver failed: {receiver}");
        Assert.StartsWith($"{bytes} ", sent, StringComparison.Ordinal);
        Assert.Equal(sent, receiver.Log.Trim().Split('\n')[^1]);
    }
}
