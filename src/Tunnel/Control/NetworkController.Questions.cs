using System.Globalization;
using Tunnel.Control.Api;
using Tunnel.Control.Configuration;
using Tunnel.Control.Diagnosis;
using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control;

/// <summary>What the control API is asked about single packets.</summary>
internal sealed partial class NetworkController
{
    // What ping(8) sends by itself, with its headers.
    private const int UsualLength = 84;

    // What Wireshark takes for the longest packet.
    private const int LongestSnap = 262_144;

    // A worker's ring holds what comes in this time up to 400,000 packets or 52 MB a second.
    private static readonly TimeSpan CapturePace = TimeSpan.FromMilliseconds(20);
    private const int MostAtOnce = 65_536;

    /// <summary>GET /v1/explain.</summary>
    /// <param name="source">A packet's source.</param>
    /// <param name="destination">Its destination.</param>
    /// <param name="length">Its length in bytes; null for a usual one.</param>
    /// <exception cref="ControlException">One of them is none.</exception>
    public ExplanationModel Explain(string? source, string? destination, string? length)
    {
        InetAddress from = AddressOf(source, "source");
        InetAddress to = AddressOf(destination, "destination");
        if (from.IsIpv4 != to.IsIpv4)
        {
            throw new ControlException(ControlErrorKind.Invalid, $"{from} and {to} are of two families", "give two IPv4 or two IPv6 addresses", "destination");
        }

        int bytes = LengthOf(length, UsualLength, from.IsIpv4 ? Ipv4Header.Length : Ipv6Header.Length, ushort.MaxValue);
        return new Explanation(State, _parts.Routing.Current, _parts.Host, _parts.Device).Of(from, to, bytes);
    }

    /// <summary>POST /v1/peers/NAME/ping: asks its daemon once, through the tunnel.</summary>
    /// <param name="name">The peer.</param>
    /// <param name="length">How long the question is as an inner packet, in bytes; null for a usual one.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <exception cref="ControlException">There is no such peer, it can't be reached at this moment, or the length can't be sent.</exception>
    public async Task<PingModel> PingAsync(string name, string? length, CancellationToken cancellationToken)
    {
        PeerEntry entry = State.FindPeer(name) ?? throw NoSuchPeer(name);
        if (!entry.Peer.IsReady)
        {
            throw new ControlException(
                ControlErrorKind.Conflict, $"peer {name} has no usable address: {string.Join("; ", entry.Problems)}", $"look at it with: tunnelctl show {name}");
        }

        int bytes = LengthOf(length, UsualLength, EchoMessage.Length, entry.Peer.LargestInner);
        TimeSpan? roundTrip = await _monitor.PingAsync(entry.Peer, bytes, cancellationToken);
        return new PingModel(name, entry.Address.ToString(), bytes, roundTrip is TimeSpan known ? Math.Round(known.TotalMilliseconds, 3) : null);
    }

    /// <summary>GET /v1/doctor: what is wrong, and what mends it.</summary>
    /// <param name="name">Only what concerns this peer, and this host; null for all peers.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="ControlException">There is no such peer.</exception>
    public async Task<IReadOnlyList<FindingModel>> DoctorAsync(string? name, CancellationToken cancellationToken)
    {
        NetworkState state = State;
        PeerEntry? only = name is null ? null : state.FindPeer(name) ?? throw NoSuchPeer(name);
        IReadOnlyList<Finding> findings = await new Doctor(state, _parts, _monitor, _parts.Examiners!).ExamineAsync(only, cancellationToken);
        return [.. findings.Select(finding => new FindingModel(
            finding.Check, finding.Severity == Severity.Error ? "error" : "warning", finding.Peer, ConfigText.OneLine(finding.Text), finding.Cure))];
    }

    /// <summary>GET /v1/capture: copies of inner packets as pcapng, from now on until it is cancelled.</summary>
    /// <param name="name">Only those of this peer; null for all.</param>
    /// <param name="snapLength">How many bytes of a packet are taken at most; null for all.</param>
    /// <param name="write">Is given the bytes as they come, the file's head first.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="ControlException">There is no such peer, or a capture runs already.</exception>
    public async Task CaptureAsync(string? name, string? snapLength, Func<byte[], Task> write, CancellationToken cancellationToken)
    {
        if (name is not null && State.FindPeer(name) is null)
        {
            throw NoSuchPeer(name);
        }

        int snap = LengthOf(snapLength, LongestSnap, Ipv4Header.Length, LongestSnap);
        CaptureRing[] rings = _parts.Tap.TryStart(_parts.NetworkCounters.Length, snap) ??
            throw new ControlException(ControlErrorKind.Conflict, "a capture runs already", "end the other one first: one capture at a time");
        try
        {
            var writer = new PcapngWriter(State.Config.Name, $"tunneld {Version}", snap);
            writer.Begin();
            long missed = 0;
            while (true)
            {
                Drain(rings, name, writer);
                long now = rings.Sum(ring => ring.Missed);
                if (now != missed)
                {
                    missed = now;
                    writer.AddMissed(missed, DateTime.UtcNow.Ticks);
                }

                if (writer.Take() is { Length: > 0 } bytes)
                {
                    await write(bytes);
                }

                await Task.Delay(CapturePace, _parts.Time, cancellationToken);
            }
        }
        finally
        {
            _parts.Tap.Stop();
        }
    }

    // What the workers captured since, by time.
    private static void Drain(CaptureRing[] rings, string? name, PcapngWriter writer)
    {
        var packets = new List<(CapturedPacket Packet, byte[] Bytes)>();
        foreach (CaptureRing ring in rings)
        {
            while (packets.Count < MostAtOnce && ring.TryTake(out CapturedPacket packet, out byte[] bytes))
            {
                packets.Add((packet, bytes));
            }
        }

        foreach ((CapturedPacket packet, byte[] bytes) in packets.OrderBy(one => one.Packet.Time))
        {
            if (name is null || packet.Peer?.Settings.Name == name)
            {
                writer.Add(packet, bytes);
            }
        }
    }

    private static InetAddress AddressOf(string? text, string field) => InetAddress.TryParse(text, out InetAddress address)
        ? address
        : throw new ControlException(ControlErrorKind.Invalid, $"{ConfigText.Quote(text ?? string.Empty)} is not an address", "give an IPv4 or IPv6 address, as 172.17.51.2", field);

    private static int LengthOf(string? text, int usual, int least, int most) =>
        text is null ? usual
        : int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int length) && length >= least && length <= most ? length
        : throw new ControlException(ControlErrorKind.Invalid, $"{ConfigText.Quote(text)} is not a length here", $"{least} to {most} bytes", "length");
}
