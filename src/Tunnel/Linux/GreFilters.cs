using Tunnel.Wire;

namespace Tunnel.Linux;

/// <summary>
/// The socket filters of the underlay. Several workers share the packets of plain GRE by inner flow: a flow is always received by the
/// same worker, so that its order is kept.
/// </summary>
internal static class GreFilters
{
    private const int Ip = Uapi.SKF_NET_OFF;
    private const int LoadByte = Uapi.BPF_LD | Uapi.BPF_B;
    private const int LoadHalf = Uapi.BPF_LD | Uapi.BPF_H;
    private const int LoadWord = Uapi.BPF_LD | Uapi.BPF_W;
    private const int Abs = Uapi.BPF_ABS;
    private const int Ind = Uapi.BPF_IND;
    private const int Alu = Uapi.BPF_ALU;
    private const int AluX = Uapi.BPF_ALU | Uapi.BPF_X;
    private const int Tax = Uapi.BPF_MISC | Uapi.BPF_TAX;
    private const int Store = Uapi.BPF_ST;
    private const int StoreX = Uapi.BPF_STX;
    private const int LoadMem = Uapi.BPF_LD | Uapi.BPF_MEM;
    private const int LoadXMem = Uapi.BPF_LDX | Uapi.BPF_MEM;
    private const int Return = Uapi.BPF_RET | Uapi.BPF_K;
    private const uint WholePacket = uint.MaxValue;

    // Scratch memory.
    private const int Inner = 0;
    private const int Hash = 1;

    /// <summary>Takes nothing.</summary>
    public static sock_filter[] Nothing { get; } = new ClassicBpf().Add(Return, 0).Build();

    /// <summary>Takes everything.</summary>
    public static sock_filter[] Everything { get; } = new ClassicBpf().Add(Return, WholePacket).Build();

    /// <summary>For packet sockets: IPv4 packets of protocol 47 that are addressed to this host's link-layer address.</summary>
    public static sock_filter[] GreToThisHost { get; } = new ClassicBpf()
        .Add(LoadByte | Abs, Ip + 9)
        .Jump(Uapi.BPF_JEQ, IpProtocol.Gre, ifFalse: "no")
        .Add(LoadByte | Abs, Uapi.SKF_AD_OFF + Uapi.SKF_AD_PKTTYPE)
        .Jump(Uapi.BPF_JEQ, Uapi.PACKET_HOST, ifFalse: "no")
        .Add(Return, WholePacket)
        .Label("no").Add(Return, 0)
        .Build();

    /// <summary>For raw sockets, which each get every packet: those whose inner flow is this worker's.</summary>
    /// <param name="isIpv6">Whether the socket is an IPv6 socket: then a packet begins with its GRE header for the filter.</param>
    /// <param name="worker">The worker's number.</param>
    /// <param name="workers">How many there are.</param>
    public static sock_filter[] FlowsOf(bool isIpv6, int worker, int workers) =>
        workers == 1 ? Everything : FlowNumber(new ClassicBpf(), isIpv6, workers)
            .Jump(Uapi.BPF_JEQ, (uint)worker, ifFalse: "no")
            .Add(Return, WholePacket)
            .Label("no").Add(Return, 0)
            .Build();

    /// <summary>For a fan-out group of packet sockets: the number of the worker that an IPv4 packet's inner flow belongs to.</summary>
    public static sock_filter[] WorkerOfFlow(int workers) =>
        FlowNumber(new ClassicBpf(), isIpv6: false, workers).Add(Uapi.BPF_RET | Uapi.BPF_A).Build();

