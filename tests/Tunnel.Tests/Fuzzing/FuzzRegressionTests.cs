using Tunnel.Tests.Control.Configuration;
using Tunnel.Tests.Dataplane;

namespace Tunnel.Tests.Fuzzing;

/// <summary>What fuzzers ever found stays mended: each file of tests/golden/fuzz is given to the code again.</summary>
public sealed class FuzzRegressionTests
{
    [Fact]
    public async Task What_was_found_once_is_not_found_again()
    {
        var failures = new List<string>();
        foreach ((string file, FuzzCase found) in FuzzCase.All())
        {
            string? failure = await ReplayAsync(found);
            if (failure is not null)
            {
                failures.Add($"{file}: {failure}");
            }
        }

        Assert.Empty(failures);
        Assert.NotEmpty(FuzzCase.All());
    }

    private static async Task<string?> ReplayAsync(FuzzCase found)
    {
        switch (found.Target.Split('-')[0])
        {
            case "parsers":
                return found.Inputs.Select(input => ParserFuzzTests.Check(input.Bytes)).FirstOrDefault(failure => failure is not null);
            case "inbound" or "outbound":
                return FuzzTests.Replay(found.Target, found.Inputs);
            case "yaml":
                return ConfigFuzzTests.TryFile(found.Inputs[0].Bytes).Failure;
            case "json":
                return ConfigFuzzTests.TryBody(found.Inputs[0].Bytes).Failure;
            case "icmp":
                await using (IcmpFuzzTests.Subject icmp = await IcmpFuzzTests.Subject.StartAsync())
                {
                    return icmp.Handle(found.Inputs[0].Bytes);
                }

            case "http":
                await using (ControlApiFuzzTests.Subject http = await ControlApiFuzzTests.Subject.StartAsync())
                {
                    return (await http.TryAsync(found.Inputs[0].Bytes)).Failure;
                }

            default:
                return $"no such target: {found.Target}";
        }
    }
}
