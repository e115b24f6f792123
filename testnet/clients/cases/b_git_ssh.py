"""git over HTTP, ssh through nc."""

import getpass
import os
import pathlib
import shutil

from harness import Site, case, end, names, place, ports

COMMIT = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org", "commit", "--quiet", "-m", "a file"]


def git(site: Site, *words, **options):
    return site.run("git", *words, **{"env": {"GIT_TERMINAL_PROMPT": "0"}, **options})


@case("git, clone and push", "git")
def clone_and_push(site: Site) -> None:
    root = site.scratch / "git"
    work = site.scratch / "work"
    bare = root / "project.git"
    git(site, "init", "--quiet", "--bare", bare)
    git(site, "-C", bare, "config", "http.receivepack", "true")
    url = f"http://{names.WEB}/git/project.git"
    for kind in ("socks5h", "http"):
        proxy = ["-c", f"http.proxy={kind}://{site.socks}"]
        # A small buffer makes git send a body of unknown length (chunked).
        proxy += ["-c", "http.postBuffer=65536"]
        clone = work / kind
        git(site, *proxy, "clone", "--quiet", url, clone)
        (clone / f"{kind}.bin").write_bytes(os.urandom(300_000))
        git(site, "-C", clone, "add", ".")
        git(site, "-C", clone, *COMMIT)
        git(site, "-C", clone, *proxy, "push", "--quiet", "origin", "HEAD:main")
        git(site, "-C", bare, "symbolic-ref", "HEAD", "refs/heads/main")
        again = work / f"{kind}-again"
        git(site, *proxy, "clone", "--quiet", url, again)
        assert (again / f"{kind}.bin").read_bytes() == (clone / f"{kind}.bin").read_bytes()


def start_sshd(site: Site, folder: pathlib.Path):
    """A server of its own in `world`, with keys and configuration of its own."""
    for key in ("host", "user"):
        site.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    pathlib.Path("/run/sshd").mkdir(exist_ok=True)  # where sshd as root separates privileges
    settings = {
        "ListenAddress": f"{place.WORLD_ADDRESS}:{ports.SSH}", "HostKey": folder / "host", "PidFile": "none",
        "AuthorizedKeysFile": folder / "authorized_keys", "StrictModes": "no", "UsePAM": "no",
        "PermitRootLogin": "prohibit-password", "PasswordAuthentication": "no", "LogLevel": "VERBOSE",
    }  # fmt: skip
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    return site.start(
        *place.enter(site.world), shutil.which("sshd"), "-D", "-e", "-f", folder / "sshd_config",
        stderr=open(folder / "sshd.log", "w"),
    )  # fmt: skip


@case("ssh, through nc -X 5", "ssh", "sshd", "nc", "ssh-keygen")
def ssh(site: Site) -> None:
    folder = site.scratch / "ssh"
    folder.mkdir()
    sshd = start_sshd(site, folder)
    options = [
        "-F", "none", "-i", folder / "user", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={folder / 'known'}",
        "-o", f"ProxyCommand=nc -X 5 -x {site.socks} %h %p",
    ]  # fmt: skip
    try:
        log = folder / "sshd.log"
        while "Server listening" not in log.read_text():
            assert sshd.poll() is None and site.seconds_left > 1, log.read_text()
        done = site.run("ssh", *options, f"{getpass.getuser()}@{names.WEB}", "cat", input=b"through" * 10_000)
        assert done.stdout == b"through" * 10_000
        from_home = [line for line in log.read_text().splitlines() if place.HOME_ADDRESS in line]
        assert not from_home, from_home
    finally:
        end(sshd)
