using System.Runtime.InteropServices;
using System.Text;

namespace Tunnel.Linux;

/// <summary>bpf(2): makes maps, loads programs and attaches them to devices. Needs CAP_BPF and CAP_NET_ADMIN.</summary>
internal static unsafe class Bpf
{
    // Large enough for every attribute in use; the kernel wants what it doesn't read to be zero.
    private const int AttributeSize = 128;
    private const int LogSize = 1 << 16;

    /// <summary>Makes an array map whose keys are 32-bit indices.</summary>
    public static SysResult CreateArray(int valueSize, int entries)
    {
        uint* attribute = stackalloc uint[AttributeSize / sizeof(uint)];
        Clear(attribute);
        attribute[0] = Uapi.BPF_MAP_TYPE_ARRAY;
        attribute[1] = sizeof(uint);
        attribute[2] = (uint)valueSize;
        attribute[3] = (uint)entries;
        return Call(Uapi.BPF_MAP_CREATE, attribute);
    }

    /// <summary>Writes an element of an array map.</summary>
    public static SysResult Update(int map, uint index, void* value)
    {
        ulong* attribute = stackalloc ulong[AttributeSize / sizeof(ulong)];
        Clear(attribute);
        attribute[0] = (uint)map;
        attribute[1] = (ulong)&index;
        attribute[2] = (ulong)value;
        return Call(Uapi.BPF_MAP_UPDATE_ELEM, attribute);
    }

    /// <summary>Loads a program for tcx.</summary>
    /// <param name="program">Its instructions.</param>
    /// <param name="log">What the verifier says where it refuses.</param>
    public static SysResult Load(BpfInstruction[] program, out string log)
    {
        byte[] logBuffer = new byte[LogSize];
        fixed (BpfInstruction* instructions = program)
        fixed (byte* logBytes = logBuffer)
        fixed (byte* license = "GPL\0"u8)
        {
            ulong* attribute = stackalloc ulong[AttributeSize / sizeof(ulong)];
            Clear(attribute);
            ((uint*)attribute)[0] = Uapi.BPF_PROG_TYPE_SCHED_CLS;
            ((uint*)attribute)[1] = (uint)program.Length;
            attribute[1] = (ulong)instructions;
            attribute[2] = (ulong)license;
            SysResult loaded = Call(Uapi.BPF_PROG_LOAD, attribute);
            if (loaded.IsError)
            {
                ((uint*)attribute)[6] = 1;
                ((uint*)attribute)[7] = LogSize;
                attribute[4] = (ulong)logBytes;
                loaded = Call(Uapi.BPF_PROG_LOAD, attribute);
            }

            log = loaded.IsError ? Encoding.ASCII.GetString(MemoryMarshal.CreateReadOnlySpanFromNullTerminated(logBytes)) : "";
            return loaded;
        }
    }

    /// <summary>Attaches a program to what a device receives; for as long as the returned descriptor is open (tcx: Linux 6.6).</summary>
    public static SysResult AttachIngress(int program, int linkIndex)
    {
        uint* attribute = stackalloc uint[AttributeSize / sizeof(uint)];
        Clear(attribute);
        attribute[0] = (uint)program;
        attribute[1] = (uint)linkIndex;
        attribute[2] = Uapi.BPF_TCX_INGRESS;
        return Call(Uapi.BPF_LINK_CREATE, attribute);
    }

    private static void Clear(void* attribute) => new Span<byte>(attribute, AttributeSize).Clear();

    // asm/unistd.h: the number differs between architectures.
    private static SysResult Call(int command, void* attribute)
    {
        int number = RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? 280 : 321;
        return SysResult.From(Uapi.syscall(number, command, attribute, AttributeSize));
    }
}

/// <summary>struct bpf_insn of linux/bpf.h, whose registers are bit fields: 4 bits each, the destination lower.</summary>
internal struct BpfInstruction
{
    /// <summary>Class, operation or size, and mode.</summary>
    public byte Code;

    /// <summary>Destination in the lower 4 bits, source in the upper.</summary>
    public byte Registers;

    /// <summary>Of memory in bytes, of a jump in instructions.</summary>
    public short Offset;

    /// <summary>A number.</summary>
    public int Immediate;
}

