using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Reflection;
using System.Reflection.Metadata;
using System.Reflection.PortableExecutable;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Tmds.Linux;
using Tunnel.Linux;

namespace Tunnel.Tests.Linux;

/// <summary>
/// Compares the libc binding with the system's headers: a C program made from the binding prints what the compiler thinks of every
/// constant, size and offset, and the two must agree. The binding is enumerated by reflection, so nothing can be forgotten;
/// a name that C does not know fails the compilation. With Tmds.LibC it is what tunneld.dll refers to in that package.
/// </summary>
public sealed class LibCLayoutTests
{
    private const string Headers = """
        #define _GNU_SOURCE
        #include <stddef.h>
        #include <stdio.h>
        #include <errno.h>
        #include <fcntl.h>
        #include <grp.h>
        #include <malloc.h>
        #include <poll.h>
        #include <unistd.h>
        #include <sys/eventfd.h>
        #include <sys/ioctl.h>
        #include <sys/mman.h>
        #include <sys/socket.h>
        #include <sys/uio.h>
        #include <sys/un.h>
        #include <netinet/in.h>
        #include <netinet/udp.h>
        #include <linux/bpf.h>
        #include <linux/ethtool.h>
        #include <linux/filter.h>
        #include <linux/if.h>
        #include <linux/if_addr.h>
        #include <linux/if_arp.h>
        #include <linux/if_ether.h>
        #include <linux/if_link.h>
        #include <linux/if_packet.h>
        #include <linux/if_tun.h>
        #include <linux/ipv6_route.h>
        #include <linux/neighbour.h>
        #include <linux/netfilter.h>
        #include <linux/netfilter/nf_tables.h>
        #include <linux/netfilter/nfnetlink.h>
        #include <linux/netlink.h>
        #include <linux/pkt_cls.h>
        #include <linux/rtnetlink.h>
        #include <linux/sock_diag.h>
        #include <linux/sockios.h>
        #include <linux/version.h>
        #include <linux/virtio_net.h>
        #include <linux/xfrm.h>
        #if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
        #define BPF_TCX_INGRESS 46
        #define BPF_F_ADJ_ROOM_DECAP_L3_IPV4 (1 << 7)
        #define BPF_F_ADJ_ROOM_DECAP_L3_IPV6 (1 << 8)
        #endif
        #ifndef TUN_F_USO4 // headers before Linux 6.2
        #define TUN_F_USO4 0x20
        #define TUN_F_USO6 0x40
        #endif
        #if LINUX_VERSION_CODE < KERNEL_VERSION(6, 17, 0)
        #define TUN_F_UDP_TUNNEL_GSO 0x080
        #define TUN_F_UDP_TUNNEL_GSO_CSUM 0x100
        #define VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM 8
        #define VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4 0x20
        struct virtio_net_hdr_v1_hash_tunnel { struct virtio_net_hdr_v1_hash hash_hdr; __le16 outer_th_offset, inner_nh_offset; };
        #endif

        """;

    private static readonly Assembly Product = typeof(Uapi).Assembly;

    private static bool UsesPackage => typeof(LibC).Assembly != Product;

    [SkippableFact]
    public void ConstantsAreThoseOfTheHeaders()
    {
        List<(string Name, object Value)> constants = [.. LibCConstants(), .. UapiConstants()];
        Assert.True(constants.Count > (UsesPackage ? 20 : 100), "the binding was not enumerated");

        Dictionary<string, string> actual = RunC(constants.Select(constant =>
            $"printf(\"{constant.Name} %llx\\n\", {Mask(constant.Value)} & (unsigned long long)({constant.Name}));"));

        AssertSame(
            constants.Select(constant => (constant.Name, (Unsigned(constant.Value) & Mask64(constant.Value)).ToString("x", CultureInfo.InvariantCulture))),
            actual);
    }

