"""Sees every packet of this network namespace, and tells those by which names leak."""

import socket
import struct
import threading
import time

ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x0800, 0x86DD
TCP, UDP = 6, 17
# DNS, DNS over TLS and QUIC, multicast DNS, LLMNR, NetBIOS names.
LEAKY = {53: "DNS", 853: "DNS over TLS", 5353: "mDNS", 5355: "LLMNR", 137: "NetBIOS"}
LONGEST = 65_536
# The discard port (RFC 863): what the watcher sends itself, to know that it has seen all before it.
MARK = 9
MARK_TIMEOUT = 20


def ports_of(packet: bytes, kind: int) -> tuple[int, int] | None:
    """Source and destination port of TCP and UDP. IPv6 extension headers do not occur here."""
    if kind == ETH_P_IP and len(packet) >= 20:
        protocol, start = packet[9], (packet[0] & 15) * 4
    elif kind == ETH_P_IPV6 and len(packet) >= 40:
        protocol, start = packet[6], 40
    else:
        return None
    if protocol not in (TCP, UDP) or len(packet) < start + 4:
        return None
    return struct.unpack_from("!HH", packet, start)


class Watcher:
    """Counts all packets, and lists the leaks, from when it was made."""

    def __init__(self):
        self.packets = 0
        self._marks = 0
        self._leaks: list[str] = []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        # None shall be missed while this waits for its turn.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        threading.Thread(target=self._watch, daemon=True).start()

    def leaks(self) -> list[str]:
        """All leaks up to now, those that still wait to be looked at included."""
        wanted, deadline = self._marks + 1, time.monotonic() + MARK_TIMEOUT
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"mark", ("127.0.0.1", MARK))
        while self._marks < wanted:
            if time.monotonic() > deadline:
                raise RuntimeError("the watcher of packets does not keep up")
            time.sleep(0.001)
        return list(self._leaks)

    def _watch(self) -> None:
        buffer = bytearray(LONGEST)
        while True:
            length, address = self._socket.recvfrom_into(buffer)
            self.packets += 1
            found = ports_of(bytes(buffer[: min(length, 64)]), address[1])
            for port in found or ():
                if port in LEAKY:
                    self._leaks.append(f"{LEAKY[port]} on {address[0]}")
            self._marks += found is not None and found[1] == MARK
