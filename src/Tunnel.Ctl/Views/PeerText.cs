using System.Text.Json;

namespace Tunnel.Ctl.Views;

/// <summary>The texts of a peer that several views share.</summary>
internal static class PeerText
{
    /// <summary>What stands for something that is not known.</summary>
    public const string Unknown = "-";

    /// <summary>The key as the options write it: "42", or "1:2" for one each way; null where there is none.</summary>
    public static string? Key(JsonElement peer)
    {
        JsonElement key = peer.Member("key");
        return key.ValueKind == JsonValueKind.Object ? $"{key.Member("in").Text() ?? Unknown}:{key.Member("out").Text() ?? Unknown}" : key.Text();
    }

    /// <summary>The encapsulation with what is added to it, in one word: "gre,key=42,checksum,sequence".</summary>
    public static string Encapsulation(JsonElement peer)
    {
        List<string> parts = [peer.Member("encapsulation").Text() ?? Unknown];
        if (Key(peer) is { } key)
            parts.Add($"key={key}");

        foreach (string option in new[] { "checksum", "sequence" })
        {
            if (peer.Member(option).IsTrue())
                parts.Add(option);
        }

        return string.Join(',', parts);
    }

    /// <summary>"84 B (1 packet) sent, 84 B (1 packet) received".</summary>
    public static string Traffic(JsonElement traffic) => $"{OneWay(traffic.Member("sent"))} sent, {OneWay(traffic.Member("received"))} received";

    private static string OneWay(JsonElement counters) =>
        $"{Units.Bytes(counters.Member("bytes").Count())} ({Units.Count(counters.Member("packets").Count(), "packet")})";
}
