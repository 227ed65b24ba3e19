using System.Text.RegularExpressions;
using Tunnel.Dataplane;

namespace Tunnel.Tests.Architecture;

/// <summary>Dependencies point one way: Wire, Dataplane, then Linux and Control, which don't know each other.</summary>
public sealed partial class DependencyTests
{
    private static readonly MetadataReferences Daemon = MetadataReferences.Read(typeof(Peer).Assembly.Location);

    [Fact]
    public void The_compiled_rooms_refer_to_lower_rooms_only()
    {
        IEnumerable<string> wrong = Daemon.Uses
            .Where(use => Rooms.Of(use.FromNamespace) is string from && Rooms.Of(use.ToNamespace) is string to && !Rooms.Allowed[from].Contains(to))
            .Select(use => $"{use.From}.{use.Member} -> {use.To}")
            .Order();
        Assert.Equal([], wrong);

        // The reader sees what is there.
        Assert.Contains(Daemon.Uses, use => use.From == "Tunnel.Dataplane.Inbound" && use.To == "Tunnel.Wire.GreView");
    }

    // Constants and names leave no trace in the compiled code.
    [Fact]
    public void The_sources_name_lower_rooms_only()
    {
        var wrong = new List<string>();
        foreach ((string room, string[] allowed) in Rooms.Allowed)
        {
            foreach ((string path, string text) in Repository.Sources($"src/Tunnel/{room}"))
            {
                foreach (string other in Rooms.Allowed.Keys.Except(allowed).Where(other => Names(Repository.CodeOf(text), other)))
                {
                    wrong.Add($"{path} -> {other}");
                }
            }
        }

        Assert.Equal([], wrong);
    }

    [Theory]
    [InlineData("using Tunnel.Linux;", true)]
    [InlineData("using static Tunnel.Linux.LibC;", true)]
    [InlineData("using L = Tunnel.Linux.LibC;", true)]
    [InlineData("return global::Tunnel.Linux.LibC.X;", true)]
    [InlineData("return Linux.LibC.X;", true)]
    [InlineData("using Tmds.Linux;", true)]
    [InlineData("// using Tunnel.Linux;", false)]
    [InlineData("/* Tunnel.Linux.X */", false)]
    [InlineData("return \"Tunnel.Linux.X\";", false)]
    [InlineData("return os.Linux.X;", false)]
    [InlineData("using Tunnel.LinuxLike;", false)]
    public void The_search_in_sources_finds_names_in_code_only(string line, bool expected) =>
        Assert.Equal(expected, Names(Repository.CodeOf(line), "Linux"));

    [Fact]
    public void Each_file_is_in_the_namespace_of_its_room()
    {
        var wrong = new List<string>();
        foreach ((string path, string text) in Repository.Sources("src/Tunnel"))
        {
            string[] parts = path.Split('/');
            string? room = parts.Length > 3 ? parts[2] : null;
            IEnumerable<string> namespaces = NamespaceDeclaration().Matches(Repository.CodeOf(text))
                .Select(match => match.Groups["name"].Value);
            if ((room is not null && !Rooms.Allowed.ContainsKey(room)) || namespaces.Any(name => Rooms.Of(name) != room))
            {
                wrong.Add(path);
            }
        }

        Assert.Equal([], wrong);
    }

    [Fact]
    public void The_reader_finds_every_kind_of_use()
    {
        MetadataReferences tests = MetadataReferences.Read(typeof(DependencyTests).Assembly.Location);
        HashSet<string> guilty = [.. tests.Uses
            .Where(use => use.FromNamespace.EndsWith(".Fixtures.Lower", StringComparison.Ordinal) &&
                use.ToNamespace.EndsWith(".Fixtures.Upper", StringComparison.Ordinal))
            .Select(use => use.From)];
        IEnumerable<string> all = typeof(DependencyTests).Assembly.GetTypes()
            .Where(type => !type.IsNested && type.Namespace == "Tunnel.Tests.Architecture.Fixtures.Lower")
            .Select(type => type.FullName!);
        Assert.Equal(["Tunnel.Tests.Architecture.Fixtures.Lower.Clean"], all.Except(guilty));
        Assert.True(guilty.Count >= 17);
    }

    private static bool Names(string code, string room) => RoomName().Matches(code).Any(match => match.Groups["room"].Value == room);

    [GeneratedRegex(@"^\s*namespace\s+(?<name>[\w.]+)", RegexOptions.Multiline, matchTimeoutMilliseconds: 10_000)]
    private static partial Regex NamespaceDeclaration();

    [GeneratedRegex(
        @"(?<![\w.])((Tunnel|Tmds)\.(?<room>\w+)\b|(?<room>\w+)\.\w)", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 10_000)]
    private static partial Regex RoomName();
}
