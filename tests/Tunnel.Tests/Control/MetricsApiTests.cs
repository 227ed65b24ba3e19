using System.Net;
using System.Net.Sockets;
using Tunnel.Control;
using Tunnel.Control.Api;

namespace Tunnel.Tests.Control;

public sealed class MetricsApiTests
{
    [Theory]
    [InlineData(false, HttpStatusCode.OK, "{\"status\":\"ok\",\"problems\":[]}\n")]
    [InlineData(true, HttpStatusCode.ServiceUnavailable, "{\"status\":\"failing\",\"problems\":[\"packet thread tun0-0 does not go round\"]}\n")]
    public async Task HealthIsWhetherPacketsCanFlow(bool hangs, HttpStatusCode status, string body)
    {
        await using ControlFixture fixture = await ControlFixture.StartAsync("peers: {}");
        string socketPath = Path.ChangeExtension(fixture.ConfigPath, ".sock");
        await using ControlApi api = await ControlApi.StartAsync(
            socketPath, metrics: null, fixture.Network, fixture.Queues, new HealthCheck([new FakeHeartbeat("tun0-0", hangs)], TimeProvider.System), fixture.Events, fixture.Log);
        using var client = new HttpClient(new SocketsHttpHandler
        {
            ConnectCallback = async (_, cancel) =>
            {
                var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                await socket.ConnectAsync(new UnixDomainSocketEndPoint(socketPath), cancel);
                return new NetworkStream(socket, ownsSocket: true);
            },
        });

        using HttpResponseMessage answer = await client.GetAsync(new Uri("http://tunnel/health"));
        Assert.Equal((status, body), (answer.StatusCode, await answer.Content.ReadAsStringAsync()));
        using HttpResponseMessage metrics = await client.GetAsync(new Uri("http://tunnel/metrics"));
        Assert.Equal("text/plain; version=0.0.4; charset=utf-8", metrics.Content.Headers.ContentType?.ToString());
        Assert.Contains("\ntunnel_peers 0\n", await metrics.Content.ReadAsStringAsync(), StringComparison.Ordinal);
    }
}
