"""Many connections at once."""

import re

from cases.c_wrappers import proxychains_file
from harness import Site, case, names

CONNECTIONS = 200


@case("wrk, 200 connections through proxychains", "wrk", "proxychains4", seconds=90)
def wrk(site: Site) -> str:
    chain = ["proxychains4", "-q", "-f", proxychains_file(site)]
    load = ["wrk", "--connections", CONNECTIONS, "--threads", 2, "--duration", "5s", "--timeout", "20s"]
    said = site.run(*chain, *load, f"http://{names.WEB}/bytes/1000").stdout.decode()
    assert "Socket errors" not in said and "Non-2xx" not in said, said
    (requests,) = re.findall(r"(\d+) requests in", said)
    assert int(requests) >= CONNECTIONS, said
    return f"{requests} requests"
