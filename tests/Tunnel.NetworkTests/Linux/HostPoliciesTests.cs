using Tunnel.Control.Paths;
using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.TestSupport;

namespace Tunnel.NetworkTests.Linux;

public sealed class HostPoliciesTests
{
    private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(10);
    private static readonly UnderlayFlow Flow = new(PathLab.Vm1, PathLab.Vm2, "eth0");
    private static readonly UnderlayFlow Udp = Flow with { UdpPort = 4754, SourcePorts = PortRange.Ephemeral };

    [SkippableFact]
    public void AHostWithoutRulesHasNone()
    {
        using var lab = new PathLab();
        using HostPolicies host = lab.OpenPolicies();
        Assert.Equivalent(XfrmPolicies.None, host.ReadXfrmPolicies());
        Assert.Equivalent(NetfilterRules.None, host.ReadNetfilterRules());
        Assert.False(host.HasLegacyTables);

        // What concerns IPv6 alone needs no look.
        lab.Shell("nft add table ip6 t");
        Assert.Null(host.ReadNetfilterRules().Nftables);
    }

    [SkippableTheory]
    [InlineData("docker.iptables", null)]
    [InlineData("docker-nft.nft", null)]
    [InlineData("kube-proxy.iptables", null)]
    [InlineData("ufw-like.iptables", null)]
    [InlineData("server.nft", null)]
    [InlineData("firewalld-like-gre.nft", null)]
    [InlineData("firewalld-like.nft", "reject may apply to GRE from 192.168.40.12")]
    public async Task RulesetsOfUsualHostsAreJudged(string file, string? expected)
    {
        using var lab = new PathLab();
        using HostPolicies host = lab.OpenPolicies();
        Task change = host.WaitForChangeAsync(CancellationToken.None);
        string path = Path.Combine(RepositoryRoot(), "tests/rulesets", file);
        bool isIptables = file.EndsWith(".iptables", StringComparison.Ordinal);
        Skip.If(isIptables && !Has("iptables-nft-restore"), "iptables is not installed");
        Skip.IfNot(Has("nft"), "nft is not installed");
        lab.Shell(isIptables ? $"iptables-nft-restore < '{path}'" : $"nft -f '{path}'");
        await change.WaitAsync(Deadline);

        NetfilterRules rules = host.ReadNetfilterRules();
        Assert.Empty(rules.Unreadable);
        Assert.NotNull(rules.Nftables);
        string? hindrance = NetfilterJudgement.Read(rules).FindHindrance(Flow);
        Assert.True(expected is null ? hindrance is null : hindrance?.EndsWith(expected, StringComparison.Ordinal) == true, hindrance);

        Assert.Null(NetfilterJudgement.Read(rules).FindHindrance(Udp));

        // One rule more, and the same host is in the way.
        change = host.WaitForChangeAsync(CancellationToken.None);
        lab.Shell("nft 'add table inet more; add chain inet more out { type filter hook output priority 0; }; add rule inet more out ip protocol gre drop'");
        await change.WaitAsync(Deadline);
        Assert.NotNull(NetfilterJudgement.Read(host.ReadNetfilterRules()).FindHindrance(Flow));
        Assert.Null(NetfilterJudgement.Read(host.ReadNetfilterRules()).FindHindrance(Udp));
    }

