"""curl in all ways that it knows, and wget."""

import hashlib

from harness import Site, case, names
from inside_settings import PASSWORD

URL = f"http://{names.WEB}/bytes/1000000"
UPLOAD = bytes(range(256)) * 8_000


def curl(site: Site, *words, expect: int = 0, **options):
    return site.run("curl", "--silent", "--show-error", "--fail", *words, expect=expect, **options)


def check_download(site: Site, *words) -> None:
    assert curl(site, *words, URL).stdout == bytes(1_000_000)


@case("curl, SOCKS5 with names", "curl")
def socks5h(site: Site) -> None:
    check_download(site, "--proxy", f"socks5h://{site.socks}")


@case("curl, SOCKS4a", "curl")
def socks4a(site: Site) -> None:
    check_download(site, "--proxy", f"socks4a://{site.socks}")


@case("curl, HTTP proxy", "curl")
def http_proxy(site: Site) -> None:
    check_download(site, "--proxy", f"http://{site.socks}")


@case("curl, HTTP CONNECT", "curl")
def http_connect(site: Site) -> None:
    check_download(site, "--proxy", f"http://{site.socks}", "--proxytunnel")


@case("curl, credentials", "curl")
def credentials(site: Site) -> None:
    for kind in ("socks5h", "http"):
        check_download(site, "--proxy", f"{kind}://{site.socks}", "--proxy-user", "somebody:something")


@case("curl, a port with a password", "curl")
def password(site: Site) -> None:
    socks = site.clients["password"].socks
    for kind, refused in (("socks5h", 97), ("http", 22)):
        check_download(site, "--proxy", f"{kind}://{socks}", "--proxy-user", f"anybody:{PASSWORD}")
        curl(site, "--proxy", f"{kind}://{socks}", "--proxy-user", "anybody:wrong", URL, expect=refused)
    curl(site, "--proxy", f"socks5h://{socks}", URL, expect=97)


@case("curl, Unix socket", "curl")
def unix_socket(site: Site) -> None:
    check_download(site, "--proxy", f"socks5h://localhost{site.client.unix_socket}")


@case("curl, IPv6 by name", "curl")
def v6(site: Site) -> None:
    curl(site, "--proxy", f"socks5h://{site.socks}", f"http://{names.WEB_V6}/bytes/10")


@case("curl, upload of known and of unknown length", "curl")
def upload(site: Site) -> None:
    expect = hashlib.sha256(UPLOAD).hexdigest().encode()
    for kind in ("socks5h", "http"):
        for header in ("Expect:", "Expect: 100-continue", "Transfer-Encoding: chunked"):
            words = ["--proxy", f"{kind}://{site.socks}", "--header", header, "--data-binary", "@-"]
            assert curl(site, *words, f"http://{names.WEB}/", input=UPLOAD).stdout == expect, (kind, header)


@case("curl, told that the connection closes", "curl")
def closing(site: Site) -> None:
    """The site keeps its connections; through the plain HTTP proxy, each carries one request."""
    words = ["--proxy", f"http://{site.socks}", "--head", f"http://{names.WEB}/bytes/10", f"http://{names.WEB}/bytes/20"]
    heads = curl(site, *words).stdout.decode().lower().split("\r\n\r\n")[:2]
    assert all(head.split("\r\n").count("connection: close") == 1 for head in heads), heads


@case("curl, reasons of failures", "curl")
def failures(site: Site) -> None:
    """97: curl's code for a refusal over SOCKS. Which one, it says."""
    said = curl(site, "--proxy", f"socks5h://{site.socks}", f"http://{names.NOBODY}/", expect=97).stderr
    assert b"(4)" in said, said
    said = curl(site, "--proxy", f"socks5h://{site.socks}", f"http://{names.WEB}:9/", expect=97).stderr
    assert b"(5)" in said, said
    # The HTTP error of the port itself.
    curl(site, "--proxy", f"http://{site.socks}", f"http://{names.NOBODY}/", expect=22)


@case("curl, addresses refused by safe_socks", "curl")
def safe_socks(site: Site) -> None:
    strict = site.clients["strict"].socks
    for kind in ("socks5", "socks4"):
        curl(site, "--proxy", f"{kind}://{strict}", "http://10.79.0.1/bytes/10", expect=97)
    check_download(site, "--proxy", f"socks5h://{strict}")
    curl(site, "--proxy", f"socks5h://{strict}", f"http://{names.WEB}:25/", expect=97)


@case("wget, HTTP proxy", "wget")
def wget(site: Site) -> None:
    environment = {"http_proxy": f"http://{site.socks}"}
    got = site.run("wget", "--quiet", "--tries=1", "--output-document=-", URL, env=environment)
    assert got.stdout == bytes(1_000_000)