    [SkippableFact]
    public void StructuresAreThoseOfTheHeaders()
    {
        var expected = new List<(string Name, string Value)>();
        var statements = new List<string>();
        foreach (Type type in Structures())
        {
            string name = CName(type);
            expected.Add(($"sizeof({type.Name})", SizeOf(type).ToString(CultureInfo.InvariantCulture)));
            statements.Add($"printf(\"sizeof({type.Name}) %zu\\n\", sizeof({name}));");
            foreach ((string field, int offset, int size) in Fields(type))
            {
                expected.Add(($"{type.Name}.{field}", $"{offset}+{size}"));
                statements.Add($"printf(\"{type.Name}.{field} %zu+%zu\\n\", offsetof({name}, {field}), sizeof((({name}*)0)->{field}));");
            }
        }

        Assert.True(expected.Count > (UsesPackage ? 40 : 100), "the binding was not enumerated");
        AssertSame(expected, RunC(statements));
    }

    [SkippableFact]
    public void AncillaryMessagesAreSpacedAsInTheHeaders()
    {
        int[] lengths = [.. Enumerable.Range(0, 41)];
        Dictionary<string, string> actual = RunC(lengths.Select(length =>
            $"printf(\"{length} %zu %zu\\n\", (size_t)CMSG_SPACE({length}), (size_t)CMSG_ALIGN({length}));"));

        AssertSame(lengths.Select(length => (length.ToString(CultureInfo.InvariantCulture), $"{LibC.CMSG_SPACE(length)} {LibC.CMSG_ALIGN(length)}")), actual);
    }

    private static IEnumerable<(string Name, object Value)> LibCConstants()
    {
        HashSet<string>? inUse = UsesPackage ? ReferencedConstants() : null;
        return from property in typeof(LibC).GetProperties(BindingFlags.Static | BindingFlags.Public)
               where property.Name != nameof(LibC.errno) && (inUse is null || inUse.Contains(property.Name))
               select (property.Name, property.GetValue(null)!);
    }

    private static IEnumerable<(string Name, object Value)> UapiConstants() =>
        from field in typeof(Uapi).GetFields(BindingFlags.Static | BindingFlags.Public | BindingFlags.NonPublic)
        select (field.Name, field.GetRawConstantValue()!);

    // C's structures have lower-case names; ours have not.
    private static IEnumerable<Type> Structures()
    {
        HashSet<string>? inUse = UsesPackage ? ReferencedTypes() : null;
        return from type in Product.GetTypes().Concat(typeof(LibC).Assembly.GetTypes()).Distinct()
               where type.IsValueType && !type.IsNested && char.IsAsciiLetterLower(type.Name[0])
               where type.Namespace == "Tunnel.Linux" || (type.Namespace == "Tmds.Linux" && (inUse is null || inUse.Contains(type.Name)))
               orderby type.Name
               select type;
    }

    private static string CName(Type type) => type.Name switch
    {
        "ulong_t" => "unsigned long",
        string name when name.EndsWith("_t", StringComparison.Ordinal) => name,
        string name => "struct " + name,
    };

    private static IEnumerable<(string Name, int Offset, int Size)> Fields(Type type)
    {
        if (type.Name.EndsWith("_t", StringComparison.Ordinal))
        {
            yield break;
        }

        foreach (FieldInfo field in type.GetFields(BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic))
        {
            string name = field.Name.StartsWith('<') ? field.Name[1..field.Name.IndexOf('>', StringComparison.Ordinal)] : field.Name;
            if (field.IsPrivate && name == field.Name)
            {
                // Behind a property of the same name without the underscore, or padding.
                name = name.TrimStart('_');
                if (type.GetProperty(name) is null)
                {
                    Assert.True(UsesPackage, $"{type.Name}.{field.Name} has no name in C");
                    continue;
                }
            }

            yield return (name, (int)Marshal.OffsetOf(type, field.Name), SizeOf(field.FieldType));
        }
    }

    private static int SizeOf(Type type) => type.IsPointer
        ? IntPtr.Size
        : (int)typeof(Unsafe).GetMethod(nameof(Unsafe.SizeOf))!.MakeGenericMethod(type).Invoke(null, null)!;

