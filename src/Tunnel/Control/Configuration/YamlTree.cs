using System.Text;
using YamlDotNet.Core;
using YamlDotNet.Core.Events;

namespace Tunnel.Control.Configuration;

/// <summary>
/// Makes a <see cref="ConfigNode"/> tree from one YAML document. Takes the part of YAML that configurations need: maps with
/// text keys, lists, scalars. Anchors, aliases, tags and further documents are refused, and size and depth are bounded, so that
/// no file costs more than its length. The first thing refused ends the reading.
/// </summary>
internal static class YamlTree
{
    /// <summary>The largest file that is read, in bytes: some ten thousand peers.</summary>
    public const int MaxBytes = 1 << 20;

    /// <summary>How deep lists and maps may stand in one another. The deepest setting (peers.NAME.key.in) is at 3.</summary>
    public const int MaxDepth = 16;

    /// <summary>How many values one file may have.</summary>
    public const int MaxNodes = 250_000;

    private static readonly UTF8Encoding StrictUtf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    /// <summary>Reads a file's content.</summary>
    /// <param name="file">The path for messages.</param>
    /// <param name="content">UTF-8, at most <see cref="MaxBytes"/>, with or without a byte order mark.</param>
    /// <param name="errors">Where an error goes.</param>
    /// <returns>The root; of kind Nothing where the file has no content but comments; null where there was an error.</returns>
    public static ConfigNode? Read(string file, ReadOnlySpan<byte> content, ConfigErrorList errors)
    {
        if (content.Length > MaxBytes)
        {
            errors.Invalid(new ConfigPlace(file), null, $"the file is larger than {MaxBytes} bytes", "split the network, or keep peers in NAME.d");
            return null;
        }

        string? text = Decode(file, content, errors);
        if (text is null)
            return null;

        var reader = new Reader(file, text);
        try
        {
            return reader.ReadDocument();
        }
        catch (RefusedYamlException refused)
        {
            errors.Invalid(refused.Place, null, refused.Message, refused.Hint);
        }
        catch (YamlException syntax)
        {
            (ConfigPlace place, string hint) = Explain(file, text, syntax, reader.OpenBracket);
            errors.Invalid(place, null, $"not valid YAML: {Reason(syntax.Message)}", hint);
        }
        catch (InvalidOperationException)
        {
            // The parser's own "can't happen". A key of a block in brackets that are still open gets it there.
            ConfigPlace place = reader.OpenBracket ?? reader.Here;
            string hint = reader.OpenBracket is null ? "check this line and the one below" : "close this bracket";
            errors.Invalid(place, null, "not valid YAML", hint);
        }

        return null;
    }

    private static string? Decode(string file, ReadOnlySpan<byte> content, ConfigErrorList errors)
    {
        if (content.StartsWith(Encoding.UTF8.Preamble))
            content = content[3..];

        string text;
        try
        {
            text = StrictUtf8.GetString(content);
        }
        catch (DecoderFallbackException invalid)
        {
            string before = Encoding.UTF8.GetString(content[..Math.Clamp(invalid.Index, 0, content.Length)]);
            errors.Invalid(PlaceAfter(file, before), null, "not UTF-8 text", "save the file as UTF-8");
            return null;
        }

        // YAML 1.2 section 5.1; the parser would take U+0000 for the end of the file.
        for (int i = 0; i < text.Length; i++)
        {
            if ((text[i] < ' ' && text[i] is not ('\t' or '\n' or '\r')) || text[i] is '\u007f' or '\ufeff' or '\ufffe' or '\uffff')
            {
                errors.Invalid(PlaceAfter(file, text[..i]), null, $"a control character (U+{(int)text[i]:X4}) can't stand here", "remove it");
                return null;
            }
        }

        return text;
    }

    private static ConfigPlace PlaceAfter(string file, string before)
    {
        int lines = before.AsSpan().Count('\n');
        return new ConfigPlace(file, lines + 1, before.Length - before.LastIndexOf('\n'));
    }

    // "While parsing a block mapping, did not find expected key." becomes the end of our own sentence.
    private static string Reason(string message)
    {
        string trimmed = message.TrimEnd('.', ' ');
        return trimmed.Length == 0 ? "it can't be parsed" : char.ToLowerInvariant(trimmed[0]) + trimmed[1..];
    }

    // Says what usually causes the parser's complaint.
    private static (ConfigPlace Place, string Hint) Explain(string file, string text, YamlException error, ConfigPlace? openBracket)
    {
        var place = new ConfigPlace(file, (int)Math.Max(1, error.Start.Line), (int)Math.Max(1, error.Start.Column));
        string[] lines = text.Split('\n');

        // The parser puts a tab's error at the map that it stands in, so look for the tab itself from there on.
        for (int i = place.Line - 1; error.Message.Contains("tab", StringComparison.Ordinal) && i < lines.Length; i++)
        {
            int indentation = lines[i].AsSpan().IndexOfAnyExcept(' ', '\t');
            int tab = lines[i].IndexOf('\t', StringComparison.Ordinal);
            if (tab >= 0 && tab < indentation)
                return (place with { Line = i + 1, Column = tab + 1 }, "indent with spaces");
        }

        string line = place.Line <= lines.Length ? lines[place.Line - 1] : string.Empty;
        if (line.Contains("]:", StringComparison.Ordinal))
            return (place, "write an address in brackets in quotes: \"[fd00::2]:4754\"");

        if (error.Message.Contains("quoted", StringComparison.Ordinal))
            return (place, "close the quote");

        if (openBracket is { } open)
            return (place, $"close the bracket of line {open.Line}, column {open.Column}, and separate its items with commas");

        if (error.Message.Contains("invalid mapping", StringComparison.Ordinal))
            return (place, "check the indentation; a value that has \": \" in it or ends in \":\" stands in quotes");

        return (place, "check the indentation and the colons of this line and the one above");
    }

