using System.CommandLine;
using System.CommandLine.Completions;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using System.Globalization;
using System.Net;
using System.Runtime.CompilerServices;
using System.Text.Json;
using Tunnel.Ctl.Views;

namespace Tunnel.Ctl;

/// <summary>The commands and options, and what each does. Help, error messages and the test of the documentation read this tree.</summary>
internal sealed class CommandTree
{
    // Peers are waited for, and where rules are many the tools that print them take their time.
    private static readonly TimeSpan DoctorTimeout = TimeSpan.FromSeconds(30);

    private readonly Surroundings _surroundings;

    private readonly Option<string?> _network = new("-n", "--network")
    {
        HelpName = "NETWORK",
        Description = "the network to talk about; default: the only one that runs here",
        Recursive = true,
    };

    private readonly Option<string?> _socket = new("--socket")
    {
        HelpName = "PATH",
        Description = "the daemon's control socket; wins over -n",
        Recursive = true,
    };

    private readonly Option<string?> _runDirectory = new("--run-dir")
    {
        HelpName = "DIR",
        Description = "where the control sockets are; default: TUNNEL_RUN_DIR or /run/tunnel",
        Recursive = true,
    };

    /// <summary>Builds the tree.</summary>
    /// <param name="surroundings">What the commands read and write.</param>
    public CommandTree(Surroundings surroundings)
    {
        _surroundings = surroundings;
        CtlCommand show = Show();
        Root = new RootCommand("Shows and changes what a running tunneld does. Without a command it shows the network.");
        Root.Action = show.Action;
        Root.Directives.Clear();
        Root.Directives.Add(Completion.Directive(surroundings.Output));
        Root.Options.Clear();
        foreach (Option<string?> option in new[] { _network, _socket, _runDirectory })
        {
            option.Validators.Add(UsageErrors.CheckValue);
            Root.Options.Add(option);
        }

        _network.CompletionSources.Add(context =>
            ControlSocket.Networks(context.ParseResult.GetValue(_runDirectory), surroundings.Variable).Select(name => new CompletionItem(name)));
        Root.Options.Add(Json);
        Root.Options.Add(new HelpOption("--help", "-h") { Description = "print help", Action = new Help.Action(), Recursive = true });
        Root.Options.Add(new Option<bool>("--version") { Description = "print the version", Arity = ArgumentArity.Zero, Action = new PrintVersion(surroundings.Output) });
        Root.Subcommands.Add(show);
        Root.Subcommands.Add(AddPeer());
        Root.Subcommands.Add(SetPeer());
        Root.Subcommands.Add(RemovePeer());
        Root.Subcommands.Add(Routes());
        Root.Subcommands.Add(Drops());
        Root.Subcommands.Add(Explain());
        Root.Subcommands.Add(Ping());
        Root.Subcommands.Add(Doctor());
        Root.Subcommands.Add(Capture());
        Root.Subcommands.Add(Top());
        Root.Subcommands.Add(DockerConfig());
        Root.Subcommands.Add(Attach());
        Root.Subcommands.Add(Detach());
        Root.Subcommands.Add(Reload());
    }

    /// <summary>The command line's root.</summary>
    public RootCommand Root { get; }

    /// <summary>--json.</summary>
    public Option<bool> Json { get; } = new("--json")
    {
        Description = "print the daemon's JSON, one line; errors too",
        Arity = ArgumentArity.Zero,
        Recursive = true,
    };

    private Argument<string> PeerName(string argument, string description, bool optional = false, bool isNew = false)
    {
        Argument<string> name = new(argument)
        {
            Description = description,
            Arity = optional ? ArgumentArity.ZeroOrOne : ArgumentArity.ExactlyOne,
        };
        name.Validators.Add(UsageErrors.CheckPeerName);
        if (!isNew)
        {
            name.CompletionSources.Add(context => Completion.Peers(() => new ControlClient(Socket(context.ParseResult), _surroundings.CompletionTimeout)));
        }

        return name;
    }