    // Rules as the tools take them, and whether GRE-in-UDP may meet them on sending; GRE does in no case.
    [SkippableTheory]
    [InlineData("nft add rule ip t o udp dport 4754 drop", true)]
    [InlineData("nft add rule ip t o udp dport 4700-4800 drop", true)]
    [InlineData("nft add rule ip t o udp dport { 53, 4754 } drop", true)]
    [InlineData("nft add rule ip t o udp dport 53 drop", false)]
    [InlineData("nft add rule ip t o udp dport != 4754 drop", false)]
    [InlineData("nft add rule ip t o udp dport '>' 4754 drop", false)]
    [InlineData("nft add rule ip t o udp sport '<' 49152 drop", false)]
    [InlineData("nft add rule ip t o udp sport 50000 drop", true)]
    [InlineData("nft add rule ip t o meta l4proto udp counter", true)]
    [InlineData("nft add rule ip t o meta l4proto { tcp, udp } th dport 4754 drop", true)]
    [InlineData("nft add rule ip t o meta l4proto udp th dport 53 drop", false)]
    [InlineData("nft add rule ip t o meta l4proto . th dport { udp . 4754, tcp . 80 } drop", true)]
    [InlineData("nft add rule ip t o meta l4proto . th dport { udp . 53, tcp . 4754 } drop", false)]
    [InlineData("nft add rule ip t o iifname != docker0 udp dport 4754 drop", true)]
    [InlineData("iptables-nft -A OUTPUT -p udp -m udp --dport 4754 -j DROP", true)]
    [InlineData("iptables-nft -A OUTPUT -p udp -m udp --dport 4755 -j DROP", false)]
    [InlineData("iptables-nft -A OUTPUT -p udp -m multiport --dports 53,4754 -j DROP", true)]
    [InlineData("iptables-nft -A OUTPUT -p udp -m multiport ! --dports 4754 -j ACCEPT", false)]
    [InlineData("iptables-nft -t nat -A POSTROUTING -p udp -o eth0 -j MASQUERADE", true)]
    [InlineData("iptables-nft -t nat -A POSTROUTING -p udp -m udp --sport 1:1023 -o eth0 -j MASQUERADE", false)]
    public void ARuleForUdpIsFound(string add, bool counts)
    {
        using var lab = new PathLab();
        using HostPolicies host = lab.OpenPolicies();
        Skip.IfNot(Has(add.Split(' ')[0]), $"{add.Split(' ')[0]} is not installed");
        lab.Shell("nft 'add table ip t; add chain ip t o { type filter hook output priority 0; }'");
        lab.Shell(add.Replace("{", "'{", StringComparison.Ordinal).Replace("}", "}'", StringComparison.Ordinal));
        NetfilterRuleset rules = NetfilterJudgement.Read(host.ReadNetfilterRules());
        Assert.Equal(counts, rules.FindHindrance(Udp) is not null);
        Assert.Null(rules.FindHindrance(Flow));
    }

    [SkippableTheory]
    [InlineData("iptables-nft -A INPUT -p gre -s 192.168.40.12 -j DROP", "iptables-nft -D INPUT -p gre -s 192.168.40.12 -j DROP")]
    [InlineData("iptables-nft -t nat -A POSTROUTING -o eth0 -j MASQUERADE", "iptables-nft -t nat -F")]
    [InlineData("iptables-nft -A OUTPUT -m addrtype --dst-type UNICAST -j DROP", "iptables-nft -F OUTPUT")]
    [InlineData("iptables-legacy -A INPUT -p gre -j DROP", "iptables-legacy -D INPUT -p gre -j DROP")]
    public void ARuleOfIptablesIsFound(string add, string remove)
    {
        using var lab = new PathLab();
        using HostPolicies host = lab.OpenPolicies();
        string program = add.Split(' ')[0];
        Skip.IfNot(Has(program), $"{program} is not installed");
        try
        {
            lab.Shell(program + " -L -n");
        }
        catch (InvalidOperationException)
        {
            Skip.If(true, $"the kernel has not what {program} needs");
        }

        Assert.Null(NetfilterJudgement.Read(host.ReadNetfilterRules()).FindHindrance(Flow));
        lab.Shell(add);
        Assert.NotNull(NetfilterJudgement.Read(host.ReadNetfilterRules()).FindHindrance(Flow));
        Assert.Equal(program == "iptables-legacy", host.HasLegacyTables);
        lab.Shell(remove);
        Assert.Null(NetfilterJudgement.Read(host.ReadNetfilterRules()).FindHindrance(Flow));
    }

