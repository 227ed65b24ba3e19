namespace Tunnel.NetworkTests;

/// <summary>Sends GRE packets of any content from a host's own address, as another program on it could.</summary>
internal static class GreSender
{
    private const string Program = """
        import socket, sys
        address = sys.argv[1]
        sender = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_RAW, 47)
        for packet in sys.argv[2:]:
            sender.sendto(bytes.fromhex(packet), (address, 0))
        """;

    /// <summary>Sends packets.</summary>
    /// <param name="from">The host.</param>
    /// <param name="to">The outer destination.</param>
    /// <param name="packets">Each one a GRE header and its payload.</param>
    public static async Task SendAsync(Node from, string to, params byte[][] packets) =>
        (await from.PythonAsync(Program, [to, .. packets.Select(Convert.ToHexString)])).Succeeded();
}
