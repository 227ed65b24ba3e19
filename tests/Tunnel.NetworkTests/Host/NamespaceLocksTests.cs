using System.Diagnostics;
using System.Net.Sockets;
using Tunnel.Dataplane;
using Tunnel.Linux;
using Tunnel.Wire;

namespace Tunnel.NetworkTests.Host;

[Collection(nameof(LabCollection))]
public sealed class NamespaceLocksTests
{
    // Binds and listens on an abstract name as another daemon would; its further arguments look like a daemon's.
    private const string Holder =
        """
        socket(S, PF_UNIX, SOCK_STREAM, 0) or die; bind(S, pack_sockaddr_un("\0" . shift)) or die $!; listen(S, 9) or die;
        $| = 1; print "ready\n"; sleep;
        """;

    [SkippableFact]
    public void ANetworkIsServedOnceInANamespaceAndAgainInAnother()
    {
        using var space = new HostNamespace();
        using var other = new HostNamespace();
        using (space.Run(() => NamespaceLocks.AcquireNetwork("tun0")))
        {
            using NamespaceLock beside = space.Run(() => NamespaceLocks.AcquireNetwork("tun1"));
            using NamespaceLock elsewhere = other.Run(() => NamespaceLocks.AcquireNetwork("tun0"));
            var refused = Assert.Throws<NamespaceLockException>(() => space.Run(() => NamespaceLocks.AcquireNetwork("tun0")));
            Assert.Equal(
                $"network tun0 is already served by tunneld (pid {Environment.ProcessId}) in this network namespace", refused.Message);
        }

        space.Run(() => NamespaceLocks.AcquireNetwork("tun0")).Dispose();
    }

    [SkippableTheory]
    [InlineData("--config /etc/tunnel/tun0.yaml")]
    [InlineData("--run-dir /tmp --config=/etc/tunnel/tun0.yaml")]
    public void AnotherProcessIsNamedAndLeavesNothingWhenItIsKilled(string arguments)
    {
        using var space = new HostNamespace();
        using Process holder = StartHolder(space, "tunneld/tun0", arguments);
        try
        {
            var refused = Assert.Throws<NamespaceLockException>(() => space.Run(() => NamespaceLocks.AcquireNetwork("tun0")));
            Assert.Equal(
                $"network tun0 is already served by tunneld (pid {holder.Id}, --config /etc/tunnel/tun0.yaml) in this network namespace",
                refused.Message);
            Assert.Equal($"stop that one (kill {holder.Id}), or give this network another name", refused.Hint);
        }
        finally
        {
            holder.Kill();
            holder.WaitForExit();
        }

        space.Run(() => NamespaceLocks.AcquireNetwork("tun0")).Dispose();
    }

    [SkippableFact]
    public void AClaimOfAnotherNetworkIsRefusedWithItsName()
    {
        using var space = new HostNamespace();
        EndpointClaim claim = Claim("192.168.40.11", "192.168.40.12", 42);
        using Process holder = StartHolder(space, NamespaceLocks.NameOf(claim), "--config /etc/tunnel/tun1.yaml");
        try
        {
            using var claims = new NamespaceLocks();
            var refused = Assert.Throws<ClaimConflictException>(() => space.Run(() => Take(claims, claim)));
            Assert.Equal(
                "192.168.40.11 to 192.168.40.12 with key 42 is already used by network tun1 " +
                $"(tunneld, pid {holder.Id}, --config /etc/tunnel/tun1.yaml) in this network namespace",
                refused.Message);
            Assert.Equal("endpoint", refused.Field);
            Assert.NotEmpty(refused.Hint);

            // Whatever differs makes another claim.
            space.Run(() => Take(claims, claim with { Key = 43 }));
            space.Run(() => Take(claims, claim with { Key = null }));
            space.Run(() => Take(claims, claim with { Local = InetAddress.None }));
            space.Run(() => Take(claims, Claim("192.168.40.12", "192.168.40.11", 42)));
        }
        finally
        {
            holder.Kill();
            holder.WaitForExit();
        }
    }

    [SkippableFact]
    public void AClaimIsHeldUntilItIsReleased()
    {
        using var space = new HostNamespace();
        using var first = new NamespaceLocks();
        using var second = new NamespaceLocks();
        EndpointClaim claim = Claim("fd00:40::11", "fd00:40::12", null);

        space.Run(() => Take(first, claim));
        space.Run(() => Take(first, claim));
        Assert.Throws<ClaimConflictException>(() => space.Run(() => Take(second, claim)));
        first.Release(claim);
        first.Release(claim);
        space.Run(() => Take(second, claim));
        Assert.Throws<ClaimConflictException>(() => space.Run(() => Take(first, claim)));
        second.Dispose();
        space.Run(() => Take(first, claim));
        Assert.Throws<ObjectDisposedException>(() => second.Claim(claim));
    }

