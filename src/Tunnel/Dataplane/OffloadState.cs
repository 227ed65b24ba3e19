namespace Tunnel.Dataplane;

/// <summary>What the kernel does for several packets at once instead of for each.</summary>
[Flags]
public enum Offloads
{
    /// <summary>Nothing: packet by packet.</summary>
    None = 0,

    /// <summary>TCP super-packets are read from and written to the TUN device (TSO4, TSO6).</summary>
    TunTcp = 1,

    /// <summary>UDP super-packets are read from and written to the TUN device (USO4, USO6; Linux 6.2).</summary>
    TunUdp = 2,

    /// <summary>Datagrams of GRE-in-UDP leave many at a time (UDP_SEGMENT).</summary>
    UdpSegment = 4,

    /// <summary>Datagrams of GRE-in-UDP arrive many at a time (UDP_GRO).</summary>
    UdpGro = 8,

    /// <summary>TCP and UDP super-packets inside plain GRE over IPv4 are cut by the kernel, or by the device.</summary>
    GreSegment = 16,

    /// <summary>TCP super-packets inside GRE-in-UDP over IPv4 are cut by the device (Linux 6.17).</summary>
    GreUdpSegment = 32,
}

/// <summary>
/// Which offloads are in use; one for all workers. An offload that the kernel refuses is turned off for good, and the packets that
/// showed it go their way without it.
/// Thread rule: any thread may read and refuse.
/// </summary>
public sealed class OffloadState(Offloads initial)
{
    /// <summary>Every offload that there is.</summary>
    public const Offloads All =
        Offloads.TunTcp | Offloads.TunUdp | Offloads.UdpSegment | Offloads.UdpGro | Offloads.GreSegment | Offloads.GreUdpSegment;

    private readonly Lock _gate = new();
    private int _active = (int)initial;
    private (Offloads Offload, string Reason)[] _refused = [];

    /// <summary>Called once for each offload turned off, on the thread that found out: which, and the kernel's reason. Must return soon.</summary>
    public Action<Offloads, string>? OnRefused { get; set; }

    /// <summary>The offloads in use.</summary>
    public Offloads Active => (Offloads)Volatile.Read(ref _active);

    /// <summary>The offloads turned off so far, in order, each with the kernel's reason.</summary>
    public IReadOnlyList<(Offloads Offload, string Reason)> Refused => Volatile.Read(ref _refused);

    /// <summary>Whether an offload is in use.</summary>
    public bool Has(Offloads offload) => (Active & offload) != 0;

    /// <summary>Turns an offload off; nothing where it is off already.</summary>
    /// <param name="offload">One offload.</param>
    /// <param name="reason">What the kernel said, for people.</param>
    public void Refuse(Offloads offload, string reason)
    {
        lock (_gate)
        {
            if (!Has(offload))
            {
                return;
            }

            Volatile.Write(ref _refused, [.. _refused, (offload, reason)]);
            Volatile.Write(ref _active, _active & ~(int)offload);
        }

        OnRefused?.Invoke(offload, reason);
    }
}
