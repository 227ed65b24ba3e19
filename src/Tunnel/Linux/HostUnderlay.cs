using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Linux;

/// <summary>What the sockets of the underlay are opened with.</summary>
/// <param name="Ipv4">The local IPv4 address, <see cref="InetAddress.None"/> for every one; null for no IPv4.</param>
/// <param name="Ipv6">The same for IPv6.</param>
/// <param name="IsBound">Whether the local addresses are configured: then GRE-in-UDP is received in their families only.</param>
/// <param name="UdpPort">The port at which GRE-in-UDP is received.</param>
/// <param name="SourcePort">The port that GRE-in-UDP is sent from; null for several, by flow.</param>
/// <param name="LinkMtu">The MTU of the underlay's links in bytes: what a ring's frames are to take.</param>
/// <param name="Workers">How many workers there are.</param>
internal sealed record UnderlaySettings(
    InetAddress? Ipv4,
    InetAddress? Ipv6,
    bool IsBound = false,
    ushort UdpPort = 4754,
    ushort? SourcePort = null,
    int LinkMtu = 1500,
    int Workers = 1)
{
    /// <summary>Whether a family's UDP port is opened.</summary>
    public bool ReceivesUdp(InetAddress? local) => local is InetAddress address && (!IsBound || !address.IsNone);
}

/// <summary>
/// The sockets of all workers: opens what the control plane wants in use, and shares packets out among the workers by inner flow.
/// Thread rule: the control plane's calls are serialised inside; <see cref="Workers"/> are each used by their own thread.
/// </summary>
internal sealed class HostUnderlay : IUnderlayPaths, IUnderlayReception, IUnderlayQueues, IDisposable
{
    // A frame begins with its own header, the link-layer header and the word about checksum and segments.
    private const int FrameOverhead = 128;
    private const int SmallestFrame = 2048;
    private const int LargestFrame = 16_384;

    // What the next process knows the sockets by.
    private const string Raw4 = "raw4";
    private const string Raw6 = "raw6";
    private const string Udp4 = "udp4";
    private const string Udp6 = "udp6";

    private readonly Lock _lock = new();
    private readonly UnderlaySettings _settings;
    private readonly OffloadState _offloads;
    private readonly InheritedDescriptors _inherited;
    private readonly WorkerUnderlay[] _workers;
    private readonly PacketSender?[] _packetSenders;

    // What GRE-in-UDP is sent from; chosen by the first sender where null.
    private IReadOnlyList<ushort>? _sourcePorts4;
    private IReadOnlyList<ushort>? _sourcePorts6;
    private bool _acceptsGre = true;
    private bool _acceptsGreUdp;
    private bool _isByRing;

    /// <summary>Opens the raw sockets, which always work.</summary>
    /// <param name="settings">What with.</param>
    /// <param name="offloads">Which offloads are in use.</param>
    /// <param name="inherited">Sockets of an earlier process; the caller disposes of what is left of them once the first ones are accepted (<see cref="Accept"/>).</param>
    /// <exception cref="DeviceOpenException">A socket cannot be opened or bound; says why and what to do.</exception>
    public HostUnderlay(UnderlaySettings settings, OffloadState offloads, InheritedDescriptors? inherited = null)
    {
        _settings = settings;
        _offloads = offloads;
        _inherited = inherited ?? InheritedDescriptors.None;
        _workers = new WorkerUnderlay[settings.Workers];
        _packetSenders = new PacketSender?[settings.Workers];
        _sourcePorts4 = _sourcePorts6 = settings.SourcePort is ushort port ? [port] : null;
        try
        {
            FileDescriptor[]? inherited4 = TryInherit(Raw4, isIpv6: false, settings.Ipv4, port: 0);
            FileDescriptor[]? inherited6 = TryInherit(Raw6, isIpv6: true, settings.Ipv6, port: 0);
            for (int i = 0; i < _workers.Length; i++)
            {
                RawGreSocket? raw4 = settings.Ipv4 is InetAddress local4 ? new RawGreSocket(isIpv6: false, local4, inherited4?[i]) : null;
                RawGreSocket? raw6 = settings.Ipv6 is InetAddress local6 ? OpenOrClose(() => new RawGreSocket(isIpv6: true, local6, inherited6?[i]), raw4) : null;
                int worker = i;
                _workers[i] = new WorkerUnderlay(raw4, raw6, i, offloads, isIpv6 => OpenSender(worker, isIpv6));
            }
        }
        catch
        {
            Dispose();
            throw;
        }

        TakeRaw();
    }

