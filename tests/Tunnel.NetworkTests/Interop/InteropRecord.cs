using System.Text;
using System.Text.Json;

namespace Tunnel.NetworkTests.Interop;

/// <summary>
/// Keeps the pings of each case as golden data, where TUNNEL_RECORD names the file (tests/golden/README.md): one echo request and one reply of
/// each inner IP version in each direction. Tunnel.Tests reads them.
/// </summary>
/// <param name="partner">Who the other end is: the packets' sender, where it was not tunneld.</param>
internal sealed class InteropRecord(string partner)
{
    private readonly List<string> _lines = [];

    /// <summary>Adds a case, and writes the file anew.</summary>
    /// <param name="name">The case.</param>
    /// <param name="peer">tunneld's keys of the peer.</param>
    /// <param name="packets">What was on the wire, each from its outer IP header on.</param>
    public void Keep(string name, string[] peer, IReadOnlyList<byte[]> packets)
    {
        if (Environment.GetEnvironmentVariable("TUNNEL_RECORD") is not { Length: > 0 } file)
        {
            return;
        }

        foreach (bool isFromPartner in new[] { true, false })
        {
            var kinds = new HashSet<(byte Version, byte Type)>();
            for (int i = 0; i < packets.Count; i++)
            {
                byte[] packet = packets[i];
                // The underlay addresses end in 11, tunneld's, and 12.
                bool fromPartner = packet[0] >> 4 == 4 ? packet[15] == 12 : packet[23] == 0x12;
                if (fromPartner != isFromPartner || KindOf(packet) is not { } kind || !kinds.Add(kind))
                {
                    continue;
                }

                _lines.Add(JsonSerializer.Serialize(new { name, from = isFromPartner ? partner : "tunneld", peer, hex = Convert.ToHexString(packet) }));
            }
        }

        File.WriteAllText(file, "[\n" + string.Join(",\n", _lines.Order(StringComparer.Ordinal)) + "\n]\n", new UTF8Encoding(encoderShouldEmitUTF8Identifier: false));
    }

    // The inner IP version and the type of an ICMP echo, request or reply; null for anything else.
    private static (byte Version, byte Type)? KindOf(byte[] packet)
    {
        if (GreSample.Read(packet) is not { } gre)
        {
            return null;
        }

        int inner = gre.Start + 4 + ((gre.Flags & 0x8000) != 0 ? 4 : 0) + ((gre.Flags & 0x2000) != 0 ? 4 : 0) + ((gre.Flags & 0x1000) != 0 ? 4 : 0);
        ReadOnlySpan<byte> ip = packet.AsSpan(inner);
        return ip[0] >> 4 == 4
            ? ip[9] == 1 && ip[20] is 0 or 8 ? ((byte)4, ip[20]) : null
            : ip[6] == 58 && ip[40] is 128 or 129 ? ((byte)6, ip[40]) : null;
    }
}
