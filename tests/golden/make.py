#!/usr/bin/python3
"""Makes the golden packets: scapy builds them, tshark decodes them.

packets.json  each packet's name, whether Peer.WriteOuterHeaders must produce the same bytes, the scapy expression, the bytes
tshark.json   what an independent decoder reads in those bytes, field by field (all occurrences, outermost first)

The output is the same on every run with the same versions of scapy and tshark; see README.md.
"""
import json
import pathlib
import struct
import subprocess
import tempfile

from scapy.all import (GRE, GRE_PPTP, ICMP, IP, TCP, UDP, ICMPv6EchoRequest, ICMPv6PacketTooBig, IPOption_NOP, IPOption_RR, IPv6, Raw,
                       checksum)

HERE = pathlib.Path(__file__).resolve().parent

# The outer headers as tunneld writes them: TTL or hop limit 64, DF set, identification 0, flow label 0, traffic class 0.
OUTER = {
    4: IP(src="192.168.40.12", dst="192.168.40.11", ttl=64, id=0, flags="DF", proto=47),
    6: IPv6(src="fd00:40::12", dst="fd00:40::11", hlim=64, fl=0, tc=0, nh=47),
}
INNER = {
    4: IP(src="172.17.52.2", dst="172.17.51.2", ttl=63, id=0x1234, flags="DF"),
    6: IPv6(src="fd00:52::2", dst="fd00:51::2", hlim=63, fl=0x12345),
}
PROTO = {4: 0x0800, 6: 0x86DD}

FIELDS = """
frame.len frame.protocols
ip.version ip.hdr_len ip.dsfield ip.len ip.id ip.flags.df ip.flags.mf ip.frag_offset ip.ttl ip.proto ip.checksum ip.checksum.status ip.src ip.dst
ipv6.version ipv6.tclass ipv6.flow ipv6.plen ipv6.nxt ipv6.hlim ipv6.src ipv6.dst
gre.flags_and_version gre.flags.checksum gre.flags.key gre.flags.sequence_number gre.proto gre.checksum gre.checksum.status gre.key
gre.sequence_number
tcp.srcport tcp.dstport tcp.seq_raw tcp.hdr_len tcp.flags tcp.checksum tcp.checksum.status tcp.len
udp.srcport udp.dstport udp.length udp.checksum udp.checksum.status
icmp.type icmp.code icmp.checksum icmp.checksum.status icmp.mtu
icmpv6.type icmpv6.code icmpv6.checksum icmpv6.checksum.status icmpv6.mtu
_ws.malformed
""".split()


def transport(kind, version, size):
    payload = bytes(i & 0xFF for i in range(size))
    if kind == "tcp":
        return TCP(sport=40000, dport=3333, seq=0x01020304, ack=0x05060708, flags="PA", window=501) / payload
    if kind == "udp":
        return UDP(sport=40001, dport=40002) / payload
    echo = ICMP(type=8, id=7, seq=9) if version == 4 else ICMPv6EchoRequest(id=7, seq=9)
    return echo / payload


def inner(version, kind="tcp", size=32, **fields):
    header = INNER[version].copy()
    for name, value in fields.items():
        setattr(header, name, value)
    return header / transport(kind, version, size)


def gre(version, checksum=False, key=None, sequence=None):
    header = GRE(proto=PROTO[version], chksum_present=int(checksum))
    if key is not None:
        header.key_present, header.key = 1, key
    if sequence is not None:
        header.seqnum_present, header.seqence_number = 1, sequence
    return header


