using System.Text.Json;

namespace Tunnel.Ctl.Views;

/// <summary>Draws `explain`: the steps, and what they come to.</summary>
internal static class ExplainView
{
    private static readonly Column[] Columns = [new("STEP"), new("OK"), new("WHY")];

    /// <summary>Draws the steps in their order, then the verdict.</summary>
    public static void Draw(IPage page, JsonElement explanation)
    {
        page.Table(Columns, [.. explanation.Member("steps").Items().Select(Row)]);
        page.Text("");
        string verdict = explanation.Member("verdict").Text() ?? "-";
        string? peer = explanation.Member("peer").Text();
        string? reason = explanation.Member("reason").Text();
        page.Text(verdict switch
        {
            "sent" => $"sent to peer {peer}",
            "delivered" => $"delivered, when it comes from peer {peer}",
            "elsewhere" => "not carried by this network",
            _ => reason is null ? verdict : $"{verdict}: {reason}",
        });
    }

    // One word in all columns but the last, so that the columns can be cut.
    private static Cell[] Row(JsonElement step) =>
    [
        (step.Member("step").Text() ?? "").Replace(' ', '-'),
        step.Member("ok").IsTrue() ? new Cell("yes") : new Cell("no", Tone.Bad),
        step.Member("text").Text() ?? "",
    ];
}
