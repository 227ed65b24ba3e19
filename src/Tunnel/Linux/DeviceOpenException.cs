namespace Tunnel.Linux;

/// <summary>The TUN device or an underlay socket could not be opened. Both texts are for the person who started the program.</summary>
internal sealed class DeviceOpenException : Exception
{
    /// <summary>Describes a failure.</summary>
    /// <param name="message">What failed and why: one line, no full stop.</param>
    /// <param name="hint">The cure: one line, no full stop.</param>
    public DeviceOpenException(string message, string hint)
        : base(message) => Hint = hint;

    /// <summary>The cure, one line.</summary>
    public string Hint { get; }
}

/// <summary>The TUN device was deleted while it was in use.</summary>
internal sealed class DeviceGoneException : Exception
{
    /// <summary>Names the device.</summary>
    public DeviceGoneException(string name)
        : base($"the device {name} has been deleted")
    {
    }
}
