using System.CommandLine;

namespace Tunnel.Ctl;

/// <summary>A command with an example for its help.</summary>
/// <param name="name">Its name.</param>
/// <param name="description">What it does, in one or two sentences.</param>
/// <param name="example">A command line that works.</param>
internal sealed class CtlCommand(string name, string description, string example) : Command(name, description)
{
    /// <summary>A command line that works.</summary>
    public string Example { get; } = example;
}
