namespace Tunnel.Ctl.Views;

/// <summary>How a text is meant; a terminal shows it by colour, plain text not at all.</summary>
internal enum Tone
{
    /// <summary>Nothing to notice.</summary>
    Plain,

    /// <summary>As it should be.</summary>
    Good,

    /// <summary>Needs attention.</summary>
    Bad,
}

// The records below are classes on purpose: the framework's generic code is precompiled for these, while lists and queries over
// structs of ours would be compiled at each start.

/// <summary>A text with its tone. In tables of plain text an empty cell shows as "-".</summary>
/// <param name="Text">One line.</param>
/// <param name="Tone">How it is meant.</param>
internal sealed record Cell(string Text, Tone Tone = Tone.Plain)
{
    /// <summary>A plain text.</summary>
    public static implicit operator Cell(string text) => new(text);
}

/// <summary>A column of a table.</summary>
/// <param name="Header">Its heading, one word.</param>
/// <param name="RightAligned">Whether it holds numbers.</param>
/// <param name="IsList">Whether its cells are lists, parted by commas; a terminal gives each item its own line.</param>
/// <param name="Optional">Whether a terminal leaves it out where all its cells are empty; plain text keeps it, so that columns stay countable.</param>
internal sealed record Column(string Header, bool RightAligned = false, bool IsList = false, bool Optional = false);

/// <summary>A labelled line of a block.</summary>
/// <param name="Label">What it is.</param>
/// <param name="Value">Its text and tone.</param>
internal sealed record Line(string Label, Cell Value);

/// <summary>What views draw on: plain text for files and pipes, the terminal for people.</summary>
internal interface IPage
{
    /// <summary>Draws a block in the manner of `wg show`: "KIND: NAME" and indented lines.</summary>
    void Block(string kind, string name, IReadOnlyList<Line> lines);

    /// <summary>Draws a table. In all columns but the last a cell is one word.</summary>
    void Table(IReadOnlyList<Column> columns, IReadOnlyList<Cell[]> rows);

    /// <summary>Writes one line of text; an empty one parts blocks.</summary>
    void Text(string line);
}
