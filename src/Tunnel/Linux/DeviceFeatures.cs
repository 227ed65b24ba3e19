using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;
using static Tmds.Linux.LibC;
using static Tunnel.Linux.Uapi;

namespace Tunnel.Linux;

/// <summary>The offload features of network devices, as `ethtool -k` shows them (linux/ethtool.h).</summary>
internal sealed unsafe class DeviceFeatures : IDisposable
{
    // struct ethtool_sset_info: cmd, reserved, sset_mask (64 bits), then one count for each set asked for.
    private const int SetInfoLength = 20;

    // struct ethtool_gstrings: cmd, string_set, len, then the strings.
    private const int StringsHeader = 12;

    // struct ethtool_gfeatures: cmd, size, then blocks of available, requested, active, never_changed.
    private const int FeaturesHeader = 8;
    private const int FeatureBlock = 16;
    private const int ActiveOffset = 8;

    private readonly int _socket;
    private string[]? _names;

    /// <summary>Opens the socket that the requests need.</summary>
    public DeviceFeatures() => _socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    /// <summary>Whether any of the named features is on. A device that has gone, or tells nothing, has none.</summary>
    /// <param name="device">The device's name.</param>
    /// <param name="features">Names as in `ethtool -k`'s long list (rx-udp-gro-forwarding).</param>
    public bool HasAny(string device, ReadOnlySpan<string> features) => CountActive(device, features) > 0;

    /// <summary>Whether all of the named features are on. A device that has gone, or tells nothing, has none.</summary>
    /// <param name="device">The device's name.</param>
    /// <param name="features">Names as in `ethtool -k`'s long list.</param>
    public bool HasAll(string device, ReadOnlySpan<string> features) => CountActive(device, features) == features.Length;

    /// <summary>Whether the device says that all of the named features are off. One that has gone, or tells nothing, does not.</summary>
    /// <param name="device">The device's name.</param>
    /// <param name="features">Names as in `ethtool -k`'s long list; one that this kernel does not know is off.</param>
    public bool HasNone(string device, ReadOnlySpan<string> features) => CountActive(device, features) == 0;

    /// <inheritdoc/>
    public void Dispose() => _ = close(_socket);

    // -1 where the device tells nothing.
    private int CountActive(string device, ReadOnlySpan<string> features)
    {
        // The kernel's table of names is the same for every device.
        _names ??= ReadNames(device);
        if (_names is null)
        {
            return -1;
        }

        int blocks = (_names.Length + 31) / 32;
        byte[] request = new byte[FeaturesHeader + (blocks * FeatureBlock)];
        MemoryMarshal.Write(request, ETHTOOL_GFEATURES);
        MemoryMarshal.Write(request.AsSpan(4), (uint)blocks);
        if (!Ask(device, request))
        {
            return -1;
        }

        int count = 0;
        foreach (string feature in features)
        {
            int index = Array.IndexOf(_names, feature);
            if (index >= 0)
            {
                uint active = MemoryMarshal.Read<uint>(request.AsSpan(FeaturesHeader + (index / 32 * FeatureBlock) + ActiveOffset));
                count += (int)(active >> (index % 32) & 1);
            }
        }

        return count;
    }

    private string[]? ReadNames(string device)
    {
        byte[] info = new byte[SetInfoLength];
        MemoryMarshal.Write(info, ETHTOOL_GSSET_INFO);
        MemoryMarshal.Write(info.AsSpan(8), 1ul << (int)ETH_SS_FEATURES);
        if (!Ask(device, info) || MemoryMarshal.Read<ulong>(info.AsSpan(8)) == 0)
        {
            return null;
        }

        int count = (int)MemoryMarshal.Read<uint>(info.AsSpan(16));
        byte[] strings = new byte[StringsHeader + (count * ETH_GSTRING_LEN)];
        MemoryMarshal.Write(strings, ETHTOOL_GSTRINGS);
        MemoryMarshal.Write(strings.AsSpan(4), ETH_SS_FEATURES);
        MemoryMarshal.Write(strings.AsSpan(8), (uint)count);
        if (!Ask(device, strings))
        {
            return null;
        }

        var names = new string[count];
        for (int i = 0; i < count; i++)
        {
            ReadOnlySpan<byte> name = strings.AsSpan(StringsHeader + (i * ETH_GSTRING_LEN), ETH_GSTRING_LEN);
            int end = name.IndexOf((byte)0);
            names[i] = Encoding.ASCII.GetString(end < 0 ? name : name[..end]);
        }

        return names;
    }

    private bool Ask(string device, byte[] request)
    {
        fixed (byte* data = request)
        {
            // struct ifreq: the name, then for this request a pointer to the data.
            byte* ifreq = stackalloc byte[sizeof(ifreq)];
            new Span<byte>(ifreq, sizeof(ifreq)).Clear();
            Encoding.ASCII.GetBytes(device, new Span<byte>(ifreq, IFNAMSIZ - 1));
            BinaryPrimitives.WriteUInt64LittleEndian(new Span<byte>(ifreq + IFNAMSIZ, sizeof(ulong)), (ulong)data);
            return ioctl(_socket, SIOCETHTOOL, (void*)ifreq) == 0;
        }
    }
}
