using System.Diagnostics;
using Tmds.Linux;
using Tunnel.Dataplane;
using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// Sends packets of a <see cref="GatherBatch"/> through one socket with as few sendmmsg(2) calls as there can be. Its owner says where
/// each message goes. Thread rule: as <see cref="IUnderlay"/>'s.
/// </summary>
internal sealed unsafe class MessageSender
{
    /// <summary>The most messages of one call.</summary>
    public const int MaxMessages = 128;

    private readonly int _fd;
    private readonly PinnedArray<mmsghdr> _messages = new(MaxMessages);
    private readonly PinnedArray<iovec> _pieces = new(Uapi.UIO_MAXIOV);

    /// <summary>Prepares to send through a socket, which its owner keeps open.</summary>
    public MessageSender(int fd) => _fd = fd;

    /// <summary>A message, for its owner to write name and ancillary data to.</summary>
    /// <param name="index">Which: 0 to <see cref="MaxMessages"/> - 1.</param>
    public msghdr* Message(int index) => (msghdr*)(_messages.Address + index);

    /// <summary>Describes as many packets as one call takes.</summary>
    /// <param name="batch">The batch.</param>
    /// <param name="first">The first packet, which becomes message 0.</param>
    /// <param name="end">The one after the last.</param>
    /// <returns>How many those are; 0 where the first has more pieces than the kernel takes.</returns>
    public int Prepare(GatherBatch batch, int first, int end)
    {
        int count = 0;
        int used = 0;
        while (first + count < end && count < MaxMessages)
        {
            ReadOnlySpan<Piece> pieces = batch.Pieces(first + count);
            if (used + pieces.Length > _pieces.Length)
            {
                break;
            }

            msghdr* message = Message(count);
            message->msg_iov = _pieces.Address + used;
            message->msg_iovlen = pieces.Length;
            foreach (ref readonly Piece piece in pieces)
            {
                iovec* run = _pieces.Address + used++;
                run->iov_base = PinnedMemory.Address(piece.Memory, piece.Offset, piece.Length);
                run->iov_len = piece.Length;
            }

            count++;
        }

        return count;
    }

    /// <summary>Sends what was described and writes the packets' results.</summary>
    /// <param name="batch">The batch.</param>
    /// <param name="first">The packet that is message 0.</param>
    /// <param name="count">How many messages.</param>
    /// <param name="patience">How long the batch may still wait for room.</param>
    public void Send(GatherBatch batch, int first, int count, ref SendPatience patience)
    {
        int done = 0;
        while (done < count)
        {
            // The call stops at the first refusal and tells how many it sent before; the refusal itself is told by the next call.
            SysResult sent = Sys.SendMessages(_fd, _messages.Address + done, count - done);
            if (!sent.IsError)
            {
                SetResult(batch, first + done, first + done + sent.Value, TransmitResult.Sent);
                done += sent.Value;
            }
            else if (!sent.WouldBlock)
            {
                batch[first + done].Result = SendErrors.ResultOf(sent);
                done++;
            }
            else if (!patience.WaitForRoom(_fd))
            {
                SetResult(batch, first + done, first + count, TransmitResult.QueueFull);
                return;
            }
        }
    }

    /// <summary>Gives the packets from <paramref name="first"/> to before <paramref name="end"/> the same result.</summary>
    public static void SetResult(GatherBatch batch, int first, int end, TransmitResult result)
    {
        for (int i = first; i < end; i++)
        {
            batch[i].Result = result;
        }
    }
}

/// <summary>How long one batch may still wait for room in send buffers: 10 ms from the first wait on.</summary>
internal unsafe struct SendPatience
{
    private static readonly long Limit = Stopwatch.Frequency / 100;

    private long _deadline;

    /// <summary>Waits for room.</summary>
    /// <returns>Whether to try again.</returns>
    public bool WaitForRoom(int socket)
    {
        long now = Stopwatch.GetTimestamp();
        if (_deadline == 0)
        {
            _deadline = now + Limit;
        }

        if (now >= _deadline)
        {
            return false;
        }

        pollfd entry = default;
        entry.fd = socket;
        entry.events = POLLOUT;
        return Sys.Poll(&entry, 1, 1 + (int)((_deadline - now) * 1000 / Stopwatch.Frequency)) > 0;
    }
}
