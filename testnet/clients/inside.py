#!/usr/bin/env python3
"""What run.py runs in `home`: more clients with other settings, the watcher, and the cases."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
from typing import Iterator

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import harness  # noqa: E402
from inside_settings import PASSWORD  # noqa: E402
from watch import Watcher  # noqa: E402

STOP_TIMEOUT = 15


def free_port() -> int:
    """A port that is free for TCP and UDP."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(tcp.getsockname())
        return tcp.getsockname()[1]


@contextlib.contextmanager
def client(state: dict, name: str, settings: dict) -> Iterator[str]:
    """One more client of the network, as its launcher starts them: the socket comes as standard input."""
    network = pathlib.Path(state["ready"]["dir"])
    text = (network / "client.toml").read_text()
    text = re.sub(r"(?m)^(socks|state_dir|status) = .*\n", "", text)
    own = {"state_dir": str(network / "state" / name), "socks": "127.0.0.1:9", "status": "127.0.0.1:0"}
    settings = {**own, **settings}
    file = network / f"{name}.toml"
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()) + text)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    command = [state["program"], "role", "client", "--config", str(file), "--parent", str(os.getpid())]
    log_file = network / "logs" / f"{name}.log"
    log = open(log_file, "w")
    with log, subprocess.Popen(command, stdin=listener, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            address = "%s:%d" % listener.getsockname()
            listener.close()
            page = None
            for line in process.stdout:
                report = json.loads(line)
                if report == "circuit_ready":
                    break
                page = report.get("page", page) if isinstance(report, dict) else page
            else:
                raise RuntimeError(f"the client did not become ready: {log_file.read_text()}")
            yield harness.Client(address, process.pid, log_file, settings_port(settings), settings_path(settings), page)
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT)


def settings_port(settings: dict) -> int | None:
    return int(settings["dns"].rpartition(":")[2]) if "dns" in settings else None


def settings_path(settings: dict) -> pathlib.Path | None:
    return pathlib.Path(settings["unix_socket"]) if "unix_socket" in settings else None


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    state = json.loads(pathlib.Path(sys.argv[1]).read_text())
    scratch = pathlib.Path(state["scratch"])
    for file in sorted((HERE / "cases").glob("*.py")):
        __import__(f"cases.{file.stem}")
    kinds = {
        "plain": {"dns": f"127.0.0.1:{free_port()}", "unix_socket": str(scratch / "tunic.sock")},
        "password": {"socks_password": PASSWORD, "status_password": PASSWORD},
        "strict": {"safe_socks": "refuse", "on_leaky_port": "refuse"},
    }
    with contextlib.ExitStack() as stack:
        clients = {name: stack.enter_context(client(state, name, settings)) for name, settings in kinds.items()}
        first = state["ready"]
        clients["first"] = harness.Client(first["socks"], first["pids"]["client"][0])
        site = harness.Site(clients, scratch, pathlib.Path(state["artefacts"]), state["world"], Watcher())
        return 0 if harness.try_all(site, state["only"], state["required"]) else 1


if __name__ == "__main__":
    sys.exit(main())
