"""What a person is told of programs that are set up wrongly: each thing once, and nothing of where they went."""

import socket
import time

import socks
from harness import Client, Site, case, names, place, ports

TIMES = 5
# What a program says, and the word by which the warning of it is known.
WRONG = {
    "plain": [
        (b"\x05\x01\x00\x05\x01\x00\x01" + socket.inet_aton(place.WORLD_ADDRESS) + ports.WEB.to_bytes(2), "an address instead of a name"),
        (b"\x04\x01" + ports.WEB.to_bytes(2) + socket.inet_aton(place.WORLD_ADDRESS) + b"me\0", "an address instead of a name"),
        (b"\x05\x01\x00\x05\x02\x00\x01\0\0\0\0\0\0", "command not supported"),
        (b"GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n", "a web page from elsewhere"),
        (f"CONNECT {names.WEB}:25 HTTP/1.1\r\n\r\n".encode(), "port=25"),
    ],
    "password": [(b"\x05\x01\x02\x01\x02me\x05wrong", "wrong password")],
}


def say(client: Client, said: bytes) -> None:
    with socket.create_connection(socks.split(client.socks), 10) as connection:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass


@case("warnings, once each, without names and addresses")
def once(site: Site) -> str:
    said = 0
    for name, wrong in WRONG.items():
        client = site.clients[name]
        for _ in range(TIMES):
            for words, _ in wrong:
                say(client, words)
        for word in {word for _, word in wrong}:
            while not (lines := [line for line in client.log.read_text().splitlines() if word in line]):
                assert site.seconds_left > 1, f"no warning of: {word}"
                time.sleep(0.05)
            assert len(lines) == 1, lines
            said += 1
        log = client.log.read_text()
        for told in (place.WORLD_ADDRESS, names.WEB, "rebound.example"):
            assert told not in log, f"{told} is in the log"
    return f"{said} warnings"
