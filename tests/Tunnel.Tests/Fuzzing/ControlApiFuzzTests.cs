using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using Microsoft.Extensions.Logging;
using Tunnel.Control;
using Tunnel.Control.Api;
using Tunnel.Dataplane;
using Tunnel.Tests.Control;
using Tunnel.Tests.Control.Configuration;
using Tunnel.TestSupport;

namespace Tunnel.Tests.Fuzzing;

/// <summary>
/// Mutated requests, byte by byte on the unix socket of the real control API: each is answered; never with 500, and a refusal of the API's own with one
/// line and, where the request was understood, a cure. What is no HTTP at all is the server's to refuse, with a status of 400 to 505 and nothing more.
/// </summary>
[Trait("Category", FuzzRun.Category)]
public sealed partial class ControlApiFuzzTests
{
    private const int Requests = 3_000;

    private static readonly string[] Methods = ["GET", "PUT", "PUT", "PUT", "PATCH", "PATCH", "DELETE", "POST", "HEAD", "OPTIONS", "BREW", "put"];

    private static readonly string[] Paths =
    [
        "/v1/peers/vm2", "/v1/peers/vm3", "/v1/peers/vm9", "/v1/peers/vm9", "/v1/peers/vm9", "/v1/peers/x9", "/v1/peers", "/v1/peers/", "/v1/network", "/v1/routes", "/v1/drops",
        "/v1/reload", "/metrics", "/health", "/v1", "/", "/v2/peers", "/v1/peers/%00", "/v1/peers/..%2f..", "/v1/peers/a%20b", "/v1/peers/%c3%a9", "/v1/peers/%ff%fe", "/v1/peers/vm2/more", "*",
        "http://[::1", "/v1/peers/vm9?x=1&x=%zz", "/v1//peers", "/v1/peers/%e2%80%a8", "/v1/peers/" + "n12345678901234567890123456789012345678901234567890123456789012345",
    ];

    private static readonly string[] Headers =
    [
        "If-None-Match: *", "If-None-Match: \"x\"", "Content-Type: text/plain", "Content-Type: \u0001", "Expect: 100-continue", "Transfer-Encoding: gzip", "Host: other",
        "Content-Encoding: br", "Upgrade: h2c", "Range: bytes=0-1", "X: " + "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
    ];

    private static readonly string[] Endpoints = ["192.168.40.19", "fd00:40::19", "192.168.40.300", "", "::", "0.0.0.0", "127.0.0.1", "-", "a b"];

    [Fact]
    public async Task Requests_are_answered_with_a_line_and_a_cure()
    {
        await using Subject subject = await Subject.StartAsync();
        foreach (int seed in FuzzRun.Rounds())
        {
            var random = new Random(20260104 + seed);
            var seen = new Dictionary<int, int>();
            for (int i = 0; i < Requests; i++)
            {
                byte[] request = Make(random);
                (string? failure, int status) = await subject.TryAsync(request);
                Assert.True(failure is null, failure is null ? "" : FuzzCase.Save("http", $"seed {seed}: {failure}", request));
                seen[status] = seen.GetValueOrDefault(status) + 1;
            }

            // The requests are to reach the rules, not only the HTTP parser.
            Assert.All((int[])[200, 201, 204, 400, 404, 405, 409], status => Assert.InRange(seen.GetValueOrDefault(status), 1, Requests / 2));
        }
    }

    // /v1/events has no end, so nothing asks for it.
    private static byte[] Make(Random random)
    {
        byte[] body = random.Next(8) switch
        {
            0 => [],
            1 => Encoding.UTF8.GetBytes(string.Concat(Enumerable.Repeat("[", random.Next(200)))),
            2 => Encoding.UTF8.GetBytes(ConfigFuzzTests.Json[random.Next(ConfigFuzzTests.Json.Length)]),
            3 => Encoding.UTF8.GetBytes($$"""{"endpoint": "{{Endpoints[random.Next(Endpoints.Length)]}}", "subnets": ["172.17.{{random.Next(300)}}.0/24"], "key": {{random.Next(-2, 9)}}}"""),
            4 => Encoding.UTF8.GetBytes($$"""{"endpoint": "192.168.41.{{random.Next(256)}}", "subnets": ["172.18.{{random.Next(256)}}.0/24"]}"""),
            _ => ConfigFuzzTests.Mutate(ConfigFuzzTests.Json[random.Next(ConfigFuzzTests.Json.Length)], random),
        };

        // A name would be asked of the system's resolver.
        if (NameAsEndpoint().IsMatch(Encoding.UTF8.GetString(body)))
        {
            body = [];
        }

        var head = new StringBuilder();
        head.Append(CultureInfo.InvariantCulture, $"{Methods[random.Next(Methods.Length)]} {Paths[random.Next(Paths.Length)]} HTTP/1.1\r\nHost: tunneld\r\nConnection: close\r\n");
        for (int i = random.Next(4) == 0 ? random.Next(4) : 0; i > 0; i--)
        {
            head.Append(Headers[random.Next(Headers.Length)]).Append("\r\n");
        }

        if (random.Next(10) != 0)
        {
            head.Append(CultureInfo.InvariantCulture, $"Content-Length: {body.Length + (random.Next(30) == 0 ? random.Next(-3, 4) : 0)}\r\n");
        }

        byte[] request = [.. Encoding.Latin1.GetBytes(head.ToString()), (byte)'\r', (byte)'\n', .. body];
        if (random.Next(12) == 0)
        {
            request[random.Next(request.Length)] = (byte)random.Next(256);
        }

        return random.Next(50) == 0 ? request[..random.Next(request.Length)] : request;
    }