    private static ulong Unsigned(object value) => unchecked((ulong)ToInt64(value));

    private static long ToInt64(object value) => value is IConvertible number
        ? number.ToInt64(CultureInfo.InvariantCulture)
        : (int)value.GetType().GetMethods().First(method => method.Name == "op_Implicit" && method.ReturnType == typeof(int)).Invoke(null, [value])!;

    private static ulong Mask64(object value) => ulong.MaxValue >> (64 - (8 * SizeOf(value.GetType())));

    private static string Mask(object value) => $"0x{Mask64(value):x}ULL";

    private static void AssertSame(IEnumerable<(string Name, string Value)> expected, Dictionary<string, string> actual)
    {
        string[] wrong =
        [
            .. from pair in expected
               where !actual.TryGetValue(pair.Name, out string? value) || value != pair.Value
               select $"{pair.Name}: binding {pair.Value}, headers {actual.GetValueOrDefault(pair.Name)}",
        ];
        Assert.True(wrong.Length == 0, string.Join('\n', wrong));
    }

    // Each statement prints one line: a name, a space, a value.
    private static Dictionary<string, string> RunC(IEnumerable<string> statements)
    {
        DirectoryInfo directory = Directory.CreateTempSubdirectory("libc-layout-");
        try
        {
            string source = Path.Combine(directory.FullName, "layout.c");
            string program = Path.Combine(directory.FullName, "layout");
            File.WriteAllText(source, $"{Headers}int main(void)\n{{\n{string.Join('\n', statements)}\nreturn 0;\n}}\n");
            Run("cc", ["-o", program, source]);
            return Run(program, []).Split('\n', StringSplitOptions.RemoveEmptyEntries)
                .Select(line => line.Split(' ', 2))
                .ToDictionary(parts => parts[0], parts => parts[1], StringComparer.Ordinal);
        }
        finally
        {
            directory.Delete(recursive: true);
        }
    }

    private static string Run(string program, string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments) { UseShellExecute = false, RedirectStandardOutput = true, RedirectStandardError = true };
        Process? started = null;
        try
        {
            started = Process.Start(start);
        }
        catch (Win32Exception)
        {
            Skip.If(program == "cc", "needs a C compiler: cc is not installed");
            throw;
        }

        using Process process = started!;
        var errors = new StringBuilder();
        process.ErrorDataReceived += (_, line) => errors.AppendLine(line.Data);
        process.BeginErrorReadLine();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, $"{program} failed:\n{errors}");
        return output;
    }

    private static HashSet<string> ReferencedConstants()
    {
        using var stream = new PEReader(File.OpenRead(Product.Location));
        MetadataReader metadata = stream.GetMetadataReader();
        return
        [
            .. from handle in metadata.MemberReferences
               let member = metadata.GetMemberReference(handle)
               where member.Parent.Kind == HandleKind.TypeReference &&
                     IsPackageType(metadata, (TypeReferenceHandle)member.Parent, out string type) && type == nameof(LibC)
               let name = metadata.GetString(member.Name)
               where name.StartsWith("get_", StringComparison.Ordinal)
               select name[4..],
        ];
    }

    private static HashSet<string> ReferencedTypes()
    {
        using var stream = new PEReader(File.OpenRead(Product.Location));
        MetadataReader metadata = stream.GetMetadataReader();
        var names = new HashSet<string>(StringComparer.Ordinal);
        foreach (TypeReferenceHandle handle in metadata.TypeReferences)
        {
            if (IsPackageType(metadata, handle, out string name))
            {
                names.Add(name);
            }
        }

        return names;
    }

    private static bool IsPackageType(MetadataReader metadata, TypeReferenceHandle handle, out string name)
    {
        TypeReference type = metadata.GetTypeReference(handle);
        name = metadata.GetString(type.Name);
        return metadata.GetString(type.Namespace) == "Tmds.Linux";
    }
}
