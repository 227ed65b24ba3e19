using System.Globalization;
using System.Text.RegularExpressions;
using Xunit.Abstractions;

namespace Tunnel.NetworkTests;

/// <summary>
/// The Debian package that TUNNEL_PACKAGE names, as scripts/test.sh does after scripts/package.sh has made it: what is in it, and its life on
/// a clean Debian without systemd; <see cref="ServiceTests"/> has that with it.
/// </summary>
public sealed partial class PackageTests(ITestOutputHelper output)
{
    private const int LargestInstalledKiB = 60 * 1024;

    private static string Unit => Path.Combine(Checkout.Directory, "packaging", "tunneld@.service");

    [SkippableFact]
    public async Task TheLinterFindsNothing()
    {
        string package = Package();
        await SkipWithoutAsync("lintian");
        CommandResult lint = await Command.RunAsync(["lintian", "--allow-root", "--fail-on", "error,warning", package], deadline: TimeSpan.FromMinutes(3));

        Assert.True(lint.ExitCode == 0 && lint.Out.Length == 0, lint.ToString());
    }

    [SkippableFact]
    public async Task ItIsSmallAndHasWhatDebianHasItsPlacesFor()
    {
        string package = Package();
        string size = (await Command.RunAsync(["dpkg-deb", "--field", package, "Installed-Size"])).Succeeded().Out;
        Assert.InRange(int.Parse(size, CultureInfo.InvariantCulture), 10 * 1024, LargestInstalledKiB);

        string[] lines = (await Command.RunAsync(["dpkg-deb", "--contents", package])).Succeeded().Out.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        string[] files = [.. lines.Select(line => Blanks().Split(line)[5])];
        string[] expected =
        [
            "./usr/bin/tunneld", "./usr/bin/tunnelctl", "./etc/tunnel/", "./etc/iproute2/rt_protos.d/tunnel.conf", "./usr/lib/systemd/system/tunneld@.service",
            "./usr/lib/sysusers.d/tunnel.conf", "./usr/lib/tmpfiles.d/tunnel.conf", "./usr/share/man/man8/tunneld.8.gz", "./usr/share/man/man8/tunnelctl.8.gz",
            "./usr/share/man/man5/tunneld.yaml.5.gz", "./usr/share/bash-completion/completions/tunneld", "./usr/share/bash-completion/completions/tunnelctl",
            "./usr/share/zsh/vendor-completions/_tunneld", "./usr/share/zsh/vendor-completions/_tunnelctl", "./usr/share/fish/vendor_completions.d/tunneld.fish",
            "./usr/share/fish/vendor_completions.d/tunnelctl.fish", "./usr/share/doc/tunnel/examples/tun0.yaml.example", "./usr/share/doc/tunnel/copyright",
            "./usr/share/doc/tunnel/changelog.gz",
        ];
        Assert.Empty(expected.Except(files));

        // One runtime, no symbols; everything belongs to root, and only root may write.
        Assert.Single(files, file => file.EndsWith("/System.Private.CoreLib.dll", StringComparison.Ordinal));
        Assert.DoesNotContain(files, file => file.EndsWith(".pdb", StringComparison.Ordinal));
        Assert.All(lines, line => Assert.True(line.Contains(" root/root ", StringComparison.Ordinal) && (line[0] == 'l' || line[5] != 'w' && line[8] != 'w'), line));
    }

    [SkippableFact]
    public async Task TheUnitLeavesLittleToWhoeverTakesTheDaemonOver()
    {
        await SkipWithoutAsync("systemd-analyze");
        CommandResult security = await Command.RunAsync(["systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager", Unit]);

        Assert.True(security.ExitCode == 0, security.ToString());
    }