    // A packet is looked at from its IPv4 header, or for a raw IPv6 socket from its GRE header: there the kernel has it begin, for raw sockets and
    // for fan-out groups alike. Leaves the worker's number in A. A packet too short for an inner header is the first worker's, so that it is counted once.
    private static ClassicBpf FlowNumber(ClassicBpf program, bool isIpv6, int workers)
    {
        const int at = 0;
        if (isIpv6)
        {
            program.Add(Uapi.BPF_LDX | Uapi.BPF_IMM, 0);
        }
        else
        {
            // X: where GRE begins.
            program.Add(LoadByte | Abs, at).Add(Alu | Uapi.BPF_AND, 0x0f).Add(Alu | Uapi.BPF_LSH, 2).Add(Tax);
        }

        // The length of the GRE header: 4 bytes, and 4 more for each of the flags C, K and S.
        program.Add(StoreX, Inner);
        Require(program, GreHeader.MinLength, orElse: "short")
            .Add(LoadHalf | Ind, at).Add(Alu | Uapi.BPF_RSH, 13).Add(Alu | Uapi.BPF_AND, 4).Add(Store, Hash)
            .Add(LoadHalf | Ind, at).Add(Alu | Uapi.BPF_RSH, 11).Add(Alu | Uapi.BPF_AND, 4)
            .Add(LoadXMem, Hash).Add(AluX | Uapi.BPF_ADD).Add(Store, Hash).Add(LoadXMem, Inner)
            .Add(LoadHalf | Ind, at).Add(Alu | Uapi.BPF_RSH, 10).Add(Alu | Uapi.BPF_AND, 4)
            .Add(LoadXMem, Hash).Add(AluX | Uapi.BPF_ADD).Add(LoadXMem, Inner).Add(AluX | Uapi.BPF_ADD)
            .Add(Alu | Uapi.BPF_ADD, GreHeader.MinLength).Add(Store, Inner).Add(Tax);

        // IPv4: addresses, and ports where it is no fragment.
        Require(program, Ipv4Header.Length, orElse: "short")
            .Add(LoadByte | Ind, at).Add(Alu | Uapi.BPF_RSH, 4)
            .Jump(Uapi.BPF_JEQ, 6, ifTrue: "ipv6")
            .Jump(Uapi.BPF_JEQ, 4, ifFalse: "short")
            .Add(LoadWord | Ind, at + 12).Add(Store, Hash)
            .Add(LoadWord | Ind, at + 16).Add(LoadXMem, Hash).Add(AluX | Uapi.BPF_ADD).Add(Store, Hash).Add(LoadXMem, Inner)
            .Add(LoadHalf | Ind, at + 6).Jump(Uapi.BPF_JSET, 0x3fff, ifTrue: "mix")
            .Add(LoadByte | Ind, at + 9)
            .Jump(Uapi.BPF_JEQ, IpProtocol.Tcp, ifTrue: "ports")
            .Jump(Uapi.BPF_JEQ, IpProtocol.Udp, ifFalse: "mix")
            .Label("ports")
            .Add(LoadByte | Ind, at).Add(Alu | Uapi.BPF_AND, 0x0f).Add(Alu | Uapi.BPF_LSH, 2).Add(AluX | Uapi.BPF_ADD).Add(Tax);
        AddPorts(program, at);

        // IPv6: the lower quarters of the addresses, and ports where TCP or UDP comes first.
        Require(program.Label("ipv6"), Ipv6Header.Length, orElse: "short")
            .Add(LoadWord | Ind, at + 20).Add(Store, Hash)
            .Add(LoadWord | Ind, at + 36).Add(LoadXMem, Hash).Add(AluX | Uapi.BPF_ADD).Add(Store, Hash).Add(LoadXMem, Inner)
            .Add(LoadByte | Ind, at + 6)
            .Jump(Uapi.BPF_JEQ, IpProtocol.Tcp, ifTrue: "ports6")
            .Jump(Uapi.BPF_JEQ, IpProtocol.Udp, ifFalse: "mix")
            .Label("ports6")
            .Add(Uapi.BPF_LD | Uapi.BPF_IMM, Ipv6Header.Length).Add(AluX | Uapi.BPF_ADD).Add(Tax);
        AddPorts(program, at);

        return program
            .Label("short").Add(Uapi.BPF_LD | Uapi.BPF_IMM, 0).Add(Store, Hash)
            .Label("mix")
            .Add(LoadMem, Hash).Add(Alu | Uapi.BPF_MUL, 0x9e37_79b1).Add(Alu | Uapi.BPF_RSH, 12)
            .Add(Alu | Uapi.BPF_MOD, workers);
    }

    // Goes elsewhere where fewer bytes than this follow X.
    private static ClassicBpf Require(ClassicBpf program, int bytes, string orElse) => program
        .Add(LoadWord | Uapi.BPF_LEN).Add(AluX | Uapi.BPF_SUB)
        .Jump(Uapi.BPF_JGE, 0x8000_0000, ifTrue: orElse)
        .Jump(Uapi.BPF_JGE, (uint)bytes, ifFalse: orElse);

    // X: where the transport header begins.
    private static void AddPorts(ClassicBpf program, int at) => Require(program, 4, orElse: "mix")
        .Add(LoadWord | Ind, at).Add(LoadXMem, Hash).Add(AluX | Uapi.BPF_XOR).Add(Store, Hash)
        .Jump(Uapi.BPF_JGE, 0, ifTrue: "mix");
}
