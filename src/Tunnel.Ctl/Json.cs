using System.Buffers;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;

namespace Tunnel.Ctl;

/// <summary>
/// Reading and writing JSON without reflection. Reading is lenient: a property that is missing, as with a daemon of another
/// version, reads as undefined and shows as "-" rather than ending the run.
/// </summary>
internal static class Json
{
    // Nothing here goes into a web page, so only what JSON itself demands is escaped.
    private static readonly JsonWriterOptions Options = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Writes one JSON value, compact unless it is for people, as text.</summary>
    public static string Write(Action<Utf8JsonWriter> write, bool indented = false) => Encoding.UTF8.GetString(WriteBytes(write, indented));

    /// <summary>Writes one JSON value, compact, as UTF-8.</summary>
    public static byte[] WriteBytes(Action<Utf8JsonWriter> write, bool indented = false)
    {
        ArrayBufferWriter<byte> buffer = new();
        using (Utf8JsonWriter writer = new(buffer, Options with { Indented = indented }))
            write(writer);

        return buffer.WrittenSpan.ToArray();
    }

    /// <summary>The value as compact JSON: numbers and strings as they came, white space left out.</summary>
    public static string Compact(JsonElement value) => Write(value.WriteTo);

    /// <summary>The member of an object; undefined where there is none, or where this is no object.</summary>
    public static JsonElement Member(this JsonElement value, string name) =>
        value.ValueKind == JsonValueKind.Object && value.TryGetProperty(name, out JsonElement member) ? member : default;

    /// <summary>The items of an array; none where this is no array.</summary>
    public static IEnumerable<JsonElement> Items(this JsonElement value) =>
        value.ValueKind == JsonValueKind.Array ? value.EnumerateArray() : [];

    /// <summary>The members of an object; none where this is no object.</summary>
    public static IEnumerable<JsonProperty> Members(this JsonElement value) =>
        value.ValueKind == JsonValueKind.Object ? value.EnumerateObject() : [];

    /// <summary>A string or a number as text; null for null, for what is missing and for what has no text.</summary>
    public static string? Text(this JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.String => OneLine(value.GetString()!),
        JsonValueKind.Number => value.GetRawText(),
        _ => null,
    };

    /// <summary>A number; null for everything else.</summary>
    public static double? Number(this JsonElement value) =>
        value.ValueKind == JsonValueKind.Number && value.TryGetDouble(out double number) ? number : null;

    /// <summary>A count or a number of bytes; 0 for everything else.</summary>
    public static long Count(this JsonElement value) =>
        value.ValueKind == JsonValueKind.Number && value.TryGetInt64(out long number) ? number : 0;

    /// <summary>Whether this is true.</summary>
    public static bool IsTrue(this JsonElement value) => value.ValueKind == JsonValueKind.True;

    /// <summary>The texts of an array.</summary>
    public static string[] Texts(this JsonElement value) => [.. value.Items().Select(Text).OfType<string>()];

    /// <summary>The text with control characters replaced by spaces: it can neither break a line nor steer a terminal.</summary>
    public static string OneLine(string text) =>
        text.Any(char.IsControl) ? string.Concat(text.Select(c => char.IsControl(c) ? ' ' : c)) : text;
}
