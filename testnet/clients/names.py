"""The names of the small world in which the clients are tried, and a name server that knows no others."""

import contextlib
import ipaddress
import socket
import struct
import threading

from place import WORLD_ADDRESS, WORLD_V6

WEB = "web.tunic.test"
WEB_V6 = "web6.tunic.test"
# Another site of the same server.
OTHER = "other.tunic.test"
# So many addresses, and such a name, that they do not fit in 512 bytes.
MANY = "a-name-of-more-than-forty-letters-for-a-long-answer.tunic.test"
# Found after so many seconds.
SLOW, SLOWNESS = "slow.tunic.test", 2.0
NOBODY = "nobody.tunic.test"
CONTROL = "leak-control.tunic.test"
# An address that nobody has.
NOBODYS = "10.79.0.77"

A, PTR, AAAA = 1, 12, 28


def reverse(address: str) -> str:
    return ipaddress.ip_address(address).reverse_pointer


RECORDS: dict[tuple[str, int], list[str]] = {
    (WEB, A): [WORLD_ADDRESS],
    (WEB_V6, AAAA): [WORLD_V6],
    (OTHER, A): [WORLD_ADDRESS],
    (SLOW, A): [WORLD_ADDRESS],
    (MANY, AAAA): [f"fd79::{number:x}" for number in range(1, 17)],
    (reverse(WORLD_ADDRESS), PTR): [WEB],
    (reverse(WORLD_V6), PTR): [WEB_V6],
}


def encode_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def encode_data(kind: int, value: str) -> bytes:
    return encode_name(value) if kind == PTR else ipaddress.ip_address(value).packed


def read_question(query: bytes) -> tuple[str, int, bytes]:
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    (kind,) = struct.unpack_from("!H", query, at + 1)
    return ".".join(labels), kind, query[12 : at + 5]


def answer(query: bytes, limit: int) -> bytes:
    name, kind, question = read_question(query)
    values = RECORDS.get((name, kind), [])
    known = any(known_name == name for known_name, _ in RECORDS)
    records = b""
    for value in values:
        data = encode_data(kind, value)
        records += b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data
    flags = 0x8580 | (0 if known else 3)
    if 12 + len(question) + len(records) > limit:
        flags, values, records = flags | 0x0200, [], b""
    return query[:2] + struct.pack("!HHHHH", flags, 1, len(values), 0, 0) + question + records


class NameServer:
    """Answers over UDP and TCP, and remembers who asked."""

    def __init__(self, address: str):
        self.askers: list[str] = []
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind((address, 53))
        self.tcp = socket.create_server((address, 53))
        for serve in (self.serve_udp, self.serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def serve_udp(self) -> None:
        while True:
            query, asker = self.udp.recvfrom(2048)
            self.askers.append(asker[0])
            arguments = (answer(query, 512), asker)
            if read_question(query)[0] == SLOW:
                threading.Timer(SLOWNESS, self.udp.sendto, arguments).start()
            else:
                self.udp.sendto(*arguments)

    def serve_tcp(self) -> None:
        while True:
            connection, asker = self.tcp.accept()
            self.askers.append(asker[0])
            # Resolvers keep their connections; one of them must not keep the others out.
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
            while length := stream.read(2):
                reply = answer(stream.read(struct.unpack("!H", length)[0]), 65_535)
                connection.sendall(struct.pack("!H", len(reply)) + reply)
