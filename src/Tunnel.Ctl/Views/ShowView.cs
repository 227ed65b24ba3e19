using System.Text.Json;

namespace Tunnel.Ctl.Views;

/// <summary>Draws `show`: the network with its peers, or one peer.</summary>
internal static class ShowView
{
    private static readonly Column[] Columns =
    [
        new("PEER"),
        new("STATE"),
        new("ENDPOINT"),
        new("SUBNETS", IsList: true),
        new("ENCAPSULATION", IsList: true),
        new("GMTU", RightAligned: true),
        new("SENT", RightAligned: true),
        new("RECEIVED", RightAligned: true),
        new("LAST", RightAligned: true),
        new("DROPS", RightAligned: true),
        new("PROBLEMS", Optional: true),
    ];

    /// <summary>Draws the network's block and the table of its peers.</summary>
    public static void Network(IPage page, JsonElement network, JsonElement peers)
    {
        page.Block("network", Text(network, "name"), NetworkLines(network));
        page.Text("");
        if (peers.GetArrayLength() == 0)
            page.Text("no peers (add one: tunnelctl add-peer NAME --endpoint ADDRESS --subnet CIDR)");
        else
            page.Table(Columns, [.. peers.Items().Select(PeerRow)]);
    }

    /// <summary>Draws a peer's block.</summary>
    public static void Peer(IPage page, JsonElement peer) => page.Block("peer", Text(peer, "name"), PeerLines(peer));

    private static List<Line> NetworkLines(JsonElement network)
    {
        JsonElement device = network.Member("interface");
        bool up = device.Member("up").IsTrue();
        List<Line> lines =
        [
            new("state", up ? new Cell("up", Tone.Good) : new Cell("down", Tone.Bad)),
            new("addresses", List(device, "addresses")),
            new("mtu", Text(device, "mtu")),
            new("underlay", Underlay(network.Member("underlay"))),
        ];
        if (UdpPort(network.Member("underlay")) is { } udp)
            lines.Add(new("udp", udp));

        lines.AddRange(Datapath(network.Member("datapath")));
        if (network.Member("subnets").Texts().Length > 0)
            lines.Add(new("subnets", List(network, "subnets")));

        if (Nat(network.Member("nat")) is { } nat)
            lines.Add(new("nat", nat));

        lines.Add(new("traffic", PeerText.Traffic(network.Member("traffic"))));
        lines.Add(new("drops", Drops(network)));
        lines.Add(new("daemon", $"tunneld {Text(network, "version")}, pid {Text(network, "pid")}, up {Ago(network, "uptime-seconds") ?? PeerText.Unknown}"));
        lines.AddRange(Problems(network));
        return lines;
    }

    private static string Encapsulation(JsonElement peer) =>
        peer.Member("encapsulation-reason").Text() is { } reason ? $"{Text(peer, "encapsulation")}: {reason}" : Text(peer, "encapsulation");

    private static List<Line> PeerLines(JsonElement peer)
    {
        string? last = Ago(peer, "last-received-seconds");
        return
        [
            new("endpoint", Endpoint(peer)),
            new("local", Text(peer, "local")),
            new("subnets", List(peer, "subnets")),
            new("encapsulation", Encapsulation(peer)),
            new("key", PeerText.Key(peer) ?? "none"),
            new("checksum", YesNo(peer, "checksum")),
            new("sequence", YesNo(peer, "sequence")),
            .. OuterHeader(peer),
            .. Watch(peer),
            new("origin", Text(peer, "origin")),
            new("gmtu", Text(peer, "gmtu")),
            .. PathMtu(peer),
            new("traffic", PeerText.Traffic(peer.Member("traffic"))),
            new("last received", last is null ? "never" : $"{last} ago"),
            new("drops", Drops(peer)),
            .. EcnAnomalies(peer),
            .. Problems(peer),
        ];
    }

    // Nothing where the daemon is of a version that says nothing of it.
    private static IEnumerable<Line> OuterHeader(JsonElement peer) =>
        peer.Member("dscp").Text() is { } dscp
            ? [new("outer header", $"dscp {dscp}, ecn {Text(peer, "ecn")}, ttl {Text(peer, "ttl")}, pmtud {YesNo(peer, "pmtud")}"), new("strict", YesNo(peer, "strict"))]
            : [];

    private static IEnumerable<Line> Watch(JsonElement peer)
    {
        if (peer.Member("state").Text() is null)
            return [];

        Cell state = State(peer);
        string since = Ago(peer, "state-seconds") is { } time ? $" for {time}" : "";
        string roundTrip = peer.Member("rtt-ms").Text() is { } milliseconds ? $", rtt {milliseconds} ms" : "";
        string loss = peer.Member("loss-percent").Text() is { } percent ? $", loss {percent} %" : "";
        return
        [
            new("state", new Cell($"{state.Text}{since}{roundTrip}{loss}", state.Tone)),
            new("keepalive", $"{Text(peer, "keepalive")}, on-down {Text(peer, "on-down")}, on-refused {Text(peer, "on-refused")}"),
        ];
    }

    private static IEnumerable<Line> PathMtu(JsonElement peer) =>
        peer.Member("path-mtu").Text() is { } mtu ? [new("path mtu", peer.Member("path-mtu-confirmed").IsTrue() ? $"{mtu}, confirmed" : mtu)] : [];

