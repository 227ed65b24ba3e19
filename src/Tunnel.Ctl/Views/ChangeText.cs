using System.Text.Json;

namespace Tunnel.Ctl.Views;

/// <summary>The one line that a change ends with.</summary>
internal static class ChangeText
{
    private static readonly string[] Kinds = ["added", "changed", "removed"];

    /// <summary>"added peer vm2: 192.168.40.12, 172.17.52.0/24". The key is left out: the line may end up in logs.</summary>
    public static string Peer(string done, JsonElement peer)
    {
        string[] facts = [peer.Member("endpoint").Text() ?? PeerText.Unknown, .. peer.Member("subnets").Texts()];
        return $"{done} peer {peer.Member("name").Text()}: {string.Join(", ", facts)}";
    }

    /// <summary>"reloaded: added vm3; changed vm2", or "reloaded: nothing changed".</summary>
    public static string Reloaded(JsonElement changes)
    {
        string[] parts =
        [
            .. from kind in Kinds
               let peers = changes.Member(kind).Texts()
               where peers.Length > 0
               select $"{kind} {string.Join(", ", peers)}",
            .. changes.Member("network").ValueKind == JsonValueKind.True ? (string[])["changed the network's own settings"] : [],
        ];
        return $"reloaded: {(parts.Length > 0 ? string.Join("; ", parts) : "nothing changed")}";
    }
}
