using System.Buffers.Binary;
using System.Text;

namespace Tunnel.Ctl;

/// <summary>A packet of a capture.</summary>
/// <param name="Time">When.</param>
/// <param name="IsInbound">Whether it came from a peer.</param>
/// <param name="Interface">The name of its interface: the network's, and the peer's behind it where one is known.</param>
/// <param name="Comment">Its comment; null where it has none.</param>
/// <param name="Length">Its length in bytes.</param>
/// <param name="Bytes">What was captured of it.</param>
internal sealed record PcapngPacket(DateTime Time, bool IsInbound, string Interface, string? Comment, int Length, byte[] Bytes);

/// <summary>Reads, block by block, what tunneld writes as pcapng (draft-ietf-opsawg-pcapng): one little-endian section, times in microseconds.</summary>
/// <param name="stream">Where from.</param>
internal sealed class Pcapng(Stream stream)
{
    private const uint SectionHeader = 0x0a0d0d0a;
    private const uint InterfaceDescription = 1;
    private const uint InterfaceStatistics = 5;
    private const uint EnhancedPacket = 6;
    private const int LongestBlock = 1 << 20;

    private readonly List<string> _interfaces = [];

    /// <summary>How many packets the daemon had no room for.</summary>
    public long Missed { get; private set; }

    /// <summary>Reads the next block.</summary>
    /// <param name="block">The block, whole.</param>
    /// <param name="packet">The packet that it holds; null where it holds none.</param>
    /// <returns>False at the end.</returns>
    /// <exception cref="Failure">It is not what tunneld writes.</exception>
    public bool TryRead(out byte[] block, out PcapngPacket? packet)
    {
        packet = null;
        block = new byte[8];
        if (stream.ReadAtLeast(block, block.Length, throwOnEndOfStream: false) < block.Length)
            return false;

        uint type = BinaryPrimitives.ReadUInt32LittleEndian(block);
        int length = BinaryPrimitives.ReadInt32LittleEndian(block.AsSpan(4));
        if (length < 16 || length > LongestBlock || length % 4 != 0)
            throw new Failure(ExitCode.Failed, "the daemon's answer is no capture", "tunneld and tunnelctl must be of the same release");

        Array.Resize(ref block, length);
        if (stream.ReadAtLeast(block.AsSpan(8), length - 8, throwOnEndOfStream: false) < length - 8)
            return false;

        ReadOnlySpan<byte> body = block.AsSpan(8, length - 12);
        switch (type)
        {
            case SectionHeader:
                break;
            case InterfaceDescription when body.Length >= 8:
                _interfaces.Add(Option(body[8..], 2) is { } name ? Encoding.UTF8.GetString(name) : "");
                break;
            case InterfaceStatistics when body.Length >= 12:
                Missed = Option(body[12..], 5) is { Length: 8 } missed ? BinaryPrimitives.ReadInt64LittleEndian(missed) : Missed;
                break;
            case EnhancedPacket when body.Length >= 20:
                packet = Packet(body);
                break;
        }

        return true;
    }

    private static byte[]? Option(ReadOnlySpan<byte> options, ushort wanted)
    {
        while (options.Length >= 4)
        {
            ushort code = BinaryPrimitives.ReadUInt16LittleEndian(options);
            int length = BinaryPrimitives.ReadUInt16LittleEndian(options[2..]);
            int padded = 4 + ((length + 3) & ~3);
            if (code == 0 || padded > options.Length)
                return null;

            if (code == wanted)
                return options.Slice(4, length).ToArray();

            options = options[padded..];
        }

        return null;
    }

    private PcapngPacket? Packet(ReadOnlySpan<byte> body)
    {
        int number = BinaryPrimitives.ReadInt32LittleEndian(body);
        ulong time = ((ulong)BinaryPrimitives.ReadUInt32LittleEndian(body[4..]) << 32) | BinaryPrimitives.ReadUInt32LittleEndian(body[8..]);
        int captured = BinaryPrimitives.ReadInt32LittleEndian(body[12..]);
        int length = BinaryPrimitives.ReadInt32LittleEndian(body[16..]);
        int padded = (captured + 3) & ~3;
        if (number < 0 || number >= _interfaces.Count || captured < 0 || 20 + padded > body.Length)
            return null;

        ReadOnlySpan<byte> options = body[(20 + padded)..];
        bool isInbound = Option(options, 2) is { Length: 4 } flags && (flags[0] & 3) == 1;
        string? comment = Option(options, 1) is { } text ? Encoding.UTF8.GetString(text) : null;
        return new PcapngPacket(
            DateTime.UnixEpoch.AddTicks((long)time * TimeSpan.TicksPerMicrosecond), isInbound, _interfaces[number], comment, length, body.Slice(20, captured).ToArray());
    }
}
