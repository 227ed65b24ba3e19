namespace Tunnel.NetworkTests;

/// <summary>The lab could not do what a test asked of it; the message says what, and shows what the processes said.</summary>
internal sealed class LabException(string message) : Exception(message);
