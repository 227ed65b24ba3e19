using System.Net;
using System.Net.Http.Headers;
using System.Net.Sockets;
using System.Text.Json;

namespace Tunnel.Ctl;

/// <summary>
/// Speaks HTTP with the daemon over its unix socket. Requests are synchronous: one after the other is all that is needed, and
/// without the asynchronous machinery the program starts noticeably faster.
/// </summary>
internal sealed class ControlClient : IDisposable
{
    private readonly ControlSocket _socket;
    private readonly TimeSpan _timeout;
    private readonly CancellationTokenSource _deadline;
    private readonly HttpClient _http;

    /// <summary>Makes a client; nothing is connected yet.</summary>
    /// <param name="socket">The daemon's socket.</param>
    /// <param name="timeout">How long all requests together may take.</param>
    public ControlClient(ControlSocket socket, TimeSpan timeout)
    {
        _socket = socket;
        _timeout = timeout;
        _deadline = new CancellationTokenSource(timeout);
        SocketsHttpHandler handler = new()
        {
            UseProxy = false,
            UseCookies = false,
            AllowAutoRedirect = false,
            ActivityHeadersPropagator = null,
            ResponseDrainTimeout = TimeSpan.Zero,
            ConnectCallback = (_, _) => new ValueTask<Stream>(Connect()),
        };
        _http = new HttpClient(handler)
        {
            BaseAddress = new Uri("http://localhost/"),
            Timeout = Timeout.InfiniteTimeSpan,
        };
    }

    /// <summary>The path of a peer.</summary>
    public static string PeerPath(string name) => "v1/peers/" + Uri.EscapeDataString(name);

    /// <summary>Sends one request and returns the answer; undefined where the daemon answered without a body (204).</summary>
    /// <param name="method">The HTTP method.</param>
    /// <param name="path">The path below the root, escaped.</param>
    /// <param name="body">The JSON body, or null.</param>
    /// <param name="createOnly">Adds If-None-Match: *, with which PUT never replaces (RFC 9110 section 13.1.2).</param>
    /// <exception cref="Failure">The daemon refused, cannot be reached or does not answer.</exception>
    public JsonElement Send(HttpMethod method, string path, byte[]? body = null, bool createOnly = false)
    {
        using HttpRequestMessage request = new(method, path);
        if (createOnly)
            request.Headers.IfNoneMatch.Add(EntityTagHeaderValue.Any);

        if (body is not null)
        {
            request.Content = new ByteArrayContent(body);
            request.Content.Headers.ContentType = new MediaTypeHeaderValue("application/json");
        }

        using HttpResponseMessage response = Exchange(request, out byte[] content);
        JsonElement? answer = Parse(content);
        if (!response.IsSuccessStatusCode)
            throw Refused(response.StatusCode, answer);

        if (answer is null && content.Length > 0)
            throw new Failure(ExitCode.Failed, $"the answer on {_socket.Path} is not JSON", "is this tunneld's control socket?");

        return answer ?? default;
    }

    /// <summary>Opens an answer that has no end of its own. The time limit is for its beginning only.</summary>
    /// <param name="path">The path below the root, escaped.</param>
    /// <exception cref="Failure">The daemon refused, cannot be reached or does not answer.</exception>
    public Stream Open(string path)
    {
        using HttpRequestMessage request = new(HttpMethod.Get, path);
        try
        {
            HttpResponseMessage response = _http.Send(request, HttpCompletionOption.ResponseHeadersRead, _deadline.Token);
            Stream stream = response.Content.ReadAsStream(_deadline.Token);
            if (!response.IsSuccessStatusCode)
                throw Refused(response.StatusCode, Parse(ReadAll(stream)));

            return stream;
        }
        catch (Exception exception) when (exception is not Failure)
        {
            throw Explain(exception);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _http.Dispose();
        _deadline.Dispose();
    }

    private static Failure Refused(HttpStatusCode status, JsonElement? answer)
    {
        JsonElement body = answer ?? default;
        return new Failure(
            ExitCode.Failed,
            body.Member("error").Text() ?? $"the daemon answered with HTTP status {(int)status}",
            body.Member("hint").Text(),
            body.Member("field").Text());
    }

    private static JsonElement? Parse(byte[] content)
    {
        try
        {
            return content.Length == 0 ? null : JsonElement.Parse(content);
        }
        catch (JsonException)
        {
            return null;
        }
    }

    private HttpResponseMessage Exchange(HttpRequestMessage request, out byte[] content)
    {
        HttpResponseMessage? response = null;
        try
        {
            response = _http.Send(request, HttpCompletionOption.ResponseHeadersRead, _deadline.Token);
            using Stream stream = response.Content.ReadAsStream(_deadline.Token);
            content = ReadAll(stream);
            return response;
        }
        catch (Exception exception)
        {
            response?.Dispose();
            throw Explain(exception);
        }
    }

    private Exception Explain(Exception exception) => _deadline.IsCancellationRequested ? NoAnswer() : exception switch
    {
        HttpRequestException { InnerException: Failure failure } => failure,
        HttpRequestException { HttpRequestError: HttpRequestError.InvalidResponse } => new Failure(
            ExitCode.NotReachable,
            $"the answer on {_socket.Path} is not HTTP",
            "is this tunneld's control socket?"),
        HttpRequestException or IOException => new Failure(
            ExitCode.NotReachable,
            $"tunneld on {_socket.Path} closed the connection before it answered",
            $"journalctl -u tunneld@{_socket.Network} may say why"),
        _ => exception,
    };

    private byte[] ReadAll(Stream stream)
    {
        using MemoryStream all = new();
        byte[] buffer = new byte[16 * 1024];
        int length;

        // The deadline closes the connection only until the headers are there, so what follows watches the time itself.
        using CancellationTokenRegistration registration = _deadline.Token.Register(stream.Dispose);
        while ((length = stream.Read(buffer)) > 0)
            all.Write(buffer, 0, length);

        return all.ToArray();
    }

    private NetworkStream Connect()
    {
        Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            socket.Connect(new UnixDomainSocketEndPoint(_socket.Path));
            return new NetworkStream(socket, ownsSocket: true);
        }
        catch (SocketException exception)
        {
            socket.Dispose();
            throw CannotConnect(exception);
        }
    }

    private Failure CannotConnect(SocketException exception) => exception.SocketErrorCode switch
    {
        SocketError.AccessDenied => ControlSocket.PermissionDenied(_socket.Path),
        SocketError.ConnectionRefused => NotRunning("nothing listens there"),
        SocketError.AddressNotAvailable => NotRunning("there is no such socket"),
        _ => NotRunning(exception.Message),
    };

    private Failure NotRunning(string why)
    {
        string[] others = _socket.OtherNetworks();
        string hint = others.Length > 0 ? $"{_socket.HowToStart}; here are: {string.Join(", ", others)}" : _socket.HowToStart;
        return new Failure(ExitCode.NotReachable, $"no tunneld on {_socket.Path}: {why}", hint);
    }

    private Failure NoAnswer() => new(
        ExitCode.NotReachable,
        $"tunneld on {_socket.Path} gave no answer within {_timeout.TotalSeconds:0.##} s",
        $"journalctl -u tunneld@{_socket.Network} may say why; systemctl restart tunneld@{_socket.Network} starts it anew");
}
