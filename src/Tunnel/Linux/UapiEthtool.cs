namespace Tunnel.Linux;

// What DeviceFeatures needs: linux/ethtool.h, linux/sockios.h.
internal static unsafe partial class Uapi
{
    public const int SIOCETHTOOL = 0x8946;
    public const uint ETHTOOL_GSTRINGS = 0x1b;
    public const uint ETHTOOL_GSSET_INFO = 0x37;
    public const uint ETHTOOL_GFEATURES = 0x3a;
    public const uint ETH_SS_FEATURES = 4;
    public const int ETH_GSTRING_LEN = 32;
}
