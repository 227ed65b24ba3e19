using Spectre.Console;
using Spectre.Console.Rendering;

namespace Tunnel.Ctl.Views;

/// <summary>
/// The same content for a person at a terminal: colour, and tables that fit its width. Only this type uses Spectre.Console, so
/// that its start-up cost falls on no script.
/// </summary>
internal sealed class TerminalPage : IPage
{
    private readonly TextWriter _output;
    private readonly IAnsiConsole _console;
    private readonly bool _colour;

    /// <summary>Makes a page.</summary>
    /// <param name="output">The terminal.</param>
    /// <param name="width">Its width in columns.</param>
    /// <param name="colour">Whether to use colour and bold type.</param>
    public TerminalPage(TextWriter output, int width, bool colour)
    {
        _output = output;
        _colour = colour;
        _console = AnsiConsole.Create(new AnsiConsoleSettings
        {
            // Said rather than detected: the detection costs time, and it looks at the process's console, not at this writer.
            Ansi = colour ? AnsiSupport.Yes : AnsiSupport.No,
            ColorSystem = colour ? ColorSystemSupport.Standard : ColorSystemSupport.NoColors,
            Interactive = InteractionSupport.No,
            Out = new AnsiConsoleOutput(output),
            Enrichment = new ProfileEnrichment { UseDefaultEnrichers = false },
        });
        _console.Profile.Width = width;
    }

    /// <inheritdoc/>
    public void Block(string kind, string name, IReadOnlyList<Line> lines)
    {
        _output.WriteLine($"{Paint("1;32", kind)}: {Paint("32", name)}");
        foreach (Line line in lines)
            _output.WriteLine($"  {Paint("1", line.Label)}: {Paint(line.Value)}");
    }

    /// <inheritdoc/>
    public void Table(IReadOnlyList<Column> columns, IReadOnlyList<Cell[]> rows)
    {
        int[] shown = [.. Enumerable.Range(0, columns.Count).Where(i => !columns[i].Optional || rows.Any(row => row[i].Text.Length > 0))];
        Table table = new() { Border = TableBorder.None };
        foreach (int i in shown)
        {
            TableColumn column = new(new Text(columns[i].Header, new Style(decoration: Decoration.Bold)))
            {
                Alignment = columns[i].RightAligned ? Justify.Right : Justify.Left,
                NoWrap = !columns[i].Optional,
                Padding = new Padding(0, 0, 2, 0),
            };
            table.AddColumn(column);
        }

        foreach (Cell[] row in rows)
            table.AddRow(shown.Select(i => new Text(Lines(columns[i], row[i].Text), StyleOf(row[i].Tone))));

        int leastWidth = ((IRenderable)table).Measure(RenderOptions.Create(_console), int.MaxValue).Min;
        if (leastWidth <= _console.Profile.Width)
            _console.Write(table);
        else
            Blocks(columns, shown, rows);
    }

    /// <inheritdoc/>
    public void Text(string line) => _output.WriteLine(line);

    private static string Lines(Column column, string text) => column.IsList ? text.Replace(',', '\n') : text;

    private static Style StyleOf(Tone tone) => tone switch
    {
        Tone.Good => new Style(Color.Green),
        Tone.Bad => new Style(Color.Maroon),
        _ => Style.Plain,
    };

    // Where the terminal is too narrow for the table, each row becomes a block.
    private void Blocks(IReadOnlyList<Column> columns, int[] shown, IReadOnlyList<Cell[]> rows)
    {
        for (int r = 0; r < rows.Count; r++)
        {
            if (r > 0)
                Text("");

            IEnumerable<Line> lines = shown.Skip(1).Select(i => new Line(Label(i), rows[r][i])).Where(line => line.Value.Text.Length > 0);
            Block(Label(0), rows[r][0].Text, [.. lines]);
        }

        string Label(int i) => columns[i].Header.ToLowerInvariant();
    }

    private string Paint(Cell cell) => cell.Tone switch
    {
        Tone.Good => Paint("32", cell.Text),
        Tone.Bad => Paint("31", cell.Text),
        _ => cell.Text,
    };

    // A block is written without Spectre, which would break its lines at the width; the terminal's own wrapping keeps them whole when copied.
    private string Paint(string sgr, string text) => _colour ? $"\e[{sgr}m{text}\e[0m" : text;
}
