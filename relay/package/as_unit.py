#!/usr/bin/env python3
"""Starts a daemon as its systemd unit says, where no systemd runs: its command, user, state directory and environment, its view
of /proc, no privileges but those of the unit, and a service manager's socket. Waits until it is ready, looks at it, and ends it.

Usage, as root: as_unit.py UNIT-FILE [WHAT-ITS-LOG-HAS]
The second is a regular expression.
"""

import configparser
import os
import pwd
import re
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


def rights(unit):
    """The capabilities that the unit leaves, as setpriv(1) writes them."""
    return "".join(f",+{name.lower().removeprefix('cap_')}" for name in unit.get("AmbientCapabilities", "").split())


def confined(unit):
    """What runs a command with the unit's view of /proc (systemd.exec(5)), as its user and with its rights."""
    view = f"hidepid={unit['ProtectProc']},subset={unit['ProcSubset']}"
    command = ["unshare", "--mount", "sh", "-c", f'mount -t proc -o {view} proc /proc && exec "$@"', "sh"]
    command += ["setpriv", f"--reuid={unit['User']}", f"--regid={unit['Group']}", "--clear-groups", "--no-new-privs"]
    return command + [f"--{of}=-all{rights(unit)}" for of in ("bounding-set", "inh-caps", "ambient-caps")] + ["--"]


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


def look_at(pid, user, may_have_rights):
    """It is who it should be, and has given up what it should."""
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    uid = subprocess.run(["id", "-u", user], capture_output=True, text=True, check=True).stdout.strip()
    assert status["Uid"].split("\t") == [uid] * 4, status["Uid"]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), status
    assert all((int(status[of], 16) != 0) == may_have_rights for of in ("CapEff", "CapPrm", "CapBnd")), status


def main(path, expected=""):
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
        command = confined(unit) + unit["ExecStart"].split()
        log_path = os.path.join(folder, "log")
        with open(log_path, "wb") as log:
            daemon = subprocess.Popen(command, env=environment, cwd="/", umask=int(unit["UMask"], 8), stderr=log)
        try:
            wait_until_ready(manager, daemon)
            look_at(daemon.pid, user, rights(unit) != "")
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(PATIENCE_S) == 0, daemon.returncode
        finally:
            daemon.kill()
            with open(log_path) as log:
                said = log.read()
            sys.stderr.write(said)
        assert re.search(expected, said), f"its log does not have {expected}"
    print(f"{os.path.basename(path)}: ready, confined, and ended in order")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
