using System.Buffers.Binary;
using Tunnel.Dataplane;

namespace Tunnel.TestSupport;

/// <summary>
/// An endless source of packets for fuzzing, the same for the same seed: corpus packets as they are, corpus packets with a few
/// mutations (half of them with lengths and checksums mended afterwards, so that they get far), and random bytes. Allocates nothing.
/// </summary>
public sealed class PacketMutator(ulong seed, IReadOnlyList<byte[]> corpus, IReadOnlyList<byte[]> largeCorpus) : IPacketSource
{
    // Large packets cost their length, so they are rare.
    private const int LargeEvery = 4096;

    private static ReadOnlySpan<byte> Interesting => [0, 1, 4, 6, 0x0f, 0x40, 0x45, 0x60, 0x7f, 0x80, 0xff];

    private readonly byte[][] _corpus = [.. corpus];
    private readonly byte[][] _largeCorpus = [.. largeCorpus];
    private ulong _state = (seed * 0x9E37_79B9_7F4A_7C15) | 1;

    /// <summary>How many packets <see cref="Next(Span{byte})"/> still gives.</summary>
    public long Remaining { get; set; }

    /// <inheritdoc/>
    public int Next(Span<byte> destination, ref Packet about) => Next(destination);

    /// <summary>Writes the next packet and returns its length in bytes; -1 where there is none left.</summary>
    public int Next(Span<byte> destination)
    {
        if (Remaining == 0)
        {
            return -1;
        }

        Remaining--;
        return Below(16) switch
        {
            0 => RandomBytes(destination, Below(200)),
            1 => RandomHeaders(destination),
            < 6 => Copy(Pick(), destination),
            _ => Mutate(Copy(Pick(), destination), destination),
        };
    }

    private byte[] Pick() => Below(LargeEvery) == 0 ? _largeCorpus[Below(_largeCorpus.Length)] : _corpus[Below(_corpus.Length)];

    private static int Copy(byte[] packet, Span<byte> destination)
    {
        packet.CopyTo(destination);
        return packet.Length;
    }

    private int RandomBytes(Span<byte> destination, int length)
    {
        Span<byte> bytes = destination[..length];
        while (bytes.Length >= 8)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(bytes, Next64());
            bytes = bytes[8..];
        }

        for (int i = 0; i < bytes.Length; i++)
        {
            bytes[i] = (byte)Next64();
        }

        return length;
    }

    // An outer header that is taken for one, and random bytes where GRE should be.
    private int RandomHeaders(Span<byte> destination)
    {
        byte[] packet = Pick();
        int header = Math.Min(packet.Length, packet.Length > 0 && packet[0] >> 4 == 4 ? 20 : 40);
        packet.AsSpan(0, header).CopyTo(destination);
        int length = header + RandomBytes(destination[header..], Below(100));
        Mend(destination, length);
        return length;
    }

    private int Mutate(int length, Span<byte> destination)
    {
        for (int i = Below(4); i >= 0; i--)
        {
            length = MutateOnce(length, destination);
        }

        if (Below(2) == 0)
        {
            Mend(destination, length);
        }

        return length;
    }

    private int MutateOnce(int length, Span<byte> destination)
    {
        if (length < 4)
        {
            return RandomBytes(destination, Below(64));
        }

        // The headers are where it matters: three of four mutations fall there.
        int at = Below(4) == 0 ? Below(length) : Below(Math.Min(length, 100));
        switch (Below(8))
        {
            case 0:
            case 1:
                destination[at] ^= (byte)(1 << Below(8));
                break;
            case 2:
                destination[at] = (byte)Next64();
                break;
            case 3:
                destination[at] = Interesting[Below(Interesting.Length)];
                break;
            case 4:
                BinaryPrimitives.WriteUInt16BigEndian(destination[Math.Min(at, length - 2)..], (ushort)Below(Math.Min(length + 64, 65_536)));
                break;
            case 5:
                return at;
            case 6:
                return length + RandomBytes(destination.Slice(length, Math.Min(64, destination.Length - length)), Below(Math.Min(64, destination.Length - length)));
            default:
                byte[] other = Pick();
                int from = Below(other.Length);
                int count = Math.Min(Math.Min(other.Length - from, length - at), 1 + Below(40));
                other.AsSpan(from, count).CopyTo(destination[at..]);
                break;
        }

        return length;
    }

    // Makes the lengths and checksums of an outer header, a GRE header and an inner header agree with the bytes.
    private static void Mend(Span<byte> packet, int length)
    {
        int payload = MendIp(packet[..length]);
        if (payload < 0 || length - payload < 4 || packet[0] >> 4 is not (4 or 6))
        {
            return;
        }

        Span<byte> gre = packet[payload..length];
        int header = 4 + ((gre[0] & 0x80) >> 5) + ((gre[0] & 0x20) >> 3) + ((gre[0] & 0x10) >> 2);
        if (gre.Length < header)
        {
            return;
        }

        MendIp(gre[header..]);
        if ((gre[0] & 0x80) != 0)
        {
            BinaryPrimitives.WriteUInt16BigEndian(gre[4..], 0);
            BinaryPrimitives.WriteUInt16BigEndian(gre[4..], Rfc1071.Checksum(gre));
        }
    }

    // Returns where the payload begins, or -1.
    private static int MendIp(Span<byte> packet)
    {
        if (packet.Length >= 20 && packet[0] >> 4 == 4)
        {
            int header = (packet[0] & 0x0f) * 4;
            if (header < 20 || header > packet.Length)
            {
                return -1;
            }

            BinaryPrimitives.WriteUInt16BigEndian(packet[2..], (ushort)packet.Length);
            BinaryPrimitives.WriteUInt16BigEndian(packet[10..], 0);
            BinaryPrimitives.WriteUInt16BigEndian(packet[10..], Rfc1071.Checksum(packet[..header]));
            return header;
        }

        if (packet.Length >= 40 && packet[0] >> 4 == 6)
        {
            BinaryPrimitives.WriteUInt16BigEndian(packet[4..], (ushort)(packet.Length - 40));
            return 40;
        }

        return -1;
    }

    /// <summary>The next number of the seed's: 0 to <paramref name="limit"/> - 1.</summary>
    public int Below(int limit) => (int)((Next64() >> 33) % (ulong)limit);

    // xorshift64* (Vigna 2016): System.Random would do, but a seeded one is slow.
    private ulong Next64()
    {
        _state ^= _state >> 12;
        _state ^= _state << 25;
        _state ^= _state >> 27;
        return _state * 0x2545_F491_4F6C_DD1D;
    }
}