    [SkippableTheory]
    [InlineData("tunneld.8", "docs/tunneld.md")]
    [InlineData("tunnelctl.8", "docs/tunnelctl.md")]
    [InlineData("tunneld.yaml.5", "docs/configuration.md")]
    public async Task TheManualSaysAllThatItsPageSays(string page, string source)
    {
        await SkipWithoutAsync("python3");
        string roff = (await Command.RunAsync(["python3", Path.Combine(Checkout.Directory, "packaging", "man", "manual.py"), page])).Succeeded().Out;

        // The first cell of each row of each table is a tag, each section a section, each example there.
        string[] lines = await File.ReadAllLinesAsync(Path.Combine(Checkout.Directory, source));
        string[] tags = [.. lines.Where(line => line.StartsWith("| `", StringComparison.Ordinal)).Select(line => line.Split('`')[1].Replace("\\|", "|", StringComparison.Ordinal))];
        string plain = roff.Replace("\\&", "", StringComparison.Ordinal).Replace("\\-", "-", StringComparison.Ordinal).Replace("\\e", "\\", StringComparison.Ordinal);
        Assert.NotEmpty(tags);
        Assert.All(tags, tag => Assert.Contains($"\n.It \\fB{tag}\\fR", plain, StringComparison.Ordinal));
        Assert.All(
            lines.Where(line => line.StartsWith("## ", StringComparison.Ordinal)),
            line => Assert.Contains($"\n.Sh {line[3..].ToUpperInvariant()}\n", plain, StringComparison.Ordinal));
        Assert.All(lines.Where(line => line.StartsWith("$ ", StringComparison.Ordinal)), line => Assert.Contains($"\n{line}\n", plain, StringComparison.Ordinal));

        // No Markdown is left, and no request that the formatter does not know.
        Assert.DoesNotContain("](", plain, StringComparison.Ordinal);
        Assert.DoesNotContain("`", plain, StringComparison.Ordinal);
        Assert.DoesNotMatch(@"(?m)^['.](?!\\""|Dd |Dt |Os |Sh |Ss |Nm |Nd |Pp$|Bl |It|El$|Bd |Ed$|br$|Xr )", roff);
    }

    [SkippableFact]
    public async Task ThePageOfTunneldHasItsOptions()
    {
        string help = (await Command.RunAsync([Programs.Tunneld, "--help"])).Succeeded().Out;
        string page = await File.ReadAllTextAsync(Path.Combine(Checkout.Directory, "docs", "tunneld.md"));
        string[] completion = await Task.WhenAll(((string[])["bash", "zsh", "fish"]).Select(shell =>
            File.ReadAllTextAsync(Path.Combine(Checkout.Directory, "packaging", "completion", $"tunneld.{shell}"))));
        string[] options = [.. Option().Matches(help).Select(match => match.Value)];

        Assert.Contains("--config", options);
        Assert.All(options, option => Assert.Matches($@"\| `(-h, )?{option}[ `]", page));
        Assert.Equal(options.Order(StringComparer.Ordinal), Option().Matches(page[page.IndexOf("## Options", StringComparison.Ordinal)..page.IndexOf("## As a", StringComparison.Ordinal)])
            .Select(match => match.Value).Order(StringComparer.Ordinal));
        Assert.All(options, option => Assert.All(completion, script => Assert.Contains(option[2..], script, StringComparison.Ordinal)));
    }

