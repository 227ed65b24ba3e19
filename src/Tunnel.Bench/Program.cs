using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Diagnosers;
using BenchmarkDotNet.Exporters;
using BenchmarkDotNet.Loggers;
using BenchmarkDotNet.Running;
using Tunnel.Bench;

// dotnet run -c Release --project src/Tunnel.Bench -- [--filter *Dataplane*] [--job short|medium|long] [--list flat]
// Without --filter everything runs; without --job a short job does. The benchmarks run in this process: the default toolchain
// generates and restores a project for each, which needs a package registry at hand and would tell nothing more here.
bool IsAny(params string[] options) => args.Intersect(options).Any();
string[] options =
[
    .. args,
    "--inProcess",
    .. IsAny("--job", "-j") ? (string[])[] : ["--job", "short"],
    .. IsAny("--filter", "-f", "--list") ? (string[])[] : ["--filter", "*"],
];
IConfig config = ManualConfig.CreateEmpty()
    .AddLogger(ConsoleLogger.Default)
    .AddColumnProvider(DefaultColumnProviders.Instance)
    .AddExporter(MarkdownExporter.GitHub)
    .AddDiagnoser(MemoryDiagnoser.Default);
var summaries = BenchmarkSwitcher.FromAssembly(typeof(GreBenchmarks).Assembly).Run(options, config);
return summaries.Any(summary => summary.HasCriticalValidationErrors || summary.Reports.Any(report => !report.Success)) ? 1 : 0;
