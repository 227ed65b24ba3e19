using System.Runtime.InteropServices;
using System.Text;
using static Tunnel.Linux.Uapi;

namespace Tunnel.Linux;

/// <summary>One netlink message: netlink(7). Valid as long as the buffer that it was read from.</summary>
internal readonly ref struct NetlinkMessage
{
    /// <summary>The header; its length has been checked against the buffer.</summary>
    public nlmsghdr Header { get; init; }

    /// <summary>What follows the header.</summary>
    public ReadOnlySpan<byte> Payload { get; init; }

    /// <summary>Whether this ends the reply to a request: NLMSG_ERROR (acknowledgements too) or NLMSG_DONE.</summary>
    public bool IsEnd => Header.nlmsg_type is NLMSG_ERROR or NLMSG_DONE;

    /// <summary>
    /// What an ending message says: an errno (positive; 0 for success) and the kernel's own message where it sent one
    /// (NETLINK_EXT_ACK: attributes after the echoed request header, or in NLMSG_DONE right after the errno).
    /// </summary>
    public unsafe (int Errno, string? Reason) ReadEnd()
    {
        if (!MemoryMarshal.TryRead(Payload, out int error))
        {
            return (0, null);
        }

        string? reason = null;
        if ((Header.nlmsg_flags & NLM_F_ACK_TLVS) != 0)
        {
            int attributes = sizeof(int);
            if (Header.nlmsg_type == NLMSG_ERROR && MemoryMarshal.TryRead(Payload, out nlmsgerr details))
            {
                // Without NLM_F_CAPPED the whole request is echoed, not only its header.
                attributes = sizeof(nlmsgerr);
                if ((Header.nlmsg_flags & NLM_F_CAPPED) == 0)
                {
                    attributes += Math.Max(0, NetlinkReader.Align((int)Math.Min(details.msg.nlmsg_len, int.MaxValue / 2)) - sizeof(nlmsghdr));
                }
            }

            var reader = new NetlinkReader(Payload[Math.Min(attributes, Payload.Length)..]);
            while (reader.TryReadAttribute(out ushort type, out ReadOnlySpan<byte> value))
            {
                if (type == NLMSGERR_ATTR_MSG)
                {
                    reason = NetlinkReader.ReadString(value);
                }
            }
        }

        return (-error, reason);
    }
}

/// <summary>Reads netlink messages, or the attributes inside one, one after the other. What is malformed ends the reading.</summary>
internal ref struct NetlinkReader(ReadOnlySpan<byte> bytes)
{
    private ReadOnlySpan<byte> _rest = bytes;

    /// <summary>Reads the next message of a datagram; false at its end, or where the length is impossible.</summary>
    public unsafe bool TryReadMessage(out NetlinkMessage message)
    {
        message = default;
        if (!MemoryMarshal.TryRead(_rest, out nlmsghdr header) || header.nlmsg_len < sizeof(nlmsghdr) || header.nlmsg_len > _rest.Length)
        {
            return false;
        }

        message = new NetlinkMessage { Header = header, Payload = _rest[sizeof(nlmsghdr)..(int)header.nlmsg_len] };
        Skip((int)header.nlmsg_len);
        return true;
    }

    /// <summary>Reads the next attribute; false at the end, or where the length is impossible.</summary>
    /// <param name="type">Its type without the NLA_F_... flags.</param>
    /// <param name="value">Its value without padding.</param>
    public unsafe bool TryReadAttribute(out ushort type, out ReadOnlySpan<byte> value)
    {
        type = 0;
        value = default;
        if (!MemoryMarshal.TryRead(_rest, out rtattr head) || head.rta_len < sizeof(rtattr) || head.rta_len > _rest.Length)
        {
            return false;
        }

        type = (ushort)(head.rta_type & ~(NLA_F_NESTED | NLA_F_NET_BYTEORDER));
        value = _rest[sizeof(rtattr)..head.rta_len];
        Skip(head.rta_len);
        return true;
    }

    /// <summary>A length rounded up to the alignment of messages and attributes (NLMSG_ALIGN, RTA_ALIGN).</summary>
    public static int Align(int length) => (length + NLMSG_ALIGNTO - 1) & ~(NLMSG_ALIGNTO - 1);

    /// <summary>A string attribute's text, without the NUL that may end it.</summary>
    public static string ReadString(ReadOnlySpan<byte> value)
    {
        int end = value.IndexOf((byte)0);
        return Encoding.UTF8.GetString(end < 0 ? value : value[..end]);
    }

    // The last message or attribute of a buffer may lack its padding.
    private void Skip(int length) => _rest = _rest[Math.Min(Align(length), _rest.Length)..];
}
