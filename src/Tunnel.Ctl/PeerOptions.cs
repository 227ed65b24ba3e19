using System.CommandLine;
using System.Globalization;
using System.Text.Json;

namespace Tunnel.Ctl;

/// <summary>
/// The options that describe a peer, and the JSON that they become. Values are handed on as they are: the daemon knows what it
/// takes, and says why it refuses.
/// </summary>
internal sealed class PeerOptions
{
    private readonly bool _forNewPeer;
    private readonly Option<string?> _endpoint;
    private readonly Option<string[]> _subnets;
    private readonly Option<string?> _encapsulation;
    private readonly Option<string?> _key;
    private readonly Option<bool> _checksum;
    private readonly Option<bool> _sequence;
    private readonly Option<string?> _dscp;
    private readonly Option<string?> _ecn;
    private readonly Option<string?> _ttl;
    private readonly Option<bool> _pmtud;
    private readonly Option<bool> _strict;
    private readonly Option<string?> _keepalive;
    private readonly Option<string?> _onDown;
    private readonly Option<string?> _onRefused;
    private readonly Option<bool> _ephemeral;

    /// <summary>Makes the options.</summary>
    /// <param name="forNewPeer">Whether they describe a new peer, for which endpoint and subnets are required, or changes to one.</param>
    public PeerOptions(bool forNewPeer)
    {
        _forNewPeer = forNewPeer;
        _endpoint = new("--endpoint")
        {
            HelpName = "ADDRESS",
            Description = "the peer's underlay address or DNS name, with :PORT for gre-udp",
            Required = forNewPeer,
        };
        _subnets = new("--subnet")
        {
            HelpName = "CIDR",
            Description = "an overlay subnet behind the peer; repeat it, or part them by commas",
            Required = forNewPeer,
            Arity = ArgumentArity.OneOrMore,
        };
        _encapsulation = new("--encapsulation")
        {
            HelpName = "E",
            Description = "gre, gre-udp, direct or auto",
        };
        _key = new("--key")
        {
            HelpName = KeyForm,
            Description = forNewPeer ? "the GRE key, or one for each way" : "the GRE key, one for each way, or none",
        };
        _checksum = Flag("--checksum", "send GRE checksums");
        _sequence = Flag("--sequence", "send GRE sequence numbers and drop what is old");
        _dscp = new("--dscp") { HelpName = "copy|N", Description = "the outer DSCP: the inner one's copy, or 0 to 63" };
        _ecn = new("--ecn") { HelpName = "MODE", Description = "the outer ECN field (RFC 6040): auto, normal or compatible" };
        _ttl = new("--ttl") { HelpName = "inherit|N", Description = "the outer TTL: the inner one, or 1 to 255" };
        _pmtud = new("--pmtud")
        {
            HelpName = "true|false",
            Description = "whether outer IPv4 packets always have DF, or only where the inner one has it",
            Arity = ArgumentArity.ExactlyOne,
        };
        _strict = Flag("--strict", "take only packets with checksum and sequence number just as they are sent");
        _keepalive = new("--keepalive") { HelpName = "TIME", Description = "how often to ask whether the peer is there: auto, off, 5s, or gre:5s for a router" };
        _onDown = new("--on-down") { HelpName = "keep|withdraw", Description = "what becomes of its routes while it is down" };
        _onRefused = new("--on-refused") { HelpName = "stop|retry", Description = "what to do where nobody listens at its UDP port" };
        _ephemeral = Flag("--ephemeral", "keep the peer only until the daemon ends");
        foreach (Option<bool> flag in new[] { _checksum, _sequence, _pmtud, _strict, _ephemeral })
        {
            flag.CompletionSources.Clear();
            flag.CompletionSources.Add("true", "false");
        }

        _encapsulation.CompletionSources.Add("gre", "gre-udp", "direct", "auto");
        _dscp.CompletionSources.Add("copy");
        _ecn.CompletionSources.Add("auto", "normal", "compatible");
        _ttl.CompletionSources.Add("inherit");
        _keepalive.CompletionSources.Add("auto", "off", "5s");
        _onDown.CompletionSources.Add("keep", "withdraw");
        _onRefused.CompletionSources.Add("stop", "retry");
    }

    private string KeyForm => _forNewPeer ? "N|IN:OUT" : "N|IN:OUT|none";

    /// <summary>Adds the options to a command.</summary>
    public void AddTo(Command command)
    {
        foreach (Option option in All())
        {
            option.Validators.Add(UsageErrors.CheckValue);
            command.Options.Add(option);
        }
    }

    /// <summary>Whether any of the options stands on the command line.</summary>
    public bool AnyGiven(ParseResult parsed) => Array.Exists(All(), option => IsGiven(parsed, option));

    /// <summary>The request body: what the command line names, and nothing else.</summary>
    /// <exception cref="Failure">The key has another form.</exception>
    public byte[] Body(ParseResult parsed) => Json.WriteBytes(writer =>
    {
        writer.WriteStartObject();
        if (IsGiven(parsed, _endpoint))
            writer.WriteString("endpoint", parsed.GetValue(_endpoint));

        if (IsGiven(parsed, _subnets))
        {
            writer.WriteStartArray("subnets");
            foreach (string subnet in parsed.GetRequiredValue(_subnets).SelectMany(value => value.Split(',')))
                writer.WriteStringValue(subnet);

            writer.WriteEndArray();
        }

        foreach (Option<string?> word in new[] { _encapsulation, _dscp, _ecn, _ttl, _keepalive, _onDown, _onRefused })
        {
            if (IsGiven(parsed, word))
                writer.WriteString(Property(word), parsed.GetValue(word));
        }

        if (IsGiven(parsed, _key))
            WriteKey(writer, parsed.GetValue(_key)!);

        foreach (Option<bool> flag in new[] { _checksum, _sequence, _pmtud, _strict, _ephemeral })
        {
            if (IsGiven(parsed, flag))
                writer.WriteBoolean(Property(flag), parsed.GetValue(flag));
        }

        writer.WriteEndObject();
    });

    private static string Property(Option option) => option.Name.TrimStart('-');

    private static bool IsGiven(ParseResult parsed, Option option) => parsed.GetResult(option) is { Implicit: false };

    private static bool TryNumber(string text, out ulong number) =>
        ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out number);

    // A change must be able to turn it off again.
    private Option<bool> Flag(string name, string description) => new(name)
    {
        HelpName = _forNewPeer ? null : "true|false",
        Description = description,
        Arity = _forNewPeer ? ArgumentArity.Zero : ArgumentArity.ZeroOrOne,
    };

    private Option[] All() =>
        [_endpoint, _subnets, _encapsulation, _key, _checksum, _sequence, _dscp, _ecn, _ttl, _pmtud, _strict, _keepalive, _onDown, _onRefused, _ephemeral];

    private void WriteKey(Utf8JsonWriter writer, string text)
    {
        if (text == "none" && !_forNewPeer)
        {
            writer.WriteNull("key");
            return;
        }

        if (TryNumber(text, out ulong key))
        {
            writer.WriteNumber("key", key);
            return;
        }

        string[] parts = text.Split(':');
        if (parts.Length != 2 || !TryNumber(parts[0], out ulong keyIn) || !TryNumber(parts[1], out ulong keyOut))
            throw new Failure(ExitCode.Usage, $"--key does not take '{text}'", $"--key {KeyForm}, decimal");

        writer.WriteStartObject("key");
        writer.WriteNumber("in", keyIn);
        writer.WriteNumber("out", keyOut);
        writer.WriteEndObject();
    }
}
