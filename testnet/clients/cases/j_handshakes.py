"""What misuses the port: malformed and slow handshakes, very many at once."""

import os
import pathlib
import resource
import selectors
import socket
import threading
import time

import socks
from harness import Client, Site, case, names, ports

COUNT = 10_000
SECONDS = 12
# What the client may grow by while it is attacked, in MiB, and the files that it may have open: those of the 4,096 connections
# that it takes at a time, and some for itself.
MAX_GROWTH = 24
MAX_FILES = 4_096 + 256
# Each is sent one byte a second, and none is complete before the attack is over.
SLOW = [
    b"\x05\xff" + b"\x00" * 255,
    b"\x05\x01\x00\x05\x01\x00\x03\xff" + b"a" * 255,
    b"\x05\x01\x02\x01\xff" + b"u" * 255,
    b"\x04\x01\x00\x50\x00\x00\x00\x01" + b"u" * 200,
    b"GET http://web.tunic.test/ HTTP/1.1\r\nCookie: " + b"c" * 200,
    b"CONNECT web.tunic.test:80 HTTP/1.1\r\nX: " + b"x" * 200,
]


def resident_mib(pid: int) -> float:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Honest(threading.Thread):
    """A program that uses the port as it should, again and again."""

    def __init__(self, client: Client):
        super().__init__(daemon=True)
        self.client, self.stop = client, threading.Event()
        self.times: list[float] = []
        self.failures: list[str] = []

    def run(self) -> None:
        while not self.stop.is_set():
            started = time.monotonic()
            try:
                with socks.connect(self.client.socks, (names.WEB, ports.ECHO)) as stream:
                    stream.sendall(b"honest")
                    assert socks.receive(stream, 6) == b"honest"
                self.times.append(time.monotonic() - started)
            except (OSError, AssertionError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            self.stop.wait(0.2)


class Attack:
    """So many connections, each of which says one byte a second. The client keeps as many as it wants to; those that it
    closes come again, so that its limit is pressed upon all the time.
    """

    def __init__(self, client: Client, count: int):
        self.address, self.count = socks.split(client.socks), count
        self.open: dict[socket.socket, int] = {}
        self.opened = 0
        self.selector = selectors.DefaultSelector()

    def second(self) -> None:
        deadline = time.monotonic() + 1
        for connection in list(self.open):
            self.say_one_byte(connection)
        while len(self.open) < self.count and time.monotonic() < deadline:
            self.connect()
        for key, _ in self.selector.select(0):
            self.close(key.fileobj)
        time.sleep(max(0.0, deadline - time.monotonic()))

    def connect(self) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(self.address)
        # So that they do not fill the table of addresses once they are over.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.open[connection] = 0
        self.selector.register(connection, selectors.EVENT_READ)
        self.opened += 1

    def say_one_byte(self, connection: socket.socket) -> None:
        at = self.open[connection]
        script = SLOW[connection.fileno() % len(SLOW)]
        try:
            self.open[connection] += connection.send(script[at : at + 1])
        except BlockingIOError:
            pass
        except OSError:
            self.close(connection)

    def close(self, connection: socket.socket) -> None:
        if self.open.pop(connection, None) is not None:
            self.selector.unregister(connection)
            connection.close()

    def end(self) -> None:
        for connection in list(self.open):
            self.close(connection)
        self.selector.close()


@case("handshakes, 10,000 at once, one byte a second", seconds=150)
def slow(site: Site) -> str:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    count = min(COUNT, most - 512)
    client = site.client
    before, files_before = resident_mib(client.pid), open_files(client.pid)
    honest, attack = Honest(client), Attack(client, count)
    honest.start()
    memory, files, most_open = [before], [files_before], 0
    try:
        begun = time.monotonic()
        while time.monotonic() < begun + SECONDS or attack.opened < COUNT:
            assert site.seconds_left > 20, f"only {attack.opened} connections could be made"
            attack.second()
            memory.append(resident_mib(client.pid))
            files.append(open_files(client.pid))
            most_open = max(most_open, len(attack.open))
    finally:
        honest.stop.set()
        honest.join()
        attack.end()
    assert not honest.failures, honest.failures[:3]
    assert len(honest.times) >= 10, honest.times
    assert max(memory) - before < MAX_GROWTH, f"grew from {before:.0f} to {max(memory):.0f} MiB"
    assert max(files) < MAX_FILES, f"{max(files)} files were open"
    while open_files(client.pid) > files_before + 100:
        assert site.seconds_left > 1, f"{open_files(client.pid)} files are still open"
        time.sleep(0.1)
    return (
        f"{attack.opened} connections, {most_open} at once; {before:.0f} MiB became {max(memory):.0f}, {max(files)} files; "
        f"meanwhile {len(honest.times)} streams of an honest program, {1000 * max(honest.times):.0f} ms the slowest"
    )


def malformed() -> list[bytes]:
    """Everything that is wrong, one thing at a time."""
    greeting, name = b"\x05\x01\x00", b"\x03\x0dweb.tunic.test\x00\x50"
    wrong_versions = [bytes([version]) + b"\x01\x00" for version in range(256) if version not in (4, 5)]
    wrong_commands = [greeting + bytes([5, command, 0]) + name for command in range(256) if command not in (1, 3, 0xF0)]
    wrong_types = [greeting + bytes([5, 1, 0, kind]) + b"x" * 300 for kind in range(256) if kind not in (1, 3, 4)]
    return [
        *wrong_versions, *wrong_commands, *wrong_types,
        b"\x05\x00", b"\x05\x01\xfe", b"\x05\x01\x02\x02", greeting + b"\x04\x01\x00" + name, greeting + b"\x05\x01\x01" + name,
        greeting + b"\x05\x01\x00\x03\x00\x00\x50", greeting + b"\x05\x01\x00\x03\xff" + b"a" * 255 + b"\x00\x50",
        greeting + b"\x05\x01\x00\x03\x04a\x00b \x00\x50", greeting + b"\x05\x01\x00\x01\x01\x02\x03\x04\x00\x00",
        b"\x04\x02\x00\x50\x01\x02\x03\x04me\0", b"\x04\x01\x00\x50\x00\x00\x00\x01" + b"u" * 300,
        b"\x04\x01\x00\x50\x00\x00\x00\x01me\0" + b"n" * 300 + b"\0", b"\x04\x01\x00\x00\x01\x02\x03\x04me\0",
        b"GET / HTTP/9.9\r\n\r\n", b"GET  / \r\n\r\n", b"GET http:// HTTP/1.1\r\n\r\n", b"A" * 20_000, b"CONNECT :80 HTTP/1.1\r\n\r\n",
        b"GET http://" + b"n" * 300 + b"/ HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2_000 + b"\r\n",
        bytes(range(256)) * 100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ]  # fmt: skip


@case("handshakes, malformed")
def garbage(site: Site) -> str:
    """Each is answered or closed, none is let through, and the port goes on."""
    wrong = malformed()
    for said in wrong:
        with socket.create_connection(socks.split(site.socks), 10) as connection:
            answer = b""
            try:
                connection.sendall(said)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(4096):
                    answer += part
            except ConnectionError:
                pass
            assert not answer.startswith((b"\x05\x00\x05\x00", b"\x00\x5a", b"HTTP/1.1 200")), (said[:40], answer[:40])
    with socks.connect(site.socks, (names.WEB, ports.ECHO)) as stream:
        stream.sendall(b"still here")
        assert socks.receive(stream, 10) == b"still here"
    return f"{len(wrong)} kinds"