def packets():
    # What Peer.WriteOuterHeaders must produce byte for byte.
    for outer_version in (4, 6):
        for inner_version in (4, 6):
            for kind in ("tcp", "udp", "icmp"):
                yield (f"{inner_version}in{outer_version}-{kind}", True,
                       OUTER[outer_version] / gre(inner_version) / inner(inner_version, kind))
    for outer_version, inner_version in ((4, 4), (4, 6), (6, 4), (6, 6)):
        for bits in range(1, 8):
            options = {}
            name = []
            if bits & 4:
                options["checksum"] = True
                name.append("checksum")
            if bits & 2:
                options["key"] = 42 if inner_version == 4 else 0xFFFFFFFE
                name.append("key")
            if bits & 1:
                options["sequence"] = 7
                name.append("sequence")
            yield (f"{inner_version}in{outer_version}-{'-'.join(name)}", True,
                   OUTER[outer_version] / gre(inner_version, **options) / inner(inner_version, "udp", 24))
    for size in (0, 1, 2, 3, 63, 1411):
        yield (f"4in4-checksum-payload-{size}", True, OUTER[4] / gre(4, checksum=True) / inner(4, "udp", size))
        yield (f"6in6-all-payload-{size}", True, OUTER[6] / gre(6, checksum=True, key=1, sequence=0) / inner(6, "tcp", size))
    yield ("4in4-key-zero", True, OUTER[4] / gre(4, key=0) / inner(4))
    yield ("4in4-inner-options", True,
           OUTER[4] / gre(4) / inner(4, "udp", options=[IPOption_RR(routers=["1.2.3.4"]), IPOption_NOP()]))
    yield ("4in4-inner-first-fragment", True, OUTER[4] / gre(4) / inner(4, "udp", 32, flags="MF"))
    yield ("4in4-inner-last-fragment", True, OUTER[4] / gre(4) / IP(bytes(inner(4, "udp", 24, flags=0, frag=5))))

    # What others send and this implementation only receives.
    yield ("outer-ce-inner-ect0", False,
           IP(src="192.168.40.12", dst="192.168.40.11", ttl=64, proto=47, tos=0x03) / gre(4) / inner(4, tos=0x02))
    yield ("outer-ce-inner-not-ect", False,
           IP(src="192.168.40.12", dst="192.168.40.11", ttl=64, proto=47, tos=0x03) / gre(4) / inner(4))
    yield ("outer6-ect1-inner6-ect0", False,
           IPv6(src="fd00:40::12", dst="fd00:40::11", nh=47, tc=0x01) / gre(6) / inner(6, tc=0xBA))
    yield ("outer-options", False,
           IP(src="192.168.40.12", dst="192.168.40.11", ttl=9, id=77, proto=47, options=[IPOption_RR(routers=["9.9.9.9"]), IPOption_NOP()])
           / gre(4, checksum=True, key=42) / inner(4))
    yield ("gre-bits-6-to-12-set", False, OUTER[4] / Raw(struct.pack("!HH", 0x03F8, 0x0800)) / inner(4))
    yield ("gre-reserved1-set", False, OUTER[4] / with_reserved1())
    yield ("gre-checksum-wrong", False, OUTER[4] / Raw(struct.pack("!HHHH", 0x8000, 0x0800, 0xBEEF, 0)) / inner(4))
    yield ("gre-pptp", False, OUTER[4] / GRE_PPTP(call_id=5, seqnum_present=1, seqence_number=1, payload_len=4) / Raw(b"\xff\x03\x00\x21"))
    yield ("gre-routing", False, OUTER[4] / GRE(proto=0x0800, routing_present=1) / inner(4))
    yield ("gre-strict-source-route", False, OUTER[4] / GRE(proto=0x0800, strict_route_source=1) / inner(4))
    yield ("gre-recursion-4", False, OUTER[4] / GRE(proto=0x0800, recursion_control=4) / inner(4))
    yield ("gre-recursion-1", False, OUTER[4] / GRE(proto=0x0800, recursion_control=1) / inner(4))
    yield ("gre-ethernet", False, OUTER[4] / GRE(proto=0x6558) / Raw(bytes(14) + bytes(46)))
    yield ("gre-experimental", False, OUTER[4] / GRE(proto=0x88B5) / Raw(b"\x01\x01"))
    yield ("gre-truncated-flags", False, OUTER[4] / Raw(b"\x00\x00"))
    yield ("gre-truncated-checksum", False, OUTER[4] / Raw(b"\x80\x00\x08\x00\x00\x00"))
    yield ("gre-truncated-key", False, OUTER[4] / Raw(b"\x20\x00\x08\x00\x00\x00\x00"))
    yield ("gre-truncated-sequence", False, OUTER[4] / Raw(b"\x30\x00\x08\x00\x00\x00\x00\x2a"))
    yield ("gre-empty", False, OUTER[4] / Raw(b"\x00\x00\x08\x00"))
    yield ("inner-truncated", False, OUTER[4] / gre(4) / Raw(bytes(inner(4))[:30]))

    # The ICMP errors that IcmpMessage writes about the golden packets icmp-offending-4 and -6.
    offending4 = inner(4, "udp", 1500)
    offending6 = inner(6, "udp", 1500)
    yield ("icmp-offending-4", False, offending4)
    yield ("icmp-offending-6", False, offending6)
    yield ("icmp-fragmentation-needed", False,
           IP(src="10.0.201.1", dst="172.17.52.2", tos=0xC0, ttl=64, id=0, flags=0)
           / ICMP(type=3, code=4, nexthopmtu=1476) / Raw(bytes(offending4)[:576 - 28]))
    yield ("icmp-packet-too-big", False,
           IPv6(src="fd00:201::1", dst="fd00:52::2", hlim=64) / ICMPv6PacketTooBig(mtu=1456) / Raw(bytes(offending6)[:1280 - 48]))


def with_reserved1():
    """A right checksum over a header whose Reserved1 is not zero, which a receiver must not mind."""
    payload = bytes(inner(4))
    sum_of = checksum(struct.pack("!HHHH", 0x8000, 0x0800, 0, 0x1234) + payload)
    return Raw(struct.pack("!HHHH", 0x8000, 0x0800, sum_of, 0x1234) + payload)


def write_pcap(path, all_bytes):
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 101))  # LINKTYPE_RAW
        for data in all_bytes:
            file.write(struct.pack("<IIII", 0, 0, len(data), len(data)) + data)


def decode(all_bytes):
    with tempfile.TemporaryDirectory() as directory:
        pcap = pathlib.Path(directory, "golden.pcap")
        write_pcap(pcap, all_bytes)
        command = ["tshark", "-n", "-r", str(pcap), "-T", "json"]
        for option in ("ip.check_checksum", "tcp.check_checksum", "udp.check_checksum"):
            command += ["-o", f"{option}:TRUE"]
        # Fragments are not put together, so that each packet is decoded alone.
        command += ["-o", "ip.defragment:FALSE"]
        for field in FIELDS:
            command += ["-e", field]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [packet["_source"]["layers"] for packet in json.loads(output)]


def shortened(text, most=400):
    return text if len(text) <= most else text[:most] + "..."


def write_json(name, opening, items, closing):
    """One packet a line, so that a change shows as the packets that changed."""
    (HERE / name).write_text(opening + "\n" + ",\n".join(items) + "\n" + closing + "\n")


def main():
    made = [(name, emit, packet.command(), bytes(packet)) for name, emit, packet in packets()]
    decoded = decode([data for _, _, _, data in made])
    assert len(decoded) == len(made) == len({name for name, _, _, _ in made})
    write_json("packets.json", "[", (
        json.dumps({"name": name, "emit": emit, "scapy": shortened(command), "hex": data.hex()})
        for name, emit, command, data in made), "]")
    write_json("tshark.json", "{", (
        f"{json.dumps(name)}: {json.dumps(layers)}" for (name, _, _, _), layers in zip(made, decoded)), "}")
    print(f"{len(made)} packets")


main()
