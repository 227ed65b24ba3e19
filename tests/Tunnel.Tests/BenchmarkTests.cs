using System.Reflection;
using BenchmarkDotNet.Attributes;

namespace Tunnel.Tests;

/// <summary>Every benchmark with all its parameters: its set-up, which throws where another way than that of its name would be measured, and one run.</summary>
public sealed class BenchmarkTests
{
    public static TheoryData<string> Benchmarks => [.. All.Select(method => $"{method.DeclaringType!.Name}.{method.Name}")];

    private static IEnumerable<MethodInfo> All =>
        typeof(Bench.DataplaneBenchmarks).Assembly.GetTypes().SelectMany(type => type.GetMethods()).Where(method => method.GetCustomAttribute<BenchmarkAttribute>() is not null);

    [Theory]
    [MemberData(nameof(Benchmarks))]
    public void A_benchmark_measures_what_it_says(string name)
    {
        MethodInfo benchmark = All.Single(method => name == $"{method.DeclaringType!.Name}.{method.Name}");
        Type type = benchmark.DeclaringType!;
        MethodInfo[] setups =
        [
            .. type.GetMethods().Where(method => method.GetCustomAttribute<GlobalSetupAttribute>() is GlobalSetupAttribute setup &&
                (setup.Targets is not { Length: > 0 } targets || targets.Contains(benchmark.Name))),
        ];
        IEnumerable<(PropertyInfo Property, object? Value)[]> cases = [[]];
        foreach (PropertyInfo property in type.GetProperties().Where(property => property.GetCustomAttribute<ParamsAttribute>() is not null))
        {
            object?[] values = property.GetCustomAttribute<ParamsAttribute>()!.Values;
            cases = cases.SelectMany(one => values.Select(value => ((PropertyInfo, object?)[])[.. one, (property, value)]));
        }

        foreach ((PropertyInfo Property, object? Value)[] one in cases)
        {
            object instance = Activator.CreateInstance(type)!;
            Array.ForEach(one, parameter => parameter.Property.SetValue(instance, parameter.Value));
            Array.ForEach(setups, setup => setup.Invoke(instance, []));
            benchmark.Invoke(instance, []);
        }
    }
}
