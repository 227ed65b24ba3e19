using System.Text.Json;

namespace Tunnel.TestSupport;

/// <summary>A packet that an independent tool has made and another one has decoded; see tests/golden/README.md.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Emit">Whether our own encapsulation must produce the same bytes.</param>
/// <param name="Bytes">The packet from its outer IP header on.</param>
/// <param name="Fields">What tshark reads: every occurrence of every field, outermost first.</param>
public sealed record GoldenPacket(string Name, bool Emit, byte[] Bytes, IReadOnlyDictionary<string, string[]> Fields)
{
    /// <summary>A field's value at its given occurrence.</summary>
    public string Text(string field, int occurrence = 0) => Fields[field][occurrence];

    /// <summary>A field's value as a number; tshark writes decimal, or hexadecimal after 0x.</summary>
    public long Number(string field, int occurrence = 0)
    {
        string text = Text(field, occurrence);
        return text.StartsWith("0x", StringComparison.Ordinal) ? Convert.ToInt64(text[2..], 16) : long.Parse(text);
    }

    /// <summary>Whether tshark found the field.</summary>
    public bool Has(string field) => Fields.ContainsKey(field);

    /// <inheritdoc/>
    public override string ToString() => Name;
}

/// <summary>The golden packets of tests/golden.</summary>
public static class GoldenPackets
{
    /// <summary>All of them, in the order of the file.</summary>
    public static IReadOnlyList<GoldenPacket> All { get; } = Load();

    /// <summary>One by name.</summary>
    public static GoldenPacket Get(string name) => All.Single(p => p.Name == name);

    private static List<GoldenPacket> Load()
    {
        using JsonDocument packets = Open("packets.json");
        using JsonDocument decoded = Open("tshark.json");
        var all = new List<GoldenPacket>();
        foreach (JsonElement packet in packets.RootElement.EnumerateArray())
        {
            string name = packet.GetProperty("name").GetString()!;
            var fields = new Dictionary<string, string[]>(StringComparer.Ordinal);
            foreach (JsonProperty field in decoded.RootElement.GetProperty(name).EnumerateObject())
            {
                fields.Add(field.Name, [.. field.Value.EnumerateArray().Select(v => v.GetString()!)]);
            }

            byte[] bytes = Convert.FromHexString(packet.GetProperty("hex").GetString()!);
            all.Add(new GoldenPacket(name, packet.GetProperty("emit").GetBoolean(), bytes, fields));
        }

        return all;
    }

    private static JsonDocument Open(string name)
    {
        using Stream stream = typeof(GoldenPackets).Assembly.GetManifestResourceStream(name)
            ?? throw new InvalidOperationException($"{name} is not a resource of this assembly");
        return JsonDocument.Parse(stream);
    }
}
