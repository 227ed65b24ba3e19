using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using Tunnel.Dataplane;

namespace Tunnel.Control.Api;

/// <summary>
/// Writes captured packets as pcapng (draft-ietf-opsawg-pcapng), little-endian: a section header, an interface for each peer (LINKTYPE_RAW: packets begin
/// with their IP header), a block for each packet with its direction, and for dropped ones the reason as a comment. Not thread-safe.
/// </summary>
/// <param name="network">The network's name.</param>
/// <param name="program">What wrote it.</param>
/// <param name="snapLength">How many bytes of a packet were taken at most.</param>
internal sealed class PcapngWriter(string network, string program, int snapLength)
{
    // Blocks and their options.
    private const uint SectionHeader = 0x0a0d0d0a;
    private const uint InterfaceDescription = 1;
    private const uint InterfaceStatistics = 5;
    private const uint EnhancedPacket = 6;
    private const ushort EndOfOptions = 0;
    private const ushort Comment = 1;
    private const ushort UserApplication = 4;
    private const ushort InterfaceName = 2;
    private const ushort PacketFlags = 2;
    private const ushort InterfaceDropped = 5;
    private const ushort LinkTypeRaw = 101;
    private const uint FlagInbound = 1;
    private const uint FlagOutbound = 2;

    private readonly ArrayBufferWriter<byte> _out = new();
    private readonly Dictionary<string, uint> _interfaces = new(StringComparer.Ordinal);

    /// <summary>Writes the beginning. The first interface is that of packets of no peer.</summary>
    public void Begin()
    {
        Span<byte> body = stackalloc byte[16];
        BinaryPrimitives.WriteUInt32LittleEndian(body, 0x1a2b3c4d);
        BinaryPrimitives.WriteUInt16LittleEndian(body[4..], 1);
        BinaryPrimitives.WriteInt64LittleEndian(body[8..], -1);
        Block(SectionHeader, body, [], Option(UserApplication, Encoding.UTF8.GetBytes(program)));
        InterfaceOf(network);
    }

    /// <summary>Writes a packet.</summary>
    public void Add(in CapturedPacket packet, ReadOnlySpan<byte> bytes)
    {
        uint number = InterfaceOf(packet.Peer is Peer peer ? $"{network} {peer.Settings.Name}" : network);
        ulong time = Microseconds(packet.Time);
        Span<byte> body = stackalloc byte[20];
        BinaryPrimitives.WriteUInt32LittleEndian(body, number);
        BinaryPrimitives.WriteUInt32LittleEndian(body[4..], (uint)(time >> 32));
        BinaryPrimitives.WriteUInt32LittleEndian(body[8..], (uint)time);
        BinaryPrimitives.WriteInt32LittleEndian(body[12..], bytes.Length);
        BinaryPrimitives.WriteInt32LittleEndian(body[16..], packet.Length);
        Span<byte> flags = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(flags, packet.IsReceived ? FlagInbound : FlagOutbound);
        byte[] options = Option(PacketFlags, flags);
        if (packet.Reason is DropReason reason)
        {
            options = [.. Option(Comment, Encoding.UTF8.GetBytes($"dropped: {reason}")), .. options];
        }

        Block(EnhancedPacket, body, bytes, options);
    }

    /// <summary>Writes how many packets found no room, since the beginning.</summary>
    /// <param name="missed">How many.</param>
    /// <param name="now">The time, in ticks of <see cref="DateTime.UtcNow"/>.</param>
    public void AddMissed(long missed, long now)
    {
        ulong time = Microseconds(now);
        Span<byte> body = stackalloc byte[12];
        BinaryPrimitives.WriteUInt32LittleEndian(body[4..], (uint)(time >> 32));
        BinaryPrimitives.WriteUInt32LittleEndian(body[8..], (uint)time);
        Span<byte> count = stackalloc byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(count, missed);
        Block(InterfaceStatistics, body, [], Option(InterfaceDropped, count));
    }

    /// <summary>Takes what was written since the last call.</summary>
    public byte[] Take()
    {
        byte[] bytes = _out.WrittenSpan.ToArray();
        _out.ResetWrittenCount();
        return bytes;
    }

    private static ulong Microseconds(long ticks) => (ulong)(ticks - DateTime.UnixEpoch.Ticks) / TimeSpan.TicksPerMicrosecond;

    private static byte[] Option(ushort code, ReadOnlySpan<byte> value)
    {
        byte[] option = new byte[4 + Padded(value.Length)];
        BinaryPrimitives.WriteUInt16LittleEndian(option, code);
        BinaryPrimitives.WriteUInt16LittleEndian(option.AsSpan(2), (ushort)value.Length);
        value.CopyTo(option.AsSpan(4));
        return option;
    }

    private static int Padded(int length) => (length + 3) & ~3;

    private uint InterfaceOf(string name)
    {
        if (_interfaces.TryGetValue(name, out uint known))
        {
            return known;
        }

        Span<byte> body = stackalloc byte[8];
        BinaryPrimitives.WriteUInt16LittleEndian(body, LinkTypeRaw);
        BinaryPrimitives.WriteInt32LittleEndian(body[4..], snapLength);
        Block(InterfaceDescription, body, [], Option(InterfaceName, Encoding.UTF8.GetBytes(name)));
        uint number = (uint)_interfaces.Count;
        _interfaces.Add(name, number);
        return number;
    }

    private void Block(uint type, ReadOnlySpan<byte> body, ReadOnlySpan<byte> data, ReadOnlySpan<byte> options)
    {
        // Type, length, what differs, data with padding, options with their end, length again.
        int length = 12 + body.Length + Padded(data.Length) + options.Length + 4;
        byte[] block = new byte[length];
        BinaryPrimitives.WriteUInt32LittleEndian(block, type);
        BinaryPrimitives.WriteInt32LittleEndian(block.AsSpan(4), length);
        body.CopyTo(block.AsSpan(8));
        data.CopyTo(block.AsSpan(8 + body.Length));
        Span<byte> rest = block.AsSpan(8 + body.Length + Padded(data.Length));
        options.CopyTo(rest);
        BinaryPrimitives.WriteUInt16LittleEndian(rest[options.Length..], EndOfOptions);
        BinaryPrimitives.WriteInt32LittleEndian(block.AsSpan(length - 4), length);
        _out.Write(block);
    }
}
