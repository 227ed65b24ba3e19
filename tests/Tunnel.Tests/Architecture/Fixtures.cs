// A house whose rule is broken in every way that the test must notice: Lower must not know Upper. Nothing runs this code.
#pragma warning disable CA1812, CA1823, CA1814, CS0169, IDE0044, IDE0051, IDE0052, MA0038, MA0041, S1144, CA1852, CA1801, IDE0060, CA1822, CA2201, CS0649, MA0053

namespace Tunnel.Tests.Architecture.Fixtures.Upper
{
    internal class Thing
    {
        public const int Number = 3;

        public static int Count;

        public static T Make<T>() => default!;

        public class Inner;
    }

    internal interface IThing;

    [AttributeUsage(AttributeTargets.All)]
    internal sealed class ThingAttribute : Attribute;

    internal sealed class ThingException : Exception;

    internal enum Kind
    {
        One,
    }
}

namespace Tunnel.Tests.Architecture.Fixtures.Lower
{
    using Tunnel.Tests.Architecture.Fixtures.Upper;

    internal sealed class ByBase : Thing;

    internal sealed class ByInterface : IThing;

    [Thing]
    internal sealed class ByTypeAttribute;

    internal sealed class ByMethodAttribute
    {
        [Thing]
        public void Run()
        {
        }
    }

    internal sealed class ByField
    {
        private Thing? _field;
    }

    internal sealed class ByGenericField
    {
        private List<Dictionary<int, Thing[]>>? _field;
    }

    internal sealed class ByProperty
    {
        public Kind Kind => default;
    }

    internal sealed class ByParameter
    {
        public void Run(in Kind kind)
        {
        }
    }

    internal sealed class ByConstraint<T>
        where T : Thing;

    internal sealed class ByCall
    {
        public void Run() => _ = Thing.Make<int>();
    }

    internal sealed class ByStaticField
    {
        public void Run() => Thing.Count++;
    }

    internal sealed class ByGenericMethod
    {
        public void Run() => _ = Array.Empty<Thing>();
    }

    internal sealed class ByTypeOf
    {
        public string Run() => typeof(Thing.Inner).Name;
    }

    internal sealed class ByCast
    {
        public bool Run(object thing) => thing is Thing;
    }

    internal sealed class ByCatch
    {
        public void Run()
        {
            try
            {
                Console.Write("");
            }
            catch (ThingException)
            {
                Console.Write("");
            }
        }
    }

    internal sealed class ByLambda
    {
        public Func<object> Run() => () => new Thing();
    }

    internal sealed class ByIterator
    {
        public IEnumerable<object> Run()
        {
            yield return new Thing();
        }
    }

    internal sealed class ByAsync
    {
        public async Task<object> RunAsync()
        {
            await Task.Yield();
            return new Thing();
        }
    }

    internal sealed class Clean
    {
        public string Run() => "Tunnel.Tests.Architecture.Fixtures.Upper.Thing";
    }
}
