using System.Text.Json;

namespace Tunnel.Ctl.Views;

/// <summary>Draws `routes`: the overlay route table.</summary>
internal static class RoutesView
{
    private static readonly Column[] Columns =
    [
        new("PREFIX"),
        new("PEER"),
        new("MTU", RightAligned: true),
        new("INSTALLED"),
        new("PROBLEM", Optional: true),
    ];

    /// <summary>Draws the table, or "no routes".</summary>
    public static void Draw(IPage page, JsonElement routes)
    {
        if (routes.GetArrayLength() == 0)
            page.Text("no routes");
        else
            page.Table(Columns, [.. routes.Items().Select(Row)]);
    }

    private static Cell[] Row(JsonElement route) =>
    [
        route.Member("prefix").Text() ?? "",
        route.Member("peer").Text() ?? "",
        route.Member("mtu").Text() ?? "",
        route.Member("installed").IsTrue() ? new Cell("yes") : new Cell("no", Tone.Bad),
        new Cell(route.Member("problem").Text() ?? "", Tone.Bad),
    ];
}
