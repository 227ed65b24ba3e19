using Tunnel.Ctl.Views;

namespace Tunnel.Ctl;

/// <summary>One run of `capture`: copies what the daemon captures to a file, or tells of each packet in a line.</summary>
/// <param name="surroundings">Streams, and when to end.</param>
/// <param name="file">Where to write pcapng to; null for lines.</param>
/// <param name="count">After how many packets to end; 0 for never.</param>
/// <param name="json">Whether lines are JSON.</param>
internal sealed class CaptureRun(Surroundings surroundings, string? file, int count, bool json)
{
    /// <summary>Copies until the count is reached, the daemon ends, or somebody has had enough; then says on stderr how much it was.</summary>
    /// <param name="stream">The capture.</param>
    /// <exception cref="Failure">The file can't be written, or the answer is no capture.</exception>
    public void Copy(Stream stream)
    {
        CancellationToken interrupted = surroundings.Interrupted();
        using Stream? output = Open();
        Pcapng capture = new(stream);
        int packets = 0;

        // Whoever waits for a packet is woken by the end of its stream.
        using (interrupted.Register(stream.Dispose))
        {
            try
            {
                while ((count == 0 || packets < count) && capture.TryRead(out byte[] block, out PcapngPacket? packet))
                {
                    packets += packet is null ? 0 : 1;
                    Write(output, block, packet);
                }
            }
            catch (Exception ended) when (interrupted.IsCancellationRequested && ended is IOException or ObjectDisposedException or OperationCanceledException)
            {
                // Enough.
            }
        }

        stream.Dispose();
        string missed = capture.Missed > 0 ? $", {capture.Missed} not captured: they came too fast" : "";
        surroundings.Error.WriteLine($"{Units.Count(packets, "packet")} captured{missed}");
    }

    private Stream? Open()
    {
        try
        {
            return file is null ? null : surroundings.OpenFile(file);
        }
        catch (Exception refused) when (refused is IOException or UnauthorizedAccessException)
        {
            throw new Failure(ExitCode.Failed, $"cannot write {file}: {refused.Message}");
        }
    }

    // At once: somebody may be looking.
    private void Write(Stream? output, byte[] block, PcapngPacket? packet)
    {
        if (output is not null)
        {
            output.Write(block);
            output.Flush();
        }
        else if (packet is not null)
        {
            surroundings.Output.WriteLine(json ? PacketText.ToJson(packet) : PacketText.Line(packet));
            surroundings.Output.Flush();
        }
    }
}