    private static Option<string?> Value(string option, string value, string description)
    {
        Option<string?> made = new(option) { HelpName = value, Description = description };
        made.Validators.Add(UsageErrors.CheckValue);
        return made;
    }

    private static Option<int> Count(string description, int otherwise)
    {
        Option<int> count = new("-c", "--count") { HelpName = "N", Description = description, DefaultValueFactory = _ => otherwise };
        count.Validators.Add(UsageErrors.CheckValue);
        count.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && !(int.TryParse(result.Tokens[0].Value, out int number) && number is > 0 and <= 1_000_000))
                result.AddError($"--count does not take '{result.Tokens[0].Value}'");
        });
        return count;
    }

    // A packet's length in a query, where one is given.
    private static string Length(char separator, string? bytes) => bytes is null ? "" : $"{separator}length={Uri.EscapeDataString(bytes)}";

    private CtlCommand Show()
    {
        Argument<string> name = PeerName("PEER", "only this peer, in detail", optional: true);
        CtlCommand command = new("show", "Shows the network and its peers, or one peer.", "tunnelctl show vm2");
        command.Arguments.Add(name);
        command.SetAction(parsed =>
        {
            using ControlClient client = Connect(parsed);
            if (parsed.GetValue(name) is { } peerName)
            {
                JsonElement peer = Expect(JsonValueKind.Object, client.Send(HttpMethod.Get, ControlClient.PeerPath(peerName)));
                Print(parsed, peer, page => ShowView.Peer(page, peer));
                return;
            }

            JsonElement network = Expect(JsonValueKind.Object, client.Send(HttpMethod.Get, "v1/network"));
            JsonElement peers = Expect(JsonValueKind.Array, client.Send(HttpMethod.Get, "v1/peers"));
            if (parsed.GetValue(Json))
            {
                _surroundings.Output.WriteLine(Ctl.Json.Write(writer =>
                {
                    writer.WriteStartObject();
                    writer.WritePropertyName("network");
                    network.WriteTo(writer);
                    writer.WritePropertyName("peers");
                    peers.WriteTo(writer);
                    writer.WriteEndObject();
                }));
            }
            else
            {
                ShowView.Network(Page(), network, peers);
            }
        });
        return command;
    }

    private CtlCommand AddPeer()
    {
        Argument<string> name = PeerName("NAME", "the new peer's name", isNew: true);
        PeerOptions options = new(forNewPeer: true);
        CtlCommand command = new(
            "add-peer",
            "Adds a peer. It is kept over restarts unless --ephemeral is given.",
            "tunnelctl add-peer vm2 --endpoint 192.168.40.12 --subnet 172.17.52.0/24");
        command.Arguments.Add(name);
        options.AddTo(command);
        command.SetAction(parsed =>
        {
            byte[] body = options.Body(parsed);
            using ControlClient client = Connect(parsed);
            JsonElement peer = client.Send(HttpMethod.Put, ControlClient.PeerPath(parsed.GetRequiredValue(name)), body, createOnly: true);
            ReportPeer(parsed, "added", peer);
        });
        return command;
    }

    private CtlCommand SetPeer()
    {
        Argument<string> name = PeerName("NAME", "the peer to change");
        PeerOptions options = new(forNewPeer: false);
        CtlCommand command = new(
            "set-peer",
            "Changes a peer in place: only what the options name. --subnet replaces the whole list.",
            "tunnelctl set-peer vm2 --endpoint 192.168.40.22 --key none");
        command.Arguments.Add(name);
        options.AddTo(command);
        command.SetAction(parsed =>
        {
            if (!options.AnyGiven(parsed))
                throw new Failure(ExitCode.Usage, "nothing to change is named", $"usage: {Help.Usage(command)}");

            byte[] body = options.Body(parsed);
            using ControlClient client = Connect(parsed);
            JsonElement peer = client.Send(HttpMethod.Patch, ControlClient.PeerPath(parsed.GetRequiredValue(name)), body);
            ReportPeer(parsed, "changed", peer);
        });
        return command;
    }

    private CtlCommand RemovePeer()
    {
        Argument<string> name = PeerName("NAME", "the peer to remove");
        CtlCommand command = new("remove-peer", "Removes a peer that was added by command.", "tunnelctl remove-peer vm2");
        command.Arguments.Add(name);
        command.SetAction(parsed =>
        {
            string peerName = parsed.GetRequiredValue(name);
            using ControlClient client = Connect(parsed);
            client.Send(HttpMethod.Delete, ControlClient.PeerPath(peerName));
            _surroundings.Output.WriteLine(parsed.GetValue(Json)
                ? Ctl.Json.Write(writer =>
                {
                    writer.WriteStartObject();
                    writer.WriteString("removed", peerName);
                    writer.WriteEndObject();
                })
                : $"removed peer {peerName}");
        });
        return command;
    }

    private CtlCommand Routes()
    {
        CtlCommand command = new("routes", "Shows the overlay route table.", "tunnelctl routes");
        command.SetAction(parsed =>
        {
            using ControlClient client = Connect(parsed);
            JsonElement routes = Expect(JsonValueKind.Array, client.Send(HttpMethod.Get, "v1/routes"));
            Print(parsed, routes, page => RoutesView.Draw(page, routes));
        });
        return command;
    }

    private CtlCommand Drops()
    {
        CtlCommand command = new("drops", "Shows why packets were dropped, by peer.", "tunnelctl drops");
        command.SetAction(parsed =>
        {
            using ControlClient client = Connect(parsed);
            JsonElement drops = Expect(JsonValueKind.Object, client.Send(HttpMethod.Get, "v1/drops"));
            Print(parsed, drops, page => DropsView.Draw(page, drops));
        });
        return command;
    }

    private CtlCommand Explain()
    {
        Argument<string> source = new("SOURCE") { Description = "a packet's source address in the overlay" };
        Argument<string> destination = new("DESTINATION") { Description = "its destination" };
        Option<string?> size = Value("--size", "BYTES", "its length with the IP header; default 84, an ordinary ping");
        CtlCommand command = new("explain", "Says step by step what would become of a packet. Nothing is sent.", "tunnelctl explain 172.17.51.2 172.17.52.2");
        command.Arguments.Add(source);
        command.Arguments.Add(destination);
        command.Options.Add(size);
        command.SetAction(parsed =>
        {
            using ControlClient client = Connect(parsed);
            string query = $"source={Uri.EscapeDataString(parsed.GetRequiredValue(source))}&destination={Uri.EscapeDataString(parsed.GetRequiredValue(destination))}" +
                Length('&', parsed.GetValue(size));
            JsonElement explanation = Expect(JsonValueKind.Object, client.Send(HttpMethod.Get, $"v1/explain?{query}"));
            Print(parsed, explanation, page => ExplainView.Draw(page, explanation));
            return explanation.Member("verdict").Text() is "sent" or "delivered" ? ExitCode.Done : ExitCode.Failed;
        });
        return command;
    }

    private CtlCommand Ping()
    {
        Argument<string> name = PeerName("PEER", "whose daemon to ask");
        Option<int> count = Count("how often to ask, a second apart; default 4", 4);
        Option<string?> size = Value("--size", "BYTES", "how long the question is as an inner packet; default 84");
        CtlCommand command = new("ping", "Asks a peer's daemon through the tunnel, and says how long the answers take.", "tunnelctl ping vm2 -c 2");
        command.Arguments.Add(name);
        command.Options.Add(count);
        command.Options.Add(size);
        command.SetAction(parsed =>
        {
            string path = ControlClient.PeerPath(parsed.GetRequiredValue(name)) + "/ping" + Length('?', parsed.GetValue(size));
            PingReport report = new(_surroundings.Output, parsed.GetValue(Json));
            int left = parsed.GetValue(count);
            while (true)
            {
                using ControlClient client = Connect(parsed);
                report.Add(Expect(JsonValueKind.Object, client.Send(HttpMethod.Post, path)));
                if (--left == 0)
                    return report.End() ? ExitCode.Done : ExitCode.Failed;

                _surroundings.Pause(TimeSpan.FromSeconds(1));
            }
        });
        return command;
    }

    private CtlCommand Doctor()
    {
        Argument<string> name = PeerName("PEER", "only this host and this peer", optional: true);
        CtlCommand command = new("doctor", "Finds what is wrong, and names the commands that mend it.", "tunnelctl doctor");
        command.Arguments.Add(name);
        command.SetAction(parsed =>
        {
            JsonElement findings;
            try
            {
                using ControlClient client = Connect(parsed, DoctorTimeout);
                string query = parsed.GetValue(name) is { } peer ? $"?peer={Uri.EscapeDataString(peer)}" : "";
                findings = Expect(JsonValueKind.Array, client.Send(HttpMethod.Get, $"v1/doctor{query}"));
            }
            catch (Failure failure) when (failure.ExitCode == ExitCode.NotReachable)
            {
                JsonElement here = HostCheckup.Look(_surroundings.ReadFile);
                Print(parsed, here, page => DoctorView.Draw(page, here, whole: false));
                throw;
            }

            Print(parsed, findings, page => DoctorView.Draw(page, findings, whole: true));
            return findings.Items().Any() ? ExitCode.Found : ExitCode.Done;
        });
        return command;
    }

    private CtlCommand Capture()
    {
        Option<string?> peer = Value("--peer", "PEER", "only this peer's packets");
        Option<string?> file = new("-w", "--write") { HelpName = "FILE", Description = "write them as pcapng, for Wireshark; - is stdout" };
        Option<int> count = Count("end after so many packets; default: at Ctrl-C", 0);
        Option<string?> snapLength = Value("--snaplen", "BYTES", "take at most so much of a packet; default: all of it");
        CtlCommand command = new("capture", "Shows inner packets as they come and go, and why some are dropped.", "tunnelctl capture --peer vm2 -c 10");
        foreach (Option option in new Option[] { peer, file, count, snapLength })
            command.Options.Add(option);

        command.SetAction(parsed =>
        {
            string[] query =
            [
                .. parsed.GetValue(peer) is { } name ? [$"peer={Uri.EscapeDataString(name)}"] : Array.Empty<string>(),
                .. parsed.GetValue(snapLength) is { } bytes ? [$"snaplen={Uri.EscapeDataString(bytes)}"] : Array.Empty<string>(),
            ];
            CaptureRun run = new(_surroundings, parsed.GetValue(file), parsed.GetValue(count), parsed.GetValue(Json));
            using ControlClient client = Connect(parsed);
            run.Copy(client.Open("v1/capture" + (query.Length == 0 ? "" : "?" + string.Join('&', query))));
        });
        return command;
    }

    private CtlCommand Top()
    {
        Option<int> count = Count("end after so many looks; default: at Ctrl-C", 0);
        Option<double> interval = new("--interval") { HelpName = "SECONDS", Description = "how long between two looks; default 2", DefaultValueFactory = _ => 2 };
        interval.Validators.Add(UsageErrors.CheckValue);
        interval.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && !(double.TryParse(result.Tokens[0].Value, CultureInfo.InvariantCulture, out double seconds) && seconds is >= 0.1 and <= 3600))
                result.AddError($"--interval does not take '{result.Tokens[0].Value}'");
        });
        CtlCommand command = new("top", "Shows again and again how much each peer sends and gets.", "tunnelctl top -c 1");
        command.Options.Add(count);
        command.Options.Add(interval);
        command.SetAction(parsed =>
        {
            TopView view = new();
            view.Start(Peers());
            CancellationToken interrupted = _surroundings.Interrupted();
            double seconds = parsed.GetValue(interval);
            int left = parsed.GetValue(count);
            bool isFirst = true;
            while (!interrupted.IsCancellationRequested)
            {
                _surroundings.Wait(TimeSpan.FromSeconds(seconds), interrupted);
                if (interrupted.IsCancellationRequested)
                    break;

                JsonElement peers = Peers();
                if (parsed.GetValue(Json))
                    _surroundings.Output.WriteLine(Ctl.Json.Compact(peers));
                else
                    Draw(view, peers, seconds, isFirst);

                _surroundings.Output.Flush();
                isFirst = false;
                if (--left == 0)
                    break;
            }

            JsonElement Peers()
            {
                using ControlClient client = Connect(parsed);
                return Expect(JsonValueKind.Array, client.Send(HttpMethod.Get, "v1/peers"));
            }
        });
        return command;
    }

    // A terminal shows one table in place of the one before; elsewhere they follow one another.
    private void Draw(TopView view, JsonElement peers, double seconds, bool isFirst)
    {
        if (_surroundings.TerminalWidth is not null)
            _surroundings.Output.Write("\e[H\e[2J");
        else if (!isFirst)
            _surroundings.Output.WriteLine();

        view.Draw(Page(), peers, seconds);
    }

    private CtlCommand DockerConfig()
    {
        Option<string?> subnet = Value("--subnet", "CIDR", "this host's container subnet; default: the first IPv4 one of `subnets` in the configuration");
        CtlCommand command = new("docker-config", "Prints what /etc/docker/daemon.json needs for containers of this host.", "tunnelctl docker-config");
        command.Options.Add(subnet);
        command.SetAction(parsed =>
        {
            // A wrong command line is told whether a daemon runs or not.
            IPNetwork? named = parsed.GetValue(subnet) is string text ? DockerSettings.Parse(text) : null;
            using ControlClient client = Connect(parsed);
            JsonElement network = Expect(JsonValueKind.Object, client.Send(HttpMethod.Get, "v1/network"));
            _surroundings.Output.WriteLine(DockerSettings.Write(network, named, parsed.GetValue(Json)));
        });
        return command;
    }

    private static Argument<string> Target()
    {
        Argument<string> target = new("CONTAINER|PID|NETNS") { Description = "a container of docker or podman, a process, or a network namespace" };
        target.Validators.Add(result => UsageErrors.CheckName(result, "container"));
        return target;
    }

    private CtlCommand Attach()
    {
        Argument<string> target = Target();
        Argument<string> address = new("ADDRESS/PREFIX") { Description = "its address, in one of this host's subnets" };
        Option<string?> bridge = Value("--bridge", "NAME", "the host's bridge; default: the one with an address in that subnet");
        Option<string?> name = Value("--interface", "NAME", "the interface's name in the container; default: the first free one from eth1");
        CtlCommand command = new("attach", "Gives a running container an interface in the overlay. Needs root.", "tunnelctl attach web 172.17.51.100/24");
        command.Arguments.Add(target);
        command.Arguments.Add(address);
        command.Options.Add(bridge);
        command.Options.Add(name);
        command.SetAction(parsed =>
        {
            (IPAddress, int) wanted = Attachment.ParseAddress(parsed.GetRequiredValue(address));
            using ControlClient client = Connect(parsed);
            JsonElement network = Expect(JsonValueKind.Object, client.Send(HttpMethod.Get, "v1/network"));
            JsonElement routes = Expect(JsonValueKind.Array, client.Send(HttpMethod.Get, "v1/routes"));
            string container = parsed.GetRequiredValue(target);
            Attached done = new Attachment(_surroundings.Host, _surroundings.Pause)
                .Attach(container, wanted, parsed.GetValue(bridge), parsed.GetValue(name), network, routes);
            _surroundings.Output.WriteLine(parsed.GetValue(Json) ? AttachText.Json(container, done) : AttachText.Line(container, done));
        });
        return command;
    }

    private CtlCommand Detach()
    {
        Argument<string> target = Target();
        Argument<string?> address = new("ADDRESS") { Description = "only the interface with this address", Arity = ArgumentArity.ZeroOrOne };
        CtlCommand command = new("detach", "Takes away what attach gave a container. Needs root.", "tunnelctl detach web");
        command.Arguments.Add(target);
        command.Arguments.Add(address);
        command.SetAction(parsed =>
        {
            string container = parsed.GetRequiredValue(target);
            (string Interface, string[] Addresses)[] removed = new Attachment(_surroundings.Host, _surroundings.Pause).Detach(container, parsed.GetValue(address));
            _surroundings.Output.WriteLine(parsed.GetValue(Json) ? AttachText.Json(container, removed) : AttachText.Line(container, removed));
        });
        return command;
    }

    private CtlCommand Reload()
    {
        CtlCommand command = new("reload", "Makes the daemon read its configuration again.", "tunnelctl reload");
        command.SetAction(parsed =>
        {
            using ControlClient client = Connect(parsed);
            JsonElement changes = Expect(JsonValueKind.Object, client.Send(HttpMethod.Post, "v1/reload"));
            _surroundings.Output.WriteLine(parsed.GetValue(Json) ? Ctl.Json.Compact(changes) : ChangeText.Reloaded(changes));
        });
        return command;
    }

    private ControlClient Connect(ParseResult parsed, TimeSpan? atLeast = null) =>
        new(Socket(parsed), atLeast > _surroundings.Timeout ? atLeast.Value : _surroundings.Timeout);

    private ControlSocket Socket(ParseResult parsed) => ControlSocket.Select(
        parsed.GetValue(_socket), parsed.GetValue(_network), parsed.GetValue(_runDirectory), _surroundings.Variable);

    private static JsonElement Expect(JsonValueKind kind, JsonElement answer) => answer.ValueKind == kind
        ? answer
        : throw new Failure(
            ExitCode.Failed,
            "the daemon's answer is not what was expected",
            "tunneld and tunnelctl must be of the same release: compare tunneld --version with tunnelctl --version");

    private void ReportPeer(ParseResult parsed, string done, JsonElement peer)
    {
        Expect(JsonValueKind.Object, peer);
        if (parsed.GetValue(Json))
        {
            _surroundings.Output.WriteLine(Ctl.Json.Compact(peer));
            return;
        }

        // The change is made; a problem that it leaves is for the person, not for a pipe.
        _surroundings.Output.WriteLine(ChangeText.Peer(done, peer));
        foreach (string problem in peer.Member("problems").Texts())
            _surroundings.Error.WriteLine($"tunnelctl: {peer.Member("name").Text()}: {problem}");
    }

    private void Print(ParseResult parsed, JsonElement answer, Action<IPage> draw)
    {
        if (parsed.GetValue(Json))
            _surroundings.Output.WriteLine(Ctl.Json.Compact(answer));
        else
            draw(Page());
    }

    private IPage Page()
    {
        if (_surroundings.TerminalWidth is not { } terminalWidth)
            return new PlainPage(_surroundings.Output);

        bool colour = string.IsNullOrEmpty(_surroundings.Variable("NO_COLOR")) && _surroundings.Variable("TERM") is not (null or "" or "dumb");
        return OnTerminal(_surroundings.Output, terminalWidth(), colour);
    }

    // Apart, so that Spectre.Console is loaded where a terminal is drawn on and nowhere else.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static TerminalPage OnTerminal(TextWriter output, int width, bool colour) => new(output, width, colour);

    private sealed class PrintVersion(TextWriter output) : SynchronousCommandLineAction
    {
        public override bool ClearsParseErrors => true;

        public override int Invoke(ParseResult parseResult)
        {
            output.WriteLine($"tunnelctl {typeof(CommandTree).Assembly.GetName().Version!.ToString(fieldCount: 3)}");
            return ExitCode.Done;
        }
    }
}
