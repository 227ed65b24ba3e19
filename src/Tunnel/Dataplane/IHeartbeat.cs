namespace Tunnel.Dataplane;

/// <summary>Whether a packet thread still goes round. Any thread.</summary>
public interface IHeartbeat
{
    /// <summary>The thread's name.</summary>
    string Name { get; }

    /// <summary>Counts up with every round.</summary>
    long Beats { get; }

    /// <summary>Makes a thread that sleeps go round once.</summary>
    void Nudge();
}
