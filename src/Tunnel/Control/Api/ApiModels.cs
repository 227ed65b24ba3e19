using System.Text.Json.Serialization;

namespace Tunnel.Control.Api;

// What /v1 says. Property names are the YAML's key names (kebab-case); see docs/api.md.

internal sealed record TrafficCount(long Packets, long Bytes);

internal sealed record Traffic(TrafficCount Sent, TrafficCount Received);

internal sealed record InterfaceModel(int Index, bool Up, int Mtu, IReadOnlyList<string> Addresses);

internal sealed record UnderlayModel(
    IReadOnlyList<string> Local,
    string? Interface,
    string Encapsulation,
    IReadOnlyList<string> Accept,
    int UdpPort,
    string SourcePort);

internal sealed record DatapathSettingsModel(string Receive, string Send, string Workers, bool Pin, string BusyPoll);

internal sealed record RefusedOffloadModel(string Offload, string Reason);

internal sealed record DatapathModel(
    int Workers,
    string Receive,
    string Send,
    DatapathSettingsModel Configured,
    IReadOnlyList<string> Reasons,
    IReadOnlyList<string> Offloads,
    IReadOnlyList<RefusedOffloadModel> Refused);

internal sealed record NatModel(bool Masquerade, bool Forward, string? Table, IReadOnlyList<string> ForwardRules);

internal sealed record NetworkModel(
    string Name,
    string Version,
    int Pid,
    long UptimeSeconds,
    InterfaceModel Interface,
    UnderlayModel Underlay,
    DatapathModel Datapath,
    IReadOnlyList<string> Subnets,
    NatModel Nat,
    int Peers,
    Traffic Traffic,
    long Drops,
    IReadOnlyList<string> Problems);

internal sealed record KeyPairModel(uint In, uint Out);

internal sealed record PeerModel(
    string Name,
    string Endpoint,
    IReadOnlyList<string> Subnets,
    string Encapsulation,
    [property: JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)] object? Key,
    bool Checksum,
    bool Sequence,
    object Dscp,
    string Ecn,
    object Ttl,
    bool Pmtud,
    bool Strict,
    string Origin,
    string? Address,
    string? Local,
    int Gmtu,
    IReadOnlyList<string> Problems,
    Traffic Traffic,
    double? LastReceivedSeconds,
    long Drops,
    long EcnAnomalies,
    string Keepalive,
    string OnDown,
    string OnRefused,
    string State,
    double? StateSeconds,
    double? RttMs,
    double? LossPercent,
    int PathMtu,
    bool PathMtuConfirmed,
    string? EncapsulationReason);

internal sealed record RouteModel(string Prefix, string Peer, int Mtu, bool Installed, string? Problem);

internal sealed record DropsModel(
    IReadOnlyDictionary<string, long> Network,
    IReadOnlyDictionary<string, IReadOnlyDictionary<string, long>> Peers);

internal sealed record ReloadModel(
    IReadOnlyList<string> Added,
    IReadOnlyList<string> Changed,
    IReadOnlyList<string> Removed,
    [property: JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)] bool Network);

internal sealed record EventModel(
    DateTimeOffset Time,
    string Event,
    [property: JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)] string? Peer,
    [property: JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)] string? Detail);

internal sealed record StepModel(string Step, bool Ok, string Text);

internal sealed record ExplanationModel(
    string Source, string Destination, int Length, string Verdict, string? Reason, string? Peer, IReadOnlyList<StepModel> Steps);

internal sealed record PingModel(string Peer, string Address, int Length, double? RttMs);

internal sealed record FindingModel(string Check, string Severity, string? Peer, string Finding, string? Cure);

internal sealed record HealthModel(string Status, IReadOnlyList<string> Problems);

internal sealed record ErrorModel(string Error, string? Hint, string? Field);

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.KebabCaseLower)]
[JsonSerializable(typeof(NetworkModel))]
[JsonSerializable(typeof(PeerModel))]
[JsonSerializable(typeof(IReadOnlyList<PeerModel>))]
[JsonSerializable(typeof(IReadOnlyList<RouteModel>))]
[JsonSerializable(typeof(DropsModel))]
[JsonSerializable(typeof(ReloadModel))]
[JsonSerializable(typeof(EventModel))]
[JsonSerializable(typeof(ExplanationModel))]
[JsonSerializable(typeof(PingModel))]
[JsonSerializable(typeof(IReadOnlyList<FindingModel>))]
[JsonSerializable(typeof(HealthModel))]
[JsonSerializable(typeof(ErrorModel))]
[JsonSerializable(typeof(KeyPairModel))]
[JsonSerializable(typeof(uint))]
[JsonSerializable(typeof(byte))]
[JsonSerializable(typeof(string))]
internal sealed partial class ApiJson : JsonSerializerContext;