    private static Cell State(JsonElement peer) => peer.Member("state").Text() switch
    {
        "up" => new Cell("up", Tone.Good),
        "unknown" => "unknown",
        null => PeerText.Unknown,
        { } state => new Cell(state, Tone.Bad),
    };

    // Rare, and something is wrong on the way.
    private static IEnumerable<Line> EcnAnomalies(JsonElement peer) =>
        peer.Member("ecn-anomalies").Count() is > 0 and long count ? [new("ecn anomalies", new Cell(count.ToString(), Tone.Bad))] : [];

    private static string YesNo(JsonElement peer, string member) => peer.Member(member).IsTrue() ? "yes" : "no";

    private static Cell[] PeerRow(JsonElement peer)
    {
        JsonElement traffic = peer.Member("traffic");
        return
        [
            Text(peer, "name"),
            State(peer),
            Text(peer, "endpoint"),
            string.Join(',', peer.Member("subnets").Texts()),
            PeerText.Encapsulation(peer),
            Text(peer, "gmtu"),
            Units.Bytes(traffic.Member("sent").Member("bytes").Count(), separator: ""),
            Units.Bytes(traffic.Member("received").Member("bytes").Count(), separator: ""),
            Ago(peer, "last-received-seconds") ?? "never",
            Drops(peer),
            new Cell(string.Join("; ", peer.Member("problems").Texts()), Tone.Bad),
        ];
    }

    private static string Underlay(JsonElement underlay)
    {
        string[] local = underlay.Member("local").Texts();
        string text = Text(underlay, "encapsulation");
        if (local.Length > 0)
            text += $" from {string.Join(", ", local)}";

        if (underlay.Member("interface").Text() is { } device)
            text += $" on {device}";

        return $"{text}, accepts {List(underlay, "accept")}";
    }

    // Worth a line only where GRE-in-UDP is sent or taken.
    private static string? UdpPort(JsonElement underlay)
    {
        bool used = underlay.Member("accept").Texts().Append(Text(underlay, "encapsulation")).Contains("gre-udp", StringComparer.Ordinal);
        return used ? $"port {Text(underlay, "udp-port")}, source port {Text(underlay, "source-port")}" : null;
    }

    // Nothing where the daemon is of a version that says nothing of it.
    private static IEnumerable<Line> Datapath(JsonElement datapath)
    {
        if (datapath.ValueKind != JsonValueKind.Object)
            return [];

        string[] offloads = datapath.Member("offloads").Texts();
        string text = $"{Units.Count(datapath.Member("workers").Count(), "worker")}, {Way(datapath, "receive")}, {Way(datapath, "send")}, " +
            (offloads.Length > 0 ? $"offloads {string.Join(' ', offloads)}" : "no offloads");
        return
        [
            new("datapath", text),
            .. datapath.Member("reasons").Texts().Select(reason => new Line("fallback", reason)),
            .. datapath.Member("refused").Items().Select(refused => new Line("offload off", $"{Text(refused, "offload")}: {Text(refused, "reason")}")),
        ];
    }

    // Worth a line only where something of the network is in the firewall, or is to be.
    private static string? Nat(JsonElement nat)
    {
        bool masquerades = nat.Member("masquerade").IsTrue();
        bool forwards = nat.Member("forward").IsTrue();
        string? table = nat.Member("table").Text();
        string[] programs = nat.Member("forward-rules").Texts();
        if (!masquerades && !forwards && table is null)
            return null;

        string text = table is null ? "no table" : $"table {table}{(masquerades ? ", masquerades" : "")}";
        return forwards ? $"{text}, forwards{(programs.Length > 0 ? $" by {string.Join(", ", programs)}" : "")}" : text;
    }

    private static string Way(JsonElement datapath, string direction)
    {
        bool isChosen = datapath.Member("configured").Member(direction).Text() == "auto";
        return $"{direction} {Text(datapath, direction)}{(isChosen ? " (auto)" : "")}";
    }

    private static string Endpoint(JsonElement peer)
    {
        string endpoint = Text(peer, "endpoint");
        string? address = peer.Member("address").Text();
        bool isAddress = address is not null && endpoint.Contains(address, StringComparison.Ordinal);
        return isAddress ? endpoint : $"{endpoint} ({address ?? "not resolved"})";
    }

    private static Cell Drops(JsonElement owner)
    {
        long drops = owner.Member("drops").Count();
        return new Cell(drops.ToString(), drops > 0 ? Tone.Bad : Tone.Plain);
    }

    private static IEnumerable<Line> Problems(JsonElement owner) =>
        owner.Member("problems").Texts().Select(problem => new Line("problem", new Cell(problem, Tone.Bad)));

    private static string? Ago(JsonElement owner, string member) =>
        owner.Member(member).Number() is { } seconds ? Units.Duration(seconds) : null;

    private static string Text(JsonElement owner, string member) => owner.Member(member).Text() ?? PeerText.Unknown;

    private static string List(JsonElement owner, string member)
    {
        string[] texts = owner.Member(member).Texts();
        return texts.Length > 0 ? string.Join(", ", texts) : PeerText.Unknown;
    }
}
