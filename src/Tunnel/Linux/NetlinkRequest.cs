using System.Runtime.InteropServices;
using System.Text;
using Tunnel.Wire;
using static Tunnel.Linux.Uapi;

namespace Tunnel.Linux;

/// <summary>
/// Writes one netlink request (netlink(7)) into a caller's buffer: header, the family's own head, attributes. Numbers are in host byte
/// order, addresses in network byte order. The sequence number is left 0: <see cref="NetlinkSocket"/> sets it when it sends.
/// </summary>
internal ref struct NetlinkRequest
{
    /// <summary>Bytes that any request of this program fits in.</summary>
    public const int MaxLength = 256;

    private readonly Span<byte> _buffer;
    private int _length;

    /// <summary>Begins a request.</summary>
    /// <param name="buffer">Where to write; <see cref="MaxLength"/> bytes are enough.</param>
    /// <param name="type">RTM_...</param>
    /// <param name="flags">NLM_F_... besides NLM_F_REQUEST, which is always set.</param>
    /// <param name="head">ifinfomsg, ifaddrmsg or rtmsg.</param>
    public static NetlinkRequest Begin<T>(Span<byte> buffer, ushort type, ushort flags, in T head)
        where T : unmanaged
    {
        var request = new NetlinkRequest(buffer);
        request.Append(new nlmsghdr { nlmsg_type = type, nlmsg_flags = (ushort)(NLM_F_REQUEST | flags) });
        request.Append(head);
        return request;
    }

    private NetlinkRequest(Span<byte> buffer) => _buffer = buffer;

    /// <summary>Adds an attribute with a 32-bit value.</summary>
    public void Add(ushort type, uint value) => Add(type, MemoryMarshal.AsBytes(new ReadOnlySpan<uint>(ref value)));

    /// <summary>Adds an attribute with an 8-bit value.</summary>
    public void Add(ushort type, byte value) => Add(type, new ReadOnlySpan<byte>(ref value));

    /// <summary>Adds an attribute with a NUL-terminated string.</summary>
    public void Add(ushort type, string value) => Add(type, Encoding.UTF8.GetBytes(value + '\0'));

    /// <summary>Adds an attribute with a network address of 4 or 16 bytes.</summary>
    public void Add(ushort type, InetAddress value)
    {
        Span<byte> bytes = stackalloc byte[16];
        Add(type, bytes[..value.Write(bytes)]);
    }

    /// <summary>Begins an attribute that holds attributes.</summary>
    /// <returns>What <see cref="EndNested"/> wants.</returns>
    public int BeginNested(ushort type)
    {
        int start = _length;
        Append(new rtattr { rta_type = type });
        return start;
    }

    /// <summary>Ends the attribute that began at <paramref name="start"/>.</summary>
    public readonly void EndNested(int start) => MemoryMarshal.Write(_buffer[start..], (ushort)(_length - start));

    /// <summary>Sets the message's length and returns the whole message.</summary>
    public readonly Span<byte> Finish()
    {
        MemoryMarshal.Write(_buffer, (uint)_length);
        return _buffer[.._length];
    }

    private unsafe void Add(ushort type, scoped ReadOnlySpan<byte> value)
    {
        Append(new rtattr { rta_len = (ushort)(sizeof(rtattr) + value.Length), rta_type = type });
        value.CopyTo(_buffer[_length..]);
        int padded = NetlinkReader.Align(value.Length);
        _buffer.Slice(_length + value.Length, padded - value.Length).Clear();
        _length += padded;
    }

    private unsafe void Append<T>(in T value)
        where T : unmanaged
    {
        MemoryMarshal.Write(_buffer[_length..], value);
        _length += sizeof(T);
    }
}