    /// <summary>Called when workers have other sockets to wait on, on the control plane's thread.</summary>
    public Action? OnSocketsChanged { get; set; }

    /// <summary>The workers' underlays.</summary>
    public IReadOnlyList<WorkerUnderlay> Workers => _workers;

    /// <summary>The sockets that a next process can go on with, by their names there: where packets wait as long as raw sockets receive.</summary>
    public IEnumerable<(string Name, int Descriptor)> Descriptors => _workers.SelectMany((worker, i) => new (string Kind, int? Descriptor)[]
    {
        (Raw4, worker.Raw4?.Descriptor), (Raw6, worker.Raw6?.Descriptor), (Udp4, worker.Udp4?.Descriptor), (Udp6, worker.Udp6?.Descriptor),
    }
    .Where(one => one.Descriptor is not null)
    .Select(one => (InheritedDescriptors.NameOf(one.Kind, i, _workers.Length), one.Descriptor!.Value)));

    /// <inheritdoc/>
    public (UnderlayPath Receive, UnderlayPath Send) Paths { get; private set; }

    /// <inheritdoc/>
    public IReadOnlyList<QueueDepth> QueueDepths => [.. _workers.Select(worker => worker.QueueDepth)];

    /// <inheritdoc/>
    public long ReceiveQueueDrops => _workers.Sum(worker => worker.ReceiveQueueDrops);

    /// <summary>Whether more packets can wait in the raw sockets than usual: this process, or an earlier one, has made room.</summary>
    public bool HasRoom => RawSockets.Any(socket => socket.HasRoom);

    /// <summary>Lets more packets wait in the raw sockets than usual, because nobody will read for a while, or no longer.</summary>
    public void MakeRoom(bool wanted)
    {
        foreach (RawGreSocket socket in RawSockets)
        {
            socket.MakeRoom(wanted);
        }
    }

    /// <inheritdoc/>
    public void UsePaths(UnderlayPath receive, UnderlayPath send)
    {
        lock (_lock)
        {
            if (receive == UnderlayPath.Packet && _settings.Ipv4 is not null)
            {
                Try(OpenRings);
            }

            if (send == UnderlayPath.Packet)
            {
                Try(OpenPacketSenders);
            }

            for (int i = 0; i < _workers.Length; i++)
            {
                _workers[i].PacketSender = send == UnderlayPath.Packet ? _packetSenders[i] : null;
            }

            Paths = (receive, send);
            TakeRaw();
        }

        OnSocketsChanged?.Invoke();
    }

    /// <inheritdoc/>
    public void Accept(bool gre, bool greUdp)
    {
        lock (_lock)
        {
            if (greUdp)
            {
                Try(OpenReceivers);
            }

            foreach (WorkerUnderlay worker in _workers)
            {
                worker.Udp4?.Take(greUdp);
                worker.Udp6?.Take(greUdp);
            }

            _acceptsGre = gre;
            _acceptsGreUdp = greUdp;
            TakeRaw();
        }

        OnSocketsChanged?.Invoke();
    }

    /// <summary>Closes all sockets. The workers have ended.</summary>
    public void Dispose()
    {
        foreach (WorkerUnderlay? worker in _workers)
        {
            worker?.Dispose();
        }

        foreach (PacketSender? sender in _packetSenders)
        {
            sender?.Dispose();
        }
    }

    private IEnumerable<RawGreSocket> RawSockets => _workers.SelectMany(worker => new[] { worker.Raw4, worker.Raw6 }).OfType<RawGreSocket>();

    private static void Try(Action open)
    {
        try
        {
            open();
        }
        catch (DeviceOpenException refused)
        {
            throw new UnderlayException(refused.Message, refused.Hint);
        }
    }

    private static T OpenOrClose<T>(Func<T> open, RawGreSocket? before)
    {
        try
        {
            return open();
        }
        catch
        {
            before?.Dispose();
            throw;
        }
    }

