using System.Buffers.Binary;
using Tunnel.Wire;

namespace Tunnel.Dataplane;

/// <summary>A transport checksum that the kernel has left to a device: its field holds the sum of the pseudo-header only.</summary>
internal static class UnfinishedChecksum
{
    /// <summary>Finishes it in place.</summary>
    /// <param name="packet">The inner packet.</param>
    /// <param name="offload">Where the checksum begins and where it goes.</param>
    /// <returns>False where these lie outside the packet; nothing is written then.</returns>
    public static bool TryFinish(Span<byte> packet, in Offload offload)
    {
        int field = offload.ChecksumStart + offload.ChecksumOffset;
        if (field + sizeof(ushort) > packet.Length)
        {
            return false;
        }

        // The sum in the field is the seed, since it is part of the bytes. 0 would mean that UDP has no checksum (RFC 768).
        ushort checksum = InternetChecksum.Compute(packet[offload.ChecksumStart..]);
        bool isUdp = offload.ChecksumOffset == UdpView.ChecksumOffset;
        BinaryPrimitives.WriteUInt16BigEndian(packet[field..], isUdp && checksum == 0 ? (ushort)0xffff : checksum);
        return true;
    }
}
