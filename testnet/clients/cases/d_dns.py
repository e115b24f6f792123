"""dig, at the DNS port and through UDP ASSOCIATE."""

from harness import Site, case, names, place
from udp_forward import forwarding


def dig(site: Site, port: int, *words) -> list[str]:
    done = site.run("dig", "@127.0.0.1", "-p", port, "+short", "+tries=1", "+time=20", *words)
    return done.stdout.decode().split()


def status(site: Site, port: int, *words) -> str:
    said = site.run("dig", "@127.0.0.1", "-p", port, "+tries=1", "+time=20", *words).stdout.decode()
    return said.partition("status: ")[2].partition(",")[0]


@case("dig, the DNS port", "dig")
def dns_port(site: Site) -> None:
    port = site.client.dns_port
    for transport in ("+notcp", "+tcp"):
        for edns in ("+edns", "+noedns"):
            ask = lambda *words: dig(site, port, transport, edns, *words)  # noqa: E731
            assert ask(names.WEB, "A") == [place.WORLD_ADDRESS]
            assert ask(names.WEB_V6, "AAAA") == [place.WORLD_V6]
            assert ask("-x", place.WORLD_ADDRESS) == [names.WEB + "."]
            assert ask("-x", place.WORLD_V6) == [names.WEB_V6 + "."]
            assert ask(names.WEB, "AAAA") == []
    assert status(site, port, names.NOBODY) == "NXDOMAIN"
    assert status(site, port, names.WEB, "MX") == "NOTIMP"


@case("dig, answers that do not fit", "dig")
def truncated(site: Site) -> None:
    """Without EDNS the answer is cut, and dig asks again over TCP; with it, it fits."""
    port = site.client.dns_port
    assert len(dig(site, port, "+noedns", names.MANY, "AAAA")) == 16
    assert dig(site, port, "+noedns", "+ignore", names.MANY, "AAAA") != []
    said = site.run("dig", "@127.0.0.1", "-p", port, "+ignore", "+edns", names.MANY, "AAAA").stdout.decode()
    assert "ANSWER: 16" in said and "EDNS: version: 0" in said, said


@case("dig, through UDP ASSOCIATE", "dig")
def udp_associate(site: Site) -> None:
    for target in ((place.WORLD_ADDRESS, 53), (names.WEB, 53)):
        with forwarding(site.socks, target) as port:
            assert dig(site, port, "+notcp", names.WEB) == [place.WORLD_ADDRESS]
            assert dig(site, port, "+notcp", "-x", place.WORLD_ADDRESS) == [names.WEB + "."]
