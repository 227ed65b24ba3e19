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
            // In this order a prefix stands before those that it holds, and what lies behind one slot stands together.
            routes.Sort((a, b) => a.Key == b.Key ? a.Length.CompareTo(b.Length) : a.Key.CompareTo(b.Key));

            // Breadth first, so that the children of a node stand next to each other.
            var branches = new List<Branch> { new(0, routes.Count, 0, null) };
            var nodes = new List<Node>();
            var leaves = new List<T?>();
            var values = new T?[Slots];
            for (int i = 0; i < branches.Count; i++)
            {
                Branch branch = branches[i];
                int firstChild = branches.Count;
                ulong children = Expand(branch, routes, values, branches);
                int firstLeaf = leaves.Count;
                ulong runs = 0;
                for (int slot = 0; slot < Slots; slot++)
                {
                    bool isLeaf = (children >> slot & 1) == 0;
                    if (isLeaf && (runs == 0 || !ReferenceEquals(values[slot], leaves[^1])))
                    {
                        runs |= 1UL << slot;
                        leaves.Add(values[slot]);
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

        // Writes the value of each slot of a node, appends a branch for each child, and returns the bitmap of children.
        private static ulong Expand(
            Branch branch, List<(UInt128 Key, int Length, T Value)> routes, Span<T?> values, List<Branch> branches)
        {
            ulong children = 0;
            int end = branch.Depth + Stride;
            values.Fill(branch.Inherited);
            int i = branch.First;
            while (i < branch.End)
            {
                (UInt128 key, int length, T value) = routes[i];
                int slot = SlotAt(key, branch.Depth);
                int first = i++;
                if (length <= end)
                {
                    // A prefix that ends in this node covers an aligned run of its slots.
                    values.Slice(slot, 1 << (end - length)).Fill(value);
                    continue;
                }

                while (i < branch.End && SlotAt(routes[i].Key, branch.Depth) == slot)
                {
                    i++;
                }

                children |= 1UL << slot;
                branches.Add(new Branch(first, i, end, values[slot]));
            }

            return children;
        }

        private static int SlotAt(UInt128 key, int depth) => (int)((key << depth) >> (128 - Stride));

        // A node to be: the routes in it and below, the bits above it, and the value of the longest prefix that ends above it.
        private readonly record struct Branch(int First, int End, int Depth, T? Inherited);
    }
}