    [GeneratedRegex("""endpoint.*?"\s*:\s*"(?![0-9.]*"|[0-9a-fA-F:]*:[0-9a-fA-F:]*"|-"|a b")""", RegexOptions.Singleline, matchTimeoutMilliseconds: 1000)]
    private static partial Regex NameAsEndpoint();

    [GeneratedRegex("""\r\nContent-Length: (?<length>\d{1,6})\r\n""", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex ContentLength();

    /// <summary>The control API of a network in memory, and what speaks to it.</summary>
    internal sealed class Subject : IAsyncDisposable
    {
        private readonly string _directory;
        private readonly ControlFixture _fixture;
        private readonly ControlApi _api;

        private Subject(ControlFixture fixture, ControlApi api, string directory) => (_fixture, _api, _directory) = (fixture, api, directory);

        private string SocketPath => PathIn(_directory);

        public static async Task<Subject> StartAsync()
        {
            var host = new FakeHostNetwork { Paths = to => new HostPath(FakeHostNetwork.Address(to.IsIpv4 ? "192.168.40.11" : "fd00:40::11"), 2, 1500) };
            ControlFixture fixture = await ControlFixture.StartAsync(
                """
                interface: {addresses: [10.0.201.1/24]}
                peers: {vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24]}, vm3: {endpoint: "fd00:40::13", subnets: [172.17.53.0/24]}}
                """,
                host);
            string directory = Directory.CreateTempSubdirectory("api").FullName;
            return new Subject(fixture, await ControlApi.StartAsync(
                PathIn(directory), metrics: null, fixture.Network, fixture.Queues, new HealthCheck([], TimeProvider.System), fixture.Events, fixture.Log), directory);
        }

        /// <summary>Sends a request and judges the answer.</summary>
        public async Task<(string? Failure, int Status)> TryAsync(byte[] request)
        {
            using var deadline = new CancellationTokenSource(TimeSpan.FromSeconds(20));
            using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            var answer = new MemoryStream();
            try
            {
                await socket.ConnectAsync(new UnixDomainSocketEndPoint(SocketPath), deadline.Token);
                await socket.SendAsync(request, deadline.Token);

                // Who says that nothing more comes wants no answer any more. But a request that is not whole would be waited for.
                if (!IsWhole(request))
                {
                    socket.Shutdown(SocketShutdown.Send);
                }

                var buffer = new byte[65_536];
                for (int count = await socket.ReceiveAsync(buffer, deadline.Token); count > 0; count = await socket.ReceiveAsync(buffer, deadline.Token))
                {
                    answer.Write(buffer, 0, count);
                }
            }
            catch (SocketException)
            {
                // It was refused before all of it was read.
            }
            catch (OperationCanceledException)
            {
                return ("no answer within 20 seconds", 0);
            }

            (LogLevel Level, string Line) complaint = _fixture.Log.Lines.FirstOrDefault(line => line.Level >= LogLevel.Error);
            return complaint.Line is not null ? (complaint.Line, 0) : Judge(Encoding.UTF8.GetString(answer.ToArray()));
        }

        public async ValueTask DisposeAsync()
        {
            await _api.DisposeAsync();
            await _fixture.DisposeAsync();
            Directory.Delete(_directory, recursive: true);
        }

        private static string PathIn(string directory) => Path.Combine(directory, "tun0.sock");

        private static bool IsWhole(byte[] request)
        {
            string text = Encoding.Latin1.GetString(request);
            int end = text.IndexOf("\r\n\r\n", StringComparison.Ordinal);
            Match length = ContentLength().Match(text);
            return end > 0 && length.Success && text.Contains(" HTTP/1.1\r\n", StringComparison.Ordinal) &&
                text.Contains("\r\nConnection: close\r\n", StringComparison.Ordinal) &&
                int.Parse(length.Groups["length"].Value, CultureInfo.InvariantCulture) == text.Length - end - 4;
        }

        // A request that was cut short has no answer.
        private static (string? Failure, int Status) Judge(string answer)
        {
            if (answer.Length == 0)
            {
                return (null, 0);
            }

            int end = answer.IndexOf("\r\n\r\n", StringComparison.Ordinal);
            if (end < 0 || !int.TryParse(answer.AsSpan(9, 3), CultureInfo.InvariantCulture, out int status))
            {
                return ($"no HTTP: {answer}", 0);
            }

            // What is left of a request whose length was wrong is another request, and its answer follows: the first is judged.
            int next = answer.IndexOf("HTTP/1.1 ", end, StringComparison.Ordinal);
            string body = answer[(end + 4)..(next < 0 ? answer.Length : next)];
            if (status == (int)HttpStatusCode.InternalServerError)
            {
                return (body, status);
            }

            // A method HEAD has none; nor has what the server refuses by itself.
            if (status < 400 || !answer.Contains("application/json", StringComparison.Ordinal) || body.Length == 0)
            {
                return (null, status);
            }

            JsonElement json = JsonElement.Parse(body);
            string error = json.GetProperty("error").GetString() ?? "";
            string? hint = json.GetProperty("hint").GetString();
            return error.Length == 0 || error.Any(char.IsControl) || (hint ?? "").Any(char.IsControl) ? ($"not one line: {body}", status)
                : status is 404 or 405 && hint is null ? ($"no cure: {body}", status)
                : (null, status);
        }
    }
}
