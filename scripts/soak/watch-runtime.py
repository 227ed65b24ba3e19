#!/usr/bin/env python3
"""Says what the runtime of a .NET process does with memory, as long as it runs: one line each, with the time in seconds since 1970.

    1767225600.123456 collection 0      a garbage collection of generation 0 began
    1767225600.123456 allocated 106528  so many bytes were allocated since the last such line (the runtime tells every 100 KiB or so)

usage: watch-runtime.py PID DIRECTORY

DIRECTORY is the process's TMPDIR, where the runtime has its diagnostic socket. The first line is "watching". The protocol is
docs/design-docs/ipc-protocol.md of github.com/dotnet/diagnostics, the stream's format NetTrace 4 (NetTraceFormat_v5.md of
github.com/microsoft/perfview).
"""
import glob
import socket
import struct
import sys
import time

PROVIDER = "Microsoft-Windows-DotNETRuntime"
GC_KEYWORD, VERBOSE = 1, 5
GC_START, ALLOCATION_TICK = 1, 10


class Stream:
    """The bytes of a socket, and how many have been read of the trace."""

    def __init__(self, connection):
        self.file = connection.makefile("rb")
        self.position = 0

    def read(self, count):
        data = self.file.read(count)
        if len(data) < count:
            raise EOFError
        self.position += count
        return data

    def number(self, form):
        return struct.unpack("<" + form, self.read(struct.calcsize(form)))[0]

    def expect(self, data):
        found = self.read(len(data))
        if found != data:
            sys.exit(f"{found!r} where {data!r} belongs, at {self.position} of the trace")


class Block:
    """The bytes of one block of the trace."""

    def __init__(self, data):
        self.data = data
        self.position = 0

    def take(self, count):
        self.position += count
        return self.data[self.position - count:self.position]

    def variable(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def events(self):
        """Each event as (metadata id, payload)."""
        header, flags = struct.unpack_from("<HH", self.data)
        if not flags & 1:
            sys.exit("the events are not compressed, which no runtime does since .NET Core 3")
        self.position = header
        metadata = size = 0
        while self.position < len(self.data):
            present = self.take(1)[0]
            if present & 1:
                metadata = self.variable()
            if present & 2:
                self.variable(), self.variable(), self.variable()
            if present & 4:
                self.variable()
            if present & 8:
                self.variable()
            self.variable()
            self.take((16 if present & 16 else 0) + (16 if present & 32 else 0))
            if present & 128:
                size = self.variable()
            yield metadata, self.take(size)


def text(data, offset):
    """A string of UTF-16 that ends with 0, and where it ends."""
    end = offset
    while data[end:end + 2] != b"\0\0":
        end += 2
    return data[offset:end].decode("utf-16-le"), end + 2


def connect(pid, directory):
    names = glob.glob(f"{glob.escape(directory)}/dotnet-diagnostic-{pid}-*-socket")
    if not names:
        sys.exit(f"process {pid} has no diagnostic socket in {directory}")
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(names[0])
    return connection


def collect(connection):
    """Begins a trace: the command CollectTracing2."""
    name = (PROVIDER + "\0").encode("utf-16-le")
    body = struct.pack("<IIBI", 1, 1, 0, 1) + struct.pack("<QII", GC_KEYWORD, VERBOSE, len(PROVIDER) + 1) + name + struct.pack("<I", 0)
    connection.sendall(struct.pack("<14sHBBH", b"DOTNET_IPC_V1\0", 20 + len(body), 2, 3, 0) + body)


def say(*words):
    print(*words, flush=True)


def watch(stream):
    magic, size, command_set, command, _ = struct.unpack("<14sHBBH", stream.read(20))
    if (magic, command_set, command) != (b"DOTNET_IPC_V1\0", 0xFF, 0):
        sys.exit(f"the runtime refuses a trace: {stream.read(size - 20).hex()}")
    stream.read(size - 20)
    say("watching")

    stream.position = 0
    stream.expect(b"Nettrace")
    stream.expect(struct.pack("<I", 20) + b"!FastSerialization.1")
    kinds = {}
    while stream.read(1) != b"\1":
        stream.expect(b"\5\1")
        stream.read(8)
        kind = stream.read(stream.number("I"))
        stream.expect(b"\6")
        if kind == b"Trace":
            stream.read(48)
        else:
            size = stream.number("I")
            stream.read(-stream.position % 4)
            block = Block(stream.read(size))
            now = f"{time.time():.6f}"
            if kind == b"MetadataBlock":
                for _, payload in block.events():
                    number = struct.unpack_from("<I", payload)[0]
                    provider, end = text(payload, 4)
                    if provider == PROVIDER:
                        kinds[number] = struct.unpack_from("<I", payload, end)[0]
            elif kind == b"EventBlock":
                for number, payload in block.events():
                    if kinds.get(number) == GC_START:
                        say(now, "collection", struct.unpack_from("<I", payload, 4)[0])
                    elif kinds.get(number) == ALLOCATION_TICK:
                        say(now, "allocated", struct.unpack_from("<Q", payload, 10)[0])
        stream.expect(b"\6")


if len(sys.argv) != 3:
    sys.exit("usage: watch-runtime.py PID DIRECTORY")
runtime = connect(int(sys.argv[1]), sys.argv[2])
collect(runtime)
try:
    watch(Stream(runtime))
except EOFError:
    pass
