namespace Tunnel.Dataplane;

/// <summary>
/// Hands values from one thread to another without a lock and without allocating. What finds no room is refused.
/// Thread rule: one thread adds, one takes.
/// </summary>
public sealed class HandoverRing<T>
{
    private readonly T[] _items;
    private int _added;
    private int _taken;

    /// <summary>Makes a ring.</summary>
    /// <param name="capacity">How many values may wait: a power of two.</param>
    public HandoverRing(int capacity)
    {
        _items = new T[capacity];
    }

    /// <summary>Adds a value.</summary>
    /// <returns>False where there is no room.</returns>
    public bool TryAdd(T item)
    {
        if (_added - Volatile.Read(ref _taken) == _items.Length)
        {
            return false;
        }

        _items[_added & (_items.Length - 1)] = item;
        Volatile.Write(ref _added, _added + 1);
        return true;
    }

    /// <summary>Takes the value that has waited longest.</summary>
    /// <returns>False where none waits.</returns>
    public bool TryTake(out T item)
    {
        if (Volatile.Read(ref _added) == _taken)
        {
            item = default!;
            return false;
        }

        ref T place = ref _items[_taken & (_items.Length - 1)];
        item = place;
        place = default!;
        Volatile.Write(ref _taken, _taken + 1);
        return true;
    }
}