    private sealed class RefusedYamlException(ConfigPlace place, string message, string hint) : Exception(message)
    {
        public ConfigPlace Place { get; } = place;

        public string Hint { get; } = hint;
    }

    private sealed class Reader(string file, string text)
    {
        private readonly Parser _parser = new(new StringReader(text));
        private readonly Stack<ConfigPlace> _openBrackets = [];
        private int _nodes;

        /// <summary>Where the innermost [ or { begins that is not closed yet; null where there is none.</summary>
        public ConfigPlace? OpenBracket => _openBrackets.TryPeek(out ConfigPlace place) ? place : null;

        /// <summary>The position of the last event.</summary>
        public ConfigPlace Here => _parser.Current is { } current ? PlaceOf(current) : new ConfigPlace(file, 1, 1);

        public ConfigNode ReadDocument()
        {
            ConfigNode? root = null;
            while (_parser.MoveNext())
            {
                if (_parser.Current is not DocumentStart start)
                    continue;

                if (root is not null)
                    throw new RefusedYamlException(PlaceOf(start), "a second YAML document", "a file has one document: remove this --- line");

                _parser.MoveNext();
                root = ReadNode(0);
            }

            return root ?? ConfigNode.OfNothing(new ConfigPlace(file, 1, 1));
        }

        // Begins with the node's first event as the current one, and ends with its last one.
        private ConfigNode ReadNode(int depth)
        {
            ParsingEvent current = _parser.Current!;
            ConfigPlace place = PlaceOf(current);
            if (++_nodes > MaxNodes)
                throw new RefusedYamlException(place, $"more than {MaxNodes} values in one file", "split the file");

            if (current is AnchorAlias || (current is NodeEvent { Anchor.IsEmpty: false }))
                throw new RefusedYamlException(place, "YAML anchors (&) and aliases (*) are not supported", "write the value out, or in quotes");

            if (current is NodeEvent { Tag.IsEmpty: false })
                throw new RefusedYamlException(place, "YAML tags (!) are not supported", "write the value without it, or in quotes");

            if (depth > MaxDepth)
                throw new RefusedYamlException(place, $"lists and maps stand more than {MaxDepth} deep in one another", "remove brackets");

            return current switch
            {
                Scalar scalar => ReadScalar(scalar, place),
                SequenceStart start => ReadList(place, depth, start.Style == SequenceStyle.Flow),
                MappingStart start => ReadMap(place, depth, start.Style == MappingStyle.Flow),
                _ => throw new RefusedYamlException(place, "not valid YAML", "check this line and the one above"),
            };
        }

        private static ConfigNode ReadScalar(Scalar scalar, ConfigPlace place)
        {
            if (scalar.Style != ScalarStyle.Plain)
                return ConfigNode.OfScalar(ConfigNodeKind.Text, place, scalar.Value);

            return scalar.Value is "" or "~" or "null" or "Null" or "NULL"
                ? ConfigNode.OfNothing(place)
                : ConfigNode.OfScalar(ConfigNodeKind.Plain, place, scalar.Value);
        }

        private ConfigNode ReadList(ConfigPlace place, int depth, bool inBrackets)
        {
            if (inBrackets)
                _openBrackets.Push(place);

            var items = new List<ConfigNode>();
            while (_parser.MoveNext() && _parser.Current is not SequenceEnd)
                items.Add(ReadNode(depth + 1));

            if (inBrackets)
                _openBrackets.Pop();

            return ConfigNode.OfList(place, items);
        }

        private ConfigNode ReadMap(ConfigPlace place, int depth, bool inBrackets)
        {
            if (inBrackets)
                _openBrackets.Push(place);

            var entries = new List<ConfigEntry>();
            while (_parser.MoveNext() && _parser.Current is not MappingEnd)
            {
                ConfigNode key = ReadNode(depth + 1);
                if (key.Kind is ConfigNodeKind.List or ConfigNodeKind.Map)
                    throw new RefusedYamlException(key.Place, $"{key.KindName} can't be a key", "a key is one word, followed by a colon");

                _parser.MoveNext();
                entries.Add(new ConfigEntry(key.Scalar, key.Place, ReadNode(depth + 1)));
            }

            if (inBrackets)
                _openBrackets.Pop();

            return ConfigNode.OfMap(place, entries);
        }

        private ConfigPlace PlaceOf(ParsingEvent parsed) =>
            new(file, (int)Math.Max(1, parsed.Start.Line), (int)Math.Max(1, parsed.Start.Column));
    }
}
