"""Two machines on one: network namespaces that only reach each other.

`home` is the person's machine: the client runs there, and all programs that use it. `world` is everything else: relays,
web server, name server. What leaves `home` other than through the client is therefore seen: by the servers, because it
comes from `home`'s address, and by a watcher of packets in `home`.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
from typing import Iterator

WORLD_ADDRESS = "10.79.0.1"
HOME_ADDRESS = "10.79.0.2"
WORLD_V6 = "fd79::1"
HOME_V6 = "fd79::2"
WORLD, HOME = f"tunic{os.getpid()}w", f"tunic{os.getpid()}h"


class NoNamespaces(Exception):
    """This machine, or this user, cannot have network namespaces."""


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise NoNamespaces(f"ip {' '.join(words)}: {done.stderr.strip()}")


def enter(namespace: str) -> list[str]:
    """The words before a command that is to run there, with the name server that both machines have."""
    return ["ip", "netns", "exec", namespace]


@contextlib.contextmanager
def two_machines() -> Iterator[None]:
    if os.geteuid():
        raise NoNamespaces("needs root, for network namespaces")
    if not shutil.which("ip"):
        raise NoNamespaces("needs `ip` (Debian's package iproute2)")
    settings = [pathlib.Path("/etc/netns") / name for name in (WORLD, HOME)]
    try:
        for name, folder in zip((WORLD, HOME), settings):
            folder.mkdir(parents=True)
            (folder / "resolv.conf").write_text(f"nameserver {WORLD_ADDRESS}\noptions timeout:1 attempts:1\n")
            ip("netns", "add", name)
            ip("-netns", name, "link", "set", "lo", "up")
        ip("link", "add", "name", "veth0", "netns", WORLD, "type", "veth", "peer", "name", "veth0", "netns", HOME)
        for name, v4, v6 in ((WORLD, WORLD_ADDRESS, WORLD_V6), (HOME, HOME_ADDRESS, HOME_V6)):
            ip("-netns", name, "address", "add", f"{v4}/24", "dev", "veth0")
            with contextlib.suppress(NoNamespaces):  # a kernel without IPv6
                ip("-netns", name, "address", "add", f"{v6}/64", "dev", "veth0", "nodad")
            ip("-netns", name, "link", "set", "veth0", "up")
        yield
    finally:
        for name, folder in zip((WORLD, HOME), settings):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
            shutil.rmtree(folder, ignore_errors=True)