    [SkippableFact]
    public void TablesThatNobodyCanReadCount()
    {
        using var lab = new PathLab();
        lab.Shell("nft add table inet t");
        using HostPolicies host = lab.Here.Run(() => new HostPolicies("/nowhere", "false"));
        string reason = Assert.Single(host.ReadNetfilterRules().Unreadable);
        Assert.StartsWith("nftables tables exist, and nft failed", reason, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void NamesOfLegacyTablesThatCantBeReadCount()
    {
        Skip.IfNot(NetnsThread.IsRoot, "needs root");
        string directory = Directory.CreateTempSubdirectory("tunnel-proc-").FullName;
        try
        {
            // A file that is there and can't be read, not even by root.
            using var lab = new PathLab();
            File.CreateSymbolicLink(Path.Combine(directory, "ip_tables_names"), "/proc/self/mem");
            using HostPolicies host = lab.Here.Run(() => new HostPolicies(directory));
            bool isHidden = !Directory.Exists("/sys/module/ip_tables") || Directory.GetDirectories("/sys/module", "iptable_*").Length > 0;
            Assert.Equal(isHidden, host.HasLegacyTables);
            Assert.Equal(isHidden ? 1 : 0, host.ReadNetfilterRules().Unreadable.Count);
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    [SkippableFact]
    public async Task IpsecPoliciesAreReadAndTold()
    {
        using var lab = new PathLab();
        using HostPolicies host = lab.OpenPolicies();
        Task change = host.WaitForChangeAsync(CancellationToken.None);
        lab.Here.Ip("xfrm policy add src 192.168.40.11 dst 192.168.40.12 proto 47 dir out tmpl src 192.168.40.11 dst 192.168.40.12 proto esp mode transport");
        await change.WaitAsync(Deadline);
        lab.Here.Ip("xfrm policy add src 192.168.40.0/24 dst 0.0.0.0/0 dir in action block");
        lab.Here.Ip("xfrm policy add src 10.0.0.0/8 dst 192.168.40.11 dir in");

        // Of these, one is met by packets of this host's own.
        lab.Here.Ip("xfrm policy add src 192.168.40.0/24 dst 0.0.0.0/0 dir fwd action block");
        lab.Here.Ip("xfrm policy add src fd00::1 dst fd00::2 dir out action block");
        lab.Here.Ip("xfrm policy add src 192.168.40.11 dst 192.168.40.13 dir out if_id 7 tmpl src 192.168.40.11 dst 192.168.40.13 proto esp mode tunnel");

        XfrmPolicies found = host.ReadXfrmPolicies();
        Assert.False(found.BlocksIn || found.BlocksOut);
        Assert.Equal(
            new HashSet<XfrmPolicy>
            {
                new(XfrmDirection.Out, FakeHostNetwork.Prefix("192.168.40.11/32"), FakeHostNetwork.Prefix("192.168.40.12/32"), 47, false, true),
                new(XfrmDirection.In, FakeHostNetwork.Prefix("192.168.40.0/24"), FakeHostNetwork.Prefix("0.0.0.0/0"), 0, true, false),
                new(XfrmDirection.In, FakeHostNetwork.Prefix("10.0.0.0/8"), FakeHostNetwork.Prefix("192.168.40.11/32"), 0, false, false),
                new(XfrmDirection.Out, FakeHostNetwork.Prefix("fd00::1/128"), FakeHostNetwork.Prefix("fd00::2/128"), 0, true, false),
            },
            found.Policies.ToHashSet());

        change = host.WaitForChangeAsync(CancellationToken.None);
        lab.Here.Ip("xfrm policy flush");
        await change.WaitAsync(Deadline);
        Assert.Empty(host.ReadXfrmPolicies().Policies);

        change = host.WaitForChangeAsync(CancellationToken.None);
        lab.Here.Ip("xfrm policy setdefault in block");
        await change.WaitAsync(Deadline);
        Assert.True(host.ReadXfrmPolicies() is { BlocksIn: true, BlocksOut: false });
    }

    [SkippableFact]
    public async Task ACancelledWaitLosesNothing()
    {
        using var lab = new PathLab();
        using HostPolicies host = lab.OpenPolicies();
        using var cancelled = new CancellationTokenSource();
        Task wait = host.WaitForChangeAsync(cancelled.Token);
        await cancelled.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => wait.WaitAsync(Deadline));
        lab.Shell("nft add table inet t");
        await host.WaitForChangeAsync(CancellationToken.None).WaitAsync(Deadline);
    }

    private static bool Has(string program) =>
        new[] { "/usr/sbin", "/sbin", "/usr/bin", "/bin" }.Any(directory => File.Exists(Path.Combine(directory, program)));

    private static string RepositoryRoot()
    {
        string directory = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(directory, "Tunnel.sln")))
        {
            directory = Path.GetDirectoryName(directory)!;
        }

        return directory;
    }
}
