using static Tmds.Linux.LibC;

namespace Tunnel.Linux;

/// <summary>
/// A classic BPF program under construction: networking/filter.rst in the kernel's documentation. Jumps go forward to labels.
/// A load beyond the packet's end ends a program with 0.
/// </summary>
internal sealed unsafe class ClassicBpf
{
    private readonly List<sock_filter> _instructions = [];
    private readonly List<(int Instruction, string Label, bool IfTrue)> _jumps = [];
    private readonly Dictionary<string, int> _labels = [];

    /// <summary>Adds an instruction.</summary>
    /// <param name="code">Its code, as BPF_ constants put together.</param>
    /// <param name="operand">Its operand; negative for loads relative to SKF_NET_OFF or SKF_AD_OFF.</param>
    public ClassicBpf Add(int code, long operand = 0)
    {
        _instructions.Add(new sock_filter { code = (ushort)code, k = unchecked((uint)operand) });
        return this;
    }

    /// <summary>Adds a jump; a null label goes on with the next instruction.</summary>
    public ClassicBpf Jump(int condition, uint operand, string? ifTrue = null, string? ifFalse = null)
    {
        AddTarget(ifTrue, true);
        AddTarget(ifFalse, false);
        return Add(Uapi.BPF_JMP | condition | Uapi.BPF_K, operand);
    }

    /// <summary>Names the place of the next instruction.</summary>
    public ClassicBpf Label(string name)
    {
        _labels.Add(name, _instructions.Count);
        return this;
    }

    /// <summary>The finished program.</summary>
    public sock_filter[] Build()
    {
        sock_filter[] program = [.. _instructions];
        foreach ((int instruction, string label, bool ifTrue) in _jumps)
        {
            byte distance = checked((byte)(_labels[label] - instruction - 1));
            if (ifTrue)
            {
                program[instruction].jt = distance;
            }
            else
            {
                program[instruction].jf = distance;
            }
        }

        return program;
    }

    /// <summary>Makes a program a socket's filter, in place of the one that it has: SO_ATTACH_FILTER in socket(7).</summary>
    public static SysResult Attach(int socket, sock_filter[] program)
    {
        fixed (sock_filter* instructions = program)
        {
            sock_fprog filter = new() { len = (ushort)program.Length, filter = instructions };
            return Sys.SetOption(socket, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(sock_fprog));
        }
    }

    private void AddTarget(string? label, bool ifTrue)
    {
        if (label is not null)
        {
            _jumps.Add((_instructions.Count, label, ifTrue));
        }
    }
}
