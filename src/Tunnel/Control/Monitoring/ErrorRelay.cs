using System.Buffers.Binary;
using Microsoft.Extensions.Logging;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Monitoring;

/// <summary>
/// Hears what routers and hosts of the underlay say about our packets, tells whoever watches over the peers, and passes it on to the senders of
/// the inner packets as RFC 2003 section 4 wants it: Too Big with what fits inside; unreachable networks, hosts and protocols, and expired TTLs,
/// as unreachable; ports, redirects and failed source routes never. Believes only what quotes a packet of ours: our address, a peer's endpoint,
/// and its key where that was quoted. Runs on the thread pool, one error at a time.
/// </summary>
internal sealed partial class ErrorRelay : IAsyncDisposable
{
    // RFC 4443 section 2.4 f demands a limit.
    private const int MostPerSecond = 200;

    // RFC 792's least that is quoted beyond the IP header, and what a relayed error must quote of the inner packet.
    private const int LeastQuoted = 8;

    // RFC 1191 section 7.1.
    private static readonly int[] UsualMtus = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 508, 296];

    private readonly IUnderlayErrors _errors;
    private readonly RoutingHolder _routing;
    private readonly NetworkMonitor _monitor;
    private readonly ITunInjector _tun;
    private readonly TimeProvider _time;
    private readonly ILogger _log;
    private readonly CancellationTokenSource _stop = new();
    private readonly byte[] _message = new byte[IcmpMessage.MaxErrorIpv6];
    private Task _hearing = Task.CompletedTask;
    private RateLimit _limit = new(MostPerSecond, 1000);

    /// <summary>Prepares; <see cref="Start"/> starts.</summary>
    /// <param name="errors">Where errors come from.</param>
    /// <param name="routing">The peers as they are.</param>
    /// <param name="monitor">Who watches over them.</param>
    /// <param name="tun">Where inner senders are reached.</param>
    /// <param name="time">The clock.</param>
    /// <param name="log">The log.</param>
    public ErrorRelay(
        IUnderlayErrors errors, RoutingHolder routing, NetworkMonitor monitor, ITunInjector tun, TimeProvider time, ILogger log)
    {
        _errors = errors;
        _routing = routing;
        _monitor = monitor;
        _tun = tun;
        _time = time;
        _log = log;
    }

    private enum Meaning
    {
        Nothing,
        TooBig,
        NetworkUnreachable,
        HostUnreachable,
        ProtocolUnreachable,
        PortUnreachable,
        Expired,
    }

    /// <summary>Begins to hear.</summary>
    public void Start() => _hearing = HearAsync();

    /// <summary>Ends.</summary>
    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await _hearing;
        _stop.Dispose();
    }

    /// <summary>Handles one error. For the loop, and for tests.</summary>
    public void Handle(in UnderlayError error)
    {
        Meaning meaning = MeaningOf(error);
        if (meaning == Meaning.Nothing || !QuotedPacket.TryParse(error.Quoted.Span, out QuotedPacket outer) || outer.IsIpv4 == error.IsIpv6 ||
            outer.IsLaterFragment || outer.Payload.Length < LeastQuoted)
        {
            return;
        }

        bool isUdp = outer.Protocol == IpProtocol.Udp;
        if (!isUdp && outer.Protocol != IpProtocol.Gre)
        {
            return;
        }

        // No router finds a packet too long that is as short as it says (RFC 5927 section 7.2).
        if (meaning == Meaning.TooBig && MtuOf(error, outer) >= outer.TotalLength)
        {
            return;
        }

        ReadOnlySpan<byte> gre = isUdp ? outer.Payload[UdpView.HeaderLength..] : outer.Payload;
        ushort port = isUdp ? BinaryPrimitives.ReadUInt16BigEndian(outer.Payload[UdpView.DestinationPortOffset..]) : (ushort)0;
        bool hasGre = GreView.TryParse(gre, out GreView view) == GreParseResult.Ok;
        RoutingSnapshot routing = _routing.Current;
        Peer? only = null;
        int count = 0;
        foreach (Peer peer in routing.Peers)
        {
            PeerSettings settings = peer.Settings;
            bool isIts = settings.Endpoint == outer.Destination && settings.Local == outer.Source && peer.Target.UdpPort == port &&
                (!hasGre || (view.HasKey == settings.KeyOut.HasValue && view.Key == settings.KeyOut.GetValueOrDefault()));
            if (isIts)
            {
                count++;
                only = peer;
                Tell(peer, meaning, error, outer, isQuestion: hasGre && view.ProtocolType == EtherType.Experimental);
            }
        }

        if (count == 1 && hasGre)
        {
            Relay(only!, meaning, error, outer, view, routing);
        }
    }

    private static Meaning MeaningOf(in UnderlayError error) => error.IsIpv6
        ? (error.Type, error.Code) switch
        {
            (IcmpMessage.PacketTooBig, _) => Meaning.TooBig,
            (IcmpMessage.DestinationUnreachableIpv6, 0) => Meaning.NetworkUnreachable,
            (IcmpMessage.DestinationUnreachableIpv6, 4) => Meaning.PortUnreachable,
            (IcmpMessage.DestinationUnreachableIpv6, _) => Meaning.HostUnreachable,
            (IcmpMessage.TimeExceededIpv6, 0) => Meaning.Expired,
            (IcmpMessage.ParameterProblemIpv6, 1) => Meaning.ProtocolUnreachable,
            _ => Meaning.Nothing,
        }
        : (error.Type, error.Code) switch
        {
            (IcmpMessage.DestinationUnreachable, IcmpMessage.FragmentationNeeded) => Meaning.TooBig,
            (IcmpMessage.DestinationUnreachable, 0 or 6 or 9 or 11) => Meaning.NetworkUnreachable,
            (IcmpMessage.DestinationUnreachable, 2) => Meaning.ProtocolUnreachable,
            (IcmpMessage.DestinationUnreachable, 3) => Meaning.PortUnreachable,
            (IcmpMessage.DestinationUnreachable, 5) => Meaning.Nothing,
            (IcmpMessage.DestinationUnreachable, _) => Meaning.HostUnreachable,
            (IcmpMessage.TimeExceeded, 0) => Meaning.Expired,
            _ => Meaning.Nothing,
        };

    private void Tell(Peer peer, Meaning meaning, in UnderlayError error, in QuotedPacket outer, bool isQuestion)
    {
        if (meaning == Meaning.TooBig)
        {
            _monitor.HearTooBig(peer.Target, MtuOf(error, outer));
        }
        else if (meaning == Meaning.PortUnreachable)
        {
            // The few questions are how to find out that somebody listens again; traffic stops.
            _monitor.HearRefused(peer.Target, isQuestion);
        }
        else
        {
            string what = meaning switch
            {
                Meaning.NetworkUnreachable => "network unreachable",
                Meaning.ProtocolUnreachable => "it does not take GRE (protocol unreachable)",
                Meaning.Expired => "the packets' TTL expired on the way",
                _ => "host unreachable",
            };
            _monitor.HearUnreachable(peer.Target, $"{error.Router} says: {what}");
        }
    }

    // Routers older than RFC 1191 say no MTU: then the next of the usual ones below.
    private static int MtuOf(in UnderlayError error, in QuotedPacket outer)
    {
        int mtu = error.IsIpv6 ? (int)Math.Min(error.Parameter, ushort.MaxValue) : (int)(error.Parameter & 0xffff);
        if (mtu == 0)
        {
            int length = outer.TotalLength;
            mtu = UsualMtus.FirstOrDefault(usual => usual < length, Ipv4Header.MinMtu);
        }

        return mtu;
    }

    private void Relay(Peer peer, Meaning meaning, in UnderlayError error, in QuotedPacket outer, in GreView gre, RoutingSnapshot routing)
    {
        bool isIp = gre.ProtocolType is EtherType.Ipv4 or EtherType.Ipv6;
        if (meaning == Meaning.PortUnreachable || !isIp || !QuotedPacket.TryParse(gre.Payload, out QuotedPacket inner) ||
            inner.IsIpv4 != (gre.ProtocolType == EtherType.Ipv4) || inner.Payload.Length < LeastQuoted || !inner.MayCauseError)
        {
            return;
        }

        // Only who may send by the tunnel gets anything by it.
        InetAddress source = routing.ErrorSource(peer, inner.Destination);
        bool isToPeer = ReferenceEquals(routing.Routes.Lookup(inner.Destination), peer);
        if (!isToPeer || !_limit.TryTake((long)_time.GetElapsedTime(0).TotalMilliseconds))
        {
            return;
        }

        bool isNetwork = meaning == Meaning.NetworkUnreachable;
        int length = meaning == Meaning.TooBig
            ? IcmpMessage.WriteTooBig(_message, source, inner, MtuOf(error, outer) - peer.Settings.Overhead)
            : inner.IsIpv4
            ? IcmpMessage.WriteErrorIpv4(
                _message, source, inner.Source, IcmpMessage.DestinationUnreachable, code: isNetwork ? (byte)0 : (byte)1, parameter: 0, inner.Packet)
            : IcmpMessage.WriteErrorIpv6(
                _message, source, inner.Source, IcmpMessage.DestinationUnreachableIpv6, code: isNetwork ? (byte)0 : (byte)3, parameter: 0, inner.Packet);
        _tun.Inject(_message.AsSpan(0, length));
    }

    private async Task HearAsync()
    {
        while (true)
        {
            try
            {
                Handle(await _errors.ReadAsync(_stop.Token));
            }
            catch (OperationCanceledException)
            {
                return;
            }
#pragma warning disable CA1031 // A bug here must not make this host deaf for the rest of the process's life.
            catch (Exception bug)
#pragma warning restore CA1031
            {
                LogBug(bug);
            }
        }
    }

    [LoggerMessage(Level = LogLevel.Error, Message = "a bug in handling an ICMP error")]
    private partial void LogBug(Exception bug);
}
