using System.Diagnostics;
using System.Globalization;
using System.Net.NetworkInformation;
using Tunnel.Control.Api;
using Tunnel.Control.Monitoring;
using Tunnel.Dataplane;

namespace Tunnel.Control.Metrics;

/// <summary>What GET /metrics says: docs/metrics.md. Peers' drops only with the reasons that they have had; the network's with all.</summary>
internal static class NetworkMetrics
{
    private static readonly string[] States = [.. Enum.GetValues<PeerState>().Select(state => state.ToWord())];

    /// <summary>Writes everything that is known of a network at this moment.</summary>
    /// <param name="network">The network.</param>
    /// <param name="queues">Its queues.</param>
    public static string Write(NetworkController network, IUnderlayQueues queues)
    {
        var text = new MetricsText();
        NetworkModel model = network.DescribeNetwork();
        WriteNetwork(text, model, network.DescribeDrops());
        WriteQueues(text, queues);
        WritePeers(text, network.DescribePeers());
        WriteProcess(text);
        return text.ToString();
    }

    private static void WriteNetwork(MetricsText text, NetworkModel model, DropsModel drops)
    {
        text.Gauge("tunnel_info", "The network and the program's version; always 1.").Sample(1, "network", model.Name, "version", model.Version);
        text.Gauge("tunnel_interface_up", "Whether the TUN device is up.").Sample(model.Interface.Up ? 1 : 0);
        text.Gauge("tunnel_interface_mtu_bytes", "The TUN device's MTU.").Sample(model.Interface.Mtu);
        text.Counter("tunnel_interface_transmit_dropped_packets_total", "Packets that the TUN device's queue had no room for.")
            .Sample(TransmitDrops(model.Name));
        text.Gauge("tunnel_peers", "Configured peers.").Sample(model.Peers);
        text.Gauge("tunnel_problems", "What GET /v1/network lists as problems.").Sample(model.Problems.Count);
        text.Counter("tunnel_dropped_packets_total", "Packets dropped that belong to no peer, by reason.");
        foreach ((string reason, long count) in drops.Network)
        {
            text.Sample(count, "reason", reason);
        }

        text.Counter("tunnel_peer_dropped_packets_total", "Packets from or to a peer that were dropped, by reason; reasons that never came up are left out.");
        foreach ((string peer, IReadOnlyDictionary<string, long> reasons) in drops.Peers)
        {
            foreach ((string reason, long count) in reasons.Where(reason => reason.Value > 0))
            {
                text.Sample(count, "peer", peer, "reason", reason);
            }
        }
    }

    private static void WriteQueues(MetricsText text, IUnderlayQueues queues)
    {
        IReadOnlyList<QueueDepth> depths = queues.QueueDepths;
        void Each(MetricsText begun, Func<QueueDepth, long> value)
        {
            for (int i = 0; i < depths.Count; i++)
            {
                begun.Sample(value(depths[i]), "worker", i.ToString(CultureInfo.InvariantCulture));
            }
        }

        Each(text.Gauge("tunnel_receive_queue_bytes", "What has come from the underlay and is not read yet, by worker."), depth => depth.Receive);
        Each(text.Gauge("tunnel_send_queue_bytes", "What raw and UDP sockets have sent and the host's queues still hold, by worker."), depth => depth.Send);
    }

    private static void WritePeers(MetricsText text, IReadOnlyList<PeerModel> peers)
    {
        void Each(MetricsText begun, Func<PeerModel, double?> value)
        {
            foreach (PeerModel peer in peers)
            {
                if (value(peer) is double known)
                {
                    begun.Sample(known, "peer", peer.Name);
                }
            }
        }

        Each(text.Counter("tunnel_peer_sent_packets_total", "Inner packets sent to a peer."), peer => peer.Traffic.Sent.Packets);
        Each(text.Counter("tunnel_peer_sent_bytes_total", "Inner bytes sent to a peer."), peer => peer.Traffic.Sent.Bytes);
        Each(text.Counter("tunnel_peer_received_packets_total", "Inner packets received from a peer."), peer => peer.Traffic.Received.Packets);
        Each(text.Counter("tunnel_peer_received_bytes_total", "Inner bytes received from a peer."), peer => peer.Traffic.Received.Bytes);
        Each(text.Counter("tunnel_peer_ecn_anomalies_total", "Packets whose outer ECN field nothing should have made of the inner one."), peer => peer.EcnAnomalies);
        Each(text.Gauge("tunnel_peer_last_received_seconds", "Time since the last packet of a peer; left out before the first."), peer => peer.LastReceivedSeconds);
        text.Gauge("tunnel_peer_state", "1 for the state that a peer is in, 0 for the others.");
        foreach (PeerModel peer in peers)
        {
            foreach (string state in States)
            {
                text.Sample(peer.State == state ? 1 : 0, "peer", peer.Name, "state", state);
            }
        }

        Each(text.Gauge("tunnel_peer_state_seconds", "How long a peer has been in its state."), peer => peer.StateSeconds);
        Each(text.Gauge("tunnel_peer_round_trip_seconds", "The smoothed round trip of messages to a peer's daemon; left out where it never answered."), peer => peer.RttMs / 1000);
        Each(text.Gauge("tunnel_peer_loss_ratio", "The share of the last messages to a peer's daemon that was not answered."), peer => peer.LossPercent / 100);
        Each(text.Gauge("tunnel_peer_gmtu_bytes", "The largest inner packet that fits the path to a peer."), peer => peer.Gmtu);
        Each(text.Gauge("tunnel_peer_path_mtu_bytes", "The path MTU to a peer, outer headers included."), peer => peer.PathMtu);
        Each(text.Gauge("tunnel_peer_path_mtu_confirmed", "Whether a packet of that length has been answered."), peer => peer.PathMtuConfirmed ? 1 : 0);
    }

    private static void WriteProcess(MetricsText text)
    {
        using var process = Process.GetCurrentProcess();
        text.Counter("process_cpu_seconds_total", "User and system CPU time.").Sample(process.TotalProcessorTime.TotalSeconds);
        text.Gauge("process_resident_memory_bytes", "Resident memory.").Sample(process.WorkingSet64);
        text.Gauge("process_start_time_seconds", "When the process started, since 1970.")
            .Sample((process.StartTime.ToUniversalTime() - DateTime.UnixEpoch).TotalSeconds);
        text.Counter("tunnel_gc_collections_total", "Garbage collections, by the oldest generation collected.");
        for (int generation = 0; generation <= GC.MaxGeneration; generation++)
        {
            int older = generation < GC.MaxGeneration ? GC.CollectionCount(generation + 1) : 0;
            text.Sample(GC.CollectionCount(generation) - older, "generation", generation.ToString(CultureInfo.InvariantCulture));
        }
    }

    private static long TransmitDrops(string device) =>
        NetworkInterface.GetAllNetworkInterfaces().FirstOrDefault(link => link.Name == device)?.GetIPStatistics().OutgoingPacketsDiscarded ?? 0;
}
