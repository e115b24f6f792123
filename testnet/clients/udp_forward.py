"""A UDP port that leads to one target through the client, for programs that do not speak SOCKS5 themselves."""

import contextlib
import selectors
import socket
import threading
from typing import Iterator

from socks import Address, Association


@contextlib.contextmanager
def forwarding(socks: str, target: Address) -> Iterator[int]:
    """The port. One program at a time."""
    association = Association(socks)
    front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    front.bind(("127.0.0.1", 0))
    stop, stopped = socket.socketpair()
    thread = threading.Thread(target=forward, args=(front, association, target, stopped))
    thread.start()
    try:
        yield front.getsockname()[1]
    finally:
        stop.close()
        thread.join()
        association.close()
        front.close()
        stopped.close()


def forward(front: socket.socket, association: Association, target: Address, stopped: socket.socket) -> None:
    program = None
    with selectors.DefaultSelector() as selector:
        for source in (front, association.socket, stopped):
            selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is stopped:
                    return
                if key.fileobj is front:
                    data, program = front.recvfrom(65_535)
                    association.send(data, target)
                elif program:
                    front.sendto(association.receive(), program)