/// <summary>An extended BPF program under construction. Registers are numbers; jumps go forward to labels.</summary>
internal sealed class BpfAssembler
{
    private readonly List<BpfInstruction> _instructions = [];
    private readonly List<(int Instruction, string Label)> _jumps = [];
    private readonly Dictionary<string, int> _labels = [];

    /// <summary>Adds an instruction.</summary>
    public BpfAssembler Add(int code, int destination = 0, int source = 0, int offset = 0, int immediate = 0)
    {
        _instructions.Add(new BpfInstruction
        {
            Code = (byte)code,
            Registers = (byte)(destination | (source << 4)),
            Offset = (short)offset,
            Immediate = immediate,
        });
        return this;
    }

    /// <summary>Copies a register, or loads a number.</summary>
    public BpfAssembler Move(int destination, int source) => Add(Uapi.BPF_ALU64 | Uapi.BPF_MOV | Uapi.BPF_X, destination, source);

    /// <summary>Loads a number.</summary>
    public BpfAssembler Set(int destination, int value) => Add(Uapi.BPF_ALU64 | Uapi.BPF_MOV | Uapi.BPF_K, destination, immediate: value);

    /// <summary>Computes with a number.</summary>
    public BpfAssembler Compute(int operation, int destination, int value) =>
        Add(Uapi.BPF_ALU64 | operation | Uapi.BPF_K, destination, immediate: value);

    /// <summary>Computes with a register.</summary>
    public BpfAssembler ComputeWith(int operation, int destination, int source) =>
        Add(Uapi.BPF_ALU64 | operation | Uapi.BPF_X, destination, source);

    /// <summary>Swaps the lower 16 bits between host and network order and clears the others.</summary>
    public BpfAssembler ToNetwork16(int register) => Add(Uapi.BPF_ALU | Uapi.BPF_END | Uapi.BPF_TO_BE, register, immediate: 16);

    /// <summary>Loads from memory.</summary>
    public BpfAssembler Load(int size, int destination, int address, int offset) =>
        Add(Uapi.BPF_LDX | Uapi.BPF_MEM | size, destination, address, offset);

    /// <summary>Stores to memory.</summary>
    public BpfAssembler Store(int size, int address, int offset, int source) =>
        Add(Uapi.BPF_STX | Uapi.BPF_MEM | size, address, source, offset);

    /// <summary>Calls a helper; arguments in registers 1 to 5, the result in 0.</summary>
    public BpfAssembler Call(int helper) => Add(Uapi.BPF_JMP | Uapi.BPF_CALL, immediate: helper);

    /// <summary>Loads a map.</summary>
    public BpfAssembler LoadMap(int destination, int map) =>
        Add(Uapi.BPF_LD | Uapi.BPF_IMM | Uapi.BPF_DW, destination, Uapi.BPF_PSEUDO_MAP_FD, immediate: map).Add(0);

    /// <summary>Jumps where a register compares so with a number.</summary>
    public BpfAssembler JumpIf(int comparison, int register, int value, string label)
    {
        _jumps.Add((_instructions.Count, label));
        return Add(Uapi.BPF_JMP | comparison | Uapi.BPF_K, register, immediate: value);
    }

    /// <summary>Jumps where a register compares so with another.</summary>
    public BpfAssembler JumpIfRegister(int comparison, int register, int other, string label)
    {
        _jumps.Add((_instructions.Count, label));
        return Add(Uapi.BPF_JMP | comparison | Uapi.BPF_X, register, other);
    }

    /// <summary>Ends with a result.</summary>
    public BpfAssembler Exit(int result) => Set(0, result).Add(Uapi.BPF_JMP | Uapi.BPF_EXIT);

    /// <summary>Names the place of the next instruction.</summary>
    public BpfAssembler Label(string name)
    {
        _labels.Add(name, _instructions.Count);
        return this;
    }

    /// <summary>The finished program.</summary>
    public BpfInstruction[] Build()
    {
        BpfInstruction[] program = [.. _instructions];
        foreach ((int instruction, string label) in _jumps)
        {
            program[instruction].Offset = checked((short)(_labels[label] - instruction - 1));
        }

        return program;
    }
}
