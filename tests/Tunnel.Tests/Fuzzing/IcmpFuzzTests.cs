using Tunnel.Control.Monitoring;
using Tunnel.Dataplane;
using Tunnel.Tests.Control;
using Tunnel.TestSupport;
using Tunnel.Wire;

namespace Tunnel.Tests.Fuzzing;

/// <summary>Mutated ICMP errors, about packets that were sent and others: none throws, and what is passed on is a whole ICMP packet.</summary>
[Trait("Category", FuzzRun.Category)]
public sealed class IcmpFuzzTests
{
    private const int Errors = 50_000;

    private const string Yaml = """
        interface: {addresses: [10.0.201.1/24, "fd00:201::1/64"]}
        peers:
          vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24, "fd00:52::/64"], key: 42}
          vm3: {endpoint: 192.168.40.13, subnets: [172.17.53.0/24], encapsulation: gre-udp, on-refused: retry}
          vm4: {endpoint: "fd00:40::12", subnets: [172.17.54.0/24, "fd00:54::/64"]}
        """;

    private static readonly byte[] Types = [1, 2, 3, 3, 3, 4, 5, 11, 12];

    [Fact]
    public async Task Errors_are_survived()
    {
        await using Subject subject = await Subject.StartAsync();
        byte[] inner4 = Packets.UdpPacket("172.17.51.2", "172.17.52.2", Packets.Payload(40));
        byte[] inner6 = Packets.UdpPacket("fd00:51::2", "fd00:52::2", Packets.Payload(40));
        List<byte[]> corpus =
        [
            Packets.Outer("192.168.40.11", "192.168.40.12", Packets.GrePacket(inner4, key: 42)),
            Packets.Outer("192.168.40.11", "192.168.40.12", Packets.GrePacket(inner6, checksum: true, key: 42, sequence: 7)),
            Packets.Ipv4("192.168.40.11", "192.168.40.13", Packets.Udp, [0xc0, 0, 0x12, 0x92, 0, 0, 0, 0, .. Packets.GrePacket(inner4)]),
            Packets.Outer("fd00:40::11", "fd00:40::12", Packets.GrePacket(inner6)),
        ];
        var quoted = new byte[70_000];
        foreach (int seed in FuzzRun.Rounds())
        {
            var mutator = new PacketMutator((ulong)seed, corpus, corpus) { Remaining = Errors };
            for (int length = mutator.Next(quoted); length >= 0; length = mutator.Next(quoted))
            {
                // Type, code and parameter, the version, and then what is quoted.
                byte[] error =
                [
                    Types[mutator.Below(Types.Length)], (byte)mutator.Below(6), (byte)(mutator.Below(2) * 255), 0, (byte)mutator.Below(8), (byte)mutator.Below(256),
                    (byte)mutator.Below(2), .. quoted.AsSpan(0, length),
                ];
                string? failure = subject.Handle(error);
                Assert.True(failure is null, failure is null ? "" : FuzzCase.Save("icmp", $"seed {seed}: {failure}", error));
            }
        }

        Assert.InRange(subject.PassedOn, 1, long.MaxValue);
    }

    /// <summary>What hears errors, on a host in memory.</summary>
    internal sealed class Subject : ITunInjector, IUnderlayErrors, IAsyncDisposable
    {
        private readonly ControlFixture _fixture;
        private readonly ErrorRelay _relay;
        private string? _fault;

        private Subject(ControlFixture fixture)
        {
            _fixture = fixture;
            _relay = new ErrorRelay(this, fixture.Routing, fixture.Network.Monitor, this, TimeProvider.System, fixture.Log);
        }

        /// <summary>How many errors were passed on to inner senders.</summary>
        public long PassedOn { get; private set; }

        public static async Task<Subject> StartAsync()
        {
            var host = new FakeHostNetwork { Paths = to => new HostPath(FakeHostNetwork.Address(to.IsIpv4 ? "192.168.40.11" : "fd00:40::11"), 2, 1500) };
            ControlFixture fixture = await ControlFixture.StartAsync(Yaml, host);
            await ControlFixture.EventuallyAsync(() => fixture.HealthOf("vm2") is not null);
            return new Subject(fixture);
        }

        /// <summary>Handles an error: type, code, four bytes of parameter, whether it is ICMPv6, and the packet quoted.</summary>
        public string? Handle(byte[] error)
        {
            try
            {
                uint parameter = (uint)((error[2] << 24) | (error[3] << 16) | (error[4] << 8) | error[5]);
                _relay.Handle(new UnderlayError(Overlay.Address(error[6] == 0 ? "203.0.113.1" : "2001:db8::1"), error[6] != 0, error[0], error[1], parameter, error.AsMemory(7)));
                return _fault;
            }
#pragma warning disable CA1031 // Whatever is thrown is the finding.
            catch (Exception thrown)
#pragma warning restore CA1031
            {
                return FuzzCase.Describe(thrown);
            }
        }

        public bool Inject(ReadOnlySpan<byte> packet)
        {
            PassedOn++;
            bool isWhole = Ipv4View.TryParse(packet, out Ipv4View ipv4)
                ? ipv4.TotalLength == packet.Length && ipv4.IsChecksumValid && Rfc1071.Sum(ipv4.Payload) == 0xffff
                : Ipv6View.TryParse(packet, out Ipv6View ipv6) && ipv6.TotalLength == packet.Length && ipv6.NextHeader == Packets.Icmpv6;
            _fault ??= isWhole ? null : $"no whole ICMP packet: {Convert.ToHexString(packet)}";
            return true;
        }

        public ValueTask<UnderlayError> ReadAsync(CancellationToken cancellationToken) => throw new NotSupportedException();

        public void Dispose()
        {
        }

        public ValueTask DisposeAsync() => _fixture.DisposeAsync();
    }
}
