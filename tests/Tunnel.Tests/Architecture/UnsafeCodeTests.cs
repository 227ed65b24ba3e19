using System.Text.RegularExpressions;
using Tunnel.Dataplane;

namespace Tunnel.Tests.Architecture;

/// <summary>Unsafe code, calls into native code and reinterpreted memory are left to src/Tunnel/Linux.</summary>
public sealed partial class UnsafeCodeTests
{
    private static readonly string[] BannedTypes =
    [
        "System.Runtime.InteropServices.DllImportAttribute",
        "System.Runtime.InteropServices.LibraryImportAttribute",
        "System.Runtime.InteropServices.Marshal",
        "System.Runtime.InteropServices.MemoryMarshal",
        "System.Runtime.InteropServices.NativeMemory",
        "System.Runtime.InteropServices.NativeLibrary",
        "System.Runtime.InteropServices.GCHandle",
        "System.Runtime.InteropServices.UnmanagedCallersOnlyAttribute",
        "System.Runtime.CompilerServices.Unsafe",
    ];

    [Fact]
    public void The_sources_have_none_elsewhere()
    {
        IEnumerable<string> wrong = Repository.Sources("src")
            .Where(source => !source.Path.StartsWith("src/Tunnel/Linux/", StringComparison.Ordinal))
            .SelectMany(source => UnsafeCode().Matches(Repository.CodeOf(source.Text)).Select(match => $"{source.Path}: {match.Value}"));
        Assert.Equal([], wrong);
    }

    // The compiler's own helpers stand outside every namespace. What a source generator writes (the JSON one unboxes structs in place)
    // is not ours to judge; the sources are searched above.
    [Fact]
    public void The_compiled_daemon_has_none_elsewhere()
    {
        MetadataReferences daemon = MetadataReferences.Read(typeof(Peer).Assembly.Location);
        bool IsOutside(string member) => Rooms.Allowed.Keys.Except(["Linux"])
            .Any(room => member.StartsWith($"Tunnel.{room}.", StringComparison.Ordinal));
        Assert.Equal([], daemon.PlatformInvokes.Where(IsOutside).Order());
        Assert.Equal([], daemon.Pointers.Where(IsOutside).Order());
        HashSet<string> generated = [.. daemon.Uses
            .Where(use => use.Member == "type" && use.To == "System.CodeDom.Compiler.GeneratedCodeAttribute")
            .Select(use => use.From)];
        Assert.Equal([], daemon.Uses
            .Where(use => IsOutside(use.From) && BannedTypes.Contains(use.To) && !generated.Contains(use.From))
            .Select(use => $"{use.From}.{use.Member} -> {use.To}")
            .Order());
    }

    // The analyzer's own ban (BannedSymbols.txt) must not be argued away in a file. In the unsafe room two files do: half of a class
    // of theirs is generated, outside the folder that .editorconfig leaves out.
    [Fact]
    public void The_ban_is_lifted_in_the_unsafe_room_only()
    {
        Assert.Equal([], Repository.Sources("src")
            .Where(source => source.Text.Contains("RS0030", StringComparison.Ordinal))
            .Select(source => source.Path)
            .Where(path => !path.StartsWith("src/Tunnel/Linux/", StringComparison.Ordinal)));
        string[] banned = File.ReadAllLines(Path.Combine(Repository.Root, "BannedSymbols.txt"));
        Assert.All(
            ["DllImportAttribute", "LibraryImportAttribute", "Marshal", "MemoryMarshal", "Unsafe"],
            name => Assert.Contains(banned, line => line.Contains($".{name};", StringComparison.Ordinal)));
    }

    [Theory]
    [InlineData("public unsafe struct X", true)]
    [InlineData("fixed (byte* p = bytes)", true)]
    [InlineData("byte* p = stackalloc byte[4];", true)]
    [InlineData("[DllImport(\"libc\")]", true)]
    [InlineData("[LibraryImport(\"libc\")]", true)]
    [InlineData("Marshal.GetLastSystemError()", true)]
    [InlineData("MemoryMarshal.Cast<byte, int>(x)", true)]
    [InlineData("Unsafe.As<int>(x)", true)]
    [InlineData("delegate* unmanaged<int> f", true)]
    [InlineData("Span<byte> b = stackalloc byte[4];", false)]
    [InlineData("// unsafe code lives elsewhere", false)]
    [InlineData("UnsafeRelaxedJsonEscaping", false)]
    [InlineData("CollectionsMarshal.AsSpan(x)", false)]
    [InlineData("int area = width * height;", false)]
    public void The_search_in_sources_knows_unsafe_code(string line, bool expected) =>
        Assert.Equal(expected, UnsafeCode().IsMatch(Repository.CodeOf(line)));

    [GeneratedRegex(
        @"\bunsafe\b|\bfixed\s*\(|\w\*\s+\w+\s*=\s*stackalloc|\bdelegate\s*\*|" +
        @"\b(DllImport|LibraryImport|UnmanagedCallersOnly)(Attribute)?\b|\b(Marshal|MemoryMarshal|NativeMemory|NativeLibrary|GCHandle|Unsafe)\s*\.",
        RegexOptions.ExplicitCapture,
        matchTimeoutMilliseconds: 10_000)]
    private static partial Regex UnsafeCode();
}
