using System.Buffers.Binary;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.TestSupport;

/// <summary>How often an underlay does what to a packet: each a probability from 0 to 1, tried in this order; the first that comes true is done.</summary>
public sealed record Faults
{
    /// <summary>It vanishes.</summary>
    public double Lose { get; init; }

    /// <summary>It arrives twice, the second time at once.</summary>
    public double Duplicate { get; init; }

    /// <summary>The packet that is sent next overtakes it.</summary>
    public double Reorder { get; init; }

    /// <summary>How many bytes behind the outer IP header are neither changed nor cut.</summary>
    public int KeptHeader { get; init; }

    /// <summary>One bit behind the outer IP header is another.</summary>
    public double Corrupt { get; init; }

    /// <summary>Its end is missing, and the outer header says so; what is left may be the outer header alone.</summary>
    public double Truncate { get; init; }

    /// <summary>It arrives after 2 to 50 others, or when <see cref="FaultyUnderlay.Settle"/> is called.</summary>
    public double Delay { get; init; }
}

/// <summary>
/// An underlay that does to what is sent through it what bad links do, seeded: the same faults for the same seed and packets. What it did to whom is
/// kept. Receiving is untouched. For plain GRE. Single-threaded.
/// </summary>
/// <param name="inner">Whose sends are taken: what is taken there has been sent.</param>
/// <param name="farEnd">Who gets what arrives.</param>
/// <param name="faults">How often.</param>
/// <param name="seed">The seed.</param>
public sealed class FaultyUnderlay(MemoryUnderlay inner, MemoryUnderlay farEnd, Faults faults, int seed) : IUnderlay
{
    private readonly Random _random = new(seed);
    private readonly List<(int After, byte[] Packet)> _held = [];
    private int _taken;

    /// <summary>How many packets were sent.</summary>
    public int Sent { get; private set; }

    /// <summary>How many vanished.</summary>
    public int Lost { get; private set; }

    /// <summary>How many arrived twice.</summary>
    public int Duplicated { get; private set; }

    /// <summary>How many were overtaken by the next, or by several.</summary>
    public int Overtaken { get; private set; }

    /// <summary>How many had a bit changed.</summary>
    public int Corrupted { get; private set; }

    /// <summary>How many were cut.</summary>
    public int Truncated { get; private set; }

    /// <summary>How many are still under way.</summary>
    public int UnderWay => _held.Count;

    /// <inheritdoc/>
    public long ReceiveQueueDrops => inner.ReceiveQueueDrops;

    /// <inheritdoc/>
    public int Receive(PacketBatch batch) => inner.Receive(batch);

    /// <inheritdoc/>
    public bool Cuts(UnderlayTarget target) => inner.Cuts(target);

    /// <inheritdoc/>
    public void Send(GatherBatch batch)
    {
        inner.Send(batch);
        for (; _taken < inner.Sent.Count; _taken++)
        {
            Sent++;
            Pass(inner.Sent[_taken].Bytes);
        }
    }

    /// <summary>Lets everything arrive that is still under way.</summary>
    public void Settle()
    {
        foreach ((int _, byte[] packet) in _held)
        {
            farEnd.Enqueue(packet);
        }

        _held.Clear();
    }

    /// <inheritdoc/>
    public void Dispose() => inner.Dispose();

    private void Pass(byte[] packet)
    {
        double chance = _random.NextDouble();
        bool Is(double probability)
        {
            bool isIt = chance >= 0 && chance < probability;
            chance -= probability;
            return isIt;
        }

        int held = _held.Count;
        if (Is(faults.Lose))
        {
            Lost++;
        }
        else if (Is(faults.Duplicate))
        {
            Duplicated++;
            farEnd.Enqueue(packet);
            farEnd.Enqueue([.. packet]);
        }
        else if (Is(faults.Reorder))
        {
            Overtaken++;
            _held.Add((1, packet));
        }
        else if (Is(faults.Corrupt))
        {
            Corrupted++;
            farEnd.Enqueue(WithAnotherBit(packet));
        }
        else if (Is(faults.Truncate))
        {
            Truncated++;
            farEnd.Enqueue(Cut(packet));
        }
        else if (Is(faults.Delay))
        {
            Overtaken++;
            _held.Add((_random.Next(2, 51), packet));
        }
        else
        {
            farEnd.Enqueue(packet);
        }

        Release(held);
    }

    // What was held back before this packet comes one packet nearer.
    private void Release(int held)
    {
        for (int i = 0; i < held; i++)
        {
            _held[i] = (_held[i].After - 1, _held[i].Packet);
        }

        foreach ((int _, byte[] packet) in _held.Where(one => one.After == 0))
        {
            farEnd.Enqueue(packet);
        }

        _held.RemoveAll(one => one.After == 0);
    }

    private byte[] WithAnotherBit(byte[] packet)
    {
        byte[] copy = [.. packet];
        copy[_random.Next(HeaderLength(packet) + faults.KeptHeader, packet.Length)] ^= (byte)(1 << _random.Next(8));
        return copy;
    }

    private byte[] Cut(byte[] packet)
    {
        int header = HeaderLength(packet);
        byte[] copy = packet[.._random.Next(header + faults.KeptHeader, packet.Length)];
        if (packet[0] >> 4 == 4)
        {
            BinaryPrimitives.WriteUInt16BigEndian(copy.AsSpan(Ipv4Header.TotalLengthOffset), (ushort)copy.Length);
            Packets.FixIpv4Checksum(copy);
        }
        else
        {
            BinaryPrimitives.WriteUInt16BigEndian(copy.AsSpan(Ipv6Header.PayloadLengthOffset), (ushort)(copy.Length - header));
        }

        return copy;
    }

    private static int HeaderLength(byte[] packet) => packet[0] >> 4 == 4 ? 20 : 40;
}
