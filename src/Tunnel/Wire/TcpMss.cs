using System.Buffers.Binary;

namespace Tunnel.Wire;

/// <summary>The Maximum Segment Size option, by which a host says in its SYN how much payload a segment to it may have (RFC 9293 section 3.7.1).</summary>
public static class TcpMss
{
    private const byte EndOfList = 0;
    private const byte NoOperation = 1;
    private const byte Kind = 2;
    private const int Length = 4;

    /// <summary>
    /// Lowers the option where it says more, and adjusts the checksum (RFC 1624 section 3). A segment without the option is left as it is: then
    /// 536 or 1,220 bytes hold. So is everything behind an option that can't be: a receiver ends there, too.
    /// </summary>
    /// <param name="segment">The TCP header and what follows; changed in place.</param>
    /// <param name="largest">The largest value to leave, in bytes.</param>
    /// <param name="isChecksumUnfinished">Whether the checksum field holds the sum of the pseudo-header only, which the option is no part of.</param>
    /// <returns>Whether anything was changed.</returns>
    public static bool Lower(Span<byte> segment, ushort largest, bool isChecksumUnfinished)
    {
        if (!TcpView.TryParse(segment, out TcpView view))
        {
            return false;
        }

        bool isChanged = false;
        int at = TcpView.MinHeaderLength;
        int end = view.HeaderLength;
        while (at < end && segment[at] != EndOfList)
        {
            if (segment[at] == NoOperation)
            {
                at++;
                continue;
            }

            int length = at + 1 < end ? segment[at + 1] : 0;
            if (length < 2 || at + length > end)
            {
                break;
            }

            if (segment[at] == Kind && length == Length)
            {
                isChanged |= LowerValue(segment, at + 2, largest, isChecksumUnfinished);
            }

            at += length;
        }

        return isChanged;
    }

    private static bool LowerValue(Span<byte> segment, int at, ushort largest, bool isChecksumUnfinished)
    {
        ushort value = BinaryPrimitives.ReadUInt16BigEndian(segment[at..]);
        if (value <= largest)
        {
            return false;
        }

        BinaryPrimitives.WriteUInt16BigEndian(segment[at..], largest);
        if (!isChecksumUnfinished)
        {
            // RFC 1624 equation 3. At an odd place the value lies across two words, its bytes swapped.
            bool isOdd = at % 2 != 0;
            uint before = isOdd ? BinaryPrimitives.ReverseEndianness(value) : value;
            uint after = isOdd ? BinaryPrimitives.ReverseEndianness(largest) : largest;
            ushort checksum = BinaryPrimitives.ReadUInt16BigEndian(segment[TcpView.ChecksumOffset..]);
            ushort sum = InternetChecksum.Fold((ulong)(ushort)~checksum + (ushort)~before + after);
            BinaryPrimitives.WriteUInt16BigEndian(segment[TcpView.ChecksumOffset..], (ushort)~sum);
        }

        return true;
    }
}
