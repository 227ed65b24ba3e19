using System.Text.RegularExpressions;

namespace Tunnel.NetworkTests.Interop;

/// <summary>What tshark and tcpdump make of a capture file. Both know nothing of our code.</summary>
internal static partial class Decoder
{
    // Where sequence numbers lead is a matter of the connection, not of a packet: what was lost on the way is no fault of its bytes. And the random
    // bytes that the tests transfer are no protocol, whatever a dissector may take them for: echo (RFC 862) takes any.
    private static readonly string[] Options =
    [
        "-n", "-d", "udp.port==4754,gre", "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE",
        "-o", "tcp.analyze_sequence_numbers:FALSE", "-d", "tcp.port==5000,echo", "-d", "udp.port==5001,echo",
    ];

    /// <summary>Skips the test where a program is missing.</summary>
    public static void SkipWhereMissing()
    {
        foreach (string program in new[] { "tshark", "tcpdump" })
        {
            Skip.IfNot(
                Environment.GetEnvironmentVariable("PATH")!.Split(':').Any(directory => File.Exists(Path.Combine(directory, program))), $"needs {program}");
        }
    }

    /// <summary>
    /// What tshark has to complain about: malformed packets, and its experts' remarks of severity warning (0x600000, epan/proto.h) and above, which
    /// wrong checksums of all kinds are among. One line a packet: number, protocols, remarks. Empty where all is well.
    /// </summary>
    public static async Task<string> TsharkComplaintsAsync(string file) =>
        (await TsharkAsync(
            file, "-Y", "_ws.malformed || _ws.short || _ws.expert.severity >= 0x600000",
            "-T", "fields", "-e", "frame.number", "-e", "frame.protocols", "-e", "_ws.expert.message")).TrimEnd();

    /// <summary>
    /// What tcpdump has to complain about in its most verbose output, line by line. Empty where all is well. It puts no fragments together, so
    /// those of outer packets are left out.
    /// </summary>
    public static async Task<string[]> TcpdumpComplaintsAsync(string file)
    {
        const string Whole = "(ip and ip[6:2] & 0x3fff = 0) or (ip6 and ip6[6] != 44)";
        string text = (await Command.RunAsync(["tcpdump", "-n", "-vvv", "-r", file, Whole])).Succeeded().Out;
        return [.. text.Split('\n').Where(line => Complaint().IsMatch(line))];
    }

    /// <summary>One row a packet: the fields' values, several of the same name with commas between, outermost first.</summary>
    public static async Task<string[][]> FieldsAsync(string file, params string[] fields)
    {
        string[] words = ["-T", "fields", .. fields.SelectMany(field => (string[])["-e", field])];
        string text = await TsharkAsync(file, words);
        return [.. text.TrimEnd('\n').Split('\n').Select(line => line.Split('\t'))];
    }

    private static async Task<string> TsharkAsync(string file, params string[] words) =>
        (await Command.RunAsync(["tshark", "-r", file, .. Options, .. words])).Succeeded().Out;

    [GeneratedRegex(@"\bbad\b|incorrect|invalid|wrong|truncated|malformed|unknown|missing|\[\|", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Complaint();
}