    [SkippableFact]
    public void APortOfAnotherNetworkIsRefusedWithItsName()
    {
        using var space = new HostNamespace();
        using var other = new HostNamespace();
        using Process holder = StartHolder(space, NamespaceLocks.NameOf(Port("192.168.40.11", 4754)), "--config /etc/tunnel/tun1.yaml");
        try
        {
            using var claims = new NamespaceLocks();
            string owner = $"network tun1 (tunneld, pid {holder.Id}, --config /etc/tunnel/tun1.yaml) in this network namespace";
            foreach ((string? local, string text) in new[] { ("192.168.40.11", "192.168.40.11"), (null, "every address") })
            {
                var refused = Assert.Throws<ClaimConflictException>(() => space.Run(() => Take(claims, Port(local, 4754))));
                Assert.Equal($"UDP port 4754 of {text} is already used by {owner}", refused.Message);
                Assert.Equal("underlay.udp-port", refused.Field);
            }

            // A refused claim is not held: others may have what it asked for.
            space.Run(() => Take(claims, Port("192.168.40.12", 4754)));
            space.Run(() => Take(claims, Port(null, 4755)));
            other.Run(() => Take(claims, Port("192.168.40.11", 4754)));
        }
        finally
        {
            holder.Kill();
            holder.WaitForExit();
        }
    }

    [SkippableFact]
    public void APortIsHeldUntilItIsReleased()
    {
        using var space = new HostNamespace();
        using var first = new NamespaceLocks();
        using var second = new NamespaceLocks();
        space.Run(() => Take(first, Port("192.168.40.11", 4754)));
        space.Run(() => Take(first, Port("192.168.40.11", 4754)));
        space.Run(() => Take(first, Port("fd00:40::11", 4754)));
        Assert.Throws<ClaimConflictException>(() => space.Run(() => Take(second, Port(null, 4754))));
        Assert.Throws<ClaimConflictException>(() => space.Run(() => Take(second, Port("fd00:40::11", 4754))));
        space.Run(() => Take(second, Port("fd00:40::12", 4754)));
        second.Release(Port("fd00:40::12", 4754));
        first.Release(Port("192.168.40.11", 4754));
        Assert.Throws<ClaimConflictException>(() => space.Run(() => Take(second, Port(null, 4754))));
        first.Dispose();
        space.Run(() => Take(second, Port(null, 4754)));
        Assert.Throws<ObjectDisposedException>(() => first.Claim(Port(null, 4754)));
    }

    [SkippableFact]
    public void ThousandsOfClaimsAndTheLongestNameAreTaken()
    {
        using var space = new HostNamespace();
        using var claims = new NamespaceLocks();
        using var others = new NamespaceLocks();
        space.Run(() =>
        {
            for (uint i = 0; i < 3000; i++)
            {
                claims.Claim(new EndpointClaim(Address("192.168.40.11"), InetAddress.FromIpv4(0x0a000000 + i), i));
            }

            return 0;
        });
        EndpointClaim longest = Claim(
            "2001:1db8:1111:1111:1111:1111:1111:1111", "2001:1db8:1111:1111:1111:1111:1111:1112", uint.MaxValue);
        space.Run(() => Take(claims, longest));
        Assert.Throws<ClaimConflictException>(() => space.Run(() => Take(others, longest)));
    }

    [Fact]
    public void AHolderWhoseBacklogIsFullDoesNotBlock()
    {
        string name = $"tunneld-test/{Environment.ProcessId}";
        using var holder = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        holder.Bind(new UnixDomainSocketEndPoint('\0' + name));
        holder.Listen(1);
        Assert.Null(NamespaceLock.TryTake(name));
        int[] found = [.. Enumerable.Range(0, 5).Select(_ => NamespaceLock.FindHolder(name))];
        Assert.Equal(Environment.ProcessId, found[0]);
        Assert.Equal(0, found[^1]);
    }

    [Fact]
    public void NobodyHoldsAnUnknownName() => Assert.Equal(0, NamespaceLock.FindHolder("tunneld-test/nobody"));

    private static int Take(NamespaceLocks claims, EndpointClaim claim)
    {
        claims.Claim(claim);
        return 0;
    }

    private static int Take(NamespaceLocks claims, UdpPortClaim claim)
    {
        claims.Claim(claim);
        return 0;
    }

    private static Process StartHolder(HostNamespace space, string name, string arguments)
    {
        // `ip netns exec` becomes the program, so the pid is the holder's. Perl is part of every Debian.
        var start = new ProcessStartInfo(
            "ip", ["netns", "exec", space.Name, "perl", "-MSocket", "-e", Holder, "--", name, .. arguments.Split(' ')])
        {
            UseShellExecute = false,
            RedirectStandardOutput = true,
        };
        Process holder = Process.Start(start)!;
        Assert.Equal("ready", holder.StandardOutput.ReadLine());
        return holder;
    }

    private static EndpointClaim Claim(string local, string endpoint, uint? key) => new(Address(local), Address(endpoint), key);

    private static UdpPortClaim Port(string? local, ushort port) => new(local is null ? InetAddress.None : Address(local), port);

    private static InetAddress Address(string text) => InetAddress.TryParse(text, out InetAddress address) ? address : throw new FormatException(text);
}
