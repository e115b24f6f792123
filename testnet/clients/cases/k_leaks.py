"""Names leave the person's machine through relays only, whatever the program speaks.

Every case is watched for that (harness.py); here each way is gone on purpose, and the watcher is shown to see leaks.
"""

import socket
import struct

import socks
from harness import Site, case, names, place, ports

NAMES = [names.WEB, names.NOBODY, names.CONTROL, "printer.local", "single"]


@case("watcher, sees names that leak", "getent", leaks=True)
def control(site: Site) -> str:
    """The control: without Tunic, each of these is seen."""
    before, asked = site.watcher.leaks(), site.report()["dns_from_home"]
    assert names.WEB in site.run("getent", "hosts", names.WEB).stdout.decode()
    site.run("getent", "hosts", names.CONTROL, expect=2)
    for group, port in (("224.0.0.251", 5353), ("224.0.0.252", 5355), (place.WORLD_ADDRESS, 853)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(place.HOME_ADDRESS))
            sender.sendto(b"who is there?", (group, port))
    seen = site.watcher.leaks()[len(before) :]
    for kind in ("DNS on veth0", "mDNS on veth0", "LLMNR on veth0", "DNS over TLS on veth0"):
        assert kind in seen, seen
    assert site.report()["dns_from_home"] > asked
    return f"{len(seen)} packets"


def exchange(site: Site, address: str, data: bytes) -> bytes:
    """Says this at a port, or at the Unix socket where the path is one, and no more; all that is answered."""
    is_path = address.startswith("/")
    with socket.socket(socket.AF_UNIX if is_path else socket.AF_INET) as connection:
        connection.settimeout(site.seconds_left)
        connection.connect(address if is_path else socks.split(address))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as stream:
            return stream.read()


def query(name: str, kind: int) -> bytes:
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + names.encode_name(name) + struct.pack("!HH", kind, 1)


def ask_in_every_way(site: Site, name: str) -> None:
    head = f"HTTP/1.1\r\nHost: {name}\r\n\r\n"
    encoded = name.encode()
    counted = bytes([len(encoded)]) + encoded
    for said in (
        b"\x05\x01\x00\x05\x01\x00\x03" + counted + struct.pack("!H", ports.ECHO),
        b"\x05\x01\x00\x05\xf0\x00\x03" + counted + b"\0\0",
        b"\x04\x01" + struct.pack("!H", ports.ECHO) + b"\0\0\0\1me\0" + encoded + b"\0",
        b"\x04\xf0\0\0\0\0\0\1me\0" + encoded + b"\0",
        f"CONNECT {name}:{ports.ECHO} {head}".encode(),
        f"GET http://{name}/bytes/1 {head}".encode(),
    ):
        for address in (site.socks, str(site.client.unix_socket)):
            assert exchange(site, address, said), (address, said)
    for kind in (names.A, names.AAAA, 65):
        message = query(name, kind)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(site.seconds_left)
            udp.sendto(message, ("127.0.0.1", site.client.dns_port))
            assert udp.recv(2048)[:2] == message[:2]
        framed = struct.pack("!H", len(message)) + message
        assert exchange(site, f"127.0.0.1:{site.client.dns_port}", framed)[2:4] == message[:2]


@case("leaks, every front with names that are and that are not")
def every_front(site: Site) -> str:
    before = site.watcher.packets
    for name in NAMES:
        ask_in_every_way(site, name)
    for address in (place.WORLD_ADDRESS, names.NOBODYS):
        exchange(site, site.socks, b"\x05\x01\x00\x05\xf1\x00\x01" + socket.inet_aton(address) + b"\0\0")
        exchange(site, f"127.0.0.1:{site.client.dns_port}", framed_reverse(address))
    association = socks.Association(site.socks)
    try:
        association.send(b"to a name that is not", (names.NOBODY, ports.UDP_ECHO))
        association.send(b"to a name", (names.WEB, ports.UDP_ECHO))
        assert association.receive() == b"to a name"
    finally:
        association.close()
    return f"{site.watcher.packets - before} packets seen, none of them DNS, mDNS, LLMNR or DNS over TLS"


def framed_reverse(address: str) -> bytes:
    message = query(names.reverse(address), names.PTR)
    return struct.pack("!H", len(message)) + message
