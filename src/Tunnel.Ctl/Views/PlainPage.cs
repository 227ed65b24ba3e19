using System.Text;

namespace Tunnel.Ctl.Views;

/// <summary>Aligned text without colour, frames, wrapping or truncation: the same for awk as for the eye.</summary>
internal sealed class PlainPage(TextWriter output) : IPage
{
    private const string Gap = "  ";

    /// <inheritdoc/>
    public void Block(string kind, string name, IReadOnlyList<Line> lines)
    {
        output.WriteLine($"{kind}: {name}");
        foreach (Line line in lines)
            output.WriteLine($"{Gap}{line.Label}: {line.Value.Text}");
    }

    /// <inheritdoc/>
    public void Table(IReadOnlyList<Column> columns, IReadOnlyList<Cell[]> rows)
    {
        int[] widths = new int[columns.Count];
        for (int i = 0; i < widths.Length; i++)
        {
            widths[i] = columns[i].Header.Length;
            foreach (Cell[] row in rows)
                widths[i] = Math.Max(widths[i], Word(row[i]).Length);
        }

        WriteRow(columns, widths, columns.Select(column => column.Header));
        foreach (Cell[] row in rows)
            WriteRow(columns, widths, row.Select(Word));
    }

    /// <inheritdoc/>
    public void Text(string line) => output.WriteLine(line);

    private static string Word(Cell cell) => cell.Text.Length == 0 ? "-" : cell.Text;

    private void WriteRow(IReadOnlyList<Column> columns, int[] widths, IEnumerable<string> words)
    {
        StringBuilder text = new();
        int i = 0;
        foreach (string word in words)
        {
            if (i > 0)
                text.Append(Gap);

            text.Append(columns[i].RightAligned ? word.PadLeft(widths[i]) : word.PadRight(widths[i]));
            i++;
        }

        output.WriteLine(text.ToString().TrimEnd());
    }
}
