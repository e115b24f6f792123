"""Libraries of Python: requests, aiohttp, and HTTP/3 with aioquic."""

import pathlib

from environment import environment_of
from harness import Site, Skip, case, end, names, place, ports
from udp_forward import forwarding

HERE = pathlib.Path(__file__).resolve().parent.parent
URL = f"http://{names.WEB}/bytes/100000"

REQUESTS = """
import sys, requests
session = requests.Session()
session.trust_env = False
for proxy in sys.argv[2:]:
    answer = session.get(sys.argv[1], proxies={"http": proxy}, timeout=30)
    answer.raise_for_status()
    assert answer.content == bytes(100000), proxy
"""

AIOHTTP = """
import asyncio, sys, aiohttp
from aiohttp_socks import ProxyConnector

async def fetch(session):
    async with session.get(sys.argv[1]) as answer:
        answer.raise_for_status()
        assert await answer.read() == bytes(100000)

async def main():
    for proxy in sys.argv[2:]:
        async with aiohttp.ClientSession(connector=ProxyConnector.from_url(proxy, rdns=True)) as session:
            await asyncio.gather(*(fetch(session) for _ in range(20)))

asyncio.run(main())
"""


def python() -> pathlib.Path:
    folder = environment_of(HERE.parent.parent)
    if not (folder / "complete").exists():
        raise Skip("its packages cannot be installed: PyPI is out of reach")
    return folder / "bin" / "python"


@case("python, requests[socks]")
def requests(site: Site) -> None:
    proxies = [f"{kind}://{site.socks}" for kind in ("socks5h", "socks4a", "http")]
    site.run(python(), "-c", REQUESTS, URL, *proxies, f"socks5h://user:word@{site.socks}")


@case("python, aiohttp-socks")
def aiohttp(site: Site) -> None:
    site.run(python(), "-c", AIOHTTP, URL, *(f"{kind}://{site.socks}" for kind in ("socks5", "socks4", "http")))


@case("HTTP/3 (aioquic), through UDP ASSOCIATE")
def http3(site: Site) -> str:
    program = HERE / "http3.py"
    certificate = site.scratch / "certificate.pem"
    server = site.start(
        *place.enter(site.world), python(), program, "serve", place.WORLD_ADDRESS, ports.HTTP3, certificate, stdout=-1
    )
    try:
        assert server.stdout.readline() == b"ready\n", "the HTTP/3 server did not start"
        with forwarding(site.socks, (names.WEB, ports.HTTP3)) as port:
            done = site.run(python(), program, "fetch", names.WEB, port, certificate)
        return done.stdout.decode().strip()
    finally:
        end(server)
        server.stdout.close()
