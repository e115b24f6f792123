#!/usr/bin/env python3
"""Starts a daemon as its systemd unit says, where no systemd runs: its command, user, state directory and environment, no
privileges, and a service manager's socket. Waits until it is ready, looks at it, and ends it.

Usage, as root: as_unit.py UNIT-FILE
"""

import configparser
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile

PATIENCE_S = 60


def service(path):
    """The [Service] section; of a setting that stands there twice, the last line."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(path)
    return unit["Service"]


def state_directory(name, user, group):
    """Made as systemd makes it."""
    place = os.path.join("/var/lib", name)
    subprocess.run(["install", "-d", "-m", "0700", "-o", user, "-g", group, place], check=True)
    return place


def wait_until_ready(manager, daemon):
    """Until the daemon says READY=1."""
    manager.settimeout(1)
    for _ in range(PATIENCE_S):
        try:
            if "READY=1" in manager.recv(4096).decode().splitlines():
                return
        except TimeoutError:
            assert daemon.poll() is None, "it ended"
    raise AssertionError("it does not become ready")


def look_at(pid, user):
    """It is who it should be, and has given up what it should."""
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    uid = subprocess.run(["id", "-u", user], capture_output=True, text=True, check=True).stdout.strip()
    assert status["Uid"].split("\t") == [uid] * 4, status["Uid"]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), status
    assert all(int(status[of], 16) == 0 for of in ("CapEff", "CapPrm", "CapBnd")), status


def main(path):
    unit = service(path)
    user, group = unit["User"], unit["Group"]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        place = os.path.join(folder, "notify")
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        manager.bind(place)
        os.chmod(place, 0o666)
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": pwd.getpwnam(user).pw_dir,
            "NOTIFY_SOCKET": place,
            "STATE_DIRECTORY": state_directory(unit["StateDirectory"], user, group),
        }
        give_up = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        give_up += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"]
        daemon = subprocess.Popen(
            give_up + unit["ExecStart"].split(), env=environment, cwd="/", umask=int(unit["UMask"], 8)
        )
        try:
            wait_until_ready(manager, daemon)
            look_at(daemon.pid, user)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(PATIENCE_S) == 0, daemon.returncode
        finally:
            daemon.kill()
    print(f"{os.path.basename(path)}: ready, confined, and ended in order")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
