namespace Tunnel.Dataplane;

/// <summary>What a wait ended with.</summary>
[Flags]
public enum Ready
{
    /// <summary>Nothing: the wait was interrupted.</summary>
    None = 0,

    /// <summary>The TUN device has packets.</summary>
    Tun = 1,

    /// <summary>The underlay has packets.</summary>
    Underlay = 2,

    /// <summary><see cref="IReadiness.Stop"/> was called.</summary>
    Stopped = 4,
}

/// <summary>Where a worker sleeps until its TUN queue or its underlay has something to read.</summary>
public interface IReadiness : IDisposable
{
    /// <summary>Blocks until something is readable or the wait was stopped. Called by the worker's thread only.</summary>
    Ready Wait();

    /// <summary>Makes the present <see cref="Wait"/> return. May be called from any thread.</summary>
    void Wake();

    /// <summary>Makes the present and every later <see cref="Wait"/> return <see cref="Ready.Stopped"/>. May be called from any thread.</summary>
    void Stop();
}
