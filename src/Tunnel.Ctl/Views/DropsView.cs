using System.Text.Json;

namespace Tunnel.Ctl.Views;

/// <summary>Draws `drops`: every reason that has discarded a packet, by peer.</summary>
internal static class DropsView
{
    private static readonly Column[] Columns = [new("PEER"), new("REASON"), new("PACKETS", RightAligned: true)];

    /// <summary>Draws the table, or "no drops". Packets that belong to no peer stand first, under "-".</summary>
    public static void Draw(IPage page, JsonElement drops)
    {
        List<Cell[]> rows = [.. Rows("-", drops.Member("network"))];
        foreach (JsonProperty peer in drops.Member("peers").Members())
            rows.AddRange(Rows(Json.OneLine(peer.Name), peer.Value));

        if (rows.Count == 0)
            page.Text("no drops");
        else
            page.Table(Columns, rows);
    }

    private static IEnumerable<Cell[]> Rows(string peer, JsonElement reasons) =>
        from reason in reasons.Members()
        let packets = reason.Value.Count()
        where packets != 0
        select new Cell[] { peer, Json.OneLine(reason.Name), packets.ToString() };
}
