"""Streams through each front of the client, and the server behind them: HTTP that knows `/LENGTH`, and UDP that echoes."""

import argparse
import contextlib
import dataclasses
import pathlib
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Iterator

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "clients")]
import socks  # noqa: E402
import workload  # noqa: E402

TIMEOUT = 20
HOST = "127.0.0.1"


def serve() -> None:
    tcp = socket.create_server((HOST, 0), backlog=1024)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    udp.bind((HOST, 0))
    threading.Thread(target=echo, args=(udp,), daemon=True).start()
    threading.Thread(target=workload.end_when_stdin_closes, daemon=True).start()
    print(tcp.getsockname()[1], udp.getsockname()[1], flush=True)
    while True:
        connection, _ = tcp.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def echo(udp: socket.socket) -> None:
    while True:
        udp.sendto(*udp.recvfrom(65_535))


def answer(connection: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError), connection:
        head = read_head(connection)
        length = int(head.split(b" ")[1].rpartition(b"/")[2])
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % length)
        workload.send_pattern(connection, length)


def read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(65_536)
        if not part:
            raise ConnectionError("the head did not end")
        head += part
    return head


@contextlib.contextmanager
def server() -> Iterator[tuple[int, int]]:
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            tcp, udp = process.stdout.readline().split()
            yield int(tcp), int(udp)
        finally:
            process.stdin.close()


@dataclasses.dataclass(frozen=True)
class Front:
    """Where it is, and what is said there before data flow: what the program sends, and how many bytes come back for it."""

    address: socks.Address | str
    handshake: list[tuple[bytes, int]]
    absolute: bool = False

    def open(self) -> socket.socket:
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        connection = socket.socket(family)
        connection.settimeout(TIMEOUT)
        try:
            connection.connect(self.address)
            if family == socket.AF_INET:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for said, length in self.handshake:
                connection.sendall(said)
                workload.receive_exactly(connection, length)
        except BaseException:
            connection.close()
            raise
        return connection

    def fetch(self, port: int, length: int) -> tuple[float, float]:
        """Seconds from connecting to the first byte of the body, and from asking to the last."""
        started = time.perf_counter()
        with self.open() as connection:
            asked = time.perf_counter()
            where = f"http://{HOST}:{port}" if self.absolute else ""
            connection.sendall(f"GET {where}/{length} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode())
            head, _, body = read_head(connection).partition(b"\r\n\r\n")
            if b" 200 " not in head.split(b"\r\n")[0]:
                raise ConnectionError(head.split(b"\r\n")[0].decode(errors="replace"))
            if not body and length:
                body = workload.receive_exactly(connection, 1)
            first = time.perf_counter()
            received = len(body) + workload.receive_counted(connection, length - len(body), False)[0]
            if received != length:
                raise ConnectionError(f"{received} of {length} bytes")
            return first - started, time.perf_counter() - asked


def stream_fronts(client, port: int) -> dict[str, Front]:
    address, to_port = socket.inet_aton(HOST), struct.pack("!H", port)
    host, connected = f"{HOST}:{port}".encode(), b"HTTP/1.1 200 Connection established\r\n\r\n"
    at, request = socks.split(client.socks), (b"\x05\x01\x00\x01" + address + to_port, 10)
    none = (b"\x05\x01\x00", 2)
    return {
        "SOCKS5": Front(at, [none, request]),
        "SOCKS5, user name": Front(at, [(b"\x05\x01\x02", 2), (b"\x01\x04user\x04word", 2), request]),
        "SOCKS4a": Front(at, [(b"\x04\x01" + to_port + b"\0\0\0\1me\0" + HOST.encode() + b"\0", 8)]),
        "HTTP CONNECT": Front(at, [(b"CONNECT " + host + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", len(connected))]),
        "HTTP GET": Front(at, [], absolute=True),
        "Unix socket": Front(str(client.unix_socket), [none, request]),
    }


def streams(client, port: int, arguments: argparse.Namespace) -> Iterator[tuple[str, dict]]:
    for name, front in stream_fronts(client, port).items():
        with contextlib.suppress(OSError):
            front.fetch(port, 1)  # so that there is a circuit
        asked = workload.attempt_all(lambda _, f=front: f.fetch(port, 1)[0], [None] * arguments.requests, 1)
        bulk = workload.attempt_all(lambda _, f=front: f.fetch(port, arguments.bulk_mib << 20)[1], [None] * arguments.runs, 1)
        rates = sorted((arguments.bulk_mib << 20) / seconds / 1e6 for seconds in bulk.values)
        yield name, {
            **workload.Outcome(asked.values + bulk.values, asked.errors + bulk.errors).counts,
            **workload.percentiles(asked.values, (50, 95)),
            "bytes_said": sum(len(said) for said, _ in front.handshake),
            "bytes_heard": sum(length for _, length in front.handshake),
            "round_trips": len(front.handshake),
            "mb_per_s": rates,
        }


if __name__ == "__main__":
    serve()
