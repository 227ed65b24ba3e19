using System.Text.Json;

namespace Tunnel.Ctl.Views;

/// <summary>Draws `doctor`: a block for each finding, with what mends it.</summary>
internal static class DoctorView
{
    /// <summary>Draws the findings, the worst first.</summary>
    /// <param name="page">Where.</param>
    /// <param name="findings">The findings.</param>
    /// <param name="whole">Whether the daemon has looked, so that no finding means that nothing was found.</param>
    public static void Draw(IPage page, JsonElement findings, bool whole)
    {
        int count = 0;
        foreach (JsonElement finding in findings.Items())
        {
            if (count++ > 0)
                page.Text("");

            string severity = finding.Member("severity").Text() ?? "-";
            List<Line> lines = [];
            if (finding.Member("peer").Text() is { } peer)
                lines.Add(new Line("peer", peer));

            lines.Add(new Line("finding", new Cell(finding.Member("finding").Text() ?? "-", severity == "error" ? Tone.Bad : Tone.Plain)));
            if (finding.Member("cure").Text() is { } cure)
                lines.Add(new Line("cure", new Cell(cure, Tone.Good)));

            page.Block(severity, finding.Member("check").Text() ?? "-", lines);
        }

        if (count == 0 && whole)
            page.Text("nothing found");
    }
}
