using System.Buffers.Binary;

namespace Tunnel.NetworkTests.Interop;

/// <summary>tcpdump on a device of Ethernet, from the moment when it listens: the packets from their IP header on.</summary>
internal sealed class PacketCapture : IAsyncDisposable
{
    private readonly Background _tcpdump;
    private readonly string _file;

    private PacketCapture(Background tcpdump, string file)
    {
        _tcpdump = tcpdump;
        _file = file;
    }

    /// <summary>Captures what a filter lets through (pcap-filter(7)), both directions.</summary>
    public static async Task<PacketCapture> StartAsync(Node node, string device, string filter)
    {
        string file = Path.GetTempFileName();
        // Without --immediate-mode what was seen last would be lost at the stop; without -Z tcpdump would give up root and then fail to write the file.
        Background tcpdump = node.Start(null, "tcpdump", "-i", device, "-U", "--immediate-mode", "-n", "-Z", "root", "-w", file, filter);
        await tcpdump.WaitForAsync("listening on");
        return new PacketCapture(tcpdump, file);
    }

    /// <summary>What it has seen so far.</summary>
    public async Task<IReadOnlyList<byte[]>> PacketsAsync() => Read(await File.ReadAllBytesAsync(_file));

    /// <summary>Stops it, and returns what it has seen.</summary>
    public async Task<IReadOnlyList<byte[]>> StopAsync()
    {
        await _tcpdump.SignalAsync("INT");
        await _tcpdump.WaitAsync();
        return await PacketsAsync();
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _tcpdump.DisposeAsync();
        File.Delete(_file);
    }

    // A classic pcap file: a header of 24 bytes, then records of 16 bytes of header and the frame; host byte order. The last may be half written.
    private static List<byte[]> Read(ReadOnlySpan<byte> file)
    {
        var packets = new List<byte[]>();
        file = file.Length < 24 ? [] : file[24..];
        while (file.Length >= 16 && file.Length >= 16 + BitConverter.ToInt32(file[8..]))
        {
            int length = BitConverter.ToInt32(file[8..]);
            // Short frames are padded; the length in the IP header counts.
            ReadOnlySpan<byte> ip = file.Slice(16 + 14, length - 14);
            int size = ip[0] >> 4 == 4 ? BinaryPrimitives.ReadUInt16BigEndian(ip[2..]) : 40 + BinaryPrimitives.ReadUInt16BigEndian(ip[4..]);
            packets.Add(ip[..size].ToArray());
            file = file[(16 + length)..];
        }

        return packets;
    }
}