    [SkippableFact]
    public async Task OnACleanDebianItRunsIsUpgradedAndIsPurgedWithoutATrace()
    {
        string package = Package();
        await using DebianRoot root = await DebianRoot.CreateAsync();
        await using Lab lab = await Lab.CreateAsync(output);
        Vm vm1 = lab.Hosts[0];
        string[] before = await root.FilesAsync();
        string[] accounts = await AccountsAsync(root);

        root.Add(package, "/root/tunnel.deb");
        root.Add(await NextVersionAsync(package), "/root/next.deb");
        (await root.ShellAsync("dpkg --install /root/tunnel.deb")).Succeeded();
        root.Write("/etc/tunnel/tun0.yaml", vm1.Configuration(lab.Hosts[1].PeerEntry()));
        string said = (await root.ShellAsync("tunneld --version; tunnelctl --version; tunneld --config /etc/tunnel/tun0.yaml --check")).Succeeded().Out;
        Assert.Matches(@"^tunneld \d+\.\d+\.\d+\ntunnelctl \d+\.\d+\.\d+\n/etc/tunnel/tun0.yaml: good: network tun0, 1 peers\n$", said);
        Assert.Contains("tunnel", (await root.ShellAsync("id tunnel")).Succeeded().Out, StringComparison.Ordinal);

        // A daemon by hand, a question to it, and what bash would complete.
        const string Session = """
            mkdir -p /dev/net; [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
            tunneld --config /etc/tunnel/tun0.yaml >/tmp/log 2>&1 & daemon=$!
            for i in $(seq 300); do grep -q ' is up' /tmp/log && break; sleep 0.1; done
            cat /tmp/log
            tunnelctl show
            bash -c '. /usr/share/bash-completion/completions/tunnelctl
                COMP_LINE="tunnelctl show v"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=(tunnelctl show v); COMP_CWORD=2; _tunnelctl; echo "show: ${COMPREPLY[*]}"
                COMP_LINE="tunnelctl -n t"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=(tunnelctl -n t); COMP_CWORD=2; _tunnelctl; echo "-n: ${COMPREPLY[*]}"
                COMP_LINE="sudo tunnelctl set-p"; COMP_LINE=${COMP_LINE#sudo }; COMP_POINT=${#COMP_LINE}; COMP_WORDS=(tunnelctl set-p); COMP_CWORD=1; _tunnelctl; echo "command: ${COMPREPLY[*]}"'
            kill $daemon; wait $daemon; echo "daemon: $?"
            """;
        string session = (await root.ShellAsync(Session, vm1)).Succeeded().Out;
        Assert.Contains("network: tun0\n  state: up\n", session, StringComparison.Ordinal);
        Assert.EndsWith("show: vm2\n-n: tun0\ncommand: set-peer\ndaemon: 0\n", session, StringComparison.Ordinal);

        root.Write("/etc/tunnel/mine", "");
        (await root.ShellAsync("dpkg --install /root/next.deb")).Succeeded();
        Assert.Equal("9.9.9-1", (await root.ShellAsync("dpkg-query --show --showformat '${Version}' tunnel")).Succeeded().Out);
        Assert.True(File.Exists(root.Path + "/etc/tunnel/mine"));

        (await root.ShellAsync("dpkg --remove tunnel")).Succeeded();
        Assert.True(File.Exists(root.Path + "/etc/tunnel/tun0.yaml"), "removal keeps the configuration");
        (await root.ShellAsync("dpkg --purge tunnel && rm /root/tunnel.deb /root/next.deb")).Succeeded();
        Assert.Equal(before.Where(IsNoAccount), (await root.FilesAsync()).Where(IsNoAccount));

        // The user is all that stays, as is usual in Debian.
        Assert.All((await AccountsAsync(root)).Except(accounts), line => Assert.StartsWith("tunnel:", line, StringComparison.Ordinal));
    }

    /// <summary>The package's file; the test is skipped where there is none.</summary>
    internal static string Package()
    {
        string? package = Environment.GetEnvironmentVariable("TUNNEL_PACKAGE");
        Skip.If(string.IsNullOrEmpty(package), "needs TUNNEL_PACKAGE, what scripts/package.sh has made");
        return package!;
    }

    private static async Task SkipWithoutAsync(string program) =>
        Skip.IfNot((await Command.RunAsync(["sh", "-c", "command -v " + program])).ExitCode == 0, $"needs {program}");

    private static bool IsNoAccount(string file) => !Accounts().IsMatch(file);

    private static async Task<string[]> AccountsAsync(DebianRoot root) =>
        (await root.ShellAsync("cat /etc/passwd /etc/group")).Succeeded().Out.Split('\n');

    /// <summary>Makes the same package under a later version: what differs in an upgrade that matters here, and made in a second.</summary>
    internal static async Task<string> NextVersionAsync(string package)
    {
        string next = Path.Combine(Path.GetDirectoryName(package)!, ".package", "next.deb");
        const string Repack = """
            rm -rf "$2.tree" && dpkg-deb --raw-extract "$1" "$2.tree" && sed -i 's/^Version: .*/Version: 9.9.9-1/' "$2.tree/DEBIAN/control" &&
                dpkg-deb --root-owner-group -Znone --build "$2.tree" "$2.$$" && mv "$2.$$" "$2" && rm -rf "$2.tree"
            """;
        (await Command.RunAsync(["sh", "-c", Repack, "sh", package, next])).Succeeded();
        return next;
    }

    [GeneratedRegex(" +", RegexOptions.None, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Blanks();

    [GeneratedRegex("--[a-z-]+[a-z]", RegexOptions.None, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Option();

    // The account database and its backups.
    [GeneratedRegex(@"^\./etc/(?:passwd|group|shadow|gshadow|\.pwd\.lock)-? ", RegexOptions.None, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Accounts();
}
