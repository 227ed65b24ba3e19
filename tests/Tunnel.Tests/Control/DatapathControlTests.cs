using System.Text.Json;
using Microsoft.Extensions.Logging;
using Tunnel.Control;
using Tunnel.Control.Api;
using Tunnel.Dataplane;
using static Tunnel.Tests.Control.ControlFixture;

namespace Tunnel.Tests.Control;

/// <summary>What the control plane says and refuses about workers, ways and offloads.</summary>
public sealed class DatapathControlTests
{
    private const string NoPeers = "interface: {addresses: [10.0.201.1/24]}\n";
    private const string SequenceVm2 = """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24"], "sequence": true}""";
    private const string Vm2 = """{"endpoint": "192.168.40.12", "subnets": ["172.17.52.0/24"]}""";

    [Fact]
    public async Task TheNetworkTellsWhatIsConfiguredAndWhatIsInUse()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers, workers: 2);
        Assert.Equal(
            """{"workers":2,"receive":"raw","send":"raw","configured":{"receive":"auto","send":"auto","workers":"auto","pin":false,"busy-poll":"off"}""" +
            ""","reasons":[],"offloads":["tun-tcp","tun-udp","udp-gro"],"refused":[]}""",
            Datapath(fixture));

        fixture.Paths.UsePaths(UnderlayPath.Packet, UnderlayPath.Raw);
        fixture.PathReasons = ["send: an XFRM policy applies to 192.168.40.12"];
        fixture.Offloads.Refuse(Offloads.TunUdp, "Invalid argument");
        Assert.Equal(
            """{"workers":2,"receive":"packet","send":"raw","configured":{"receive":"auto","send":"auto","workers":"auto","pin":false,"busy-poll":"off"}""" +
            ""","reasons":["send: an XFRM policy applies to 192.168.40.12"],"offloads":["tun-tcp","udp-gro"],"refused":[{"offload":"tun-udp","reason":"Invalid argument"}]}""",
            Datapath(fixture));
    }

    [Fact]
    public async Task WhatIsConfiguredIsToldInTheFilesWords()
    {
        await using ControlFixture fixture = await StartAsync("datapath: {receive: packet, send: raw, workers: 3, pin: true, busy-poll: 1000us}", workers: 3);
        Assert.Equal(
            new DatapathSettingsModel("packet", "raw", "3", true, "1ms"),
            fixture.Network.DescribeNetwork().Datapath.Configured);
    }

    [Fact]
    public async Task ARefusedOffloadIsToldOnceInTheLogAndAsAnEvent()
    {
        EventStream.Subscription? early = null;
        await using ControlFixture fixture = await StartAsync(NoPeers, prepare: made =>
        {
            // The device refuses before there is a control plane.
            early = made.Events.Subscribe();
            made.Offloads.Refuse(Offloads.TunUdp, "Invalid argument");
        });
        using EventStream.Subscription subscription = early!;
        fixture.Offloads.Refuse(Offloads.TunUdp, "again");
        fixture.Offloads.Refuse(Offloads.UdpGro, "Protocol not available");
        Assert.Equal(
            [(LogLevel.Warning, "offload tun-udp is off, the kernel refused it: Invalid argument"), (LogLevel.Warning, "offload udp-gro is off, the kernel refused it: Protocol not available")],
            fixture.Log.Lines.Where(line => line.Level == LogLevel.Warning));
        var told = new List<(string, string?, string?)>();
        while (subscription.Events.TryRead(out NetworkEvent? happened))
        {
            told.Add((happened.Event, happened.Peer, happened.Detail));
        }

        Assert.Equal([("offload-off", null, "tun-udp: Invalid argument"), ("offload-off", null, "udp-gro: Protocol not available")], told);
        Assert.Equal(["tun-udp", "udp-gro"], fixture.Network.DescribeNetwork().Datapath.Refused.Select(refused => refused.Offload));
    }

    [Fact]
    public void WhatIsFoundInTheStateAndToldAtTheSameTimeIsToldOnce()
    {
        var offloads = new OffloadState(Offloads.TunUdp);
        var log = new LinesLog();
        var report = new OffloadReport(offloads, new EventStream(TimeProvider.System), log);
        report.Start();
        offloads.Refuse(Offloads.TunUdp, "Invalid argument");
        report.Start();
        Assert.Single(log.Lines);
    }

    [Theory]
    [InlineData("workers: 2", "datapath.workers")]
    [InlineData("pin: true", "datapath.pin")]
    [InlineData("busy-poll: 50us", "datapath.busy-poll")]
    public async Task ReloadRefusesWhatThreadsWereStartedWith(string setting, string field)
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        ControlException refused = await Assert.ThrowsAsync<ControlException>(() => fixture.ReloadAsync($"{NoPeers}datapath: {{{setting}}}\n"));
        Assert.Equal((ControlErrorKind.Conflict, field), (refused.Kind, refused.Field));
        Assert.Equal("restart the daemon: systemctl restart tunneld@tun0", refused.Hint);
    }

    [Fact]
    public async Task ReloadTakesNewWays()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        Assert.True((await fixture.ReloadAsync(NoPeers + "datapath: {receive: raw, send: packet}\n")).Network);
        Assert.Equal(("raw", "packet"), (fixture.Network.DescribeNetwork().Datapath.Configured.Receive, fixture.Network.DescribeNetwork().Datapath.Configured.Send));
    }

    [Fact]
    public async Task SequenceNumbersAreRefusedWhereSeveralWorkersRun()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers, workers: 2);
        ControlException refused = await Assert.ThrowsAsync<ControlException>(() => fixture.PutAsync("vm2", SequenceVm2));
        Assert.Equal((ControlErrorKind.Conflict, "sequence"), (refused.Kind, refused.Field));
        Assert.Equal("sequence numbers of peer vm2 need one worker, and 2 are running", refused.Message);
        Assert.Equal("set datapath: {workers: 1} in the file, then: systemctl restart tunneld@tun0", refused.Hint);
        Assert.Empty(fixture.StoredPeers);

        await fixture.PutAsync("vm2", Vm2);
        await Assert.ThrowsAsync<ControlException>(() => fixture.Network.PatchPeerAsync("vm2", Json("""{"sequence": true}""")));
        refused = await Assert.ThrowsAsync<ControlException>(
            () => fixture.ReloadAsync(NoPeers + "peers:\n  vm3: {endpoint: 192.168.40.13, subnets: [172.17.53.0/24], sequence: true}\n"));
        Assert.Equal("sequence", refused.Field);
        Assert.Equal("vm2", Assert.Single(fixture.Network.DescribePeers()).Name);
    }

    [Fact]
    public async Task SequenceNumbersAreTakenByOneWorker()
    {
        await using ControlFixture fixture = await StartAsync(NoPeers);
        await fixture.PutAsync("vm2", SequenceVm2);
        Assert.True(fixture.Receiver("172.17.52.9")!.Settings.UsesSequence);
    }

    [Fact]
    public async Task TheExampleInTheDocumentationHasThePropertiesOfTheAnswer()
    {
        string page = await File.ReadAllTextAsync(Path.Combine(Configuration.ConfigTesting.RepositoryRoot(), "docs", "api.md"));
        int begin = page.IndexOf("{\"workers\"", StringComparison.Ordinal);
        JsonElement example = Json(page[begin..page.IndexOf("```", begin, StringComparison.Ordinal)]);
        await using ControlFixture fixture = await StartAsync(NoPeers);
        fixture.Offloads.Refuse(Offloads.TunUdp, "Invalid argument");
        JsonElement answer = Json(Datapath(fixture));

        Assert.Equal(Names(answer), Names(example));
        Assert.Equal(Names(answer.GetProperty("configured")), Names(example.GetProperty("configured")));
        Assert.Equal(Names(answer.GetProperty("refused")[0]), Names(example.GetProperty("refused")[0]));
    }

    private static string[] Names(JsonElement value) => [.. value.EnumerateObject().Select(property => property.Name)];

    private static string Datapath(ControlFixture fixture)
    {
        using JsonDocument network = JsonSerializer.SerializeToDocument(fixture.Network.DescribeNetwork(), ApiJson.Default.NetworkModel);
        return network.RootElement.GetProperty("datapath").GetRawText();
    }
}
