"""Datagrams and lookups through the client."""

import argparse
import concurrent.futures
import socket
import struct
import time
from typing import Iterator

from front_streams import HOST, TIMEOUT
import names
import socks
import workload

# As large as datagrams of QUIC are (RFC 9000 §14.1); the largest that the client takes is not much above the other.
DATAGRAM = 1_200
LARGE_DATAGRAM = 60_000
IN_FLIGHT = 32
LOST_AFTER = 2.0
LOOKUP = "localhost"


def round_trips(association: socks.Association, target: socks.Address, size: int, count: int) -> workload.Outcome:
    """One datagram at a time."""

    def once(number: int) -> float:
        payload = struct.pack("!I", number) + bytes(size - 4)
        started = time.perf_counter()
        association.send(payload, target)
        while association.receive() != payload:
            pass  # one that came late
        return time.perf_counter() - started

    return workload.attempt_all(once, list(range(count)), 1)


def flood(association: socks.Association, target: socks.Address, count: int) -> dict:
    """So many datagrams there and back, so many on their way at a time; what does not come back in time is lost."""
    association.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    association.socket.settimeout(LOST_AFTER)
    waiting, sent, back, body = set(), 0, 0, bytes(DATAGRAM - 4)
    started = ended = time.perf_counter()
    while sent < count or waiting:
        while sent < count and len(waiting) < IN_FLIGHT:
            association.send(struct.pack("!I", sent) + body, target)
            waiting.add(sent)
            sent += 1
        try:
            (number,) = struct.unpack_from("!I", association.receive())
        except TimeoutError:
            waiting.clear()
            continue
        ended = time.perf_counter()
        back += number in waiting
        waiting.discard(number)
    seconds = max(ended - started, 1e-9)
    return {
        "datagrams_per_s": round(back / seconds),
        "mb_per_s": [back * DATAGRAM / seconds / 1e6],
        "lost_percent": round(100 * (count - back) / count, 2),
    }


def datagrams(client, port: int, arguments: argparse.Namespace) -> Iterator[tuple[str, dict]]:
    target = (HOST, port)
    said = workload.attempt_all(lambda _: associate(client), [None] * arguments.associations, 1)
    yield "UDP ASSOCIATE, to be told the address", {**said.counts, **workload.percentiles(said.values, (50, 95))}
    association = socks.Association(client.socks)
    try:
        round_trips(association, target, DATAGRAM, 1)  # so that there is a circuit
        for size, count in ((DATAGRAM, arguments.datagrams), (LARGE_DATAGRAM, arguments.datagrams // 4)):
            outcome = round_trips(association, target, size, count)
            yield f"UDP, {size} bytes there and back", {**outcome.counts, **workload.percentiles(outcome.values, (50, 95))}
        flooded = flood(association, target, arguments.flood)
        failed = int(flooded["lost_percent"] > arguments.max_loss)
        yield f"UDP, {DATAGRAM} bytes, {IN_FLIGHT} on their way", {"attempted": 1, "failed": failed, "errors": {}, **flooded}
    finally:
        association.close()


def associate(client) -> float:
    started = time.perf_counter()
    socks.Association(client.socks).close()
    return time.perf_counter() - started


def lookups(client, arguments: argparse.Namespace) -> Iterator[tuple[str, dict]]:
    for name, ask in (("DNS over UDP", ask_udp), ("DNS over TCP", ask_tcp)):
        asked = workload.attempt_all(lambda _, a=ask: a(client.dns_port), [None] * arguments.requests, 1)
        times = [seconds for seconds, _ in asked.values]
        sizes = {"bytes_said": len(query()), "bytes_heard": max((size for _, size in asked.values), default=0)}
        yield name, {**asked.counts, **workload.percentiles(times, (50, 95)), **sizes, "round_trips": 1}
    with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
        started = time.perf_counter()
        done = sum(pool.map(lambda _: answered(client.dns_port), range(arguments.requests * 4)))
        rate = round(done / (time.perf_counter() - started))
    failed = arguments.requests * 4 - done
    yield f"DNS over UDP, {IN_FLIGHT} at a time", {"attempted": arguments.requests * 4, "failed": failed, "lookups_per_s": rate}


def query() -> bytes:
    head = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0)
    return head + names.encode_name(LOOKUP) + struct.pack("!HH", names.A, 1)


def check(message: bytes) -> int:
    if message[3] & 15 or message[6:8] == b"\0\0" or not message.endswith(socket.inet_aton(HOST)):
        raise ConnectionError("no answer in the answer")
    return len(message)


def ask_udp(port: int) -> tuple[float, int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(TIMEOUT)
        started = time.perf_counter()
        udp.sendto(query(), (HOST, port))
        message = udp.recv(2048)
        return time.perf_counter() - started, check(message)


def ask_tcp(port: int) -> tuple[float, int]:
    started = time.perf_counter()
    with socket.create_connection((HOST, port), TIMEOUT) as tcp:
        tcp.sendall(struct.pack("!H", len(query())) + query())
        (length,) = struct.unpack("!H", workload.receive_exactly(tcp, 2))
        message = workload.receive_exactly(tcp, length)
        return time.perf_counter() - started, check(message)


def answered(port: int) -> bool:
    try:
        return bool(ask_udp(port))
    except OSError:
        return False
