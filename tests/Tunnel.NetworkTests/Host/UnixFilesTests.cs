using Tunnel.Linux;

namespace Tunnel.NetworkTests.Host;

public sealed class UnixFilesTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("tunnel-files-").FullName;

    [SkippableFact]
    public void TheSocketBelongsToTheGroupAndToNobodyElse()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "needs root");
        string path = Path.Combine(_directory, "tun0.sock");
        File.WriteAllText(path, "");

        Assert.Null(UnixFiles.SetSocketAccess(path, "daemon"));
        Assert.Equal("660 root daemon\n", HostNamespace.Command("stat", "-c", "%a %U %G", path));
    }

    [Fact]
    public void AGroupThatIsMissingIsNoProblem()
    {
        string path = Path.Combine(_directory, "tun0.sock");
        File.WriteAllText(path, "");

        Assert.Null(UnixFiles.SetSocketAccess(path, "no-such-group"));
        Assert.Equal("660\n", HostNamespace.Command("stat", "-c", "%a", path));
        var refused = Assert.Throws<IOException>(() => UnixFiles.SetSocketAccess(path + "2", "no-such-group"));
        Assert.Equal($"cannot set the mode of {path}2: No such file or directory", refused.Message);
    }

    [Fact]
    public void GroupsAreFound()
    {
        Assert.Equal(0u, UnixFiles.FindGroup("root"));
        Assert.Equal(1u, UnixFiles.FindGroup("daemon"));
        Assert.Null(UnixFiles.FindGroup("no-such-group"));
    }

    [Fact]
    public void TheRunDirectoryIsMade()
    {
        string path = Path.Combine(_directory, "a", "b");
        UnixFiles.EnsureRunDirectory(path);
        UnixFiles.EnsureRunDirectory(path + "/");
        Assert.True(Directory.Exists(path));

        string file = Path.Combine(_directory, "file");
        File.WriteAllText(file, "");
        foreach (string wrong in new[] { file, Path.Combine(file, "below") })
        {
            var refused = Assert.Throws<IOException>(() => UnixFiles.EnsureRunDirectory(wrong));
            Assert.StartsWith($"cannot make the run directory {wrong}: Not a directory; ", refused.Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("000001ffffffffff", null)]
    [InlineData("0000000000003000", null)]
    [InlineData("0000000000001000", "no permission: CAP_NET_RAW missing: ")]
    [InlineData("0000000000002000", "no permission: CAP_NET_ADMIN missing: ")]
    [InlineData("0000000000000000", "no permission: CAP_NET_ADMIN and CAP_NET_RAW missing: ")]
    public void MissingCapabilitiesAreNamed(string effective, string? problem)
    {
        string? found = UnixFiles.CheckCapabilities($"Name:\ttunneld\nCapPrm:\t0000000000003000\nCapEff:\t{effective}\nCapBnd:\t0000000000003000\n");
        if (problem is null)
        {
            Assert.Null(found);
        }
        else
        {
            Assert.StartsWith(problem, found, StringComparison.Ordinal);
        }
    }

    [SkippableFact]
    public void RootMay()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "needs root");
        Assert.Null(UnixFiles.CheckCapabilities());
    }

    public void Dispose() => Directory.Delete(_directory, recursive: true);
}
