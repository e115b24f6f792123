"""Connections that are closed one half at a time, in both directions."""

import pathlib
import subprocess
import time

from harness import Site, case, end, names, ports


@case("ncat, the program closes its half first", "ncat")
def program_first(site: Site) -> None:
    for kind in ("socks5", "http"):
        words = ["ncat", "--proxy", site.socks, "--proxy-type", kind, "--proxy-dns", "remote"]
        done = site.run(*words, names.WEB, ports.AT_END, input=b"x" * 300_000)
        assert done.stdout == b"300000 bytes", (kind, done.stdout)


def is_half_closed(port: int) -> bool:
    """Whether a connection to this port of this machine is in CLOSE-WAIT (RFC 9293 §3.3.2)."""
    close_wait, lines = "08", pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return any(row[2].endswith(f":{port:04X}") and row[3] == close_wait for row in rows)


def speak_after_the_end(site: Site, *command) -> None:
    """The server has closed its half when this program begins to speak, and hears all of it."""
    word = f"said after the end {time.monotonic()}"
    program = site.start(*command, names.WEB, ports.CLOSE_FIRST, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert program.stdout.read(5) == b"hello"
        while not is_half_closed(site.client.port):
            assert site.seconds_left > 1, "the server's end did not arrive"
            time.sleep(0.05)
        program.stdin.write(word.encode())
        program.stdin.close()
        while word not in site.report()["heard"]:
            assert site.seconds_left > 1, "what was said after the end did not arrive"
            time.sleep(0.05)
    finally:
        end(program)
        program.stdout.close()


@case("ncat, the server closes its half first", "ncat")
def server_first(site: Site) -> None:
    for kind in ("socks5", "http"):
        speak_after_the_end(site, "ncat", "--proxy", site.socks, "--proxy-type", kind, "--proxy-dns", "remote")


@case("nc, the server closes its half first", "nc")
def server_first_nc(site: Site) -> None:
    for kind in ("5", "connect"):
        speak_after_the_end(site, "nc", "-X", kind, "-x", site.socks, "-N")
