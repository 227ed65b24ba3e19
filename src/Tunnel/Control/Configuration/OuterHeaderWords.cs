using System.Globalization;
using Tunnel.Dataplane;

namespace Tunnel.Control.Configuration;

/// <summary>How <see cref="OuterHeaderOptions"/> are written in YAML and JSON.</summary>
internal static class OuterHeaderWords
{
    /// <summary>The word for the inner packet's DSCP.</summary>
    public const string Copy = "copy";

    /// <summary>The word for the inner packet's TTL.</summary>
    public const string Inherit = "inherit";

    /// <summary>Every ECN mode's word, in the order of <see cref="EcnMode"/>.</summary>
    public static IReadOnlyList<string> EcnModes { get; } = ["auto", "normal", "compatible"];

    extension(OuterHeaderOptions options)
    {
        /// <summary>A number, or "copy".</summary>
        public string DscpText => options.Dscp?.ToString(CultureInfo.InvariantCulture) ?? Copy;

        /// <summary>A number, or "inherit".</summary>
        public string TimeToLiveText => options.TimeToLive?.ToString(CultureInfo.InvariantCulture) ?? Inherit;
    }

    /// <summary>The mode's word.</summary>
    public static string ToWord(this EcnMode mode) => EcnModes[(int)mode];
}
