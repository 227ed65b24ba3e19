using System.Text.RegularExpressions;

namespace Tunnel.NetworkTests;

/// <summary>docs/docker.md: its commands, run as they stand there, in a host of a lab.</summary>
internal static partial class DockerPage
{
    /// <summary>The blocks of a language in a section, without their indentation.</summary>
    public static async Task<string[]> BlocksAsync(string section, string language = "sh")
    {
        string page = await File.ReadAllTextAsync(Path.Combine(DockerEngine.Repository, "docs", "docker.md"));
        string text = Array.Find(page.Split("\n## "), part => part.StartsWith(section + "\n", StringComparison.Ordinal))
            ?? throw new LabException($"docs/docker.md has no section {section}");
        return
        [
            .. Block().Matches(text).Where(block => block.Groups["language"].Value == language)
                .Select(block => block.Groups["text"].Value.Replace("\n" + block.Groups["indent"].Value, "\n", StringComparison.Ordinal)),
        ];
    }

    /// <summary>
    /// Runs commands in the engine's host. There docker and tunnelctl mean this lab's, `systemctl restart docker` its engine; a service of the network runs already, and
    /// /etc/docker is the engine's directory.
    /// </summary>
    public static async Task<CommandResult> RunAsync(string commands, DockerEngine engine, Daemon daemon)
    {
        string functions = $$"""
            set -eu
            docker() { command docker --host '{{engine.Socket}}' "$@"; }
            tunnelctl() { '{{Programs.Tunnelctl}}' --socket '{{daemon.SocketFile}}' "$@"; }
            systemctl() {
              case "$*" in
                "restart docker") '{{DockerEngine.Script}}' restart '{{engine.Directory}}'; sleep 1 ;;
                "enable --now tunneld@tun0") tunnelctl show >/dev/null ;;
                *) echo "systemctl $*: not known here" >&2; return 1 ;;
              esac
            }

            """;
        return await daemon.Host.ShellAsync(functions + commands.Replace("/etc/docker/", engine.Directory + "/", StringComparison.Ordinal));
    }

    [GeneratedRegex("^(?<indent> *)```(?<language>[a-z]+)\\n(?<text>.*?)^ *```$", RegexOptions.Multiline | RegexOptions.Singleline | RegexOptions.ExplicitCapture, 1000)]
    private static partial Regex Block();
}
