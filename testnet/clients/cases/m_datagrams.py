"""Datagrams as programs send them: refused where streams are, and none waits for another's name."""

import contextlib
from typing import Iterator

import socks
from harness import Client, Site, case, names, place, ports


@contextlib.contextmanager
def association(client: Client) -> Iterator[socks.Association]:
    opened = socks.Association(client.socks)
    try:
        yield opened
    finally:
        opened.close()


@case("UDP, addresses and leaky ports refused")
def refused(site: Site) -> None:
    """Datagrams of one association arrive in order, so the first that comes back tells what went before it."""
    with association(site.clients["strict"]) as strict:
        strict.send(b"to an address", (place.WORLD_ADDRESS, ports.UDP_ECHO))
        strict.send(b"to a leaky port", (names.WEB, 137))
        strict.send(b"to a name", (names.WEB, ports.UDP_ECHO))
        assert strict.receive() == b"to a name"


@case("UDP, a slow name holds nothing up")
def slow_name(site: Site) -> None:
    with association(site.client) as plain:
        plain.send(b"to a slow name", (names.SLOW, ports.UDP_ECHO))
        plain.send(b"to an address", (place.WORLD_ADDRESS, ports.UDP_ECHO))
        assert plain.receive() == b"to an address"
        assert plain.receive() == b"to a slow name"
