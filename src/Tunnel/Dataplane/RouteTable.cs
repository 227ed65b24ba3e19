using System.Numerics;
using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>
/// The overlay route table: maps an address to the value of the longest prefix that holds it. Immutable: built once, read by any
/// number of threads without a lock; a lookup allocates nothing and touches at most one node for six address bits.
/// The structure is a Poptrie (Asai and Ohara, SIGCOMM 2015): a 64-way trie whose nodes hold two bitmaps, one of children and one of
/// the places where a run of equal leaves begins, so that a node is 24 bytes however many routes end in it.
/// </summary>
/// <typeparam name="T">What a route leads to.</typeparam>
public sealed class RouteTable<T>
    where T : class
{
    private readonly Trie _ipv4;
    private readonly Trie _ipv6;

    /// <summary>Builds a table.</summary>
    /// <param name="routes">Prefixes without host bits, each at most once.</param>
    /// <exception cref="ArgumentException">A prefix has host bits set or occurs twice.</exception>
    public RouteTable(IEnumerable<KeyValuePair<IpPrefix, T>> routes)
    {
        var seen = new HashSet<IpPrefix>();
        var ipv4 = new List<(UInt128 Key, int Length, T Value)>();
        var ipv6 = new List<(UInt128 Key, int Length, T Value)>();
        foreach ((IpPrefix prefix, T value) in routes)
        {
            if (!prefix.IsNetwork || !seen.Add(prefix))
            {
                throw new ArgumentException($"{prefix} has host bits set or occurs twice", nameof(routes));
            }

            if (prefix.Address.IsIpv4)
            {
                ipv4.Add((prefix.Address.Bits << 96, prefix.Length, value));
            }
            else
            {
                ipv6.Add((prefix.Address.Bits, prefix.Length, value));
            }
        }

        Count = seen.Count;
        _ipv4 = new Trie(ipv4);
        _ipv6 = new Trie(ipv6);
    }

    /// <summary>How many routes it holds.</summary>
    public int Count { get; }

    /// <summary>The value of the longest prefix that holds the address; null where none does.</summary>
    public T? Lookup(InetAddress address) => address.IsIpv4 ? LookupIpv4(address.Ipv4) : LookupIpv6(address.Bits);

    /// <summary>The value of the longest prefix that holds an IPv4 address.</summary>
    /// <param name="address">The address in host byte order.</param>
    public T? LookupIpv4(uint address) => _ipv4.Lookup((ulong)address << 32, 0);

    /// <summary>The value of the longest prefix that holds an IPv6 address.</summary>
    /// <param name="address">The address as a number, its first byte the most significant.</param>
    public T? LookupIpv6(UInt128 address) => _ipv6.Lookup((ulong)(address >> 64), (ulong)address);

    private readonly struct Node(ulong children, ulong leaves, int firstChild, int firstLeaf)
    {
        // Bit v: the slot of value v leads to a child; the children stand next to each other from FirstChild.
        public readonly ulong Children = children;

        // Bit v: a run of equal leaves begins at slot v; the runs' values stand next to each other from FirstLeaf.
        public readonly ulong Leaves = leaves;
        public readonly int FirstChild = firstChild;
        public readonly int FirstLeaf = firstLeaf;
    }

    private sealed class Trie
    {
        private const int Stride = 6;
        private const int Slots = 1 << Stride;

        private readonly Node[] _nodes;
        private readonly T?[] _leaves;

        public Trie(List<(UInt128 Key, int Length, T Value)> routes)
        {
            // A draft with a plain array of 64 slots a node. Shorter prefixes first, so that longer ones overwrite them.
            routes.Sort((a, b) => a.Length.CompareTo(b.Length));
            var draft = new List<Slot[]> { NewNode(null) };
            foreach ((UInt128 key, int length, T value) in routes)
            {
                int node = 0;
                int depth = 0;
                while (length > depth + Stride)
                {
                    ref Slot slot = ref draft[node][SlotAt(key, depth)];
                    if (slot.Child == 0)
                    {
                        draft.Add(NewNode(slot.Value));
                        slot = new Slot(null, draft.Count - 1);
                    }

                    node = slot.Child;
                    depth += Stride;
                }

                // A prefix that ends inside this node covers an aligned run of its slots; none of them has a child yet,
                // because children come from longer prefixes only.
                int covered = 1 << (depth + Stride - length);
                int first = SlotAt(key, depth) & ~(covered - 1);
                draft[node].AsSpan(first, covered).Fill(new Slot(value, 0));
            }

            // Compressed breadth first, so that the children of a node stand next to each other.
            var order = new List<int> { 0 };
            var nodes = new List<Node>();
            var leaves = new List<T?>();
            for (int i = 0; i < order.Count; i++)
            {
                Slot[] slots = draft[order[i]];
                ulong children = 0;
                ulong runs = 0;
                int firstChild = order.Count;
                int firstLeaf = leaves.Count;
                bool inRun = false;
                for (int v = 0; v < Slots; v++)
                {
                    if (slots[v].Child != 0)
                    {
                        children |= 1UL << v;
                        order.Add(slots[v].Child);
                    }
                    else if (!inRun || !ReferenceEquals(slots[v].Value, leaves[^1]))
                    {
                        runs |= 1UL << v;
                        leaves.Add(slots[v].Value);
                        inRun = true;
                    }
                }

                nodes.Add(new Node(children, runs, firstChild, firstLeaf));
            }

            _nodes = [.. nodes];
            _leaves = [.. leaves];
        }

        public T? Lookup(ulong high, ulong low)
        {
            Node[] nodes = _nodes;
            ref readonly Node node = ref nodes[0];
            while (true)
            {
                int slot = (int)(high >> (64 - Stride));
                ulong upToSlot = ulong.MaxValue >> (63 - slot);
                if ((node.Children >> slot & 1) == 0)
                {
                    return _leaves[node.FirstLeaf + BitOperations.PopCount(node.Leaves & upToSlot) - 1];
                }

                node = ref nodes[node.FirstChild + BitOperations.PopCount(node.Children & upToSlot) - 1];
                high = (high << Stride) | (low >> (64 - Stride));
                low <<= Stride;
            }
        }

        private static int SlotAt(UInt128 key, int depth) => (int)((key << depth) >> (128 - Stride));

        private static Slot[] NewNode(T? inherited)
        {
            var slots = new Slot[Slots];
            Array.Fill(slots, new Slot(inherited, 0));
            return slots;
        }

        private readonly record struct Slot(T? Value, int Child);
    }
}
