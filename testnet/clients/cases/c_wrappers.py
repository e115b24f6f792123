"""Programs that carry others through: torsocks, proxychains; Tor's own lookups."""

from harness import Site, case, names, place

URL = f"http://{names.WEB}/bytes/1000"


def torsocks_file(site: Site):
    file = site.scratch / "torsocks.conf"
    host, _, port = site.socks.rpartition(":")
    file.write_text(f"TorAddress {host}\nTorPort {port}\nOnionAddrRange 127.42.42.0/24\n")
    return file


def proxychains_file(site: Site, name: str = "proxychains.conf"):
    file = site.scratch / name
    host, _, port = site.socks.rpartition(":")
    file.write_text(f"strict_chain\nproxy_dns\nremote_dns_subnet 224\n[ProxyList]\nsocks5 {host} {port}\n")
    return file


@case("torsocks, curl", "torsocks", "curl")
def torsocks(site: Site) -> None:
    environment = {"TORSOCKS_CONF_FILE": str(torsocks_file(site))}
    done = site.run("torsocks", "curl", "--silent", "--show-error", "--fail", URL, env=environment)
    assert done.stdout == bytes(1000)


@case("proxychains4, curl and wget", "proxychains4", "curl", "wget")
def proxychains(site: Site) -> None:
    chain = ["proxychains4", "-q", "-f", proxychains_file(site)]
    assert site.run(*chain, "curl", "--silent", "--show-error", "--fail", URL).stdout == bytes(1000)
    assert site.run(*chain, "wget", "--quiet", "--tries=1", "-O", "-", URL).stdout == bytes(1000)


@case("tor-resolve, names and addresses", "tor-resolve")
def tor_resolve(site: Site) -> None:
    def ask(*words, expect=0) -> str:
        return site.run("tor-resolve", *words, site.socks, expect=expect).stdout.decode().strip()

    assert ask(names.WEB) == place.WORLD_ADDRESS
    assert ask("-5", names.WEB) == place.WORLD_ADDRESS
    assert ask("-4", names.WEB) == place.WORLD_ADDRESS
    assert ask("-x", place.WORLD_ADDRESS) == names.WEB
    ask(names.NOBODY, expect=1)
