using System.CommandLine;
using Tunnel;
using Tunnel.Control;
using Tunnel.Control.Configuration;
using Tunnel.Linux;

// The composition root: reads the command line and wires the rooms together. First, as it concerns what threads take from now on:
NativeHeap.KeepSmall();

var configOption = new Option<string>("--config")
{
    Description = "The network's configuration file; its base name is the network's and the TUN device's name.",
    HelpName = "FILE",
    Required = true,
};
var checkOption = new Option<bool>("--check") { Description = "Only check the configuration: exit 0 where it is good, 78 where it is not." };
var runDirOption = new Option<string>("--run-dir")
{
    Description = "Where the control socket NETWORK.sock is made.",
    HelpName = "DIR",
    DefaultValueFactory = _ => "/run/tunnel",
};
var handoverOption = new Option<bool>("--handover") { Description = "Take the network over from the tunneld that serves it now, without losing a packet." };
var root = new RootCommand("Joins the container subnets of many hosts into one routed network through GRE.")
{
    configOption,
    checkOption,
    runDirOption,
    handoverOption,
};

// "@" is a character like any other here, not the beginning of a file with further arguments.
ParseResult parsed = root.Parse(args, new ParserConfiguration { ResponseFileTokenReplacer = null });
if (args is ["--version"])
{
    Console.WriteLine($"tunneld {NetworkController.Version}");
    return ExitCodes.Done;
}

if (parsed.Errors.Count > 0)
{
    Console.Error.WriteLine($"tunneld: {parsed.Errors[0].Message.TrimEnd('.')} (usage: tunneld --config FILE [--check] [--run-dir DIR] [--handover] [--version])");
    return ExitCodes.Usage;
}

root.SetAction((result, _) => RunAsync(
    result.GetRequiredValue(configOption), result.GetValue(checkOption), result.GetRequiredValue(runDirOption), result.GetValue(handoverOption)));
return await parsed.InvokeAsync(new InvocationConfiguration { ProcessTerminationTimeout = null, EnableDefaultExceptionHandler = false });

static async Task<int> RunAsync(string configPath, bool checkOnly, string runDirectory, bool takesOver)
{
    ConfigResult<NetworkConfig> read = ConfigReader.Load(configPath);
    foreach (ConfigError finding in (IEnumerable<ConfigError>)[.. read.Errors, .. read.Warnings])
    {
        await Console.Error.WriteLineAsync(finding.Kind == ConfigErrorKind.Warning ? $"warning: {finding}" : finding.ToString());
    }

    if (read.Value is not NetworkConfig config)
    {
        return ExitCodes.BadConfiguration;
    }

    if (checkOnly)
    {
        Console.WriteLine($"{configPath}: good: network {config.Name}, {config.Peers.Count} peers");
        return ExitCodes.Done;
    }

    return await Daemon.RunAsync(config, [.. read.Warnings.Select(warning => warning.ToString())], runDirectory, takesOver);
}