    // First nobody takes packets, then one side does: a packet in between is lost, but none is received twice.
    private void TakeRaw()
    {
        bool byRing = _acceptsGre && Paths.Receive == UnderlayPath.Packet;
        for (int i = 0; i < _workers.Length; i++)
        {
            _workers[i].Raw6?.Take(_acceptsGre, i, _workers.Length);
            if (byRing)
            {
                _workers[i].Raw4?.Take(false, i, _workers.Length);
            }
            else
            {
                _workers[i].Ring?.Take(false);
            }
        }

        if (_isByRing && !byRing)
        {
            // A packet socket is given a whole batch of packets before the raw sockets get the first of it.
            PacketRing.AwaitPacketsUnderWay();
        }

        _isByRing = byRing;
        for (int i = 0; i < _workers.Length; i++)
        {
            if (byRing)
            {
                _workers[i].Ring?.Take(true);
            }
            else
            {
                _workers[i].Raw4?.Take(_acceptsGre, i, _workers.Length);
            }
        }
    }

    private void OpenRings()
    {
        if (_workers[0].Ring is not null)
        {
            return;
        }

        int frameSize = (int)System.Numerics.BitOperations.RoundUpToPowerOf2((uint)(_settings.LinkMtu + FrameOverhead));
        frameSize = Math.Clamp(frameSize, SmallestFrame, LargestFrame);
        var rings = new List<PacketRing>(_workers.Length);
        try
        {
            for (int i = 0; i < _workers.Length; i++)
            {
                rings.Add(new PacketRing(frameSize, rings.Count == 0 ? -1 : rings[0].Group, _workers.Length));
            }
        }
        catch
        {
            rings.ForEach(ring => ring.Dispose());
            throw;
        }

        for (int i = 0; i < _workers.Length; i++)
        {
            _workers[i].Ring = rings[i];
        }
    }

    private void OpenPacketSenders()
    {
        for (int i = 0; i < _workers.Length; i++)
        {
            _packetSenders[i] ??= new PacketSender();
        }
    }

    private void OpenReceivers()
    {
        bool isShared = _workers.Length > 1;
        FileDescriptor[]? inherited4 = TryInherit(Udp4, isIpv6: false, _settings.ReceivesUdp(_settings.Ipv4) ? _settings.Ipv4 : null, _settings.UdpPort);
        FileDescriptor[]? inherited6 = TryInherit(Udp6, isIpv6: true, _settings.ReceivesUdp(_settings.Ipv6) ? _settings.Ipv6 : null, _settings.UdpPort);
        for (int i = 0; i < _workers.Length; i++)
        {
            WorkerUnderlay worker = _workers[i];
            if (_settings.ReceivesUdp(_settings.Ipv4) && _settings.Ipv4 is InetAddress local4)
            {
                worker.Udp4 ??= new UdpReceiver(isIpv6: false, local4, _settings.UdpPort, isShared, _offloads, inherited4?[i]);
            }

            if (_settings.ReceivesUdp(_settings.Ipv6) && _settings.Ipv6 is InetAddress local6)
            {
                worker.Udp6 ??= new UdpReceiver(isIpv6: true, local6, _settings.UdpPort, isShared, _offloads, inherited6?[i]);
            }
        }
    }

    // None where the family is not received: then what there is of it is forgotten.
    private FileDescriptor[]? TryInherit(string kind, bool isIpv6, InetAddress? local, ushort port) => _inherited.TryTake(
        kind, _workers.Length, descriptor => local is InetAddress address && InetSocket.IsBound(descriptor, isIpv6, address, port));

    // On the worker's thread, once.
    private UdpSender OpenSender(int worker, bool isIpv6)
    {
        lock (_lock)
        {
            if (_settings.SourcePort == _settings.UdpPort)
            {
                if ((isIpv6 ? _workers[worker].Udp6 : _workers[worker].Udp4) is null)
                {
                    OpenReceivers();
                    foreach (WorkerUnderlay one in _workers)
                    {
                        one.Udp4?.Take(_acceptsGreUdp);
                        one.Udp6?.Take(_acceptsGreUdp);
                    }
                }

                if ((isIpv6 ? _workers[worker].Udp6 : _workers[worker].Udp4) is UdpReceiver receiver)
                {
                    return new UdpSender(isIpv6, receiver, _settings.UdpPort, _offloads);
                }
            }

            ref IReadOnlyList<ushort>? ports = ref isIpv6 ? ref _sourcePorts6 : ref _sourcePorts4;
            var sender = new UdpSender(isIpv6, (isIpv6 ? _settings.Ipv6 : _settings.Ipv4) ?? InetAddress.None, ports, _offloads);
            ports = sender.Ports;
            return sender;
        }
    }
}
