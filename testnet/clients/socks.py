"""SOCKS5 as far as the cases speak it themselves (RFC 1928, RFC 1929)."""

import ipaddress
import socket
import struct

TIMEOUT = 30
CONNECT, ASSOCIATE, RESOLVE, RESOLVE_PTR = 1, 3, 0xF0, 0xF1

Address = tuple[str, int]


def split(address: str) -> Address:
    host, _, port = address.rpartition(":")
    return host, int(port)


def encode(target: Address) -> bytes:
    host, port = target
    try:
        ip = ipaddress.ip_address(host)
        head = bytes([1 if ip.version == 4 else 4]) + ip.packed
    except ValueError:
        head = bytes([3, len(host)]) + host.encode()
    return head + struct.pack("!H", port)


def receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("closed early")
        data += part
    return data


def read_address(connection: socket.socket) -> Address:
    kind = receive(connection, 1)[0]
    length = {1: 4, 4: 16}.get(kind) or receive(connection, 1)[0]
    raw = receive(connection, length)
    host = raw.decode() if kind == 3 else str(ipaddress.ip_address(raw))
    return host, struct.unpack("!H", receive(connection, 2))[0]


class Refused(ConnectionError):
    def __init__(self, code: int):
        super().__init__(f"SOCKS reply {code}")
        self.code = code


def ask(socks: str, command: int, target: Address, user: str | None = None) -> tuple[socket.socket, Address]:
    """The connection, and the address in the answer."""
    connection = socket.create_connection(split(socks), TIMEOUT)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if user is None:
            connection.sendall(b"\x05\x01\x00")
        else:
            connection.sendall(b"\x05\x01\x02" + bytes([1, len(user)]) + user.encode() + b"\x01x")
        receive(connection, 2)
        if user is not None:
            receive(connection, 2)
        connection.sendall(bytes([5, command, 0]) + encode(target))
        code = receive(connection, 3)[1]
        bound = read_address(connection)
        if code:
            raise Refused(code)
        return connection, bound
    except BaseException:
        connection.close()
        raise


def connect(socks: str, target: Address, user: str | None = None) -> socket.socket:
    return ask(socks, CONNECT, target, user)[0]


class Association:
    """Datagrams through the port."""

    def __init__(self, socks: str):
        self.connection, self.relay = ask(socks, ASSOCIATE, ("0.0.0.0", 0))
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(TIMEOUT)

    def send(self, data: bytes, target: Address) -> None:
        self.socket.sendto(b"\0\0\0" + encode(target) + data, self.relay)

    def receive(self) -> bytes:
        datagram, sender = self.socket.recvfrom(65_535)
        assert sender == self.relay, sender
        return datagram[{1: 10, 4: 22}[datagram[3]] :]

    def close(self) -> None:
        self.connection.close()
        self.socket.close()
