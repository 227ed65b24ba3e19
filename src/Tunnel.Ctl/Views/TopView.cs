using System.Globalization;
using System.Text.Json;

namespace Tunnel.Ctl.Views;

/// <summary>Draws `top`: what each peer sends and gets in a second, the busiest first.</summary>
internal sealed class TopView
{
    private static readonly Column[] Columns =
    [
        new("PEER"), new("STATE"), new("OUT/s", RightAligned: true), new("OUT-BIT/s", RightAligned: true), new("IN/s", RightAligned: true),
        new("IN-BIT/s", RightAligned: true), new("DROPS/s", RightAligned: true), new("RTT", RightAligned: true), new("LOSS", RightAligned: true),
    ];

    private static readonly string[] Decimal = ["", "k", "M", "G", "T"];

    private Dictionary<string, JsonElement> _before = new(StringComparer.Ordinal);

    /// <summary>Takes the peers as they are, to compare later ones with.</summary>
    public void Start(JsonElement peers) => _before = ByName(peers);

    /// <summary>Draws what has happened since the last call, and begins anew.</summary>
    /// <param name="page">Where.</param>
    /// <param name="peers">The peers as they are.</param>
    /// <param name="seconds">How long that is.</param>
    public void Draw(IPage page, JsonElement peers, double seconds)
    {
        Row[] rows = [.. peers.Items().Select(peer => Compare(peer, seconds)).OrderByDescending(row => row.BitsOut + row.BitsIn).ThenBy(row => row.Name, StringComparer.Ordinal)];
        page.Table(Columns, [.. rows.Select(Cells)]);
        Start(peers);
    }

    private static Dictionary<string, JsonElement> ByName(JsonElement peers) =>
        peers.Items().GroupBy(peer => peer.Member("name").Text() ?? "").ToDictionary(group => group.Key, group => group.First(), StringComparer.Ordinal);

    // A number as people read it: 950, 1.2k, 3.45G. SI: 1k is 1000.
    private static string Rate(double value)
    {
        int unit = 0;
        while (value >= 1000 && unit < Decimal.Length - 1)
        {
            value /= 1000;
            unit++;
        }

        return value.ToString(unit == 0 ? "0" : "0.##", CultureInfo.InvariantCulture) + Decimal[unit];
    }

    private static Cell[] Cells(Row row)
    {
        string state = row.Peer.Member("state").Text() ?? "";
        return
        [
            row.Name,
            new Cell(state, state == "up" ? Tone.Good : state is "down" or "degraded" ? Tone.Bad : Tone.Plain),
            Rate(row.PacketsOut),
            Rate(row.BitsOut),
            Rate(row.PacketsIn),
            Rate(row.BitsIn),
            new Cell(Rate(row.Drops), row.Drops > 0 ? Tone.Bad : Tone.Plain),
            row.Peer.Member("rtt-ms").Text() is { } milliseconds ? milliseconds + "ms" : "",
            row.Peer.Member("loss-percent").Text() is { } loss ? loss + "%" : "",
        ];
    }

    // A peer that is new, or was made anew, has no past.
    private Row Compare(JsonElement peer, double seconds)
    {
        string name = peer.Member("name").Text() ?? "";
        JsonElement before = _before.GetValueOrDefault(name);
        return new Row(
            name,
            peer,
            Of("sent", "packets"),
            Of("sent", "bytes") * 8,
            Of("received", "packets"),
            Of("received", "bytes") * 8,
            Difference(peer.Member("drops"), before.Member("drops")));

        double Of(string way, string unit) =>
            Difference(peer.Member("traffic").Member(way).Member(unit), before.Member("traffic").Member(way).Member(unit));

        double Difference(JsonElement now, JsonElement then) =>
            then.ValueKind == JsonValueKind.Number && now.Count() >= then.Count() ? (now.Count() - then.Count()) / seconds : 0;
    }

    private sealed record Row(string Name, JsonElement Peer, double PacketsOut, double BitsOut, double PacketsIn, double BitsIn, double Drops);
}
