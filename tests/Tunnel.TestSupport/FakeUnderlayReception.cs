using Tunnel.Dataplane;

namespace Tunnel.TestSupport;

/// <summary>What is received, in memory; a test can let somebody else have the UDP port. Single-threaded.</summary>
public sealed class FakeUnderlayReception : IUnderlayReception
{
    /// <summary>What is received now.</summary>
    public (bool Gre, bool GreUdp) Accepted { get; private set; }

    /// <summary>Everything that was received at some time, in order.</summary>
    public List<(bool Gre, bool GreUdp)> History { get; } = [];

    /// <summary>Whether another process has the UDP port.</summary>
    public bool IsPortTaken { get; set; }

    /// <inheritdoc/>
    public void Accept(bool gre, bool greUdp)
    {
        if (greUdp && !Accepted.GreUdp && IsPortTaken)
        {
            throw new UnderlayException("UDP port 4754 is in use", "stop what has it: ss -lunp sport = 4754");
        }

        if (Accepted != (gre, greUdp))
        {
            Accepted = (gre, greUdp);
            History.Add(Accepted);
        }
    }
}

/// <summary>The ways of the underlays, in memory.</summary>
public sealed class FakeUnderlayPaths : IUnderlayPaths
{
    /// <inheritdoc/>
    public (UnderlayPath Receive, UnderlayPath Send) Paths { get; private set; }

    /// <inheritdoc/>
    public void UsePaths(UnderlayPath receive, UnderlayPath send) => Paths = (receive, send);
}
