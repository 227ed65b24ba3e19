using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>Sends a request and hands every reply that is not the end over: <see cref="NetlinkSocket.Exchange"/>.</summary>
internal delegate NetlinkResult NetlinkExchange(Span<byte> request, NetlinkReply? onReply);

/// <summary>Makes a record of a message; false for one to leave out.</summary>
internal delegate bool NetlinkParse<T>(NetlinkMessage message, out T record);

/// <summary>Reads what the kernel lists in answer to NLM_F_DUMP.</summary>
internal static class NetlinkList
{
    /// <summary>What changes during so many listings in a row is left for the next notification.</summary>
    public const int MaxAttempts = 20;

    /// <summary>Asks for a list, and again while the kernel says that it changed meanwhile (NLM_F_DUMP_INTR).</summary>
    /// <param name="exchange">How to ask.</param>
    /// <param name="request">The finished request.</param>
    /// <param name="parse">Parses a message of the list.</param>
    /// <param name="records">Receives the list.</param>
    /// <returns>The last answer; EAGAIN where the list kept changing.</returns>
    public static NetlinkResult Read<T>(NetlinkExchange exchange, Span<byte> request, NetlinkParse<T> parse, List<T> records)
    {
        for (int i = 0; i < MaxAttempts; i++)
        {
            records.Clear();
            NetlinkResult result = exchange(request, reply =>
            {
                if (parse(reply, out T record))
                {
                    records.Add(record);
                }
            });

            // A namespace that never had a route has no main table.
            if (result.Errno == ENOENT)
            {
                return default;
            }

            if (result.Errno != 0 || !result.Interrupted)
            {
                return result;
            }
        }

        return new NetlinkResult(EAGAIN, "it keeps changing while it is read", true);
    }
}
