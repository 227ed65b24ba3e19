using System.Text;

namespace Tunnel.Tests.Architecture;

/// <summary>The working copy that the tests were built from.</summary>
internal static class Repository
{
    /// <summary>The directory with Tunnel.sln, found upwards from the test assembly.</summary>
    public static string Root { get; } = Find();

    /// <summary>The C# files below a directory of the repository, by path from the root; none where the directory is missing.</summary>
    public static IEnumerable<(string Path, string Text)> Sources(string directory)
    {
        string full = Path.Combine(Root, directory);
        return !Directory.Exists(full) ? [] : Directory.EnumerateFiles(full, "*.cs", SearchOption.AllDirectories)
            .Select(file => Path.GetRelativePath(Root, file).Replace('\\', '/'))
            .Where(path => !path.Split('/').Any(part => part is "bin" or "obj"))
            .Order(StringComparer.Ordinal)
            .Select(path => (path, File.ReadAllText(Path.Combine(Root, path))));
    }

    /// <summary>The code of a file: comments, strings and character literals blanked out, line breaks kept.</summary>
    public static string CodeOf(string text)
    {
        var code = new StringBuilder(text.Length);
        int i = 0;
        while (i < text.Length)
        {
            int end = EndOfNonCode(text, i);
            if (end == i)
            {
                code.Append(text[i++]);
                continue;
            }

            for (; i < end; i++)
            {
                code.Append(text[i] == '\n' ? '\n' : ' ');
            }
        }

        return code.ToString();
    }

    private static int EndOfNonCode(string text, int i)
    {
        bool At(string what) => string.CompareOrdinal(text, i, what, 0, what.Length) == 0;
        int After(string what, int from) => text.IndexOf(what, from, StringComparison.Ordinal) is int at and >= 0 ? at + what.Length : text.Length;

        if (At("//"))
        {
            return text.IndexOf('\n', i) is int at and >= 0 ? at : text.Length;
        }

        if (At("/*"))
        {
            return After("*/", i + 2);
        }

        if (At("\"\"\""))
        {
            return After("\"\"\"", i + 3);
        }

        if (At("@\"") || At("$@\"") || At("@$\""))
        {
            int at = text.IndexOf('"', i) + 1;
            while (at < text.Length && (text[at] != '"' || (at + 1 < text.Length && text[at + 1] == '"')))
            {
                at += text[at] == '"' ? 2 : 1;
            }

            return Math.Min(at + 1, text.Length);
        }

        if (text[i] is not ('"' or '\''))
        {
            return i;
        }

        int end = i + 1;
        while (end < text.Length && text[end] != text[i] && text[end] != '\n')
        {
            end += text[end] == '\\' ? 2 : 1;
        }

        return Math.Min(end + 1, text.Length);
    }

    private static string Find()
    {
        string? directory = AppContext.BaseDirectory;
        while (directory is not null && !File.Exists(Path.Combine(directory, "Tunnel.sln")))
        {
            directory = Path.GetDirectoryName(directory);
        }

        return directory ?? throw new InvalidOperationException("Tunnel.sln is not above the test assembly: run the tests from a working copy");
    }
}
