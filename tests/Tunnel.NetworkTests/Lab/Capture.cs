using System.Buffers.Binary;
using System.Net;

namespace Tunnel.NetworkTests;

/// <summary>A GRE packet as it was seen on the wire. Read here by itself, not with the code under test.</summary>
/// <param name="Source">The outer source.</param>
/// <param name="Destination">The outer destination.</param>
/// <param name="DontFragment">The outer IPv4 header's DF; false for IPv6.</param>
/// <param name="Gre">The GRE packet, header and payload.</param>
internal sealed record GrePacket(IPAddress Source, IPAddress Destination, bool DontFragment, byte[] Gre)
{
    /// <summary>The outer DSCP and ECN field.</summary>
    public byte TrafficClass { get; init; }

    /// <summary>The outer TTL or hop limit.</summary>
    public byte TimeToLive { get; init; }

    /// <summary>The outer IPv4 header's identification; 0 for IPv6.</summary>
    public ushort Identification { get; init; }

    /// <summary>Whether it came in UDP.</summary>
    public bool IsInUdp { get; init; }

    /// <summary>The first two bytes: flags and version (RFC 2890 section 2).</summary>
    public ushort Flags => BinaryPrimitives.ReadUInt16BigEndian(Gre);

    /// <summary>The protocol type: 0x0800 or 0x86DD.</summary>
    public ushort Protocol => BinaryPrimitives.ReadUInt16BigEndian(Gre.AsSpan(2));

    /// <summary>Whether a checksum is there (C).</summary>
    public bool HasChecksum => (Flags & 0x8000) != 0;

    /// <summary>Whether the checksum over header and payload comes out right (RFC 2784 section 2.3).</summary>
    public bool ChecksumIsGood
    {
        get
        {
            uint sum = 0;
            for (int i = 0; i < Gre.Length; i++)
            {
                sum += (uint)Gre[i] << (i % 2 == 0 ? 8 : 0);
            }

            while (sum > 0xffff)
            {
                sum = (sum & 0xffff) + (sum >> 16);
            }

            return sum == 0xffff;
        }
    }

    /// <summary>The key, or null (K).</summary>
    public uint? Key => (Flags & 0x2000) != 0 ? BinaryPrimitives.ReadUInt32BigEndian(Gre.AsSpan(HasChecksum ? 8 : 4)) : null;

    /// <summary>The sequence number, or null (S).</summary>
    public uint? Sequence => (Flags & 0x1000) != 0
        ? BinaryPrimitives.ReadUInt32BigEndian(Gre.AsSpan(4 + (HasChecksum ? 4 : 0) + (Key is null ? 0 : 4)))
        : null;
}

/// <summary>tcpdump on a device, from the moment when it listens.</summary>
internal sealed class Capture : IAsyncDisposable
{
    private readonly Background _tcpdump;
    private readonly string _file;

    private Capture(Background tcpdump, string file)
    {
        _tcpdump = tcpdump;
        _file = file;
    }

    /// <summary>Captures the GRE packets, plain or in UDP, on a host's underlay device, both directions.</summary>
    public static async Task<Capture> StartAsync(Vm host)
    {
        string file = Path.Combine(host.Directory, $"{Guid.NewGuid():N}.pcap");
        // Without --immediate-mode what was seen last would be lost at the stop; without -Z tcpdump would give up root and then fail to write the file.
        Background tcpdump = host.Start(null, "tcpdump", "-i", "eth1", "-U", "--immediate-mode", "-n", "-Z", "root", "-w", file, "proto gre or ip6 proto gre or udp port 4754");
        var capture = new Capture(tcpdump, file);
        await tcpdump.WaitForAsync("listening on");
        return capture;
    }

    /// <summary>Stops it, and returns what it has seen.</summary>
    public async Task<IReadOnlyList<GrePacket>> StopAsync()
    {
        await _tcpdump.SignalAsync("INT");
        await _tcpdump.WaitAsync();
        return Read(await File.ReadAllBytesAsync(_file));
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => _tcpdump.DisposeAsync();

    // A classic pcap file: a header of 24 bytes, then records of 16 bytes of header and the frame; host byte order.
    private static List<GrePacket> Read(ReadOnlySpan<byte> file)
    {
        var packets = new List<GrePacket>();
        file = file[24..];
        while (!file.IsEmpty)
        {
            int length = BitConverter.ToInt32(file[8..]);
            ReadOnlySpan<byte> ip = file.Slice(16 + 14, length - 14);
            packets.Add(ip[0] >> 4 == 4
                ? new GrePacket(
                    new IPAddress(ip.Slice(12, 4)),
                    new IPAddress(ip.Slice(16, 4)),
                    (ip[6] & 0x40) != 0,
                    Gre(ip[9], ip[((ip[0] & 0xf) * 4)..BinaryPrimitives.ReadUInt16BigEndian(ip[2..])]))
                {
                    TrafficClass = ip[1],
                    TimeToLive = ip[8],
                    Identification = BinaryPrimitives.ReadUInt16BigEndian(ip[4..]),
                    IsInUdp = ip[9] == 17,
                }
                : new GrePacket(
                    new IPAddress(ip.Slice(8, 16)),
                    new IPAddress(ip.Slice(24, 16)),
                    DontFragment: false,
                    Gre(ip[6], ip.Slice(40, BinaryPrimitives.ReadUInt16BigEndian(ip[4..]))))
                {
                    TrafficClass = (byte)(BinaryPrimitives.ReadUInt16BigEndian(ip) >> 4),
                    TimeToLive = ip[7],
                    IsInUdp = ip[6] == 17,
                });
            file = file[(16 + length)..];
        }

        return packets;
    }

    private static byte[] Gre(byte protocol, ReadOnlySpan<byte> payload) => payload[(protocol == 17 ? 8 : 0)..].ToArray();
}
